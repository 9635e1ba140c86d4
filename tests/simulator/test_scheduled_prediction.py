"""Trajectories with schedules beside their flows."""

import jax.numpy as jnp
import numpy as np
import pytest

import sharpflow as sf
from sharpflow.experiments.starts import point_at_angle
from sharpflow.simulator import step_decay, warmup

ETA, ANGLE, FACTOR = 0.5, 1.0, 0.5


@pytest.fixture(scope="module")
def case():
    """Batch-norm linear regression, and a point of Γ at a known angle to its flattest one."""
    x, labels = sf.models.digits(12)
    problem = sf.models.linear_regression(x, labels.astype(float))
    return problem, point_at_angle(problem, x, labels, ANGLE, seed=0), x


def _halved(case, rate: float) -> sf.Trajectory:
    """From the edge to τ = 1, the learning rate halved at τ = 0.3."""
    problem, theta, _ = case
    decay, at = rate / ETA, round(0.3 / rate)
    num_steps = at + round(0.7 / (FACTOR * rate))
    params = sf.theory.start_at_edge(problem, theta, ETA, decay)
    return sf.simulate(
        problem, params, sf.gdwd(step_decay(ETA, [at], FACTOR), decay), num_steps,
        record_every=num_steps // 100, snapshot_every=5, observables=("loss_mean", "threshold"),
    )  # fmt: skip


def _angles(case, theta) -> np.ndarray:
    return sf.theory.exact.angle_to_span(np.asarray(theta), case[2])


def test_gradient_descent_rests_after_its_rate_is_halved_as_predicted(case) -> None:
    problem = case[0]
    errors = []
    for rate in (2e-3, 2e-4):
        run = _halved(case, rate)
        flow = sf.predict(problem, run, arrival_step=0, max_edge=2, rtol=2e-4)
        compared = sf.compare(run, flow, problem)
        pause = 0.5 * np.log(1.0 / FACTOR)
        lasted = np.clip(np.asarray(flow.tau) - 0.3, 0.0, pause)
        expected = np.arctan(np.tan(ANGLE) * np.exp(lasted - np.asarray(flow.tau)))
        np.testing.assert_allclose(_angles(case, flow.theta), expected, rtol=0, atol=5e-4)
        errors.append(compared.attrs["final_relative_error"])
        threshold = np.abs(compared["threshold_ratio"].values - 1.0)[2:].max()
        assert threshold <= 0.1 * np.sqrt(rate / 2e-3)
        assert abs(compared.attrs["mean_loss_ratio"] - 1.0) <= 0.05
    # of order √(ηλ) at the most: by √10 in a tenth of it
    assert errors[1] <= errors[0] / 3.0 and errors[1] <= 0.01


def test_the_entry_under_a_warmup_is_where_the_rate_has_brought_the_threshold(case) -> None:
    """On Γ nothing but the clock and the rate move λ*: a sum over the steps tells where."""
    problem, theta, _ = case
    decay, steps = 2e-3, 400
    sharpness = float(sf.theory.spherical_sharpness(problem, theta)[0][0])
    schedule = warmup(ETA, steps)
    eta = ETA * np.minimum(np.arange(1, 801) / steps, 1.0)
    # λ* comes down to λ_1 at step 250
    norm_squared = 0.5 * sharpness * eta[250] / np.prod((1.0 - eta[:250] * decay) ** 2)
    params = jnp.sqrt(norm_squared) * (theta + 1e-7)
    run = sf.simulate(
        problem, params, sf.gdwd(schedule, decay), 800, record_every=5, snapshot_every=1,
        observables=("loss_mean", "threshold"),
    )  # fmt: skip
    flow = sf.predict(problem, run, max_edge=2)
    compared = sf.compare(run, flow, problem)
    assert abs(compared.attrs["predicted_entry_step"] - 250) <= 2
    assert abs(compared.attrs["entry_step"] - 250) <= 6  # records are five steps apart
    entered = np.asarray(flow.edge_trace) > 1e-6
    first = float(np.asarray(flow.tau)[entered][0])
    assert abs(first - float(run.tau_at(250))) <= 0.02


def test_the_central_flow_rests_after_a_halved_rate_as_gradient_descent_does(case) -> None:
    """It is the flow on Γ, of known angle, up to ηλ; gradient descent is there up to √(ηλ)."""
    problem = case[0]
    errors = []
    for rate in (2e-3, 2e-4):
        run = _halved(case, rate)
        flow = sf.predict(problem, run, kind="central_flow", rtol=2e-4)
        compared = sf.compare(run, flow, problem)
        tau, edge = np.asarray(flow.tau), np.asarray(flow.edge)
        late = tau > 0.3 + 1e-9
        np.testing.assert_allclose(edge[late] / edge[0], 1.0 / FACTOR, rtol=1e-2)
        pause = 0.5 * np.log(1.0 / FACTOR)
        lasted = np.clip(tau - 0.3, 0.0, pause)
        expected = np.arctan(np.tan(ANGLE) * np.exp(lasted - tau))
        angles = _angles(case, _directions(flow.params))
        # half of ηλ was measured at both rates
        np.testing.assert_allclose(angles, expected, rtol=0, atol=rate)
        # while it rests below the new edge nothing oscillates
        rests = (tau > 0.35) & (tau < 0.3 + pause - 0.03)
        assert rests.sum() >= 3
        assert np.all(np.asarray(flow.covariance)[rests, 0, 0] == 0.0)
        assert np.abs(compared["threshold_ratio"] - 1.0).max() <= 0.15 * np.sqrt(rate / 2e-3)
        there = np.isin(np.round(run.snapshot_tau, 9), np.round(tau, 9))
        apart = _angles(case, _directions(run.params)[there]) - angles
        errors.append(float(np.sqrt(np.mean(apart[late] ** 2))))
    # by √10 in a tenth of ηλ: measured 0.0166 and 0.0052
    assert errors[1] <= errors[0] / 2.0 and errors[1] <= 0.01, errors


def _directions(points) -> np.ndarray:
    points = np.asarray(points)
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def test_quasi_rmsprop_with_a_schedule_has_no_central_flow(case) -> None:
    problem, theta, _ = case
    rule = sf.quasi_rmsprop(step_decay(0.02, [50], FACTOR))
    run = sf.simulate(
        problem, theta + 1e-4, rule, 100, record_every=10, snapshot_every=1,
        observables="threshold",
    )  # fmt: skip
    with pytest.raises(ValueError, match="made by another rule"):
        sf.predict(problem, run, kind="central_flow")


def test_the_oscillation_rests_after_a_halved_rate_and_comes_back_at_half_of_ηλ(case) -> None:
    """ηλM of one eigenvalue, M = 2/(4 + G²) with G = 2 tan α; none while it is below the edge."""
    problem, rate = case[0], 2e-3
    run = _halved(case, rate)
    flow = sf.predict(problem, run, arrival_step=0, max_edge=2, rtol=2e-4)
    windows = [(0.02, 0.28), (0.38, 0.6), (0.7, 0.95)]
    found = sf.simulator.measure_oscillation(run, flow, problem, windows).isel(eigenvalue=0)
    predicted = found["predicted_covariance_eigenvalues"].values
    pause = 0.5 * np.log(1.0 / FACTOR)
    for window, own, lasted in ((0, rate, 0.0), (2, FACTOR * rate, pause)):
        first, last = windows[window]
        tau = run.snapshot_tau[(run.snapshot_tau >= first) & (run.snapshot_tau <= last)]
        slope = 2.0 * np.tan(ANGLE) * np.exp(lasted - tau)
        assert predicted[window] == pytest.approx(own * np.mean(2.0 / (4.0 + slope**2)), rel=0.02)
    measured = found["covariance_eigenvalues"].values
    assert predicted[1] <= 1e-10 * predicted[0] and measured[1] <= 1e-3 * measured[0]


def test_a_rate_of_zero_on_the_way_is_refused(case) -> None:
    problem, theta, _ = case
    decay = 1e-3 / ETA
    rule = sf.gdwd(lambda step: jnp.where((step > 40) & (step < 50), 0.0, ETA), decay)
    params = sf.theory.start_at_edge(problem, theta, ETA, decay)
    run = sf.simulate(
        problem, params, rule, 100, record_every=10, snapshot_every=1, observables="threshold"
    )
    with pytest.raises(ValueError, match="learning_rate is 0 at step 41"):
        sf.predict(problem, run, arrival_step=0)

"""The oscillation's covariance against the loss, closed forms and what theory says."""

import dataclasses

import jax
import numpy as np
import pytest
from described import undescribed

import sharpflow as sf
from sharpflow.simulator.comparison_quantities import COMPARISON_NUMBERS

ETA, RATE, ANGLE = 0.1, 5e-4, 1.0
TAU = np.linspace(0.0, 0.8, 17)
WINDOW = (0.5, 0.8)


@pytest.fixture(scope="module")
def measured():
    """Linear regression at the edge: a run, its flow, and the angle of its start."""
    random = np.random.default_rng(0)
    x = random.normal(size=(6, 10))
    y = random.normal(size=6)
    problem = sf.models.linear_regression(x, y)
    solution = sf.theory.exact.minimum_norm_direction(x, y)
    null = np.linalg.svd(x - x.mean(axis=0))[2][-1]
    theta0 = jax.numpy.asarray(np.cos(ANGLE) * solution + np.sin(ANGLE) * null)
    flow = sf.sharpness_flow(problem, theta0, TAU, max_edge=3, rtol=2e-4)
    run = sf.simulate(
        problem,
        sf.theory.start_at_edge(problem, theta0, ETA, RATE / ETA),
        sf.gdwd(ETA, RATE / ETA),
        round(TAU[-1] / RATE),
        record_every=3,
        snapshot_every=1,
    )
    found = sf.simulator.measure_oscillation(run, flow, problem, [WINDOW])
    assert undescribed(found) == []
    return problem, run, flow, found.isel(window=0)


def test_with_one_eigenvalue_it_is_twice_the_loss_over_the_sharpness(measured):
    """L = ½ λ_1 c², and λ_1 of linear regression is known along the flow."""
    _, run, flow, found = measured
    inside = (run.tau >= WINDOW[0]) & (run.tau <= WINDOW[1])
    start = float(flow.eigenvalues[0, 0])
    sharpness = sf.theory.exact.linear_regression_sharpness(start, ANGLE, run.tau[inside])
    expected = np.mean(2.0 * run["loss"][inside] / np.asarray(sharpness))
    # the anharmonic part of the loss is of relative order c², here 1e-3
    np.testing.assert_allclose(found["covariance_eigenvalues"][0], expected, rtol=1e-2)
    np.testing.assert_allclose(found["loss_share"], 1.0, atol=1e-2)
    assert found["num_samples"] == inside.sum()


def test_the_prediction_is_that_of_a_single_eigenvalue_averaged_over_the_window(measured):
    """M = 2/(4 + G²) with G = 2 tan α, α(τ) in closed form."""
    found = measured[-1]
    tau = np.linspace(*WINDOW, 200)
    slope = 2.0 * np.tan(np.asarray(sf.theory.exact.linear_regression_angle(ANGLE, tau)))
    expected = RATE * np.mean(2.0 / (4.0 + slope**2))
    np.testing.assert_allclose(
        found["predicted_covariance_eigenvalues"], [expected, 0.0, 0.0], rtol=1e-2, atol=1e-4 * RATE
    )


def test_it_agrees_with_its_prediction_and_has_period_two(measured):
    found = measured[-1]
    # 27 bursts: the window's mean of c² scatters by a few per cent
    np.testing.assert_allclose(
        found["covariance_eigenvalues"][0], found["predicted_covariance_eigenvalues"][0], rtol=0.05
    )
    assert float(found["period_two_share"]) > 1.0 - 5.0 * RATE


def test_with_momentum_covariance_and_loss_are_smaller_by_what_the_rule_tells(measured):
    """m = c ∇L, c = (1 − β)/(1 + β), in an oscillation of period two: docs/other-dynamics.md."""
    problem, _, flow, plain = measured
    beta = 0.5
    share = (1.0 - beta) / (1.0 + beta)
    rate, theta0 = share * RATE, jax.tree.map(lambda leaf: leaf[0], flow.theta)
    # to the threshold, a learning rate of share · η without momentum is the same
    run = sf.simulate(
        problem,
        sf.theory.start_at_edge(problem, theta0, share * ETA, rate / (share * ETA)),
        sf.simulator.momentum(ETA, rate / ETA, beta=beta),
        round(TAU[-1] / rate) + 1,
        record_every=9,
        snapshot_every=1,
    )
    assert run.oscillation_share == pytest.approx(share, rel=1e-12)
    found = sf.simulator.measure_oscillation(run, flow, problem, [WINDOW]).isel(window=0)
    measured_share = found["covariance_eigenvalues"][0] / plain["covariance_eigenvalues"][0]
    # the clock is slower by share too; both windows scatter by a few per cent
    np.testing.assert_allclose(measured_share, share * share, rtol=0.1)
    np.testing.assert_allclose(
        found["covariance_eigenvalues"][0], found["predicted_covariance_eigenvalues"][0], rtol=0.1
    )
    assert np.isnan(found["period_two_share"])  # its steps are not those of gradient descent
    comparison = sf.compare(run, flow, problem)
    assert undescribed(comparison) == []
    assert set(COMPARISON_NUMBERS) <= comparison.attrs.keys()
    np.testing.assert_allclose(comparison.attrs["mean_loss_ratio"], 1.0, rtol=0.1)


def test_with_a_schedule_it_is_that_of_the_rates_of_each_step(measured):
    """η ∝ e^{hτ} makes M = (2 + h)/(4 + G²), and α move (2 + h)/2 times as fast."""
    problem, _, flow, _ = measured
    h, last = -1.0, 0.8
    num_steps = round(np.expm1(last) / RATE)
    # η falls by the factor 1 − ηλ in a step of flow time ηλ
    rule = sf.gdwd(lambda step: ETA / (1.0 + RATE * step), RATE / ETA)
    theta0 = jax.tree.map(lambda leaf: leaf[0], flow.theta)
    start = sf.theory.start_at_edge(problem, theta0, ETA, RATE / ETA)
    with jax.numpy_dtype_promotion("standard"):
        run = sf.simulate(problem, start, rule, num_steps, record_every=3, snapshot_every=1)
        log_rate = run.log_rate_after(0)
    np.testing.assert_allclose(run.tau, np.log1p(RATE * run.step), rtol=1e-3)
    falling = sf.sharpness_flow(problem, theta0, TAU, log_rate=log_rate, max_edge=3, rtol=2e-4)
    found = sf.simulator.measure_oscillation(run, falling, problem, [WINDOW]).isel(window=0)
    assert undescribed(found) == [] and "intrinsic_rate" not in found.attrs
    # the mean over steps, of which there are e^τ in a stretch of τ
    tau = np.log1p(RATE * np.linspace(*np.expm1(WINDOW) / RATE, 200))
    angle = sf.theory.exact.linear_regression_angle(ANGLE, 0.5 * (2.0 + h) * tau)
    slope = 2.0 * np.tan(np.asarray(angle))
    expected = np.mean(RATE * np.exp(h * tau) * (2.0 + h) / (4.0 + slope**2))
    np.testing.assert_allclose(
        found["predicted_covariance_eigenvalues"], [expected, 0.0, 0.0], rtol=1e-2, atol=1e-4 * RATE
    )
    np.testing.assert_allclose(found["covariance_eigenvalues"][0], expected, rtol=0.1)
    assert float(found["period_two_share"]) > 1.0 - 5.0 * RATE


def test_two_edge_eigenvalues_turn_with_the_basis_of_the_middle(tiny_mlp):
    """Windows in one piece or in two have the same trace, whatever the bases in between.

    Near a border the chord to Γ starts at another output, here up to 0.05 of τ away.
    """
    problem, theta = tiny_mlp
    rate = 1e-3
    start = sf.theory.start_at_edge(problem, theta, ETA, rate / ETA)
    run = sf.simulate(
        problem, start, sf.gdwd(ETA, rate / ETA), 600, record_every=2, snapshot_every=1
    )
    flow = sf.sharpness_flow(problem, theta, np.linspace(0.0, 0.6, 13), max_edge=4)
    whole = sf.simulator.measure_oscillation(run, flow, problem, [(0.3, 0.6)])
    parts = sf.simulator.measure_oscillation(run, flow, problem, [(0.3, 0.449), (0.4495, 0.6)])
    weights = parts["num_samples"] / parts["num_samples"].sum()
    for name in ("covariance_eigenvalues", "predicted_covariance_eigenvalues"):
        expected = (weights * parts[name].sum("eigenvalue")).sum()
        np.testing.assert_allclose(whole[name].sum("eigenvalue")[0], expected, rtol=2e-2)
    covariance = whole["covariance"].values[0]
    np.testing.assert_allclose(covariance, covariance.T, rtol=1e-12, atol=1e-18)
    assert np.all(np.linalg.eigvalsh(covariance) > -1e-12 * np.trace(covariance))


def test_far_from_the_manifold_there_is_nothing_to_measure(measured):
    problem, run, flow, _ = measured
    lost = dataclasses.replace(run, params=-run.params)
    found = sf.simulator.measure_oscillation(lost, flow, problem, [WINDOW])
    assert found["num_samples"][0] == 0
    assert np.isnan(found["covariance"]).all() and np.isnan(found["period_two_share"]).all()


def test_what_it_needs_is_said(measured):
    problem, run, flow, _ = measured
    with pytest.raises(ValueError, match="snapshot_every"):
        sf.simulator.measure_oscillation(
            dataclasses.replace(run, params=None), flow, problem, [WINDOW]
        )
    with pytest.raises(ValueError, match="no intrinsic rate"):
        lost = dataclasses.replace(run, intrinsic_rate=float("nan"))
        sf.simulator.measure_oscillation(lost, flow, problem, [WINDOW])
    with pytest.raises(ValueError, match=r"\(0.81, 0.9\) holds 0 outputs"):
        sf.simulator.measure_oscillation(run, flow, problem, [(0.81, 0.9)])

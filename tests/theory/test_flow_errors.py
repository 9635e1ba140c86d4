"""What the flow refuses, and how it says that it could not go on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sharpflow as sf
from sharpflow.theory import Status

TAU = np.linspace(0.0, 2.0, 9)  # as in test_flow_exact.py: the same compiled flow serves both


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rtol": -1e-3}, "rtol must be positive and finite, got -0.001"),
        ({"rtol": float("nan")}, "rtol must be positive and finite, got nan"),
        ({"b": 0.0}, "b must be positive and finite, got 0.0"),
        ({"step_size": -0.1}, "step_size must be positive and finite, got -0.1"),
        ({"max_edge": 0}, "max_edge must be at least 1, got 0"),
        ({"threshold0": -1.0}, "threshold0 must be positive and finite, got -1.0"),
        ({"threshold0": float("inf")}, "threshold0 must be positive and finite, got inf"),
    ],
)
def test_an_option_out_of_range_is_refused_by_name_and_value(regression, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        sf.sharpness_flow(regression.problem, regression.at(1.0), TAU, **options)


@pytest.mark.parametrize(
    ("tau", "message"),
    [
        ([0.0, 0.5, 0.5], r"tau must increase strictly, but tau\[2\] = 0.5 follows tau\[1\] = 0.5"),
        ([0.0, 1.0, 0.5], r"tau\[2\] = 0.5 follows tau\[1\] = 1"),
        ([0.0, np.nan], "tau must be a vector of finite output times"),
        ([[0.0, 1.0]], "tau must be a vector of finite output times"),
        ([], "tau must be a vector of finite output times"),
    ],
)
def test_output_times_that_do_not_increase_are_refused(regression, tau, message) -> None:
    with pytest.raises(ValueError, match=message):
        sf.sharpness_flow(regression.problem, regression.at(1.0), np.array(tau))


def test_a_start_off_the_manifold_is_refused_with_its_residual(regression) -> None:
    theta0 = np.asarray(regression.at(1.0)) + 1e-3 * regression.x[0]
    theta0 = jnp.asarray(theta0 / np.linalg.norm(theta0))
    size = float(jnp.linalg.norm(regression.problem.residual(theta0)))
    with pytest.raises(ValueError, match=f"theta0 must lie on .* norm {size:.2g}, .*retract first"):
        sf.sharpness_flow(regression.problem, theta0, TAU)


def test_a_start_off_the_sphere_is_refused_with_its_norm(regression) -> None:
    with pytest.raises(ValueError, match="theta0 must have unit norm on the sphere, got 1.5"):
        sf.sharpness_flow(regression.problem, 1.5 * regression.at(1.0), TAU)


def test_a_loss_that_is_not_scale_invariant_is_refused_on_the_sphere() -> None:
    problem = sf.Problem(init=lambda _: jnp.ones(4), residual=lambda w: w[:2] - w[2:4])
    theta0 = jnp.full(4, 0.5)
    with pytest.raises(ValueError, match="not invariant to the scale"):
        sf.sharpness_flow(problem, theta0, TAU)


def test_a_full_edge_is_reported_and_names_max_edge(tiny_mlp) -> None:
    """With room for one, the flow must end where the second eigenvalue arrives, and not before."""
    tau = np.linspace(0.0, 1.0, 6)
    wide = sf.sharpness_flow(*tiny_mlp, tau, max_edge=3, rtol=1e-4)
    second = np.asarray(wide.eigenvalues[:, 1] / wide.threshold)
    arrived = second >= 1.0 - 1e-3
    np.testing.assert_array_equal(arrived, tau > 0.7)
    stopped = sf.sharpness_flow(*tiny_mlp, tau, max_edge=1, rtol=1e-4, throw=False)
    assert int(stopped.status) == Status.EDGE_FULL
    reached = np.isfinite(np.asarray(stopped.threshold))
    np.testing.assert_array_equal(reached, ~arrived)
    for leaf, expected in zip(
        jax.tree.leaves(stopped.theta), jax.tree.leaves(wide.theta), strict=True
    ):
        # rows that were reached are right, to rtol; the others are all NaN
        np.testing.assert_allclose(leaf[reached], expected[reached], atol=1e-4)
        assert np.all(np.isnan(leaf[~reached]))
    assert np.all(np.isnan(stopped.edge_covariance[~reached]))
    last = tau[reached][-1]
    with pytest.raises(RuntimeError, match=f"stopped after tau = {last:g}.*max_edge = 1 must grow"):
        sf.sharpness_flow(*tiny_mlp, tau, max_edge=1, rtol=1e-4)


def test_too_few_steps_are_reported_and_name_max_steps(regression) -> None:
    options = {"max_edge": 1, "step_size": 0.05, "max_steps": 12}
    flow = sf.sharpness_flow(regression.problem, regression.at(1.0), TAU, throw=False, **options)
    assert int(flow.status) == Status.MAX_STEPS
    # five steps of 0.05 for each output time: two were reached by the tenth
    np.testing.assert_array_equal(np.isfinite(np.asarray(flow.threshold)), np.arange(9) <= 2)
    with pytest.raises(RuntimeError, match=r"after tau = 0.5: .*max_steps = 12 must grow"):
        sf.sharpness_flow(regression.problem, regression.at(1.0), TAU, **options)


def test_exactly_enough_steps_are_enough(regression) -> None:
    options = {"max_edge": 1, "step_size": 0.05, "max_steps": 40}
    flow = sf.sharpness_flow(regression.problem, regression.at(1.0), TAU, **options)
    assert int(flow.num_steps) == 40


def test_a_full_edge_is_seen_at_the_default_tolerance(tiny_mlp) -> None:
    """The controller alone lets λ_2 pass the edge by less than rtol: too little to look for."""
    flow = sf.sharpness_flow(*tiny_mlp, np.linspace(0.0, 1.0, 6), max_edge=1, throw=False)
    assert int(flow.status) == Status.EDGE_FULL
    np.testing.assert_array_equal(np.isfinite(np.asarray(flow.threshold)), np.arange(6) <= 4)

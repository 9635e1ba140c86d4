"""The flow through several edge eigenvalues, against numbers of a separate program."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import sharpflow as sf


def _flat(theta) -> np.ndarray:
    """Params with a leading axis as rows; ours are in the order of the reference."""
    return np.asarray(jax.vmap(lambda tree: ravel_pytree(tree)[0])(theta), np.float64)


class Reference(NamedTuple):
    """The problem, its start on Γ and the numbers of the separate program."""

    problem: sf.Problem
    theta0: sf.models.Params
    numbers: dict[str, np.ndarray]

    def error(self, flow: sf.FlowSolution) -> np.ndarray:
        """Distance from the reference at every output time."""
        return np.linalg.norm(_flat(flow.theta) - self.numbers["theta"], axis=1)

    def threshold_error(self, flow: sf.FlowSolution) -> np.ndarray:
        return np.abs(np.log(np.asarray(flow.threshold)) - self.numbers["log_threshold"])


@pytest.fixture(scope="module")
def multi_edge(reference, reference_problem, reference_params) -> Reference:
    return Reference(reference_problem, reference_params(reference["theta0"]), reference)


@pytest.fixture(scope="module")
def default_flow(multi_edge: Reference) -> sf.FlowSolution:
    return sf.sharpness_flow(multi_edge.problem, multi_edge.theta0, multi_edge.numbers["tau"])


@pytest.fixture(scope="module")
def narrow_flow(multi_edge: Reference) -> sf.FlowSolution:
    """At the tolerance of default_flow, with room for three eigenvalues."""
    return sf.sharpness_flow(
        multi_edge.problem, multi_edge.theta0, multi_edge.numbers["tau"], max_edge=3
    )


@pytest.fixture(scope="module")
def tight_flow(multi_edge: Reference) -> sf.FlowSolution:
    """At a tenth of the tolerance of narrow_flow."""
    return sf.sharpness_flow(
        multi_edge.problem, multi_edge.theta0, multi_edge.numbers["tau"], max_edge=3, rtol=1e-4
    )


def test_default_flow_follows_the_reference(multi_edge, default_flow) -> None:
    assert np.all(multi_edge.error(default_flow) <= 1e-3)
    assert np.all(multi_edge.threshold_error(default_flow) <= 5e-4)


def test_a_tenth_of_the_tolerance_gives_a_smaller_error(
    multi_edge, narrow_flow, tight_flow
) -> None:
    """The error of a step is controlled to first order: expect at least √10."""
    assert multi_edge.error(tight_flow).max() <= multi_edge.error(narrow_flow).max() / 3.2
    assert (
        multi_edge.threshold_error(tight_flow).max()
        <= multi_edge.threshold_error(narrow_flow).max() / 3.2
    )


def test_points_of_the_flow_lie_on_the_manifold_and_the_sphere(multi_edge, default_flow) -> None:
    residuals = jax.vmap(multi_edge.problem.residual)(default_flow.theta)
    # eps^(3/4), times the 30 that a retraction stopped by rounding may keep
    assert np.all(np.linalg.norm(residuals, axis=1) <= 30 * np.finfo(float).eps ** 0.75)
    # theta0 of the reference is off the sphere by at most 1e-8
    np.testing.assert_allclose(np.linalg.norm(_flat(default_flow.theta), axis=1), 1.0, atol=1e-8)


def test_no_eigenvalue_exceeds_the_threshold(default_flow, tight_flow) -> None:
    """A step leaves the edge to within its own error, which is a share of rtol."""
    for flow, rtol in ((default_flow, 1e-3), (tight_flow, 1e-4)):
        ratio = np.asarray(flow.eigenvalues[:, 0] / flow.threshold)
        assert np.all(ratio <= 1.0 + 5.0 * rtol)
        assert np.all(ratio >= 1.0 - 5.0 * rtol)  # and the first stays at the edge


def test_eigenvalues_are_those_of_the_dense_hessian(multi_edge, default_flow) -> None:
    def hessian(params):
        flat, unravel = ravel_pytree(params)
        return jax.hessian(lambda point: multi_edge.problem.loss_value(unravel(point)))(flat)

    rows = np.array([3, 20])
    points = jax.tree.map(lambda leaf: leaf[rows], default_flow.theta)
    expected = np.linalg.eigvalsh(jax.jit(jax.vmap(hessian))(points))[:, ::-1][:, :8]
    np.testing.assert_allclose(default_flow.eigenvalues[rows], expected, atol=1e-8 * expected.max())


def test_covariance_has_the_eigenvalues_of_the_reference(multi_edge, tight_flow) -> None:
    expected = np.linalg.eigvalsh(multi_edge.numbers["edge_covariance"])
    found = np.linalg.eigvalsh(tight_flow.edge_covariance)
    largest = expected[:, -1]
    # M is a mean over the 0.01 of flow time ahead, during which it changes by up to slope/100;
    # the reference claims 1e-3, rtol is 1e-4
    slope = np.abs(np.gradient(expected, 0.1, axis=0)).max(axis=1)
    slope = np.maximum(slope, np.maximum(np.roll(slope, 1), np.roll(slope, -1)))
    allowed = 0.01 * slope + 1.1e-3 * largest
    assert np.all(np.abs(found - expected).max(axis=1) <= allowed)


def test_room_for_more_eigenvalues_than_needed_changes_nothing(
    multi_edge, default_flow, narrow_flow
) -> None:
    gap = np.linalg.norm(_flat(default_flow.theta) - _flat(narrow_flow.theta), axis=1)
    # each is off by its own error; no more than these two lie between them
    assert np.all(gap <= multi_edge.error(default_flow) + multi_edge.error(narrow_flow) + 1e-6)
    unused = np.linalg.eigvalsh(default_flow.edge_covariance)[:, :-3]
    np.testing.assert_allclose(unused, 0.0, atol=1e-6)


def _between(multi_edge: Reference, reference_params, first: int, last: int):
    """A flow with fixed steps from one output time of the reference to another."""
    numbers = multi_edge.numbers
    theta0 = sf.theory.retract(multi_edge.problem, reference_params(numbers["theta"][first]))

    def run(**options) -> np.ndarray:
        flow = sf.sharpness_flow(
            multi_edge.problem,
            theta0,
            numbers["tau"][[first, last]],
            threshold0=float(np.exp(numbers["log_threshold"][first])),
            max_edge=3,
            **options,
        )
        return np.append(_flat(flow.theta)[-1], np.log(float(flow.threshold[-1])))

    return run


@pytest.mark.parametrize(
    ("first", "last"), [(0, 2), (12, 16)], ids=["one eigenvalue", "two eigenvalues"]
)
def test_fixed_steps_between_crossings_converge_with_second_order(
    multi_edge, reference_params, first: int, last: int
) -> None:
    run = _between(multi_edge, reference_params, first, last)
    exact = run(step_size=1e-3)
    errors = np.array(
        [np.linalg.norm(run(step_size=step) - exact) for step in (0.025, 0.0125, 0.00625)]
    )
    orders = np.log2(errors[:-1] / errors[1:])
    assert np.all(orders >= 1.8), orders
    assert np.all(orders <= 2.3), orders
    reference = np.append(
        multi_edge.numbers["theta"][last], multi_edge.numbers["log_threshold"][last]
    )
    # the reference is accurate to about 1e-6 in both
    np.testing.assert_allclose(exact, reference, rtol=0, atol=2e-6)


def test_the_end_does_not_depend_on_the_density_of_output_times(
    multi_edge, reference_params, narrow_flow
) -> None:
    sparse = _between(multi_edge, reference_params, 0, 20)()
    dense = np.append(_flat(narrow_flow.theta)[-1], np.log(float(narrow_flow.threshold[-1])))
    # both are within the tolerance, measured at 2e-4
    assert np.linalg.norm(sparse - dense) <= 1e-3


def test_a_single_edge_eigenvalue_explains_the_motion_only_before_the_crossing(
    multi_edge,
) -> None:
    """Design 3.3: 18 %, 38 % and 61 % of the distance moved at τ = 0.6, 1 and 2."""
    numbers = multi_edge.numbers
    single = sf.theory.single_edge_flow(
        multi_edge.problem, multi_edge.theta0, numbers["tau"], max_step=2e-3
    )
    error = np.linalg.norm(_flat(single) - numbers["theta"], axis=1)
    moved = np.linalg.norm(numbers["theta"] - numbers["theta"][0], axis=1)
    assert np.all(error[1:3] <= 2e-6)  # the accuracy of the reference
    np.testing.assert_allclose(
        error[[6, 10, 20]] / moved[[6, 10, 20]], [0.18, 0.38, 0.61], atol=0.015
    )


def test_float32_flow_follows_the_reference(multi_edge, reference) -> None:
    problem = sf.models.mlp(reference["X"], reference["Y"], widths=(12, 12), dtype=np.float32)
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), multi_edge.theta0)
    theta0 = sf.theory.retract(problem, single)
    flow = sf.sharpness_flow(problem, theta0, reference["tau"], max_edge=3)
    assert flow.threshold.dtype == np.float32
    # the default rtol of 1e-3 is far above float32 rounding, so the same bounds hold
    assert np.all(multi_edge.error(flow) <= 1e-3)
    assert np.all(multi_edge.threshold_error(flow) <= 5e-4)
    residuals = jax.vmap(problem.residual)(flow.theta)
    assert np.all(np.linalg.norm(residuals, axis=1) <= 30 * np.finfo(np.float32).eps ** 0.75)

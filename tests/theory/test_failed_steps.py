"""A flow that cannot go on says which part of its step failed."""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest

import sharpflow as sf
from sharpflow.theory import Status

TAU = np.array([0.0, 2.0, 4.0, 4.1, 8.0])


def _slope(w, floor):
    """r = (2 + √x) y, whose valley y = 0 becomes flatter until it ends at x = 0."""
    x, y = w
    return ((2.0 + jnp.sqrt(jnp.maximum(x, floor))) * y)[None]


@pytest.fixture(scope="module")
def ending_valley() -> sf.Problem:
    """A residual that is NaN beyond the end of the valley."""
    return sf.Problem(init=lambda _: jnp.ones(2), residual=_slope, data=jnp.asarray(-1e300))


@pytest.fixture(scope="module")
def guarded_valley(ending_valley) -> sf.Problem:
    """The same with √max(x, 0): beyond the end it is finite, and its derivative is 0 · ∞."""
    return ending_valley.with_data(jnp.asarray(0.0))


@pytest.fixture(scope="module")
def ill_conditioned() -> sf.Problem:
    """r = (2 + tanh x) A (y + y²): the singular values of A fall to 1e-6."""
    random, m, n = np.random.default_rng(0), 12, 24
    left, _ = np.linalg.qr(random.normal(size=(m, m)))
    right, _ = np.linalg.qr(random.normal(size=(n, m)))
    matrix = (left * np.logspace(0.0, -6.0, m)) @ right.T
    return sf.Problem(
        init=lambda _: jnp.zeros(n + 1).at[0].set(1.0),
        residual=lambda w, a: (2.0 + jnp.tanh(w[0])) * (a @ (w[1:] + jnp.square(w[1:]))),
        data=jnp.asarray(matrix),
    )


PARTS = [
    ("ending_valley", {}, Status.RETRACTION_FAILED, "the manifold may end or fold there"),
    ("guarded_valley", {}, Status.EIGENPAIRS_FAILED, "no finite derivative there"),
    ("ending_valley", {"kappa": 1e200}, Status.PROGRAM_FAILED, "too large for float64"),
    ("ending_valley", {"rtol": 1e-18}, Status.STEP_TOO_SMALL, "rtol may be below rounding"),
    # a step of a given length is not tried again with another
    ("ending_valley", {"step_size": 1.5}, Status.RETRACTION_FAILED, "may end or fold there"),
    ("guarded_valley", {"step_size": 1.5}, Status.EIGENPAIRS_FAILED, "no finite derivative"),
    ("ill_conditioned", {"method": "iterative"}, Status.PROJECTION_FAILED, "too ill-conditioned"),
]


@pytest.mark.parametrize(("name", "options", "status", "remedy"), PARTS)
def test_a_failed_step_names_the_part_that_failed(name, options, status, remedy, request) -> None:
    problem = request.getfixturevalue(name)
    theta0 = problem.init(None).at[-1].set(0.0)
    given = {"on_sphere": False, "max_edge": 1} | options
    flow = sf.sharpness_flow(problem, theta0, TAU, throw=False, **given)
    assert Status(int(flow.status)) == status
    reached = np.isfinite(np.asarray(flow.threshold))
    assert not reached[-1] and np.all(np.diff(reached.astype(int)) <= 0)
    np.testing.assert_array_equal(np.isfinite(np.asarray(flow.theta)).all(axis=1), reached)
    with pytest.raises(RuntimeError, match=f"{status.message}; .*{remedy}"):
        sf.sharpness_flow(problem, theta0, TAU, **given)


def test_a_valley_that_ends_is_followed_to_its_end(ending_valley) -> None:
    """λ_1 = (2 + √x)² falls to 4, and nothing before the end looks like a failure."""
    flow = sf.sharpness_flow(
        ending_valley, jnp.asarray([1.0, 0.0]), TAU, on_sphere=False, max_edge=1, throw=False
    )
    reached = np.isfinite(np.asarray(flow.threshold))
    slopes = 2.0 + np.sqrt(np.asarray(flow.theta)[reached, 0])
    np.testing.assert_allclose(flow.threshold[reached], slopes**2, rtol=1e-3)
    # with u = √x and g = d(log λ_1)/dx = 1/(u(2 + u)): dx/dτ = −2g/(4 + g²), from u = 1 to 0
    end = 11.0 / 3.0 + np.log(1.5)
    np.testing.assert_array_equal(reached, end >= TAU)


def _half_guarded(w):
    """Of x^{3/2} at x < 0 the gradient is finite, and the second derivative 0 · ∞."""
    return w[0] ** 2 + jnp.maximum(w[1], 0.0) ** 1.5


@pytest.fixture(scope="module")
def half_guarded() -> sf.Problem:
    """A loss of which the central flow loses the second derivative."""
    return sf.Problem(init=lambda _: jnp.ones(2), loss=_half_guarded)


@pytest.mark.parametrize(
    ("start", "options", "status"),
    [
        ([1.0, -1.0], {}, Status.EIGENPAIRS_FAILED),
        ([1.0, 1.0], {"rtol": 1e-18}, Status.STEP_TOO_SMALL),
    ],
)
def test_a_failed_step_of_the_central_flow_names_its_part(
    half_guarded, start, options, status
) -> None:
    given = (half_guarded, jnp.asarray(start), 0.5, 0.1, np.linspace(0.0, 20.0, 3))
    flow = sf.central_flow(*given, throw=False, **options)
    assert Status(int(flow.status)) == status
    assert not np.isfinite(flow.loss[-1])
    with pytest.raises(RuntimeError, match=f"the central flow stopped .*{status.message}"):
        sf.central_flow(*given, **options)


def test_every_status_has_a_message_and_a_line_of_documentation() -> None:
    for status in Status:
        assert status.message
        assert f"\n  {status.name}: " in inspect.cleandoc(Status.__doc__), status.name

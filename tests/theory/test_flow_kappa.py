"""The flow whose motion along Γ is 1 + κ times as fast."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import sharpflow as sf
from sharpflow.theory import exact
from sharpflow.theory.flow_integration import integrate

TAU = np.linspace(0.0, 2.0, 9)
START = 1.2


def _angles(regression, theta) -> np.ndarray:
    return exact.angle_to_span(np.asarray(theta), regression.x)


@pytest.mark.parametrize(("b", "kappa"), [(2.0, 0.0), (2.0, 4.0), (0.5, 1.0), (6.0, 0.3)])
def test_the_closed_form_solves_its_differential_equation(b, kappa) -> None:
    """dα/dτ = −(1+κ) b g/(2b + (1+κ) g²), g = ‖∇_Γ log λ_1‖ = 2 tan α."""

    def velocity(_: float, angle: np.ndarray) -> np.ndarray:
        slope = 2.0 * np.tan(angle)
        return -(1.0 + kappa) * b * slope / (2.0 * b + (1.0 + kappa) * slope**2)

    solution = solve_ivp(velocity, (0.0, 2.0), [START], t_eval=TAU, rtol=1e-10, atol=1e-12)
    found = exact.linear_regression_angle(START, TAU, b=b, kappa=kappa)
    np.testing.assert_allclose(found, solution.y[0], atol=1e-8)  # the integration's tolerance


def test_the_closed_form_holds_at_both_ends() -> None:
    found = exact.linear_regression_angle(np.array([0.0, 0.5 * np.pi]), 0.0, kappa=3.0)
    np.testing.assert_allclose(found, [0.0, 0.5 * np.pi], atol=1e-14)


@pytest.mark.parametrize(("b", "kappa"), [(2.0, 1.0), (2.0, 4.0), (0.5, 2.0)])
def test_the_flow_follows_the_closed_form(regression, b, kappa) -> None:
    flow = sf.sharpness_flow(
        regression.problem, regression.at(START), TAU, max_edge=1, rtol=2e-5, b=b, kappa=kappa
    )
    expected = exact.linear_regression_angle(START, TAU, b=b, kappa=kappa)
    np.testing.assert_allclose(_angles(regression, flow.theta), expected, atol=2e-4)
    np.testing.assert_allclose(
        flow.eigenvalues[:, 0] / flow.eigenvalues[0, 0],
        exact.linear_regression_sharpness(1.0, START, TAU, b=b, kappa=kappa),
        rtol=1e-3,  # 2 tan α = 5 times the angle's error
    )
    # λ_1/λ* is 1 up to rtol at an output, and G² goes with its square
    np.testing.assert_allclose(flow.descent_squared, 4.0 * np.tan(expected) ** 2, rtol=1e-2)


@pytest.mark.parametrize(("b", "kappa"), [(2.0, 4.0), (0.5, 1.0)])
def test_the_single_edge_flow_follows_the_closed_form(regression, b, kappa) -> None:
    theta = sf.theory.single_edge_flow(
        regression.problem, regression.at(START), TAU, b=b, kappa=kappa, max_step=0.02
    )
    expected = exact.linear_regression_angle(START, TAU, b=b, kappa=kappa)
    np.testing.assert_allclose(_angles(regression, theta), expected, atol=1e-6)


def test_time_to_lower_is_the_time_of_the_closed_form() -> None:
    """λ_1 ∝ 1 + t², t = tan α, and G² = 4t²: ∫ d log λ_1/G² = ¼ log(t²/(1 + t²))."""
    for kappa in (0.0, 3.0):
        end = exact.linear_regression_angle(START, 0.7, kappa=kappa)
        squares = np.tan(np.array([START, float(end)])) ** 2
        fall = np.log((1.0 + squares[0]) / (1.0 + squares[1]))
        share = np.log(squares / (1.0 + squares)) / 4.0
        time = exact.time_to_lower(fall, share[0] - share[1], kappa=kappa)
        np.testing.assert_allclose(time, 0.7, rtol=1e-12)


@pytest.fixture(scope="module")
def with_and_without() -> tuple[sf.FlowSolution, sf.FlowSolution]:
    """κ = 0 and 3 on a Γ that is a sphere of ℝ³, λ_i = exp(a_i · x): λ_2 meets λ_1 on the way."""
    slopes = jnp.array([[2.0, 1.0, 0.0], [1.0, -1.0, 2.0]])

    def residual(w: jax.Array) -> jax.Array:
        position = w[:3] / jnp.linalg.norm(w[:3])
        return jnp.exp(0.5 * slopes @ position) * w[3:] / jnp.linalg.norm(w)

    problem = sf.Problem(init=lambda key: jax.random.normal(key, (5,)), residual=residual)
    start = jnp.array([0.7, 0.5, 0.5, 0.0, 0.0])
    start, tau = start / jnp.linalg.norm(start), np.linspace(0.0, 2.0, 41)
    plain = sf.sharpness_flow(problem, start, tau)
    before = integrate._cache_size()
    fast = sf.sharpness_flow(problem, start, tau, kappa=3.0)
    assert integrate._cache_size() == before, "another κ must share the compiled code"
    return plain, fast


def test_kappa_changes_the_clock_and_not_the_path(with_and_without) -> None:
    """With several eigenvalues at the edge, too: points of equal sharpness are the same."""
    plain, _ = with_and_without
    assert np.sum(np.asarray(plain.eigenvalues[-1]) > 0.99 * float(plain.threshold[-1])) >= 2
    level, other = (np.log(np.asarray(flow.threshold)) for flow in with_and_without)
    points, moved = (np.asarray(flow.theta) for flow in with_and_without)
    within = other >= level[-1]
    assert within.sum() >= 10
    same = np.stack([np.interp(-other[within], -level, column) for column in points.T], axis=1)
    distance = np.linalg.norm(same - moved[within], axis=1)
    # interpolation between outputs and rtol = 1e-3 of each
    assert distance.max() <= 5e-3 * np.linalg.norm(points[-1] - points[0]), distance


def test_the_time_follows_from_the_slopes_without_kappa(with_and_without) -> None:
    """τ = fall/b + 2/(1+κ) ∫ d(−log λ*)/G², G² of the flow without κ."""
    plain, fast = with_and_without
    fall = np.log(float(plain.threshold[0]) / np.asarray(plain.threshold))
    inverse = 1.0 / np.asarray(plain.descent_squared)
    pieces = 0.5 * (inverse[:-1] + inverse[1:]) * np.diff(fall)
    integral = np.concatenate([[0.0], np.cumsum(pieces)])
    for flow in with_and_without:
        time = np.interp(fall, np.log(float(plain.threshold[0]) / flow.threshold), flow.tau)
        expected = exact.time_to_lower(fall, integral, kappa=flow.kappa)
        # half the spacing of outputs: the trapezium rule where λ_2 comes in and G² jumps
        np.testing.assert_allclose(time, expected, atol=0.03)
    assert float(fast.threshold[-1]) < 0.8 * float(plain.threshold[-1])


@pytest.mark.parametrize("kappa", [-1.0, float("nan"), float("inf")])
def test_a_factor_that_stops_the_motion_is_refused(regression, kappa) -> None:
    with pytest.raises(ValueError, match="kappa must be finite and above -1"):
        sf.sharpness_flow(regression.problem, regression.at(START), TAU, kappa=kappa)

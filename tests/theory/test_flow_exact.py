"""The flow of batch-norm linear regression against its closed forms."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import sharpflow as sf

TAU = np.linspace(0.0, 2.0, 9)
START = 1.2


def _flow(regression, tau: np.ndarray = TAU, **options) -> sf.FlowSolution:
    options = {"max_edge": 1, "rtol": 2e-4} | options
    return sf.sharpness_flow(regression.problem, regression.at(START), tau, **options)


def _angles(regression, flow: sf.FlowSolution) -> np.ndarray:
    """sin α is the share of θ in the null space of the centred inputs."""
    return np.arcsin(np.linalg.norm(np.asarray(flow.theta) @ regression.null.T, axis=1))


def _angle_error(regression, flow: sf.FlowSolution, tau: np.ndarray) -> float:
    expected = np.arctan(np.tan(START) * np.exp(-tau))
    return float(np.abs(_angles(regression, flow) - expected).max())


def _slope_squared(flow: sf.FlowSolution, angles: np.ndarray) -> np.ndarray:
    """‖ĝ‖² with ĝ = ∇_Γ λ_1/λ* and ‖∇_Γ log λ_1‖ = 2 tan α, where λ_1/λ* is 1 up to rtol."""
    ratio = np.asarray(flow.eigenvalues[:, 0] / flow.threshold)
    return (2.0 * ratio * np.tan(angles)) ** 2


def test_angle_shrinks_as_in_closed_form(regression) -> None:
    """tan α(τ) = tan α(0) e^{−τ}. The clock is exact, not up to a factor."""
    assert _angle_error(regression, _flow(regression), TAU) <= 1e-4


def test_the_path_stays_on_one_great_circle(regression) -> None:
    theta = np.asarray(_flow(regression).theta)
    plane = np.stack([regression.solution, np.asarray(regression.at(np.pi / 2))])
    np.testing.assert_allclose(theta @ plane.T @ plane, theta, atol=1e-9)


def test_sharpness_follows_the_inverse_square_cosine(regression) -> None:
    flow = _flow(regression)
    expected = (np.cos(START) / np.cos(np.arctan(np.tan(START) * np.exp(-TAU)))) ** 2
    # d log(1/cos² α) = 2 tan α dα, tan α ≤ 2.6: the angle's 1e-4 grows to 5e-4
    np.testing.assert_allclose(flow.eigenvalues[:, 0] / flow.eigenvalues[0, 0], expected, rtol=6e-4)
    np.testing.assert_allclose(flow.eigenvalues[:, 0], flow.threshold, rtol=1e-3)


def test_a_smaller_tolerance_gives_a_smaller_error(regression) -> None:
    errors = [_angle_error(regression, _flow(regression, rtol=rtol), TAU) for rtol in (1e-3, 1e-5)]
    assert errors[1] <= errors[0] / 10.0  # a hundredth of the tolerance, to first order its root


def test_tau_counts_from_its_first_entry(regression) -> None:
    shifted = _flow(regression, TAU + 5.0)
    np.testing.assert_allclose(shifted.theta, _flow(regression).theta, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(shifted.tau, TAU + 5.0)


@pytest.mark.parametrize("b", [0.5, 2.0, 4.0])
def test_below_the_edge_only_the_threshold_moves_until_the_predicted_entry(regression, b) -> None:
    """s falls at rate b, so λ* = 3 λ_1 meets λ_1 at τ = log(3)/b; the flow starts there."""
    theta0 = np.asarray(regression.at(START))
    sharpness = float(sf.theory.spherical_sharpness(regression.problem, jnp.asarray(theta0))[0][0])
    tau = np.linspace(0.0, 2.0 * np.log(3.0) / b, 9)
    flow = _flow(regression, tau, threshold0=3.0 * sharpness, b=b)
    before = tau < np.log(3.0) / b - 0.02  # M looks 0.01 ahead
    assert before.sum() == 4
    np.testing.assert_allclose(np.asarray(flow.theta)[before], theta0[None].repeat(4, 0), atol=1e-9)
    np.testing.assert_allclose(flow.edge_trace[before], 0.0, atol=1e-9)
    expected = np.log(3.0 * sharpness) - b * tau
    np.testing.assert_allclose(np.log(flow.threshold)[before], expected[before], atol=1e-9)
    after = tau[tau >= np.log(3.0) / b] - np.log(3.0) / b
    np.testing.assert_allclose(
        _angles(regression, flow)[-after.size :], _central_angles(after, b), atol=2e-4
    )


def _central_angles(tau: np.ndarray, b: float) -> np.ndarray:
    """dα/dτ = −b g/(2b + g²) with g = d log λ_1/dα = 2 tan α."""
    solution = solve_ivp(
        lambda _, a: -b * 2 * np.tan(a) / (2 * b + 4 * np.tan(a) ** 2),
        (0.0, max(tau[-1], 1e-3)),
        [START],
        t_eval=tau,
        rtol=1e-10,
        atol=1e-12,
    )
    return solution.y[0]


@pytest.mark.parametrize("b", [0.5, 1.0, 4.0])
def test_the_response_of_the_threshold_sets_the_pace(regression, b: float) -> None:
    # the steps are longer where the motion is slow: a tenth of the tolerance for the same 1e-4
    flow = _flow(regression, b=b, rtol=2e-5)
    assert flow.b == b
    np.testing.assert_allclose(_angles(regression, flow), _central_angles(TAU, b), atol=1e-4)


@pytest.mark.parametrize("b", [0.5, 2.0, 4.0])
def test_one_eigenvalue_at_the_edge_oscillates_with_the_closed_form_of_M(regression, b) -> None:
    """M = b/(2b + ‖∇_Γ log λ_1‖²): with M the edge ratio stays at one."""
    flow = _flow(regression, b=b, rtol=2e-5)
    expected = b / (2.0 * b + _slope_squared(flow, _angles(regression, flow)))
    np.testing.assert_allclose(flow.edge_covariance[:, 0, 0], expected, rtol=1e-6)


def test_a_start_above_the_edge_continues_from_the_crossing(regression) -> None:
    """λ* = 0.8 λ_1 was crossed log(1/0.8)/b earlier, if the answer had come at once."""
    theta0 = regression.at(START)
    sharpness = float(sf.theory.spherical_sharpness(regression.problem, theta0)[0][0])
    flow = _flow(regression, threshold0=0.8 * sharpness)
    late = np.log(1.0 / 0.8) / 2.0
    assert _angle_error(regression, flow, TAU + late) <= 1e-4


def test_equal_eigenvalues_at_the_edge_move_as_one() -> None:
    """White inputs: n − 2 equal eigenvalues, whose gradients are all the same vector."""
    random = np.random.default_rng(0)
    rows = np.linalg.qr(random.normal(size=(10, 6)))[0].T
    x = rows - rows.mean(axis=0)
    problem = sf.models.linear_regression(x, random.normal(size=6))
    solution = np.asarray(sf.theory.retract(problem, jnp.asarray(x.T @ random.normal(size=6))))
    away = random.normal(size=10)
    away = away - np.linalg.pinv(x) @ (x @ away)
    away = away / np.linalg.norm(away)
    theta0 = jnp.asarray(np.cos(START) * solution + np.sin(START) * away)
    flow = sf.sharpness_flow(problem, theta0, TAU, max_edge=4, rtol=2e-4)
    np.testing.assert_allclose(
        flow.eigenvalues, np.asarray(flow.threshold)[:, None].repeat(4, 1), rtol=1e-3
    )
    angles = np.arcsin(np.abs(np.asarray(flow.theta) @ away))
    np.testing.assert_allclose(angles, np.arctan(np.tan(START) * np.exp(-TAU)), atol=1e-4)
    # only tr M is determined, by the same formula as for one eigenvalue
    expected = 2.0 / (4.0 + _slope_squared(flow, angles))
    np.testing.assert_allclose(flow.edge_trace, expected, rtol=1e-6)


def test_flow_time_zero_returns_the_start(regression) -> None:
    flow = _flow(regression, np.array([0.3]))
    np.testing.assert_array_equal(flow.theta[0], regression.at(START))
    np.testing.assert_allclose(flow.threshold, flow.eigenvalues[:, 0], rtol=1e-15)

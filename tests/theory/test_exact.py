"""The closed form of linear regression against its differential equation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

from sharpflow.theory import exact


def _jacobian(regression, theta: np.ndarray) -> np.ndarray:
    """J of r = (f − y)/√n by hand: (I − ffᵀ/n) Xc/(σ √n), f = Xc θ/σ."""
    centred = regression.x - regression.x.mean(axis=0)
    predicted, count = centred @ theta, len(regression.y)
    deviation = np.sqrt(np.mean(predicted**2))
    f = predicted / deviation
    return (centred - np.outer(f, f @ centred) / count) / (deviation * np.sqrt(count))


def _log_sharpness(regression, theta: jax.Array) -> jax.Array:
    """log λ_1(JᵀJ), differentiable."""
    centred = jnp.asarray(regression.x - regression.x.mean(axis=0))
    predicted, count = centred @ theta, len(regression.y)
    deviation = jnp.sqrt(jnp.mean(predicted**2))
    f = predicted / deviation
    jacobian = (centred - jnp.outer(f, f @ centred) / count) / (deviation * np.sqrt(count))
    return jnp.log(jnp.linalg.eigvalsh(jacobian @ jacobian.T)[-1])


@pytest.fixture(scope="module")
def integrated(regression) -> tuple[np.ndarray, np.ndarray]:
    """τ and the points of dζ/dτ = −2g/(4 + ‖g‖²), g = P_Γ ∇ log λ_1, by dense algebra."""
    slope_of = jax.jit(jax.grad(lambda theta: _log_sharpness(regression, theta)))

    def velocity(_: float, theta: np.ndarray) -> np.ndarray:
        jacobian, point = _jacobian(regression, theta), theta / np.linalg.norm(theta)
        slope = np.asarray(slope_of(jnp.asarray(theta)))
        slope = slope - np.linalg.pinv(jacobian, rcond=1e-8) @ (jacobian @ slope)
        slope = slope - point * (point @ slope)
        return -2.0 * slope / (4.0 + slope @ slope)

    tau = np.linspace(0.0, 2.0, 6)
    start = np.asarray(regression.at(1.2))
    solution = solve_ivp(velocity, (0.0, 2.0), start, t_eval=tau, rtol=1e-10, atol=1e-12)
    return tau, solution.y.T


def test_the_angle_solves_the_flow_equation(regression, integrated) -> None:
    tau, theta = integrated
    # the integration's own tolerance, 1e-10 per step over a few hundred steps
    np.testing.assert_allclose(
        exact.linear_regression_angle(1.2, tau), exact.angle_to_span(theta, regression.x), atol=1e-7
    )


def test_the_sharpness_along_the_flow_is_that_of_the_dense_jacobian(regression, integrated) -> None:
    tau, theta = integrated
    dense = [np.linalg.norm(_jacobian(regression, point), 2) ** 2 for point in theta]
    found = exact.linear_regression_sharpness(dense[0], 1.2, tau)
    np.testing.assert_allclose(found, dense, rtol=1e-6)  # 2 tan α = 5 times the angle's error
    assert found[-1] < 0.3 * found[0]


def test_minimum_norm_direction_fits_with_the_least_norm(regression) -> None:
    direction = exact.minimum_norm_direction(regression.x, regression.y)
    centred = regression.x - regression.x.mean(axis=0)
    target = regression.y - regression.y.mean()
    fitted = centred @ direction
    scale = (fitted @ target) / (fitted @ fitted)
    np.testing.assert_allclose(scale * fitted, target, atol=1e-12)
    assert scale > 0
    np.testing.assert_allclose(regression.null @ direction, 0.0, atol=1e-12)
    np.testing.assert_allclose(direction @ direction, 1.0, rtol=1e-14)


@given(angle=st.floats(0.0, np.pi / 2), scale=st.floats(1e-3, 1e3))
def test_angle_to_span_reads_the_angle_at_any_norm(regression, angle, scale) -> None:
    point = scale * np.asarray(regression.at(angle))
    np.testing.assert_allclose(exact.angle_to_span(point, regression.x), angle, atol=1e-14)


def test_angle_to_span_of_rank_deficient_inputs_uses_their_numerical_rank(tall_regression) -> None:
    angles = np.array([0.1, 0.7, 1.5])
    points = np.stack([np.asarray(tall_regression.at(angle)) for angle in angles])
    np.testing.assert_allclose(exact.angle_to_span(points, tall_regression.x), angles, atol=1e-12)


def test_the_flow_ends_at_the_minimum_norm_solution() -> None:
    np.testing.assert_allclose(exact.linear_regression_angle(1.5, 40.0), 0.0, atol=1e-14)

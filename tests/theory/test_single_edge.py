"""The flow of a single edge eigenvalue, Theorem 2 of Lyu, Li and Arora, by itself."""

import jax.numpy as jnp
import numpy as np
import pytest

import sharpflow as sf


@pytest.mark.parametrize("b", [0.5, 2.0])
@pytest.mark.parametrize("angle", [0.3, 1.2])
def test_velocity_has_its_closed_form_on_linear_regression(regression, angle, b) -> None:
    """∇_Γ log λ_1 = 2 tan α along the great circle, so dα/dτ = −b g/(2b + g²)."""
    velocity = np.asarray(
        sf.theory.single_edge_velocity(regression.problem, regression.at(angle), b=b)
    )
    away = -np.sin(angle) * regression.solution + np.cos(angle) * np.asarray(
        regression.at(np.pi / 2)
    )
    slope = 2.0 * np.tan(angle)
    np.testing.assert_allclose(velocity, -b * slope / (2.0 * b + slope**2) * away, atol=1e-10)


def test_the_points_follow_the_closed_form(regression) -> None:
    tau = np.linspace(0.0, 2.0, 5)
    theta = sf.theory.single_edge_flow(regression.problem, regression.at(1.2), tau, max_step=0.02)
    np.testing.assert_allclose(
        np.arcsin(np.linalg.norm(np.asarray(theta) @ regression.null.T, axis=1)),
        np.arctan(np.tan(1.2) * np.exp(-tau)),
        atol=1e-7,
    )


def test_the_steps_are_of_fourth_order(regression) -> None:
    """Before any crossing; the retraction after each step adds nothing along Γ."""
    errors = []
    for step in (0.2, 0.1, 0.05):
        theta = sf.theory.single_edge_flow(
            regression.problem, regression.at(1.2), np.array([0.0, 2.0]), max_step=step
        )
        outside = np.linalg.norm(np.asarray(theta)[-1] @ regression.null.T)
        errors.append(abs(np.arcsin(outside) - np.arctan(np.tan(1.2) * np.exp(-2.0))))
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert np.all(np.abs(orders - 4.0) <= 0.5), (orders, errors)


@pytest.mark.parametrize("max_step", [0.0, -1e-3, float("nan")])
def test_a_step_that_does_not_advance_is_refused(regression, max_step: float) -> None:
    with pytest.raises(ValueError, match="max_step must be positive"):
        sf.theory.single_edge_flow(
            regression.problem, regression.at(1.0), jnp.array([0.0, 1.0]), max_step=max_step
        )

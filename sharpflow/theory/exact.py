"""The flow of batch-norm linear regression in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

_NEWTON_STEPS = 30


def minimum_norm_direction(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Unit direction of the minimum-norm solution of centred x w = y.

    Args:
      x: inputs, shape (n, d); centred here.
      y: targets, shape (n,); centred here.

    Returns:
      Shape (d,), float64.

    Source: docs/theory.md, section 6.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    solution = np.linalg.lstsq(x - x.mean(axis=0), y - y.mean(), rcond=None)[0]
    return solution / np.linalg.norm(solution)


def angle_to_span(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    """α, with sin α the share of θ outside the span of the centred inputs.

    Args:
      theta: directions or params, shape (..., d).
      x: inputs, shape (n, d).

    Returns:
      Angles in radians, shape (...), float64. On Γ this is the angle to the
      minimum-norm solution.

    Source: docs/theory.md, section 6.
    """
    theta = np.asarray(theta, np.float64)
    centred = np.asarray(x, np.float64) - np.asarray(x, np.float64).mean(axis=0)
    _, sizes, rows = np.linalg.svd(centred, full_matrices=False)
    span = rows[sizes > sizes[0] * max(centred.shape) * np.finfo(np.float64).eps]
    inside = theta @ span.T
    outside = theta - inside @ span
    return np.arctan2(np.linalg.norm(outside, axis=-1), np.linalg.norm(inside, axis=-1))


def linear_regression_angle(
    angle0: ArrayLike, tau: ArrayLike, *, b: float = 2.0, kappa: float = 0.0
) -> Float[Array, "..."]:
    """α(τ) of the sharpness-reduction flow; for GD+WD tan α(τ) = tan α(0) e^{−τ}.

    In general sin α / cos^{2(1+κ)/b} α falls as e^{−(1+κ)τ}.

    Args:
      angle0: α(0) in radians, from 0 to below π/2, shape (...).
      tau: flow time since the edge was entered, shape (...).
      b: response of the threshold, 2 for GD+WD.
      kappa: κ of IRE; motion along Γ is 1 + κ times as fast.

    Returns:
      α(τ) in radians, shape (...).

    Source: docs/theory.md, section 6; with κ docs/flat-directions.md.
    """
    tangent = jnp.tan(jnp.asarray(angle0))
    power = (1.0 + kappa) / b - 0.5
    start = jnp.log(jnp.where(tangent > 0, tangent, 1.0))  # u = log tan α
    target = start + power * jax.nn.softplus(2.0 * start) - (1.0 + kappa) * jnp.asarray(tau)
    found = target
    for _ in range(_NEWTON_STEPS):  # on a convex or concave function with bounded slopes
        value = found + power * jax.nn.softplus(2.0 * found) - target
        found = found - value / (1.0 + 2.0 * power * jax.nn.sigmoid(2.0 * found))
    return jnp.where(tangent > 0, jnp.arctan(jnp.exp(found)), 0.0)


def linear_regression_sharpness(
    sharpness0: ArrayLike, angle0: ArrayLike, tau: ArrayLike, *, b: float = 2.0, kappa: float = 0.0
) -> Array:
    """λ_1 along that flow, λ_1 ∝ 1/cos² α.

    Args:
      sharpness0: λ_1 at α(0), shape (...).
      angle0, tau, b, kappa: as in ``linear_regression_angle``.

    Returns:
      λ_1(τ), shape (...).

    Source: docs/theory.md, section 6.
    """
    angle = linear_regression_angle(angle0, tau, b=b, kappa=kappa)
    return jnp.asarray(sharpness0) * jnp.square(jnp.cos(jnp.asarray(angle0)) / jnp.cos(angle))


def time_to_lower(
    fall: ArrayLike, inverse_squares: ArrayLike, *, b: float = 2.0, kappa: float = 0.0
) -> Array:
    """Flow time in which the sharpness at the edge falls by a factor.

    Args:
      fall: log λ_1 at the start minus log λ_1 at the end.
      inverse_squares: ∫ d(−log λ_1)/G² from start to end along Γ, which no κ changes; with
        one eigenvalue at the edge G = ‖∇_Γ log λ_1‖.
      b: response of the threshold, 2 for GD+WD.
      kappa: κ of IRE.

    Returns:
      τ = fall/b + 2/(1 + κ) · inverse_squares.

    Source: docs/flat-directions.md.
    """
    return jnp.asarray(fall) / b + 2.0 / (1.0 + kappa) * jnp.asarray(inverse_squares)

"""The flow of batch-norm linear regression in closed form."""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float


def minimum_norm_direction(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Unit direction of the minimum-norm solution of centred x w = y.

    Args:
      x: inputs, shape (n, d); centred here.
      y: targets, shape (n,); centred here.

    Returns:
      Shape (d,), float64.
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


def linear_regression_angle(angle0: ArrayLike, tau: ArrayLike) -> Float[Array, "..."]:
    """α(τ) of the sharpness-reduction flow, tan α(τ) = tan α(0) e^{−τ}.

    Args:
      angle0: α(0) in radians.
      tau: flow time since the edge was entered.

    Source: docs/theory.md, section 6.
    """
    return jnp.arctan(jnp.tan(jnp.asarray(angle0)) * jnp.exp(-jnp.asarray(tau)))


def linear_regression_sharpness(sharpness0: ArrayLike, angle0: ArrayLike, tau: ArrayLike) -> Array:
    """λ_1 along that flow, λ_1 ∝ 1/cos² α.

    Args:
      sharpness0: λ_1 at α(0).
      angle0: α(0) in radians.
      tau: flow time since the edge was entered.

    Source: docs/theory.md, section 6.
    """
    angle = linear_regression_angle(angle0, tau)
    return jnp.asarray(sharpness0) * jnp.square(jnp.cos(jnp.asarray(angle0)) / jnp.cos(angle))

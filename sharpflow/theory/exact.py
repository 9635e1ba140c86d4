"""The flow of batch-norm linear regression in closed form."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from sharpflow.models.arguments import POSITIVE, array, checked
from sharpflow.theory.arguments import KAPPA

# up to π/2 inclusive: a direction of which all lies outside the span stays there
ANGLE = array(least=0, below=math.nextafter(math.pi / 2, 2.0))

# Newton's method here converges from any start, and quadratically at the end: eight steps reach
# rounding for τ up to 100. A fixed number keeps the function differentiable, and 30 are cheap.
_NEWTON_STEPS = 30


@checked(x=array(2), y=array(1))
def minimum_norm_direction(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Unit direction of the minimum-norm solution of centred x w = y.

    Args:
      x: inputs, shape (n, d); centred here.
      y: targets, shape (n,); centred here.

    Returns:
      Shape (d,), float64.

    Raises:
      ValueError: inputs or targets that are not finite, do not belong together or do not vary.

    Source: docs/theory.md, section 6.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if len(x) != len(y) or not len(x):
        raise ValueError(f"y must have shape ({len(x)},) to match x, got {y.shape}")
    solution = np.linalg.lstsq(x - x.mean(axis=0), y - y.mean(), rcond=None)[0]
    norm = np.linalg.norm(solution)
    if not norm > 0:
        raise ValueError("y must vary with x: the minimum-norm solution is 0, without a direction")
    return solution / norm


@checked(theta=array(), x=array(2))
def angle_to_span(theta: np.ndarray, x: np.ndarray) -> np.ndarray:
    """α, with sin α the share of θ outside the span of the centred inputs.

    Args:
      theta: directions or params, shape (..., d).
      x: inputs, shape (n, d).

    Returns:
      Angles in radians, shape (...), float64. On Γ this is the angle to the
      minimum-norm solution.

    Raises:
      ValueError: numbers that are not finite, or another number of columns.

    Source: docs/theory.md, section 6.
    """
    theta = np.asarray(theta, np.float64)
    if theta.ndim < 1 or theta.shape[-1] != np.shape(x)[1] or not np.size(x):
        raise ValueError(f"theta must have shape (..., {np.shape(x)[1]}) as x, got {theta.shape}")
    centred = np.asarray(x, np.float64) - np.asarray(x, np.float64).mean(axis=0)
    _, sizes, rows = np.linalg.svd(centred, full_matrices=False)
    span = rows[sizes > sizes[0] * max(centred.shape) * np.finfo(np.float64).eps]
    inside = theta @ span.T
    outside = theta - inside @ span
    return np.arctan2(np.linalg.norm(outside, axis=-1), np.linalg.norm(inside, axis=-1))


@checked(angle0=ANGLE, tau=array(), b=POSITIVE, kappa=KAPPA)
def linear_regression_angle(
    angle0: ArrayLike, tau: ArrayLike, *, b: float = 2.0, kappa: float = 0.0
) -> Float[Array, "..."]:
    """α(τ) of the sharpness-reduction flow; for GD+WD tan α(τ) = tan α(0) e^{−τ}.

    In general sin α / cos^{2(1+κ)/b} α falls as e^{−(1+κ)τ}.

    Args:
      angle0: α(0) in radians, from 0 to π/2, shape (...).
      tau: flow time since the edge was entered, shape (...).
      b: response of the threshold, 2 for GD+WD.
      kappa: κ of IRE; motion along Γ is 1 + κ times as fast.

    Returns:
      α(τ) in radians, shape (...).

    Raises:
      ValueError: an angle, b or κ out of range.

    Source: docs/theory.md, section 6; with κ docs/flat-directions.md.
    """
    tangent = jnp.tan(jnp.asarray(angle0))
    power = (1.0 + kappa) / b - 0.5
    # In the logarithm, in which the equation is nearly linear: in α itself Newton's method would
    # overshoot near π/2.
    # In the logarithm the slopes of the equation are bounded, so that Newton's method converges
    # from any start.
    start = jnp.log(jnp.where(tangent > 0, tangent, 1.0))  # u = log tan α
    target = start + power * jax.nn.softplus(2.0 * start) - (1.0 + kappa) * jnp.asarray(tau)
    log_tangent = target
    for _ in range(_NEWTON_STEPS):  # on a convex or concave function with bounded slopes
        value = log_tangent + power * jax.nn.softplus(2.0 * log_tangent) - target
        log_tangent = log_tangent - value / (1.0 + 2.0 * power * jax.nn.sigmoid(2.0 * log_tangent))
    return jnp.where(tangent > 0, jnp.arctan(jnp.exp(log_tangent)), 0.0)


@checked(
    sharpness0=array(above=0),
    angle0=ANGLE,
    tau=array(),
    b=POSITIVE,
    kappa=KAPPA,
)
def linear_regression_sharpness(
    sharpness0: ArrayLike, angle0: ArrayLike, tau: ArrayLike, *, b: float = 2.0, kappa: float = 0.0
) -> Array:
    """λ_1 along that flow, λ_1 ∝ 1/cos² α.

    Args:
      sharpness0: λ_1 at α(0), shape (...).
      angle0, tau, b, kappa: as in ``linear_regression_angle``.

    Returns:
      λ_1(τ), shape (...).

    Raises:
      ValueError: a number out of range.

    Source: docs/theory.md, section 6.
    """
    angle = linear_regression_angle(angle0, tau, b=b, kappa=kappa)
    return jnp.asarray(sharpness0) * jnp.square(jnp.cos(jnp.asarray(angle0)) / jnp.cos(angle))


@checked(fall=array(), inverse_squares=array(least=0), b=POSITIVE, kappa=KAPPA)
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

    Raises:
      ValueError: a number out of range.

    Source: docs/flat-directions.md.
    """
    return jnp.asarray(fall) / b + 2.0 / (1.0 + kappa) * jnp.asarray(inverse_squares)

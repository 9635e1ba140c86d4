"""Oscillations of period two about a point of Γ, beyond their linear growth."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from sharpflow.models import Params, Problem, validate_params
from sharpflow.models.arguments import POSITIVE, checked
from sharpflow.models.precision import compiled
from sharpflow.models.problem import PROBLEM
from sharpflow.models.representation import summarized


@summarized
class PeriodTwo(NamedTuple):
    """What limits an oscillation along v_1 at the edge.

    Attributes:
      damping: C in |x_{t+1}| = (1 + 2(λ_1/λ* − 1) − C x²) |x_t|; negative where the loss
        grows so fast that oscillations make themselves unstable.
      drift: ‖∇_Γ log λ_1‖², so that log λ_1 falls by drift · x² a step.
    """

    damping: Float[Array, ""]
    drift: Float[Array, ""]


@checked(problem=PROBLEM)
def period_two(problem: Problem, theta: Params) -> PeriodTwo:
    """How an oscillation along the top eigenvector limits itself, and how it drifts.

    C = (1/λ_1) (⟨g, H⁺ g⟩ − ∇⁴L[v_1,v_1,v_1,v_1]/3) with H = ∇²L and g = ∇³L[v_1,v_1]. The
    Hessian is formed: for small problems.

    Args:
      problem: any problem with a simple λ_1 at ``theta``.
      theta: a point of Γ; of unit norm where the problem is scale-invariant.

    Returns:
      Damping and drift, both of shape ().

    Raises:
      ValueError: unusable ``theta``.

    Source: docs/other-dynamics.md, section 1.
    """
    return _period_two(problem, validate_params(problem, theta, "theta"))


@checked(excess=POSITIVE, damping=POSITIVE, drift=POSITIVE)
def settled_excess(excess: float, damping: float, drift: float) -> float:
    """Where the edge ratio comes to rest under a fixed threshold that it starts above.

    A small oscillation grows, lowers λ_1 below the threshold and dies out. From
    dr/dt = −drift x², d log x²/dt = 4r − 2C x², r = λ_1/λ* − 1:
    (2q + 1)(1 − e^{−z}) = z and r_end = (drift/C)(q − z/2), with q = C r_0/drift.

    Args:
      excess: r_0 > 0.
      damping, drift: as in ``PeriodTwo``, both positive.

    Returns:
      r_end < 0: −r_0 where damping is weak, −drift/(2C) where it is strong.

    Raises:
      ValueError: an argument that is not positive.

    Source: docs/other-dynamics.md, section 4.
    """
    from scipy.optimize import brentq

    q = damping * (excess / drift)
    # the ends of the range, where the bracket below closes and differences cancel
    # At 1e-8 the difference q − z/2 keeps no digit in float64; the limit is right to q itself
    # there.
    if q < 1e-8:
        return -excess
    if q > 40.0:  # e^{−z} is below the rounding of z
        return -0.5 * drift / damping
    low = math.log1p(2.0 * q)  # the largest of the oscillation, which comes before its end
    z = brentq(lambda z: (2.0 * q + 1.0) * -math.expm1(-z) - z, low, 2.0 * q + 1.0, xtol=1e-14)
    return drift / damping * (q - 0.5 * z)


@compiled
def _period_two(problem: Problem, theta: Params) -> PeriodTwo:
    flat, unravel = ravel_pytree(theta)

    def gradient(w: Array) -> Array:
        return ravel_pytree(jax.grad(problem.loss_value)(unravel(w)))[0]

    # Formed, because its pseudo-inverse is needed; this is for small problems, as the docstring
    # says.
    hessian = jax.jacfwd(gradient)(flat)
    values, vectors = jnp.linalg.eigh(0.5 * (hessian + hessian.T))
    top = vectors[:, -1]
    second = _along(_along(gradient, top), top)
    third = second(flat)
    fourth = top @ _along(second, top)(flat)
    # The Hessian on Γ has low rank. Its null eigenvalues round to 1e-15 of the largest, and what a
    # network has between that and 1e-9 is damped too slowly to count within one period.
    kept = values > 1e-9 * values[-1]
    shares = jnp.square(vectors.T @ third)
    normal = jnp.sum(jnp.where(kept, shares / jnp.where(kept, values, 1.0), 0.0))
    tangent = jnp.sum(jnp.where(kept, 0.0, shares))
    if problem.scale_invariant:  # θ itself is flat, and no tangent of Γ
        tangent = tangent - jnp.square(flat @ third) / (flat @ flat)
    return PeriodTwo(
        damping=(normal - fourth / 3.0) / values[-1],
        drift=tangent / jnp.square(values[-1]),
    )


def _along(function: Callable[[Array], Array], direction: Array) -> Callable[[Array], Array]:
    """The derivative of a function in a fixed direction, again a function."""
    return lambda w: jax.jvp(function, (w,), (direction,))[1]

"""The sharpness-reduction flow of a single eigenvalue at the edge, for comparison."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from sharpflow.models import Params, Problem, validate_params
from sharpflow.models.arguments import MOST, PARAMS, POSITIVE, checked, require_within
from sharpflow.models.compiled_function import special_values_allowed
from sharpflow.models.fitting import require_fitting
from sharpflow.models.precision import compiled, full_precision
from sharpflow.models.problem import PROBLEM
from sharpflow.theory.arguments import KAPPA, TIMES
from sharpflow.theory.edge_geometry import edge_gradients, edge_space
from sharpflow.theory.linearization import Residual, linearize
from sharpflow.theory.manifold import require_on_manifold
from sharpflow.theory.residuals import residual_form
from sharpflow.theory.retraction import retract_flat
from sharpflow.theory.times import validated_times


@checked(problem=PROBLEM, theta=PARAMS, b=POSITIVE, kappa=KAPPA)
@full_precision
def single_edge_velocity(
    problem: Problem, theta: Params, *, b: float = 2.0, kappa: float = 0.0
) -> Params:
    """dζ/dτ of Lyu, Li and Arora, for a simple top eigenvalue at the edge.

    Args:
      problem: a problem with a residual or an outputs/criterion form.
      theta: a point of Γ of unit norm.
      b: response of the threshold, 2 for GD+WD.
      kappa: κ of IRE; motion along Γ is 1 + κ times as fast.

    Returns:
      −(1+κ) b ∇_Γ log λ_1 / (2b + (1+κ) ‖∇_Γ log λ_1‖²), as ``theta``.

    Raises:
      ValueError: b or κ out of range, or a loss alone, which has no Γ.

    Source: Lyu, Li and Arora 2022, equation (7); docs/theory.md, section 3, and with κ
    docs/flat-directions.md.
    """
    require_fitting(problem, theta, "theta")
    flat, unravel = ravel_pytree(theta)
    require_within(flat.dtype, b=b, kappa=kappa)
    of_b, of_kappa = jnp.asarray(b, flat.dtype), jnp.asarray(kappa, flat.dtype)
    return unravel(_velocity(residual_form(problem, theta), flat, of_b, of_kappa))


@special_values_allowed()
@checked(problem=PROBLEM, tau=TIMES, b=POSITIVE, kappa=KAPPA, max_step=POSITIVE)
def single_edge_flow(
    problem: Problem,
    theta0: Params,
    tau: Float[Array | np.ndarray, " T"],
    *,
    b: float = 2.0,
    kappa: float = 0.0,
    max_step: float = 1e-3,
) -> Params:
    """Integrate the flow of a single eigenvalue with the classical Runge–Kutta method.

    It holds until the second eigenvalue reaches the edge. From there on the formula
    jumps between eigenvectors and moves too slowly, whatever the step; it is kept to
    show that. ``sharpness_flow`` goes on correctly.

    Args:
      problem: a problem with a residual or an outputs/criterion form.
      theta0: a point of Γ of unit norm, at the edge at tau[0].
      tau: increasing output times, shape (T,).
      b: response of the threshold, 2 for GD+WD.
      kappa: κ of IRE, as in ``single_edge_velocity``.
      max_step: largest step in τ.

    Returns:
      The points at ``tau``, as ``theta0`` with a leading axis (T, ...).

    Raises:
      ValueError: unusable ``theta0`` or ``max_step``, ``tau`` does not increase, or a loss
        alone, which has no Γ.

    Source: Lyu, Li and Arora 2022, equation (7); docs/theory.md, section 3.
    """
    theta0 = validate_params(problem, theta0, "theta0")
    require_on_manifold(problem, theta0)
    times = validated_times(tau)
    dtype = jax.tree.leaves(theta0)[0].dtype
    require_within(dtype, tau=times, b=b, kappa=kappa, max_step=max_step)
    if not np.all(np.diff(times) / max_step <= MOST):
        raise ValueError(
            f"max_step must be so long that {MOST} steps lead from an output to the next, got "
            f"{max_step!r} for tau from {times[0]:g} to {times[-1]:g}"
        )
    return _integrate(
        problem,
        theta0,
        jnp.asarray(times, dtype),
        jnp.asarray(b, dtype),
        jnp.asarray(kappa, dtype),
        jnp.asarray(max_step, dtype),
    )


def _velocity(residual: Residual, theta: Array, b: Array, kappa: Array) -> Array:
    space = edge_space(linearize(residual, theta), 1)
    slope = edge_gradients(space)[0] / space.eigenvalues[0]  # ∇_Γ log λ_1
    faster = 1.0 + kappa
    return -faster * b * slope / (2.0 * b + faster * (slope @ slope))


@compiled
def _integrate(
    problem: Problem, theta0: Params, tau: Array, b: Array, kappa: Array, max_step: Array
) -> Params:
    flat, unravel = ravel_pytree(theta0)
    residual = residual_form(problem, theta0)

    def velocity(theta: Array) -> Array:
        return _velocity(residual, theta, b, kappa)

    def runge_kutta(theta: Array, step: Array) -> Array:
        first = velocity(theta)
        second = velocity(theta + 0.5 * step * first)
        third = velocity(theta + 0.5 * step * second)
        fourth = velocity(theta + step * third)
        moved = theta + step / 6.0 * (first + 2.0 * second + 2.0 * third + fourth)
        # After the step and not after each of its stages: in between the points are off Γ by the
        # square of the step, which the formula does not feel to its own order.
        return retract_flat(residual, moved)[0]

    def advance(theta: Array, gap: Array) -> tuple[Array, Array]:
        count = jnp.maximum(jnp.ceil(gap / max_step), 1.0).astype(jnp.int32)
        step = gap / count.astype(gap.dtype)
        theta = jax.lax.fori_loop(0, count, lambda _, point: runge_kutta(point, step), theta)
        return theta, theta

    _, later = jax.lax.scan(advance, flat, jnp.diff(tau))
    return jax.vmap(unravel)(jnp.concatenate([flat[None], later]))

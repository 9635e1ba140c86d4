"""A residual form of the loss near Γ, on flat parameters."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from sharpflow.models import Params, Problem
from sharpflow.models.bound_function import BoundFunction
from sharpflow.models.leaves import is_concrete
from sharpflow.models.precision import FULL, compiled

# Of a criterion that has a minimum, near which each step doubles the digits. One without takes all
# of them before it is refused, and ten times as many would only delay that.
_NEWTON_STEPS = 50


def residual_form(
    problem: Problem, like: Params
) -> Callable[[Float[Array, " d"]], Float[Array, " m"]]:
    """A residual r on flat parameters with ½‖r‖² = L − inf L to second order around Γ.

    A problem with a residual gives its own. One with outputs and a criterion that knows
    its residual form gives that. Any other convex criterion gives r = A^{1/2} (f − f*),
    f* the outputs that minimise it and A its Hessian there, a dense matrix: on Γ all
    have the same Hessian JᵀAJ.

    Args:
      problem: the problem.
      like: params, for their structure and as the place where outputs are taken.

    Returns:
      r, (d,) -> (m,).

    Raises:
      ValueError: a problem with a loss alone, or a criterion that attains no minimum.
    """
    _, unravel = ravel_pytree(like)
    problem = problem.at_precision(FULL)
    if problem.residual is not None:
        residual = problem.residual
        return lambda flat: residual(unravel(flat))
    if problem.outputs is None or problem.bound_criterion is None:
        raise ValueError(
            "problem has a loss alone, which defines no minimizer manifold: "
            "give it a residual, or outputs with a criterion"
        )
    outputs, of_outputs = problem.outputs, problem.criterion_residual
    if of_outputs is not None:
        return lambda flat: of_outputs(outputs(unravel(flat)))
    produced = jax.eval_shape(outputs, like)
    best, root = _criterion_minimum(problem.bound_criterion, produced.shape, produced.dtype)
    return lambda flat: root @ (outputs(unravel(flat)).ravel() - best)


def _criterion_minimum(
    bound: BoundFunction, shape: tuple[int, ...], dtype: Any
) -> tuple[Float[Array, " q"], Float[Array, "q q"]]:
    """The minimiser of a convex criterion and the root of its Hessian there.

    Where the criterion's data are known while a program is traced, the minimum is computed then,
    and a criterion without one is refused. Where the data are traced too, it is computed whenever
    the program runs. It is NaN where there is none, and then no retraction succeeds.
    """
    if not is_concrete(*jax.tree.leaves(bound)):
        best, root, attained = _newton(bound, shape=shape, dtype=dtype)
        return jnp.where(attained, best, jnp.nan), jnp.where(attained, root, jnp.nan)
    with jax.ensure_compile_time_eval():
        best, root, attained = _newton(bound, shape=shape, dtype=dtype)
        if not bool(attained):
            raise ValueError(
                "criterion attains no minimum that Newton's method finds from zero outputs, so "
                "the loss has no minimizer manifold; cross-entropy needs label smoothing"
            )
    return best, root


@compiled(static_argnames=("shape", "dtype"))
def _newton(
    criterion: Callable[[Array], Array], *, shape: tuple[int, ...], dtype: Any
) -> tuple[Float[Array, " q"], Float[Array, "q q"], Bool[Array, ""]]:
    """Damped Newton iteration from zero: the minimiser, the root there, and whether it is one."""
    precision = float(jnp.finfo(dtype).eps)

    def value(flat: Array) -> Array:
        return criterion(flat.reshape(shape))

    def newton_move(point: Array) -> tuple[Array, Array, Array, Array]:
        slope = jax.grad(value)(point)
        values, vectors = jnp.linalg.eigh(jax.hessian(value)(point))
        # A criterion may not feel a common shift of the outputs, as softmax does not: its Hessian
        # is singular along that, and the move has no part there.
        kept = values > values[-1] * values.size * precision
        move = vectors @ (jnp.where(kept, 1.0 / values, 0.0) * (vectors.T @ slope))
        # Loose, because it only has to tell a minimum from a slope that flattens out, where
        # Newton's moves are of order one; with the full precision rounding of a flat minimum would
        # fail it.
        resting = jnp.linalg.norm(move) <= precision ** (1 / 3) * (1.0 + jnp.linalg.norm(point))
        root = (vectors * jnp.sqrt(jnp.where(kept, values, 0.0))[None]) @ vectors.T
        return jnp.linalg.norm(slope), move, resting, root

    def attained(state: tuple) -> Array:
        _, slope, _, resting, _, scale, _ = state
        # Three quarters of the digits, as residuals have to have on Γ: the outputs at the minimum
        # are what r is the distance to.
        return (slope <= precision**0.75 * scale) & resting

    def unfinished(state: tuple) -> Array:
        return ~attained(state) & (state[-1] < _NEWTON_STEPS)

    def iterate(state: tuple) -> tuple:
        point, _, move, _, _, scale, count = state
        # near the minimum the loss changes by less than its rounding, which must shorten no step
        before = value(point)
        accepted = before + 10.0 * precision * (1.0 + jnp.abs(before))
        length = jax.lax.while_loop(
            lambda length: (length > 1e-6) & ~(value(point - length * move) <= accepted),
            lambda length: 0.5 * length,
            jnp.ones((), dtype),
        )
        point = point - length * move
        return point, *newton_move(point), scale, count + 1

    start = jnp.zeros((math.prod(shape),), dtype)
    first = newton_move(start)
    state = (start, *first, jnp.maximum(first[0], 1.0), jnp.zeros((), jnp.int32))
    state = jax.lax.while_loop(unfinished, iterate, state)
    point, _, _, _, root, _, _ = state
    return point, root, attained(state)

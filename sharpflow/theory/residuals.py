"""A residual form of the loss near Γ, on flat parameters."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from sharpflow.models import Params, Problem

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
    if problem.residual is not None:
        residual = problem.residual
        return lambda flat: residual(unravel(flat))
    if problem.outputs is None or problem.criterion is None:
        raise ValueError(
            "problem has a loss alone, which defines no minimizer manifold: "
            "give it a residual, or outputs with a criterion"
        )
    outputs = problem.outputs
    of_outputs = getattr(problem.criterion, "residual", None)
    if of_outputs is not None:
        return lambda flat: of_outputs(outputs(unravel(flat)))
    produced = jax.eval_shape(outputs, like)
    with jax.ensure_compile_time_eval():
        best, root = _criterion_minimum(problem, produced.shape, produced.dtype)

    return lambda flat: root @ (outputs(unravel(flat)).ravel() - best)


@lru_cache(maxsize=16)
def _criterion_minimum(
    problem: Problem, shape: tuple[int, ...], dtype: Any
) -> tuple[Float[Array, " q"], Float[Array, "q q"]]:
    """The minimiser of a problem's convex criterion and the root of its Hessian there.

    Kept by the problem: a criterion need not have a hash.
    """
    criterion = problem.criterion
    assert criterion is not None
    precision = float(jnp.finfo(dtype).eps)

    @jax.jit
    def value(flat: Array) -> Array:
        return criterion(flat.reshape(shape))

    @jax.jit
    def newton(point: Array) -> tuple[Array, Array, Array, Array]:
        slope = jax.grad(value)(point)
        values, vectors = jnp.linalg.eigh(jax.hessian(value)(point))
        kept = values > values[-1] * values.size * precision
        move = vectors @ (jnp.where(kept, 1.0 / values, 0.0) * (vectors.T @ slope))
        # where a criterion flattens out towards infinity the slope vanishes, the moves do not
        resting = jnp.linalg.norm(move) <= precision ** (1 / 3) * (1.0 + jnp.linalg.norm(point))
        root = (vectors * jnp.sqrt(jnp.where(kept, values, 0.0))[None]) @ vectors.T
        return jnp.linalg.norm(slope), move, resting, root

    point, scale = jnp.zeros((math.prod(shape),), dtype), 1.0
    for step in range(_NEWTON_STEPS):
        slope, move, resting, root = newton(point)
        if step == 0:
            scale = max(float(slope), 1.0)
        if float(slope) <= precision**0.75 * scale and bool(resting):
            return point, root
        length, before = 1.0, float(value(point))
        while length > 1e-6 and not float(value(point - length * move)) <= before:
            length *= 0.5
        point = point - length * move
    raise ValueError(
        "criterion attains no minimum that Newton's method finds from zero outputs, so the "
        "loss has no minimizer manifold; cross-entropy needs label smoothing"
    )

"""A residual form of the loss near Γ, on flat parameters."""

import math
from collections.abc import Callable

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
    shape = jax.eval_shape(outputs, like)
    with jax.ensure_compile_time_eval():
        best, root = _criterion_minimum(problem.criterion, shape)

    return lambda flat: root @ (outputs(unravel(flat)).ravel() - best)


def _criterion_minimum(
    criterion: Callable[[Array], Array], shape: jax.ShapeDtypeStruct
) -> tuple[Array, Array]:
    """The minimiser of a convex criterion and the root of its Hessian there."""

    def value(flat: Array) -> Array:
        return criterion(flat.reshape(shape.shape))

    gradient, hessian = jax.grad(value), jax.hessian(value)
    point = jnp.zeros((math.prod(shape.shape),), shape.dtype)
    tolerance = float(jnp.finfo(shape.dtype).eps) ** 0.75
    nearby = float(jnp.finfo(shape.dtype).eps) ** (1 / 3)
    scale = max(float(jnp.linalg.norm(gradient(point))), 1.0)
    for _ in range(_NEWTON_STEPS):
        slope = gradient(point)
        values, vectors = jnp.linalg.eigh(hessian(point))
        kept = values > values[-1] * values.size * jnp.finfo(shape.dtype).eps
        move = vectors @ (jnp.where(kept, 1.0 / values, 0.0) * (vectors.T @ slope))
        # where a criterion flattens out towards infinity the slope vanishes, the moves do not
        resting = jnp.linalg.norm(move) <= nearby * (1.0 + jnp.linalg.norm(point))
        if float(jnp.linalg.norm(slope)) <= tolerance * scale and bool(resting):
            root = (vectors * jnp.sqrt(jnp.where(kept, values, 0.0))[None]) @ vectors.T
            return point, root
        length, before = 1.0, float(value(point))
        while length > 1e-6 and not float(value(point - length * move)) <= before:
            length *= 0.5
        point = point - length * move
    raise ValueError(
        "criterion attains no minimum that Newton's method finds from zero outputs, so the "
        "loss has no minimizer manifold; cross-entropy needs label smoothing"
    )

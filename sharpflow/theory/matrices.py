"""Matrices beside the Hessian, each as the Hessian of a problem made for it.

So whatever takes products with a Hessian, one or many side by side, takes theirs too.
"""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sharpflow.models import Params, Problem
from sharpflow.models.arguments import PARAMS, ArgumentError, choice, optional, require_alike, shown
from sharpflow.models.leaves import is_concrete

Matrix = Literal["hessian", "gauss_newton"]
MATRIX = choice(("hessian", "gauss_newton"))
PRECONDITIONER = optional(PARAMS)


def problem_of_matrix(
    problem: Problem, params: Params, matrix: Matrix, preconditioner: Params | None
) -> tuple[Problem, Params]:
    """A problem and params of it at which its Hessian is a matrix.

    Args:
      problem, params: where the matrix is taken.
      matrix: ``"hessian"``, or ``"gauss_newton"``, that without the curvature of the outputs.
      preconditioner: the diagonal of P, as ``params`` and positive, for P^{-1/2} A P^{-1/2} in
        place of A; None for A itself.

    Returns:
      Both; what was given, where that is the matrix.

    Raises:
      ValueError: a Gauss–Newton matrix of a loss alone, or an unusable preconditioner.
    """
    if matrix == "gauss_newton":
        problem = linearized(problem, params)
    if preconditioner is None:
        return problem, params
    require_alike("preconditioner", preconditioner, "params", params)
    entries = jax.tree.leaves(preconditioner)
    if is_concrete(*entries) and not all(
        np.all(np.isfinite(leaf)) and np.all(leaf > 0) for leaf in map(np.asarray, entries)
    ):
        raise ArgumentError("preconditioner", "positive and finite", shown(preconditioner))
    dtype = jax.tree.leaves(params)[0].dtype
    scale = jax.tree.map(lambda leaf: jax.lax.rsqrt(jnp.asarray(leaf, dtype)), preconditioner)
    return in_scaled_coordinates(problem, params, scale)


def in_scaled_coordinates(
    problem: Problem, params: Params, scale: Params
) -> tuple[Problem, Params]:
    """The loss u ↦ L(S u) at u = S⁻¹ w, whose Hessian is S ∇²L(w) S.

    Args:
      problem, params: L and w.
      scale: the diagonal of S, as ``params``.

    Returns:
      The problem of the other coordinates, and u.
    """
    # A problem of its own whose data are the other problem and the scale, so that Lanczos'
    # method needs no second version, and nothing is closed over.
    scaled = Problem(init=problem.init, loss=_scaled_loss, data=(problem, scale))
    return scaled, jax.tree.map(jnp.divide, params, scale)


def linearized(problem: Problem, params: Params) -> Problem:
    """The problem with outputs that are linear about params: its Hessian there is Gauss–Newton's.

    Args:
      problem: with a residual, or with outputs and a criterion.
      params: where the outputs are linearized.

    Returns:
      L at f + J (w − params), with f and J of the residual or outputs at params.

    Raises:
      ValueError: a loss alone.
    """
    if not problem.has_manifold_form:
        raise ArgumentError(
            "matrix",
            '"hessian" for a problem with a loss alone',
            "'gauss_newton'",
            "give the problem its residual, or its outputs and criterion",
        )
    return Problem(init=problem.init, loss=_linearized_loss, data=(problem, params))


def block_of(
    problem: Problem, params: Params, places: Sequence[int]
) -> tuple[Problem, list[Float[Array, "..."]]]:
    """The loss as a function of some of the arrays, whose Hessian is their block.

    Args:
      problem, params: L and w.
      places: of the arrays among the leaves of params.

    Returns:
      The problem, and its params: these arrays.
    """
    leaves, structure = jax.tree.flatten(params)
    # what is None is filled in, and says so in the structure of the data, which is static
    others = [None if place in places else leaf for place, leaf in enumerate(leaves)]
    data = (problem, jax.tree.unflatten(structure, others))
    block = Problem(init=_draws_nothing, loss=_loss_of_block, data=data)
    return block, [leaves[place] for place in places]


def _scaled_loss(params: Params, data: tuple[Problem, Params]) -> Array:
    problem, scale = data
    return problem.loss_value(jax.tree.map(jnp.multiply, scale, params))


def _linearized_loss(params: Params, data: tuple[Problem, Params]) -> Array:
    problem, origin = data
    difference = jax.tree.map(jnp.subtract, params, origin)
    function = problem.outputs if problem.residual is None else problem.residual
    assert function is not None
    values, change = jax.jvp(function, (origin,), (difference,))
    if problem.bound_criterion is None:
        return 0.5 * jnp.sum(jnp.square(values + change))
    return problem.bound_criterion(values + change)


def _loss_of_block(params: list[Array], data: tuple[Problem, Params]) -> Array:
    problem, others = data
    own = iter(params)
    leaves, structure = jax.tree.flatten(others, is_leaf=lambda leaf: leaf is None)
    whole = [next(own) if leaf is None else leaf for leaf in leaves]
    return problem.loss_value(jax.tree.unflatten(structure, whole))


def _draws_nothing(key: Array) -> list[Array]:
    """Of a block nothing is drawn by itself, so that its params are compared with nothing."""
    del key
    return []

"""Eigenvalues of the Hessian of the loss, from Hessian–vector products."""

import operator
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from sharpflow.models import Params, Problem, validate_params
from sharpflow.models.arguments import (
    COUNT,
    FLAG,
    INTEGER,
    PARAMS,
    POSITIVE,
    checked,
    choice,
    optional,
    shown,
)
from sharpflow.models.fitting import require_fitting
from sharpflow.models.leaves import is_concrete
from sharpflow.models.precision import compiled, full_precision
from sharpflow.models.problem import PROBLEM
from sharpflow.models.representation import summarized
from sharpflow.theory.lanczos import Matvec, Stop, lanczos
from sharpflow.theory.lanczos_lanes import Operators, lanczos_of_lanes
from sharpflow.theory.matrices import MATRIX, PRECONDITIONER, Matrix, problem_of_matrix
from sharpflow.theory.ritz import RitzPairs, resolve_tolerance, ritz_status
from sharpflow.theory.scaling import norm, power_of_two
from sharpflow.theory.status import Status

EigenMethod = Literal["auto", "dense", "lanczos"]

# Parameters up to which "auto" forms the Hessian. That takes 400 products and an eigenvalue problem
# of a fiftieth of a second; Lanczos' method takes 20 to 40 products but compiles a loop. With ten
# times as many the eigenvalue problem would take a thousand times as long.
_DENSE_DIMENSION = 400


@summarized
@chex.dataclass(frozen=True)
class Eigenpairs:
    """The k largest eigenvalues of a symmetric operator, and how well they are known.

    Attributes:
      values: descending, shape (k,); NaN where they did not converge.
      vectors: unit eigenvectors, a pytree with leading axis k.
      next_start: those and the next one, where there is one, with leading axis k + 1: what
        to pass as ``start`` at nearby params.
      residuals: ‖A v − λ v‖, shape (k,): each value is within it of an eigenvalue.
      errors: estimated errors of the values, shape (k,), at most the residuals.
      num_products: products A v that were made.
      overlooked: bound on the probability that an eigenvalue was overlooked that is larger than
        the last of the values by more than a tenth of the largest, shape (); 0 where the Hessian
        was formed.
      status: ``Status.SUCCESS``, for which ``overlooked`` is at most 1e-6 or what rounding lets
        one tell; ``NOT_CONVERGED``, ``PRECISION`` (the tolerance is finer than the rounding of
        the products), ``NOT_SYMMETRIC`` or ``NOT_FINITE``.
    """

    values: Float[Array, " k"]
    vectors: Params
    next_start: Params
    residuals: Float[Array, " k"]
    errors: Float[Array, " k"]
    num_products: Int[Array, ""]
    overlooked: Float[Array, ""]
    status: Int[Array, ""]


@full_precision
def hessian_vector_product(problem: Problem, params: Params) -> Callable[[Params], Params]:
    """The map v -> ∇²L(params) v on pytrees, forward over reverse.

    Args:
      problem: any problem.
      params: where.

    Returns:
      v -> ∇²L(params) v, both as ``params``.

    Source: Pearlmutter 1994.
    """
    # linearized once: the gradient itself is not computed again for every product
    return jax.linearize(jax.grad(problem.loss_value), params)[1]


@checked(
    problem=PROBLEM,
    params=PARAMS,
    k=INTEGER,
    tolerance=optional(POSITIVE),
    stop=choice(("residual", "estimate")),
    method=choice(("auto", "dense", "lanczos")),
    start=optional(PARAMS),
    basis_size=optional(COUNT),
    wanted=optional(FLAG),
    seed=INTEGER,
    matrix=MATRIX,
    preconditioner=PRECONDITIONER,
)
def top_eigenpairs(
    problem: Problem,
    params: Params,
    k: int = 1,
    *,
    tolerance: float | None = None,
    stop: Stop = "residual",
    method: EigenMethod = "auto",
    start: Params | None = None,
    basis_size: int | None = None,
    wanted: Bool[Array, ""] | None = None,
    seed: Int[Array, ""] | int = 0,
    matrix: Matrix = "hessian",
    preconditioner: Params | None = None,
) -> Eigenpairs:
    """The k largest eigenvalues of ∇²L(params), with eigenvectors and residuals.

    A residual tells how near a value is to an eigenvalue, and not that there is no larger one,
    which a start from eigenvectors of a nearby Hessian would never meet. Lanczos' method
    therefore follows a random vector too, until that excludes a larger eigenvalue but for a
    probability of 1e-6, or of what the rounding of float32 lets one tell.

    Args:
      problem: any problem.
      params: where.
      k: how many, counted with multiplicity.
      tolerance: relative to the largest eigenvalue in modulus; by default 1e-8 in
        float64 and 1e-4 in float32. Lanczos' method takes more than 1e-4 for 1e-4, because
        what ends sooner may lie between neighbours of the largest.
      stop: what the tolerance bounds: ``"residual"`` the residuals, ``"estimate"`` the
        estimated errors of the eigenvalues, which takes fewer products.
      method: ``"dense"`` forms the Hessian, ``"lanczos"`` needs products only;
        ``"auto"`` forms it up to d = 400.
      start: vectors to start Lanczos from, as ``params`` or with a leading axis q: the
        eigenvectors of a nearby Hessian, such as ``next_start``; by default a random one.
      basis_size: vectors that Lanczos keeps, by default 24 or more; the memory is twice
        that many copies of params.
      wanted: False under vmap spends no products on a lane whose eigenpairs nobody will look
        at; Lanczos' method then goes on as long as the others need it. Elsewhere it is ignored.
      seed: of the random vectors. Calls that follow a trajectory take another one each, so that
        what one overlooks another finds.
      matrix, preconditioner: of another matrix A than the Hessian, as in ``spectral_density``.
        With a preconditioner P the eigenvectors are those of P^{-1/2} A P^{-1/2}.

    Returns:
      The eigenpairs; usable under jit and vmap. Under vmap no lane waits for the slowest: those
      that go on are gathered (``theory/lanczos_lanes.py``).

    Raises:
      ValueError: k is not in 1..d, a tolerance below the precision of the dtype, an unknown
        method, a Gauss–Newton matrix of a loss alone, or an unusable preconditioner.

    Source: docs/theory.md, section 8.
    """
    require_fitting(problem, params)
    leaves = jax.tree.leaves(params)
    dimension = sum(jnp.size(leaf) for leaf in leaves)
    if not 1 <= k <= dimension:
        raise ValueError(f"k must be between 1 and the dimension {dimension}, got {k}")
    if start is not None:
        _require_start(start, params)
    problem, params = problem_of_matrix(problem, params, matrix, preconditioner)
    return _eigenpairs(
        problem,
        params,
        start,
        jnp.asarray(True) if wanted is None else wanted,
        jnp.asarray(seed, jnp.int32),
        k=operator.index(k),
        tolerance=resolve_tolerance(tolerance, jnp.result_type(*leaves)),
        stop=stop,
        dense=method == "dense" or (method == "auto" and dimension <= _DENSE_DIMENSION),
        basis_size=None if basis_size is None else operator.index(basis_size),
    )


def _require_start(start: Params, params: Params) -> None:
    """Refuse vectors that are not like params, with or without a leading axis for all."""
    shapes, expected = ([jnp.shape(x) for x in jax.tree.leaves(tree)] for tree in (start, params))
    rows = {shape[0] for shape in shapes if shape}
    block = [(*rows, *shape) for shape in expected]
    same = {jax.tree.structure(tree) for tree in (start, params)}
    if len(same) > 1 or not (shapes == expected or (len(rows) == 1 and shapes == block)):
        raise ValueError(
            f"start must be a pytree like params, with arrays of shapes {shown(expected)} or with "
            f"a leading axis, got {shown(shapes)}"
        )


@compiled(static_argnames=("k", "tolerance", "stop", "dense", "basis_size"))
def _eigenpairs(
    problem: Problem,
    params: Params,
    start: Params | None,
    wanted: Bool[Array, ""],
    seed: Int[Array, ""],
    *,
    k: int,
    tolerance: float,
    stop: Stop,
    dense: bool,
    basis_size: int | None,
) -> Eigenpairs:
    flat, unravel = ravel_pytree(params)
    dimension = flat.shape[0]
    if dense:
        ritz = _dense_ritz_pairs(flat_product(problem, params), flat, k, tolerance)
    else:
        nothing = jnp.zeros((1, dimension), flat.dtype)
        block = nothing if start is None else _rows(start, dimension)
        options = {"tolerance": tolerance, "stop": stop, "basis_size": basis_size}
        ritz = _lanczos_ritz_pairs(problem, params, block, wanted, seed, k, options)
    return Eigenpairs(
        values=jnp.where(ritz.converged, ritz.values, jnp.nan),
        vectors=jax.vmap(unravel)(ritz.vectors),
        next_start=jax.vmap(unravel)(ritz.next_start),
        residuals=ritz.residuals,
        errors=ritz.errors,
        num_products=ritz.num_products,
        overlooked=ritz.overlooked,
        status=ritz_status(ritz, dimension),
    )


@checked(problem=PROBLEM, k=INTEGER, method=choice(("auto", "dense", "lanczos")))
def spherical_sharpness(
    problem: Problem, params: Params, k: int = 1, *, method: EigenMethod = "auto"
) -> tuple[Float[Array, " k"], Params]:
    """The k largest eigenvalues of ∇²L(θ) at θ = params/‖params‖, and eigenvectors.

    Args:
      problem: any problem; for a scale-invariant one λ_1(∇²L(w)) = λ_1(∇²L(θ))/‖w‖².
      params: pytree of arrays, not zero.
      k: how many.
      method: as in ``top_eigenpairs``.

    Returns:
      Eigenvalues, descending, shape (k,), and unit eigenvectors, a pytree with leading
      axis k. Inside jit an eigenvalue that did not converge is NaN.

    Raises:
      ValueError: unusable params, or k out of range.
      RuntimeError: the eigenvalues did not converge.

    Source: docs/theory.md, setting and symbols; Lyu, Li and Arora 2022, section 3.
    """
    params = validate_params(problem, params)
    pairs = _spherical(problem, params, k=k, method=method)
    if is_concrete(pairs.status) and int(pairs.status) != Status.SUCCESS:
        raise RuntimeError(
            f"spherical sharpness: {Status(int(pairs.status)).message}; residuals "
            f"{pairs.residuals} after {int(pairs.num_products)} products"
        )
    return pairs.values, pairs.vectors


@compiled(static_argnames=("k", "method"))
def _spherical(problem: Problem, params: Params, *, k: int, method: EigenMethod) -> Eigenpairs:
    flat, unravel = ravel_pytree(params)
    theta = unravel(flat / norm(flat))
    return top_eigenpairs(problem, theta, k, method=method)


def _lanczos_ritz_pairs(
    problem: Problem,
    params: Params,
    block: Float[Array, "q d"],
    wanted: Bool[Array, ""],
    seed: Int[Array, ""],
    k: int,
    options: Mapping[str, Any],
) -> RitzPairs:
    """By Lanczos' method, which under ``vmap`` becomes that of many lanes."""

    @jax.custom_batching.custom_vmap
    def pairs(
        problem: Problem, params: Params, block: Array, wanted: Array, seed: Array
    ) -> RitzPairs:
        del wanted
        return lanczos(flat_product(problem, params), block, k, seed=seed, **options)

    @pairs.def_vmap
    def pairs_of_lanes(
        lanes: int, batched: tuple, problem: Problem, *others: Any
    ) -> tuple[RitzPairs, Any]:
        def of_every_lane(array: Array, is_batched: bool) -> Array:
            return array if is_batched else jnp.broadcast_to(array, (lanes, *array.shape))

        params, block, wanted, seeds = jax.tree.map(of_every_lane, others, tuple(batched[1:]))
        product = partial(_product_of_lanes, problem, batched[0], params)
        ritz = lanczos_of_lanes(product, block, k, wanted=wanted, seed=seeds, **options)
        return ritz, jax.tree.map(lambda _: True, ritz)

    return pairs(problem, params, block, wanted, seed)


def _product_of_lanes(
    problem: Problem, own: Any, params: Params, lanes: Int[Array, " w"]
) -> Operators:
    """Products with the Hessians of some lanes.

    Args:
      problem: its data, of which ``own`` says for each array whether every lane has its own;
        what all share, as most often everything, is copied for none.
      params: of all lanes.
      lanes: which.
    """
    data, structure = jax.tree.flatten(problem)
    shared = [
        None if is_own else array for array, is_own in zip(data, jax.tree.leaves(own), strict=True)
    ]
    own_data = [array[lanes] for array, kept in zip(data, shared, strict=True) if kept is None]

    def gradient(own_data: list[Array], params: Params) -> Params:
        next_own = iter(own_data)
        whole = [next(next_own) if array is None else array for array in shared]
        return jax.grad(jax.tree.unflatten(structure, whole).loss_value)(params)

    params_of_lanes = jax.tree.map(lambda leaf: leaf[lanes], params)
    # Linearized once for all products of a group of lanes. jax's own batching rule would do it
    # again in each iteration of the loop.
    product = jax.linearize(partial(jax.vmap(gradient), own_data), params_of_lanes)[1]
    unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], params))[1]

    def flat_product(vectors: Float[Array, "w d"]) -> Float[Array, "w d"]:
        images = product(jax.vmap(unravel)(vectors))
        return jax.vmap(lambda image: ravel_pytree(image)[0])(images)

    return flat_product


def flat_product(problem: Problem, params: Params) -> Matvec:
    """The map v -> ∇²L(params) v on vectors of shape (d,), the arrays of params one by one.

    Args:
      problem, params: as of ``hessian_vector_product``.
    """
    product, unravel = hessian_vector_product(problem, params), ravel_pytree(params)[1]
    return lambda vector: ravel_pytree(product(unravel(vector)))[0]


def _dense_ritz_pairs(matvec: Matvec, like: Array, k: int, tolerance: float) -> RitzPairs:
    dimension = like.shape[0]
    hessian = jax.vmap(matvec)(jnp.eye(dimension, dtype=like.dtype))
    unit = power_of_two(hessian)  # no square of an entry underflows or overflows in it
    hessian = hessian / jnp.where(unit > 0, unit, 1.0)
    all_values, all_vectors = jnp.linalg.eigh(0.5 * (hessian + hessian.T))
    values, best = all_values[::-1][:k], all_vectors[:, ::-1][:, : k + 1].T
    vectors = best[:k]
    residuals = jnp.linalg.norm(vectors @ hessian - values[:, None] * vectors, axis=1)
    largest = jnp.max(jnp.abs(all_values))
    return RitzPairs(
        values=unit * values,
        vectors=vectors,
        next_start=best,
        residuals=unit * residuals,
        errors=unit * residuals,
        largest=unit * largest,
        asymmetry=unit * jnp.max(jnp.abs(hessian - hessian.T)),
        num_products=jnp.asarray(dimension, jnp.int32),
        converged=residuals <= tolerance * largest,
        overlooked=jnp.zeros((), like.dtype),
    )


def _rows(vectors: Params, dimension: int) -> Float[Array, "q d"]:
    """A pytree as ``params``, with or without a leading axis, as rows."""
    flat = ravel_pytree(vectors)[0]
    if flat.shape[0] == dimension:
        return flat[None]
    return jax.vmap(lambda tree: ravel_pytree(tree)[0])(vectors)

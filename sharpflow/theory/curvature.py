"""Eigenvalues of the Hessian of the loss, from Hessian–vector products."""

import operator
from collections.abc import Callable
from typing import Literal

import chex
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from sharpflow.models import Params, Problem, validate_params
from sharpflow.models.precision import compiled, full_precision
from sharpflow.models.problem import is_concrete
from sharpflow.theory.lanczos import Matvec, Stop, lanczos, pseudo_random_block
from sharpflow.theory.ritz import RitzPairs, resolve_tolerance, ritz_status
from sharpflow.theory.status import Status

Method = Literal["auto", "dense", "lanczos"]

_DENSE_DIMENSION = 400


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
      status: ``Status.SUCCESS``, ``NOT_CONVERGED``, ``PRECISION`` (the tolerance is finer
        than the rounding of the products), ``NOT_SYMMETRIC`` or ``NOT_FINITE``.
    """

    values: Float[Array, " k"]
    vectors: Params
    next_start: Params
    residuals: Float[Array, " k"]
    errors: Float[Array, " k"]
    num_products: Int[Array, ""]
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


def top_eigenpairs(
    problem: Problem,
    params: Params,
    k: int = 1,
    *,
    tolerance: float | None = None,
    stop: Stop = "residual",
    method: Method = "auto",
    start: Params | None = None,
    basis_size: int | None = None,
) -> Eigenpairs:
    """The k largest eigenvalues of ∇²L(params), with eigenvectors and residuals.

    Args:
      problem: any problem.
      params: where.
      k: how many, counted with multiplicity.
      tolerance: relative to the largest eigenvalue in modulus; by default 1e-8 in
        float64 and 1e-4 in float32.
      stop: what the tolerance bounds: ``"residual"`` the residuals, ``"estimate"`` the
        estimated errors of the eigenvalues, which takes fewer products.
      method: ``"dense"`` forms the Hessian, ``"lanczos"`` needs products only;
        ``"auto"`` forms it up to d = 400.
      start: vectors to start Lanczos from, as ``params`` or with a leading axis q: the
        eigenvectors of a nearby Hessian; by default k fixed pseudo-random ones.
      basis_size: vectors that Lanczos keeps, by default 24 or more; the memory is twice
        that many copies of params.

    Returns:
      The eigenpairs; usable under jit and vmap.

    Raises:
      ValueError: k is not in 1..d, a tolerance below the precision of the dtype, or an
        unknown method.

    Source: docs/theory.md, section 8.
    """
    leaves = jax.tree.leaves(params)
    dimension = sum(jnp.size(leaf) for leaf in leaves)
    if not 1 <= k <= dimension:
        raise ValueError(f"k must be between 1 and the dimension {dimension}, got {k}")
    if method not in ("auto", "dense", "lanczos"):
        raise ValueError(f"method must be 'auto', 'dense' or 'lanczos', got {method!r}")
    if stop not in ("residual", "estimate"):
        raise ValueError(f"stop must be 'residual' or 'estimate', got {stop!r}")
    return _eigenpairs(
        problem,
        params,
        start,
        k=operator.index(k),
        tolerance=resolve_tolerance(tolerance, jnp.result_type(*leaves)),
        stop=stop,
        dense=method == "dense" or (method == "auto" and dimension <= _DENSE_DIMENSION),
        basis_size=None if basis_size is None else operator.index(basis_size),
    )


@compiled(static_argnames=("k", "tolerance", "stop", "dense", "basis_size"))
def _eigenpairs(
    problem: Problem,
    params: Params,
    start: Params | None,
    *,
    k: int,
    tolerance: float,
    stop: Stop,
    dense: bool,
    basis_size: int | None,
) -> Eigenpairs:
    flat, unravel = ravel_pytree(params)
    dimension = flat.shape[0]
    product = hessian_vector_product(problem, params)

    def matvec(vector: Array) -> Array:
        return ravel_pytree(product(unravel(vector)))[0]

    if dense:
        found = _dense_ritz_pairs(matvec, flat, k, tolerance)
    else:
        block = (
            pseudo_random_block(k, dimension, flat.dtype)
            if start is None
            else _rows(start, dimension)
        )
        found = lanczos(matvec, block, k, tolerance=tolerance, stop=stop, basis_size=basis_size)
    return Eigenpairs(
        values=jnp.where(found.converged, found.values, jnp.nan),
        vectors=jax.vmap(unravel)(found.vectors),
        next_start=jax.vmap(unravel)(found.next_start),
        residuals=found.residuals,
        errors=found.errors,
        num_products=found.num_products,
        status=ritz_status(found, dimension),
    )


def spherical_sharpness(
    problem: Problem, params: Params, k: int = 1, *, method: Method = "auto"
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
    found = _spherical(problem, params, k=k, method=method)
    if is_concrete(found.status) and int(found.status) != Status.SUCCESS:
        raise RuntimeError(
            f"spherical sharpness: {Status(int(found.status)).message}; residuals "
            f"{found.residuals} after {int(found.num_products)} products"
        )
    return found.values, found.vectors


@compiled(static_argnames=("k", "method"))
def _spherical(problem: Problem, params: Params, *, k: int, method: Method) -> Eigenpairs:
    flat, unravel = ravel_pytree(params)
    theta = unravel(flat / jnp.linalg.norm(flat))
    return top_eigenpairs(problem, theta, k, method=method)


def _dense_ritz_pairs(matvec: Matvec, like: Array, k: int, tolerance: float) -> RitzPairs:
    dimension = like.shape[0]
    hessian = jax.vmap(matvec)(jnp.eye(dimension, dtype=like.dtype))
    all_values, all_vectors = jnp.linalg.eigh(0.5 * (hessian + hessian.T))
    values, best = all_values[::-1][:k], all_vectors[:, ::-1][:, : k + 1].T
    vectors = best[:k]
    residuals = jnp.linalg.norm(vectors @ hessian - values[:, None] * vectors, axis=1)
    size = jnp.max(jnp.abs(all_values))
    return RitzPairs(
        values=values,
        vectors=vectors,
        next_start=best,
        residuals=residuals,
        errors=residuals,
        size=size,
        asymmetry=jnp.max(jnp.abs(hessian - hessian.T)),
        num_products=jnp.asarray(dimension, jnp.int32),
        converged=residuals <= tolerance * size,
    )


def _rows(vectors: Params, dimension: int) -> Float[Array, "q d"]:
    """A pytree as ``params``, with or without a leading axis, as rows."""
    flat = ravel_pytree(vectors)[0]
    if flat.shape[0] == dimension:
        return flat[None]
    return jax.vmap(lambda tree: ravel_pytree(tree)[0])(vectors)

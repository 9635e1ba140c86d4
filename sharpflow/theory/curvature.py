"""Eigenvalues of the Hessian of the loss, from Hessian–vector products."""

from collections.abc import Callable
from functools import partial
from typing import Literal

import chex
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from sharpflow.models.problem import Params, Problem, validate_params
from sharpflow.theory.lanczos import Matvec, lanczos
from sharpflow.theory.status import Status

Method = Literal["auto", "dense", "lanczos"]

_DENSE_DIMENSION = 400


@chex.dataclass(frozen=True)
class Eigenpairs:
    """The k largest eigenvalues of a symmetric operator, and how well they are known.

    Attributes:
      values: descending, shape (k,); NaN where they did not converge.
      vectors: unit eigenvectors, a pytree with leading axis k, or shape (k, d).
      residuals: ‖A v − λ v‖, shape (k,): each value is within it of an eigenvalue.
      num_products: products A v that were made.
      status: ``Status.SUCCESS``, ``NOT_CONVERGED`` or ``NOT_FINITE``.
    """

    values: Float[Array, " k"]
    vectors: Params
    residuals: Float[Array, " k"]
    num_products: Int[Array, ""]
    status: Int[Array, ""]


def hessian_vector_product(problem: Problem, params: Params) -> Callable[[Params], Params]:
    """The map v -> ∇²L(params) v on pytrees, forward over reverse.

    Source: Pearlmutter 1994.
    """
    gradient = jax.grad(problem.loss_value)
    return lambda vector: jax.jvp(gradient, (params,), (vector,))[1]


def top_eigenpairs(
    problem: Problem,
    params: Params,
    k: int = 1,
    *,
    tolerance: float | None = None,
    method: Method = "auto",
    start: Params | None = None,
) -> Eigenpairs:
    """The k largest eigenvalues of ∇²L(params), with eigenvectors and residuals.

    Args:
      problem: any problem.
      params: where.
      k: how many, counted with multiplicity only by the dense method.
      tolerance: on the residuals relative to the largest eigenvalue in modulus; by
        default 1e-8 in float64 and 1e-4 in float32.
      method: ``"dense"`` forms the Hessian, ``"lanczos"`` needs products only;
        ``"auto"`` forms it up to d = 400.
      start: a vector to start Lanczos from, as ``params``; by default a fixed
        pseudo-random one.

    Returns:
      The eigenpairs; usable under jit and vmap.

    Raises:
      ValueError: k is not in 1..d, or the method is unknown.

    Source: Wu and Simon 2000, thick-restart Lanczos.
    """
    flat, unravel = ravel_pytree(params)
    dimension = flat.shape[0]
    if not 1 <= k <= dimension:
        raise ValueError(f"k must be between 1 and the dimension {dimension}, got {k}")
    if method not in ("auto", "dense", "lanczos"):
        raise ValueError(f"method must be 'auto', 'dense' or 'lanczos', got {method!r}")
    if tolerance is None:
        tolerance = 1e-8 if flat.dtype == jnp.float64 else 1e-4

    product = hessian_vector_product(problem, params)

    def matvec(vector: Array) -> Array:
        return ravel_pytree(product(unravel(vector)))[0]

    if method == "dense" or (method == "auto" and dimension <= _DENSE_DIMENSION):
        found = _dense_eigenpairs(matvec, flat, k, tolerance)
    else:
        first = _pseudo_random(flat) if start is None else ravel_pytree(start)[0]
        found = _judged(*lanczos(matvec, first, k, tolerance=tolerance), tolerance)
    return found.replace(vectors=jax.vmap(unravel)(found.vectors))  # type: ignore[attr-defined]


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

    Source: design 1; Lyu, Li and Arora 2022, section 3.
    """
    params = validate_params(problem, params)
    found = _spherical(problem, params, k=k, method=method)
    if not isinstance(found.status, jax.core.Tracer) and int(found.status) != Status.SUCCESS:
        raise RuntimeError(
            f"spherical sharpness: {Status(int(found.status)).message}; residuals "
            f"{found.residuals} after {int(found.num_products)} products"
        )
    return found.values, found.vectors


@partial(jax.jit, static_argnames=("problem", "k", "method"))
def _spherical(problem: Problem, params: Params, *, k: int, method: Method) -> Eigenpairs:
    flat, unravel = ravel_pytree(params)
    theta = unravel(flat / jnp.linalg.norm(flat))
    return top_eigenpairs(problem, theta, k, method=method)


def _dense_eigenpairs(matvec: Matvec, like: Array, k: int, tolerance: float) -> Eigenpairs:
    dimension = like.shape[0]
    hessian = jax.vmap(matvec)(jnp.eye(dimension, dtype=like.dtype))
    all_values, all_vectors = jnp.linalg.eigh(0.5 * (hessian + hessian.T))
    values, vectors = all_values[::-1][:k], all_vectors[:, ::-1][:, :k].T
    residuals = jnp.linalg.norm(vectors @ hessian - values[:, None] * vectors, axis=1)
    size = jnp.max(jnp.abs(all_values))
    products = jnp.asarray(dimension, jnp.int32)
    return _judged(values, vectors, residuals, size, products, tolerance)


def _judged(
    values: Array, vectors: Array, residuals: Array, size: Array, products: Array, tolerance: float
) -> Eigenpairs:
    converged = residuals <= tolerance * size
    finite = jnp.all(jnp.isfinite(residuals)) & jnp.all(jnp.isfinite(values))
    status = jnp.where(jnp.all(converged), Status.SUCCESS, Status.NOT_CONVERGED)
    return Eigenpairs(
        values=jnp.where(converged, values, jnp.nan),
        vectors=vectors,
        residuals=residuals,
        num_products=products,
        status=jnp.where(finite, status, Status.NOT_FINITE).astype(jnp.int32),
    )


def _pseudo_random(flat: Array) -> Array:
    """A fixed vector with no structure that an operator could be orthogonal to."""
    return jax.random.normal(jax.random.key(0), flat.shape, flat.dtype)

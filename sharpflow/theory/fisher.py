"""The top of the spectrum of the Fisher information matrix, through its dual Gram matrix."""

import dataclasses
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from sharpflow.models import Params
from sharpflow.models.arguments import (
    COUNT,
    FUNCTION,
    INTEGER,
    PARAMS,
    POSITIVE,
    checked,
    choice,
    optional,
)
from sharpflow.models.bound_function import BoundFunction
from sharpflow.models.precision import FULL, full_precision
from sharpflow.models.representation import summarized
from sharpflow.theory.lanczos import lanczos
from sharpflow.theory.linearization import METHODS, Method, Residual, linearize, resolve_method
from sharpflow.theory.linearization.spectrum import unit_rows
from sharpflow.theory.ritz import RitzPairs, resolve_tolerance, ritz_status
from sharpflow.theory.scaling import norm

# Outputs up to which Lanczos' method starts from their means. Each costs a product, and a run makes
# a few tens; the thousand outputs of ImageNet would cost more than the whole run.
_MOST_MEANS = 16


@summarized
@chex.dataclass(frozen=True)
class FisherSpectrum:
    """The k largest eigenvalues of F, two moments of all, and how well they are known.

    Attributes:
      values: descending, shape (k,); NaN where they did not converge.
      vectors: unit eigenvectors of F, a pytree with leading axis k; zero where the
        eigenvalue is. J v/√(Tλ) is the eigenvector of the dual matrix.
      residuals: ‖F v − λ v‖, in the smaller of the two spaces, shape (k,): each value is
        within it of an eigenvalue.
      mean: tr F/P, the mean of all P eigenvalues; NaN where it was not computed.
      second_moment: tr F²/P, likewise.
      num_products: products with F or its dual that were made.
      status: ``Status.SUCCESS``, ``NOT_CONVERGED``, ``PRECISION``, ``NOT_SYMMETRIC`` or
        ``NOT_FINITE``.
    """

    values: Float[Array, " k"]
    vectors: Params
    residuals: Float[Array, " k"]
    mean: Float[Array, ""]
    second_moment: Float[Array, ""]
    num_products: Int[Array, ""]
    status: Int[Array, ""]


@checked(
    outputs=FUNCTION,
    params=PARAMS,
    k=INTEGER,
    method=choice(METHODS),
    tolerance=optional(POSITIVE),
    basis_size=optional(COUNT),
    num_probes=INTEGER,
)
@full_precision
def fisher_spectrum(
    outputs: Callable[[Params], Float[Array, "T ..."]],
    params: Params,
    k: int = 1,
    *,
    method: Method = "auto",
    tolerance: float | None = None,
    basis_size: int | None = None,
    num_probes: int = 0,
) -> FisherSpectrum:
    """The k largest eigenvalues of F = (1/T) Σ_t Σ_c ∇f_c(t) ∇f_c(t)ᵀ, of any network.

    With J = ∂f/∂params, CT × P, F = JᵀJ/T has the nonzero eigenvalues of the dual Gram
    matrix F* = JJᵀ/T, CT × CT. F is the Fisher information of outputs with unit Gaussian
    noise, and the Hessian of ½ mean ‖f − y‖² where f = y.

    Args:
      outputs: f, params -> (T, ...), the samples first, C outputs of each.
      params: where, a pytree of P numbers.
      k: how many, counted with multiplicity.
      method: as in ``linearize``: ``"dense"`` forms J; ``"gram"`` forms F* alone, by CT
        products; ``"iterative"`` is Lanczos' method with products J v and Jᵀ u only;
        ``"auto"`` is ``"dense"`` where J is small, else ``"iterative"``.
      tolerance: of the residuals, relative to the largest eigenvalue; by default 1e-8 in
        float64 and 1e-4 in float32.
      basis_size: vectors that Lanczos keeps, as in ``top_eigenpairs``.
      num_probes: random vectors from which ``"iterative"`` estimates the moments, once
        the k eigenvectors are taken out; without any they are NaN. The other methods
        have them exactly.

    Returns:
      The spectrum; usable under jit and vmap.

    Raises:
      ValueError: outputs without a sample axis, k not in 1..min(CT, P), a tolerance below
        the precision of the dtype, an unknown method, or a negative num_probes.

    Source: Karakida, Akaho and Amari 2019, arXiv 1806.01316; docs/wide-networks.md.
    """
    theta, unravel = ravel_pytree(params)
    if isinstance(outputs, BoundFunction):  # those of a problem, at its precision
        outputs = outputs.at_precision(FULL)
    shape, dtype = jax.eval_shape(outputs, params).shape, theta.dtype
    if len(shape) < 1:
        raise ValueError("outputs must return an array with samples first, got a scalar")

    def residual(flat: Float[Array, " P"]) -> Float[Array, " CT"]:
        return outputs(unravel(flat)).ravel() / shape[0] ** 0.5

    num_rows = jax.eval_shape(residual, theta).shape[0]
    if not 1 <= k <= min(num_rows, theta.shape[0]):
        raise ValueError(
            f"k must be between 1 and {min(num_rows, theta.shape[0])}, the smaller of the numbers "
            f"of outputs and of parameters, got {k}"
        )
    if num_probes < 0:
        raise ValueError(f"num_probes must not be negative, got {num_probes}")
    tolerance = resolve_tolerance(tolerance, dtype)
    resolved = resolve_method(method, num_rows, theta.shape[0])
    if method == "auto" and resolved == "gram":
        resolved = "iterative"  # of CT products, Lanczos' method makes a few tens
    if resolved == "iterative":
        ritz, trace, square = _by_products(
            residual, theta, shape[0], k, tolerance, basis_size, num_probes
        )
    else:
        ritz, trace, square = _decomposed(residual, theta, k, tolerance, resolved)
    return FisherSpectrum(
        values=jnp.where(ritz.converged, ritz.values, jnp.nan),
        vectors=jax.vmap(unravel)(ritz.vectors),
        residuals=ritz.residuals,
        mean=trace / theta.shape[0],
        second_moment=square / theta.shape[0],
        num_products=ritz.num_products,
        status=ritz_status(ritz, min(num_rows, theta.shape[0])),
    )


def _decomposed(
    residual: Residual, theta: Float[Array, " P"], k: int, tolerance: float, method: Method
) -> tuple[RitzPairs, Array, Array]:
    """With all eigenvalues of F*; the residuals come from products with J, not from F*."""
    point = linearize(residual, theta, method)
    values, vectors = point.top_eigenpairs(k)
    _, push = jax.linearize(residual, theta)
    pull = jax.linear_transpose(push, theta)
    # One after the other, because each holds the activations of all samples.
    images = jax.lax.map(lambda vector: pull(push(vector))[0], vectors)
    # By products with J, and not from the decomposition, whose own errors they are to tell.
    residuals = norm(images - values[:, None] * vectors, axis=1)
    spectrum = point.eigenvalues  # type: ignore[attr-defined]
    ritz = RitzPairs(
        values=values,
        vectors=vectors,
        next_start=vectors,
        residuals=residuals,
        errors=residuals,
        largest=spectrum[0],
        asymmetry=jnp.zeros((), theta.dtype),
        num_products=jnp.asarray(spectrum.shape[0], jnp.int32),
        converged=residuals <= tolerance * spectrum[0],
        overlooked=jnp.zeros((), theta.dtype),
    )
    return ritz, jnp.sum(spectrum), jnp.sum(jnp.square(spectrum))


def _by_products(
    residual: Residual,
    theta: Float[Array, " P"],
    num_samples: int,
    k: int,
    tolerance: float,
    basis_size: int | None,
    num_probes: int,
) -> tuple[RitzPairs, Array, Array]:
    """By Lanczos' method in the smaller of the two spaces, that of outputs or of parameters."""
    value, push = jax.linearize(residual, theta)
    pull = jax.linear_transpose(push, theta)
    dual = value.shape[0] <= theta.shape[0]

    def matvec(vector: Array) -> Array:
        return push(pull(vector)[0]) if dual else pull(push(vector))[0]

    start = jnp.zeros((1, min(value.shape[0], theta.shape[0])), theta.dtype)  # a random vector
    if dual:
        start = jnp.concatenate([_means(value.shape[0], num_samples, theta.dtype), start])
        start = start[: value.shape[0]]
    ritz = lanczos(matvec, start, k, tolerance=tolerance, basis_size=basis_size)
    trace, square = _moments(matvec, ritz, num_probes)
    vectors = jax.lax.map(lambda u: pull(u)[0], ritz.vectors) if dual else ritz.vectors
    vectors = unit_rows(vectors, norm(vectors, axis=1) > 0.0)
    products = ritz.num_products + num_probes
    return dataclasses.replace(ritz, vectors=vectors, num_products=products), trace, square


def _means(num_rows: int, num_samples: int, dtype: jnp.dtype) -> Float[Array, "q CT"]:
    """The mean over the samples of each output as vectors; none for many outputs.

    In a wide network these span the eigenvalues that stand out. They lie so close together
    that from another start the second can pass for the largest.
    """
    num_outputs = num_rows // num_samples
    if num_outputs > _MOST_MEANS:
        return jnp.zeros((0, num_rows), dtype)
    return jnp.tile(jnp.eye(num_outputs, dtype=dtype), (1, num_samples))


def _moments(
    matvec: Callable[[Array], Array], ritz: RitzPairs, num_probes: int
) -> tuple[Array, Array]:
    """tr A and tr A² from Ritz pairs and the mean over random signs z of what they leave.

    With z orthogonal to the pairs, tr A = Σ θ_i + E zᵀAz and tr A² = Σ θ_i² + E ‖Az‖²,
    exact as far as the pairs are: outliers, of which random signs know little, are among them.
    """
    values, basis = ritz.values, ritz.vectors
    if num_probes == 0:
        nothing = jnp.full((), jnp.nan, values.dtype)
        return nothing, nothing

    def probe(key: Array) -> tuple[Array, Array]:
        z = jax.random.rademacher(key, (basis.shape[1],), values.dtype)
        z = z - (basis @ z) @ basis
        image = matvec(z)
        return z @ image, image @ image

    # A fixed key, so that the same network has the same moments; another one than Lanczos' own, of
    # which the pairs have been taken out.
    first, second = jax.lax.map(probe, jax.random.split(jax.random.key(2), num_probes))
    return jnp.sum(values) + jnp.mean(first), jnp.sum(jnp.square(values)) + jnp.mean(second)

"""The trace of a matrix of curvature from products, with an interval that holds it."""

import operator

import chex
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from sharpflow.models import Params, Problem
from sharpflow.models.arguments import INTEGER, PARAMS, checked, count
from sharpflow.models.fitting import require_fitting
from sharpflow.models.precision import compiled
from sharpflow.models.problem import PROBLEM
from sharpflow.models.representation import summarized
from sharpflow.theory.curvature import flat_product
from sharpflow.theory.matrices import MATRIX, PRECONDITIONER, Matrix, problem_of_matrix
from sharpflow.theory.scaling import norm, underflows, unit_of
from sharpflow.theory.status import Status
from sharpflow.theory.witness import random_vector

_QUANTILE = 1.96  # of a Gaussian, 95 %

# With fewer the norm of the rest would be known from three products or less.
_FEWEST = 12


@summarized
@chex.dataclass(frozen=True)
class TraceEstimate:
    """The trace of a symmetric operator, and how well it is known.

    Attributes:
      trace: as estimated, shape ().
      standard_error: of it, shape (); 0 where every diagonal entry was computed.
      low, high: an interval that holds the trace with a probability of about 95 %, shape ().
      num_products: products that were made.
      status: ``Status.SUCCESS``; ``NOT_SYMMETRIC`` or ``NOT_FINITE``; ``PRECISION``, where products
        are so small that they underflow.
    """

    trace: Float[Array, ""]
    standard_error: Float[Array, ""]
    low: Float[Array, ""]
    high: Float[Array, ""]
    num_products: Int[Array, ""]
    status: Int[Array, ""]


@checked(
    problem=PROBLEM,
    params=PARAMS,
    matrix=MATRIX,
    preconditioner=PRECONDITIONER,
    num_products=count(least=_FEWEST),
    seed=INTEGER,
)
def trace(
    problem: Problem,
    params: Params,
    *,
    matrix: Matrix = "hessian",
    preconditioner: Params | None = None,
    num_products: int = 60,
    seed: Int[Array, ""] | int = 0,
) -> TraceEstimate:
    """The trace of ∇²L(params), by Hutch++.

    A third of the products finds a space Q in which the large eigenvalues are, a third makes the
    trace in it, and a third estimates the rest from random vectors u orthogonal to it. A mean over
    these has the variance 2 (‖R‖² − (tr R)²/d')/(1 + 2/d') each, of the rest R in d' dimensions.
    The norm ‖R‖ is estimated from the same products R u, far better than by the scatter of a few
    uᵀRu.

    Args:
      problem, params, matrix, preconditioner: as of ``spectral_density``.
      num_products: products in all, at least 12; with d of them or more the trace is exact but for
        rounding.
      seed: of the random vectors.

    Returns:
      The estimate; usable under jit and vmap.

    Raises:
      ValueError: a Gauss–Newton matrix of a loss alone, or an unusable preconditioner.

    Source: Meyer, Musco, Musco and Woodruff 2021, arXiv 2010.09649; docs/spectra.md.
    """
    require_fitting(problem, params)
    problem, params = problem_of_matrix(problem, params, matrix, preconditioner)
    dimension = sum(jnp.size(leaf) for leaf in jax.tree.leaves(params))
    return _trace(
        problem,
        params,
        jnp.asarray(seed, jnp.int32),
        num_products=min(operator.index(num_products), dimension),
    )


@compiled(static_argnames=("num_products",))
def _trace(
    problem: Problem, params: Params, seed: Int[Array, ""], *, num_products: int
) -> TraceEstimate:
    flat, _ = ravel_pytree(params)
    dimension, dtype = flat.shape[0], flat.dtype
    product = flat_product(problem, params)

    def vector(number: Array) -> Float[Array, " d"]:
        return random_vector(seed, number, dimension, dtype)

    if num_products == dimension:
        space, rest = jnp.eye(dimension, dtype=dtype), 0
    else:
        size = num_products // 3
        rest = num_products - 2 * size
        sketch = jax.lax.map(
            lambda number: product(vector(number)), jnp.arange(size, dtype=jnp.int32)
        )
        space = jnp.linalg.qr((sketch / unit_of(sketch)).T)[0].T
    images = jax.lax.map(product, space)
    within = space @ images.T
    asymmetry = jnp.max(jnp.abs(within - within.T))
    estimate = jnp.trace(within)
    largest = jnp.max(norm(images, axis=1))
    variance = jnp.zeros((), dtype)
    if rest:
        others = dimension - space.shape[0]

        def of_vector(number: Array) -> tuple[Array, Array]:
            remainder = vector(number)
            for _ in range(2):  # twice is enough
                remainder = remainder - (space @ remainder) @ space
            remainder = remainder / norm(remainder)
            image = product(remainder)
            image = image - (space @ image) @ space
            return remainder @ image, norm(image)

        numbers = jnp.arange(space.shape[0], space.shape[0] + rest, dtype=jnp.int32)
        parts, norms = jax.lax.map(of_vector, numbers)
        remaining = others * jnp.mean(parts)
        unit = unit_of(norms)  # no square underflows or overflows
        square = others * jnp.mean(jnp.square(norms / unit))
        spread = jnp.maximum(square - jnp.square(remaining / unit) / others, 0.0)
        variance = 2.0 * spread * others / (others + 2.0) / rest
        estimate = estimate + remaining
        largest = jnp.maximum(largest, jnp.max(norms))
        error = jnp.sqrt(variance) * unit
    else:
        error = variance
    low, high = estimate - _QUANTILE * error, estimate + _QUANTILE * error
    status = jnp.select(
        [
            ~(jnp.isfinite(low) & jnp.isfinite(high)),
            # as in ritz_status
            asymmetry > jnp.finfo(dtype).eps ** 0.4 * largest,
            underflows(largest),
        ],
        [Status.NOT_FINITE, Status.NOT_SYMMETRIC, Status.PRECISION],
        Status.SUCCESS,
    )
    return TraceEstimate(
        trace=estimate,
        standard_error=error,
        low=low,
        high=high,
        num_products=jnp.asarray(num_products, jnp.int32),
        status=status.astype(jnp.int32),
    )

"""The density of the eigenvalues of a matrix of curvature, with intervals that hold it."""

import operator
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int
from numpy.typing import ArrayLike

from sharpflow.models import Params, Problem
from sharpflow.models.arguments import (
    COUNT,
    INTEGER,
    PARAMS,
    POSITIVE,
    array,
    checked,
    count,
    optional,
    require_within,
)
from sharpflow.models.fitting import require_fitting
from sharpflow.models.precision import compiled
from sharpflow.models.problem import PROBLEM
from sharpflow.models.representation import summarized
from sharpflow.theory.curvature import flat_product
from sharpflow.theory.matrices import MATRIX, PRECONDITIONER, Matrix, problem_of_matrix
from sharpflow.theory.quadrature import Quadrature, Tridiagonal, quadrature, tridiagonal
from sharpflow.theory.scaling import norm, underflows
from sharpflow.theory.status import Status
from sharpflow.theory.witness import random_vector

# Of a Gaussian it leaves out 3 %. That makes up for a variance that is estimated too: with ten
# vectors the interval of one eigenvalue alone holds it in 95.2 % of all cases, that of fifty in
# 97.0 %. With the quantile of 5 %, 1.96, the one would be 93.8 % (200,000 draws each).
_QUANTILE = 2.17
NUM_POINTS = 201
DEGREE = count(least=2)  # the error of the quadrature is told by one of a lower degree
# The status tells of an error of the quadrature above this part of the largest density, where it
# is also above the standard error. Smaller ones are in the intervals, and not seen in a figure.
_NOTICED = 1e-3


@summarized
@chex.dataclass(frozen=True)
class SpectralDensity:
    """The density φ of the eigenvalues, smoothed by a Gaussian, and how well it is known.

    φ(x) = (1/d) Σ_i g_σ(x − λ_i), and the number of eigenvalues above x is smoothed likewise,
    Σ_i Φ((λ_i − x)/σ). With ten vectors or more each interval holds what it is about with a
    probability of 95 to 97 %.

    Attributes:
      points: x, shape (p,).
      width: σ, shape ().
      density, density_low, density_high: φ at the points and its interval, shape (p,).
      count_above, count_above_low, count_above_high: the number of eigenvalues above each point
        and its interval, shape (p,).
      quadrature_error: of φ, estimated from three quarters of the degree, shape (p,); it is in
        the interval.
      smallest, largest: Ritz values, shape (): there are eigenvalues at least as far out.
      nodes, weights: of the quadrature of every vector, shape (n, m).
      num_products: products that were made.
      status: ``Status.SUCCESS``; ``NOT_CONVERGED``, where the degree is too low for the width;
        ``NOT_SYMMETRIC`` or ``NOT_FINITE``; ``PRECISION``, where products are so small that they
        underflow.
    """

    points: Float[Array, " p"]
    width: Float[Array, ""]
    density: Float[Array, " p"]
    density_low: Float[Array, " p"]
    density_high: Float[Array, " p"]
    count_above: Float[Array, " p"]
    count_above_low: Float[Array, " p"]
    count_above_high: Float[Array, " p"]
    quadrature_error: Float[Array, " p"]
    smallest: Float[Array, ""]
    largest: Float[Array, ""]
    nodes: Float[Array, "n m"]
    weights: Float[Array, "n m"]
    num_products: Int[Array, ""]
    status: Int[Array, ""]


@checked(
    problem=PROBLEM,
    params=PARAMS,
    matrix=MATRIX,
    preconditioner=PRECONDITIONER,
    num_vectors=COUNT,
    degree=DEGREE,
    width=optional(POSITIVE),
    points=optional(array(1)),
    seed=INTEGER,
)
def spectral_density(
    problem: Problem,
    params: Params,
    *,
    matrix: Matrix = "hessian",
    preconditioner: Params | None = None,
    num_vectors: int = 10,
    degree: int = 60,
    width: float | Float[Array, ""] | None = None,
    points: ArrayLike | None = None,
    seed: Int[Array, ""] | int = 0,
) -> SpectralDensity:
    """The density of the eigenvalues of ∇²L(params), by stochastic Lanczos quadrature.

    For a random unit vector v the mean of vᵀ f(A) v is tr f(A)/d, and Lanczos' method from v makes
    the Gauss quadrature of it. The variance is 2 (tr f(A)²/d − (tr f(A)/d)²)/(d + 2), which the
    same quadrature tells. The interval is that of a χ² variable of this mean and variance: where
    one eigenvalue alone counts, the estimate is one, and where many do, it is Gaussian.

    Args:
      problem: any problem.
      params: where.
      matrix: ``"hessian"``, or ``"gauss_newton"`` for JᵀCJ, J the derivative of the outputs and C
        the Hessian of the criterion; the identity for a residual.
      preconditioner: the diagonal of P, as ``params``: the density of P^{-1/2} A P^{-1/2}.
      num_vectors: n random vectors; an error falls like 1/√n.
      degree: products with each, at least 2, at most d of which count. Their memory is as many
        copies of params.
      width: σ; by default the range of the eigenvalues over the degree.
      points: x, shape (p,); by default 201 over the range.
      seed: of the random vectors.

    Returns:
      The density; usable under jit and vmap.

    Raises:
      ValueError: a Gauss–Newton matrix of a loss alone, or an unusable preconditioner.

    Source: Golub and Meurant 1994; Ubaru, Chen and Saad 2017; docs/spectra.md.
    """
    require_fitting(problem, params)
    problem, params = problem_of_matrix(problem, params, matrix, preconditioner)
    leaves = jax.tree.leaves(params)
    dtype, dimension = jnp.result_type(*leaves), sum(jnp.size(leaf) for leaf in leaves)
    require_within(dtype, width=width)
    require_within(dtype, zero=True, points=points)
    matrices = tridiagonals(
        problem,
        params,
        seed,
        num_vectors=operator.index(num_vectors),
        degree=operator.index(degree),
    )
    return density_of(
        matrices,
        None if width is None else jnp.asarray(width, dtype),
        None if points is None else jnp.asarray(points, dtype),
        dimension=dimension,
    )


def tridiagonals(
    problem: Problem,
    params: Params,
    seed: Int[Array, ""] | int,
    *,
    num_vectors: int,
    degree: int,
) -> Tridiagonal:
    """The Hessian in the bases that Lanczos' method makes of random vectors.

    Args:
      problem, params, seed, num_vectors, degree: as of ``spectral_density``.

    Returns:
      With a leading axis for the vectors.
    """
    dimension = sum(jnp.size(leaf) for leaf in jax.tree.leaves(params))
    return _tridiagonals(
        problem,
        params,
        jnp.asarray(seed, jnp.int32),
        num_vectors=num_vectors,
        degree=min(degree, dimension),
    )


@compiled(static_argnames=("num_vectors", "degree"))
def _tridiagonals(
    problem: Problem, params: Params, seed: Int[Array, ""], *, num_vectors: int, degree: int
) -> Tridiagonal:
    flat, _ = ravel_pytree(params)
    product = flat_product(problem, params)

    def of_vector(number: Array) -> Tridiagonal:
        vector = random_vector(seed, number, flat.shape[0], flat.dtype)
        return tridiagonal(product, vector / norm(vector), degree)

    # one vector after the other: side by side each would need its own basis
    return jax.lax.map(of_vector, jnp.arange(num_vectors, dtype=jnp.int32))


def spectral_range(matrices: Tridiagonal) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The smallest and the largest Ritz value.

    Args:
      matrices: of ``tridiagonals``.
    """
    degree = matrices.diagonal.shape[-1]
    fine = jax.vmap(lambda one: quadrature(one, degree))(matrices)
    counted = fine.weights > 0
    smallest = jnp.min(jnp.where(counted, fine.nodes, jnp.inf))
    return smallest, jnp.max(jnp.where(counted, fine.nodes, -jnp.inf))


@compiled(static_argnames=("dimension",))
def density_of(
    matrices: Tridiagonal,
    width: Float[Array, ""] | None,
    points: Float[Array, " p"] | None,
    *,
    dimension: int,
) -> SpectralDensity:
    """The density from what Lanczos' method has made, without a product.

    Args:
      matrices: of ``tridiagonals``.
      width, points: as of ``spectral_density``.
      dimension: d.
    """
    num_vectors, degree = matrices.diagonal.shape
    dtype = matrices.diagonal.dtype
    fine = jax.vmap(lambda one: quadrature(one, degree))(matrices)
    coarse = jax.vmap(lambda one: quadrature(one, max(3 * degree // 4, 1)))(matrices)
    if degree == dimension:  # with all of the space the quadrature is no approximation
        coarse = fine
    smallest, largest = spectral_range(matrices)
    size = jnp.maximum(jnp.abs(smallest), jnp.abs(largest))
    if width is None:
        # of a multiple of the identity there is no range
        width = jnp.maximum((largest - smallest) / degree, 1e-3 * size)
        width = jnp.where(width > 0, width, 1.0)
    if points is None:
        unit = jnp.linspace(0.0, 1.0, NUM_POINTS, dtype=dtype)
        points = smallest - 3.0 * width + (largest - smallest + 6.0 * width) * unit

    def gaussian(nodes: Array, point: Array) -> Array:
        return jnp.exp(-0.5 * jnp.square((point - nodes) / width))

    def above(nodes: Array, point: Array) -> Array:
        return jax.scipy.stats.norm.cdf((nodes - point) / width)

    asymmetry = jnp.max(matrices.asymmetry)

    # Nodes are off by some units of rounding, even where all products happen to be symmetric.
    rounding = jnp.maximum(asymmetry, jnp.finfo(dtype).eps * size)

    def mean(function: Callable[[Array, Array], Array], places: Array) -> _Mean:
        return jax.vmap(lambda point: _Mean.of(function, fine, coarse, point, dimension, rounding))(
            places
        )

    at, over = mean(gaussian, points), mean(above, points)
    # Between the nodes of a degree that is too low for the width both quadratures say zero. At the
    # nodes of one vector they differ, wherever the points are.
    at_nodes = mean(gaussian, fine.nodes[0])
    low, high = at.interval(1.0)
    other_low, other_high = over.complement().interval(1.0)
    count_low, count_high = over.interval(1.0)
    # the interval of the rarer side, which is the less symmetric of the two
    is_rare = over.mean < 0.5
    count_low = jnp.where(is_rare, count_low, 1.0 - other_high)
    count_high = jnp.where(is_rare, count_high, 1.0 - other_low)
    peak = 1.0 / (width * (2.0 * np.pi) ** 0.5)
    finite = jnp.all(jnp.isfinite(fine.nodes)) & jnp.isfinite(peak)
    status = jnp.select(
        [
            ~finite,
            # as in ritz_status
            asymmetry > jnp.finfo(dtype).eps ** 0.4 * size,
            underflows(size),
            ~(at.is_settled() & over.is_settled() & at_nodes.is_settled()),
        ],
        [Status.NOT_FINITE, Status.NOT_SYMMETRIC, Status.PRECISION, Status.NOT_CONVERGED],
        Status.SUCCESS,
    )
    return SpectralDensity(
        points=points,
        width=width,
        density=peak * at.mean,
        density_low=peak * low,
        density_high=peak * high,
        count_above=dimension * over.mean,
        count_above_low=dimension * count_low,
        count_above_high=dimension * count_high,
        quadrature_error=peak * at.bias,
        smallest=smallest,
        largest=largest,
        nodes=fine.nodes,
        weights=fine.weights,
        num_products=jnp.asarray(num_vectors * degree, jnp.int32),
        status=status.astype(jnp.int32),
    )


@chex.dataclass(frozen=True)
class _Mean:
    """The mean over the eigenvalues of a function with values in 0 to 1.

    Attributes:
      mean: as estimated.
      variance: of the estimate.
      bias: what the quadrature may add to the error.
      rounding: what the rounding of products may add.
    """

    mean: Array
    variance: Array
    bias: Array
    rounding: Array

    @classmethod
    def of(
        cls,
        function: Callable[[Array, Array], Array],
        fine: Quadrature,
        coarse: Quadrature,
        point: Array,
        dimension: int,
        rounding: Array,
    ) -> "_Mean":
        """From the quadratures of all vectors.

        An operator that is symmetric but for rounding has nodes that are off by about its
        asymmetry. Where very many eigenvalues lie together, as in the null space of a large
        network, the spread over the vectors is tiny, and in float32 this is not small beside it.

        Args:
          function: (nodes, point) -> values in 0 to 1.
          fine, coarse: with a leading axis for the vectors.
          point: shape ().
          dimension: d.
          rounding: by how much nodes may be off.
        """
        along = jnp.ones_like(fine.nodes)
        values, slopes = jax.jvp(lambda nodes: function(nodes, point), (fine.nodes,), (along,))
        count = fine.nodes.shape[0]
        mean = jnp.sum(fine.weights * values) / count
        square = jnp.sum(fine.weights * jnp.square(values)) / count
        less = jnp.sum(coarse.weights * function(coarse.nodes, point)) / count
        spread = jnp.maximum(square - jnp.square(mean), 0.0)
        variance = 2.0 * spread / ((dimension + 2) * count)
        moved = rounding * jnp.sum(fine.weights * jnp.abs(slopes)) / count
        return cls(mean=mean, variance=variance, bias=jnp.abs(mean - less), rounding=moved)

    def complement(self) -> "_Mean":
        """Of one less the function."""
        return _Mean(
            mean=1.0 - self.mean, variance=self.variance, bias=self.bias, rounding=self.rounding
        )

    def interval(self, most: float) -> tuple[Array, Array]:
        """That of a χ² variable, whose cube root is Gaussian (Wilson and Hilferty 1931)."""
        relative = self.variance / jnp.square(jnp.where(self.mean > 0, self.mean, 1.0)) / 9.0
        upper, lower = (
            1.0 - relative + side * _QUANTILE * jnp.sqrt(relative) for side in (1.0, -1.0)
        )
        low = self.mean / upper**3
        # no bound where the variable may be zero
        high = jnp.where(lower > 0, self.mean / jnp.where(lower > 0, lower, 1.0) ** 3, most)
        more = self.bias + self.rounding
        return jnp.maximum(low - more, 0.0), jnp.minimum(high + more, most)

    def is_settled(self) -> Array:
        """Whether the quadrature errs at no point by more than is noticed."""
        allowed = jnp.maximum(jnp.sqrt(self.variance), _NOTICED * jnp.max(self.mean))
        return jnp.all(self.bias <= allowed)

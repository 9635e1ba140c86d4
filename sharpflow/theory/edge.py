"""The convex program that chooses the oscillation covariance at the edge."""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

_MAX_ITERATIONS = 60
_BOUNDARY_FRACTION = 0.98


@chex.dataclass(frozen=True)
class EdgeSolution:
    """Solution of the edge program.

    Attributes:
      covariance: M, shape (k, k).
      slack: R(M), shape (k, k).
      gap: ⟨M, R⟩ at the last iterate.
      num_iterations: of the interior-point method.
    """

    covariance: Float[Array, "k k"]
    slack: Float[Array, "k k"]
    gap: Float[Array, ""]
    num_iterations: Int[Array, ""]


def solve_edge_program(
    gradient_gram: Float[Array, "p p"], drive: Float[Array, "k k"], b: float | Array = 2.0
) -> EdgeSolution:
    """Minimise ½⟨M, 𝒢M⟩ + b (tr M)² − ⟨M, C⟩ over symmetric M ⪰ 0.

    Its optimality conditions M ⪰ 0, R = 𝒢M + 2b tr(M) I − C ⪰ 0, ⟨M, R⟩ = 0 say that
    M is what keeps every edge eigenvalue at or below the threshold.

    Args:
      gradient_gram: 𝒢 in the coordinates of ``symmetric_to_vector``, shape (p, p)
        with p = k(k+1)/2, positive semidefinite, possibly singular.
      drive: C, symmetric, shape (k, k); for a step Δτ from edge eigenvalues D it is
        b I − (I − D)/Δτ.
      b: strength of the threshold's response, 2 for GD+WD.

    Returns:
      The solution; for a singular 𝒢 the analytic centre of the solutions.

    Source: design 3.4. Primal-dual interior point with the Nesterov–Todd scaling
    (Todd, Toh and Tütüncü 1998) and Mehrotra's choice of the centring parameter.
    """
    k = drive.shape[0]
    chex.assert_shape(drive, (k, k))
    chex.assert_shape(gradient_gram, (k * (k + 1) // 2,) * 2)
    dtype = drive.dtype
    identity = jnp.eye(k, dtype=dtype)
    trace_vector = symmetric_to_vector(identity)
    quadratic = gradient_gram + 2.0 * b * jnp.outer(trace_vector, trace_vector)
    drive_vector = symmetric_to_vector(drive)
    tolerance = jnp.finfo(dtype).eps ** 0.65
    natural_gap = b**2 / jnp.max(jnp.diag(quadratic))  # ⟨M, C⟩ of a generic solution

    def slack_of(covariance: Array) -> Array:
        return vector_to_symmetric(quadratic @ symmetric_to_vector(covariance) - drive_vector, k)

    def unfinished(state: tuple) -> Array:
        covariance, slack, iteration = state
        infeasibility = jnp.max(jnp.abs(slack_of(covariance) - slack))
        scale = 1.0 + jnp.max(jnp.abs(drive))
        done = (jnp.sum(covariance * slack) <= k * tolerance * natural_gap) & (
            infeasibility <= scale * tolerance
        )
        return ~done & (iteration < _MAX_ITERATIONS)

    def iterate(state: tuple) -> tuple:
        covariance, slack, iteration = state
        mu = jnp.sum(covariance * slack) / k
        root, inverse_root = _roots(covariance)
        inner_root, _ = _roots(root @ slack @ root)
        scaling = inverse_root @ inner_root @ inverse_root  # W⁻¹, with W R W = M
        newton = quadratic + _congruence(scaling)
        factor = jax.scipy.linalg.cho_factor(newton)
        residual = symmetric_to_vector(slack_of(covariance))
        inverse = symmetric_to_vector(inverse_root @ inverse_root)

        def direction(target: Array) -> tuple[Array, Array]:
            move = jax.scipy.linalg.cho_solve(factor, target * inverse - residual)
            change = vector_to_symmetric(quadratic @ move + residual, k) - slack
            return vector_to_symmetric(move, k), change

        move, change = direction(jnp.zeros((), dtype))
        length = jnp.minimum(1.0, _step_to_boundary(covariance, slack, move, change))
        mu_affine = jnp.sum((covariance + length * move) * (slack + length * change)) / k
        centring = jnp.clip(mu_affine / mu, 0.0, 1.0) ** 3
        move, change = direction(centring * mu)
        length = jnp.minimum(
            1.0, _BOUNDARY_FRACTION * _step_to_boundary(covariance, slack, move, change)
        )
        return covariance + length * move, slack + length * change, iteration + 1

    top = jnp.maximum(jnp.max(jnp.abs(drive)), 1.0)
    start = (identity / (2.0 * k), top * identity, jnp.zeros((), jnp.int32))
    covariance, slack, iterations = jax.lax.while_loop(unfinished, iterate, start)
    return EdgeSolution(
        covariance=covariance,
        slack=slack,
        gap=jnp.sum(covariance * slack),
        num_iterations=iterations,
    )


def symmetric_to_vector(matrix: Float[Array, "k k *rest"]) -> Float[Array, "p *rest"]:
    """Coordinates of a symmetric matrix in which ⟨A, B⟩ is the dot product.

    Args:
      matrix: shape (k, k, ...), symmetric in its first two axes.

    Returns:
      Shape (k(k+1)/2, ...), off-diagonal entries times √2.
    """
    rows, columns = jnp.triu_indices(matrix.shape[0])
    weight = jnp.where(rows == columns, 1.0, jnp.sqrt(2.0)).astype(matrix.dtype)
    return matrix[rows, columns] * weight.reshape((-1,) + (1,) * (matrix.ndim - 2))


def vector_to_symmetric(vector: Float[Array, " p"], k: int) -> Float[Array, "k k"]:
    """Inverse of ``symmetric_to_vector`` for a single matrix of size k."""
    rows, columns = jnp.triu_indices(k)
    entries = vector * jnp.where(rows == columns, 1.0, jnp.sqrt(0.5)).astype(vector.dtype)
    upper = jnp.zeros((k, k), vector.dtype).at[rows, columns].set(entries)
    return upper + jnp.triu(upper, 1).T


def _congruence(matrix: Array) -> Array:
    """The map A -> S A S as a matrix in the coordinates of ``symmetric_to_vector``."""
    k = matrix.shape[0]
    basis = jax.vmap(vector_to_symmetric, in_axes=(0, None))(
        jnp.eye(k * (k + 1) // 2, dtype=matrix.dtype), k
    )
    return jax.vmap(symmetric_to_vector)(matrix @ basis @ matrix)


def _roots(matrix: Array) -> tuple[Array, Array]:
    """A^{1/2} and A^{-1/2} of a symmetric positive definite matrix."""
    values, vectors = jnp.linalg.eigh(matrix)
    tiny = jnp.finfo(matrix.dtype).tiny ** 0.5
    root = jnp.sqrt(jnp.maximum(values, tiny))
    return (vectors * root[None]) @ vectors.T, (vectors / root[None]) @ vectors.T


def _step_to_boundary(covariance: Array, slack: Array, move: Array, change: Array) -> Array:
    """Largest step that keeps both matrices positive semidefinite."""

    def limit(matrix: Array, towards: Array) -> Array:
        inverse_root = _roots(matrix)[1]
        lowest = jnp.linalg.eigvalsh(inverse_root @ towards @ inverse_root)[0]
        return jnp.where(lowest < 0, -1.0 / lowest, jnp.inf)

    return jnp.minimum(limit(covariance, move), limit(slack, change))

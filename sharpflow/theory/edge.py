"""The convex program that chooses the oscillation covariance at the edge."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from sharpflow.models.arguments import NOT_NEGATIVE, array, checked, shown
from sharpflow.models.leaves import is_concrete
from sharpflow.models.precision import full_precision
from sharpflow.models.representation import summarized
from sharpflow.theory.status import Status, failure_unless

# Programs of the flow take 7 to 28 iterations, so 60 end only those that rounding has stopped. Six
# would leave nearly all of them unsolved; 600 solve no more than 60 do.
_MAX_ITERATIONS = 60
# Of the way to the boundary of the cone in one iteration. Random programs of eight eigenvalues take
# 14 iterations with it, 21 with 0.8; nearer to 1 some end at the boundary, from which no step leads
# on.
_BOUNDARY_FRACTION = 0.98
# In tolerances, by which the conditions may be missed where rounding has stopped the iteration. Of
# 800 random programs in float32 it stopped 16, the worst between 1e3 and 1e4 tolerances off, with
# tr M right to 3e-4 in all of them. A tenth would refuse three of these; with ten times as much,
# float32 would refuse nothing but NaN.
_ACCEPTED_SLACK = 1e4


@summarized
@chex.dataclass(frozen=True)
class EdgeSolution:
    """Solution of the edge program.

    Attributes:
      covariance: M, shape (k, k).
      slack: R(M), shape (k, k).
      gap: ⟨M, R⟩ at the last iterate.
      num_iterations: of the interior-point method.
      status: ``SUCCESS``, or ``PROGRAM_FAILED`` where the conditions of an optimum do not hold:
        the numbers overflowed, or for b = 0 there is no optimum.
    """

    covariance: Float[Array, "k k"]
    slack: Float[Array, "k k"]
    gap: Float[Array, ""]
    num_iterations: Int[Array, ""]
    status: Int[Array, ""]


@checked(gradient_gram=array(2), drive=array(2), b=NOT_NEGATIVE, tolerance=NOT_NEGATIVE)
@full_precision
def solve_edge_program(
    gradient_gram: Float[Array, "p p"],
    drive: Float[Array, "k k"],
    b: float | Array = 2.0,
    *,
    tolerance: float | Array = 0.0,
) -> EdgeSolution:
    """Minimise ½⟨M, 𝒢M⟩ + b (tr M)² − ⟨M, C⟩ over symmetric M ⪰ 0.

    Its optimality conditions M ⪰ 0, R = 𝒢M + 2b tr(M) I − C ⪰ 0, ⟨M, R⟩ = 0 say that
    M is what keeps every edge eigenvalue at or below the threshold. Without the trace
    term, b = 0, there need be no such M; 𝒢M − C then has negative eigenvalues.

    Args:
      gradient_gram: 𝒢 in the coordinates of ``symmetric_to_vector``, shape (p, p)
        with p = k(k+1)/2, positive semidefinite, possibly singular.
      drive: C, symmetric, shape (k, k); for a step Δτ from edge eigenvalues D it is
        b I − (I − D)/Δτ.
      b: strength of the threshold's response, 2 for GD+WD, 0 where 𝒢 holds all of it.
        The method stops relative to the drive at the edge, which is b, or for b = 0
        the largest eigenvalue of C; 𝒢 and C should be of order one.
      tolerance: of ⟨M, R⟩, relative to b tr M, and of R, relative to C; by default, and at
        least, what rounding allows.

    Returns:
      The solution; for a singular 𝒢 the analytic centre of the solutions.

    Raises:
      ValueError: matrices that are not finite, not symmetric or of sizes that do not belong
        together, 𝒢 not semidefinite, or b or ``tolerance`` negative.

    Source: docs/theory.md, section 4. Primal-dual interior point with the Nesterov–Todd scaling
    (Todd, Toh and Tütüncü 1998) and Mehrotra's choice of the centring parameter.
    """
    drive, gradient_gram = jnp.asarray(drive), jnp.asarray(gradient_gram)
    if not jnp.issubdtype(drive.dtype, jnp.floating):
        drive = drive.astype(jnp.result_type(float))
    dtype, k = drive.dtype, drive.shape[0]
    gradient_gram = gradient_gram.astype(dtype)
    _require_symmetric("drive", drive, k)
    _require_symmetric("gradient_gram", gradient_gram, k * (k + 1) // 2, semidefinite=True)
    identity = jnp.eye(k, dtype=dtype)
    # in the basis of the drive M and R are graded along the axes, and rounding spares
    # their small eigenvalues
    drive_values, basis = jnp.linalg.eigh(drive)
    turn = _congruence(basis)
    trace_vector = symmetric_to_vector(identity)
    # The trace term is a quadratic form like 𝒢, of rank one, so that the program needs no term of
    # its own for it.
    quadratic = turn.T @ gradient_gram @ turn + 2.0 * b * jnp.outer(trace_vector, trace_vector)
    drive_vector = symmetric_to_vector(jnp.diag(drive_values))
    # 7e-11 in float64 and 3e-5 in float32. The gap of an exact solution rounds to about eps times
    # the condition of the scaled equations, which grows as the gap falls: the full eps is out of
    # reach.
    tolerance = jnp.maximum(jnp.asarray(tolerance, dtype), jnp.finfo(dtype).eps ** 0.65)
    largest = jnp.maximum(drive_values[-1], tolerance * jnp.max(jnp.abs(drive_values)))
    drive_scale = jnp.where(jnp.asarray(b) > 0, b, largest).astype(
        dtype
    )  # of the drive at the edge
    generic_trace = drive_scale / jnp.max(jnp.diag(quadratic))  # tr M of a solution of full rank 𝒢

    def slack_of(covariance: Array) -> Array:
        return vector_to_symmetric(quadratic @ symmetric_to_vector(covariance) - drive_vector, k)

    def optimal(covariance: Array, slack: Array, allowance: float) -> Array:
        """Whether the conditions hold within so many tolerances."""
        infeasibility = jnp.max(jnp.abs(slack_of(covariance) - slack))
        scale = 1.0 + jnp.max(jnp.abs(drive_values))
        natural_gap = drive_scale * jnp.maximum(generic_trace, jnp.trace(covariance))
        return (jnp.sum(covariance * slack) <= allowance * (k * tolerance * natural_gap)) & (
            infeasibility <= allowance * (scale * tolerance)
        )

    def unfinished(state: tuple) -> Array:
        covariance, slack, iteration = state
        return ~optimal(covariance, slack, 1.0) & (iteration < _MAX_ITERATIONS)

    def iterate(state: tuple) -> tuple:
        covariance, slack, iteration = state
        # the scaling G that makes both matrices the diagonal S: M = G S Gᵀ, R = H S Hᵀ, HᵀG = I
        root, slack_root = _cholesky(covariance), _cholesky(slack)
        # From the Cholesky factors, and not by the root of a product of the matrices: near the
        # solution both are singular, and squares of their small eigenvalues would be lost.
        left, scaled, right = jnp.linalg.svd(slack_root.T @ root)
        scaling = (root @ right.T) * jax.lax.rsqrt(scaled)[None]
        slack_scaling = (slack_root @ left) * jax.lax.rsqrt(scaled)[None]
        congruence = _congruence(scaling)
        newton = jnp.eye(congruence.shape[0], dtype=dtype) + congruence.T @ quadratic @ congruence
        factor = jax.scipy.linalg.cho_factor(newton)
        infeasible = scaling.T @ (slack_of(covariance) - slack) @ scaling

        def direction(target: Array) -> tuple[Array, Array]:
            total = jnp.diag(target / scaled - scaled)
            move = jax.scipy.linalg.cho_solve(factor, symmetric_to_vector(total - infeasible))
            move = vector_to_symmetric(move, k)
            return move, total - move

        move, change = direction(jnp.zeros((), dtype))
        length = jnp.minimum(1.0, _step_to_boundary(scaled, move, change))
        moved, changed = jnp.diag(scaled) + length * move, jnp.diag(scaled) + length * change
        # Mehrotra's rule: where the step without centring would close most of the gap, little
        # centring is asked for.
        centring = jnp.clip(jnp.sum(moved * changed) / jnp.sum(jnp.square(scaled)), 0.0, 1.0) ** 3
        move, change = direction(centring * jnp.sum(jnp.square(scaled)) / k)
        length = jnp.minimum(1.0, _BOUNDARY_FRACTION * _step_to_boundary(scaled, move, change))
        moved = scaling @ (jnp.diag(scaled) + length * move) @ scaling.T
        # R by the equation it obeys, which keeps it feasible; where rounding would make that
        # indefinite, by its own factors, which keep it positive
        obeying = (1.0 - length) * slack + length * slack_of(covariance)
        obeying = obeying + vector_to_symmetric(
            quadratic @ symmetric_to_vector(moved - covariance), k
        )
        definite = jnp.all(jnp.isfinite(_cholesky(obeying)))
        positive = slack_scaling @ (jnp.diag(scaled) + length * change) @ slack_scaling.T
        changed = jnp.where(definite, obeying, positive)
        # At the limit of rounding a factorisation fails. What was reached before it is kept, and
        # the status says whether that is good enough.
        usable = jnp.all(jnp.isfinite(moved)) & jnp.all(jnp.isfinite(changed))
        return (
            jnp.where(usable, moved, covariance),
            jnp.where(usable, changed, slack),
            jnp.where(usable, iteration + 1, _MAX_ITERATIONS),
        )

    # inside both cones, and as far from the boundary as the solution may be: a start near the
    # boundary would spend its first iterations on leaving it
    top = jnp.maximum(jnp.max(jnp.abs(drive_values)), 1.0)
    start = (identity / (2.0 * k), top * identity, jnp.zeros((), jnp.int32))
    covariance, slack, iterations = jax.lax.while_loop(unfinished, iterate, start)
    return EdgeSolution(
        covariance=basis @ covariance @ basis.T,
        slack=basis @ slack @ basis.T,
        gap=jnp.sum(covariance * slack),
        num_iterations=iterations,
        status=failure_unless(optimal(covariance, slack, _ACCEPTED_SLACK), Status.PROGRAM_FAILED),
    )


def _require_symmetric(
    name: str, matrix: Array, num_rows: int, *, semidefinite: bool = False
) -> None:
    """Refuse a matrix of another size, and where its numbers are known also one of another kind."""
    if matrix.shape != (num_rows, num_rows) or num_rows == 0:
        raise ValueError(
            f"{name} must be a square matrix, drive of k ≥ 1 rows and gradient_gram of k(k+1)/2, "
            f"got shape {matrix.shape} where {(num_rows, num_rows)} belongs"
        )
    if not is_concrete(matrix):
        return
    known = np.asarray(matrix)
    # of the rounding of sums of many products, whose error grows like the root of their number
    slack = float(np.sqrt(np.finfo(known.dtype).eps)) * np.max(np.abs(known))
    if np.max(np.abs(known - known.T)) > slack:
        raise ValueError(f"{name} must be symmetric, got {shown(known.tolist())}")
    if semidefinite and np.linalg.eigvalsh(known)[0] < -slack:
        raise ValueError(f"{name} must be positive semidefinite, got {shown(known.tolist())}")


def symmetric_to_vector(matrix: Float[Array, "k k *rest"]) -> Float[Array, "p *rest"]:
    """Coordinates of a symmetric matrix in which ⟨A, B⟩ is the dot product.

    Args:
      matrix: shape (k, k, ...), symmetric in its first two axes.

    Returns:
      Shape (k(k+1)/2, ...), off-diagonal entries times √2.
    """
    rows, columns, weight = symmetric_weights(matrix.shape[0], matrix.dtype)
    return matrix[rows, columns] * weight.reshape((-1,) + (1,) * (matrix.ndim - 2))


def symmetric_weights(k: int, dtype: DTypeLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row and column of each coordinate of ``symmetric_to_vector``, and what it is multiplied by.

    Args:
      k: size of the matrix.
      dtype: of the weights.

    Returns:
      Rows, columns, and weights 1 on the diagonal and √2 off it, each of shape (k(k+1)/2,).
    """
    rows, columns = np.triu_indices(k)
    return rows, columns, np.where(rows == columns, 1.0, np.sqrt(2.0)).astype(dtype)


def vector_to_symmetric(vector: Float[Array, " p"], k: int) -> Float[Array, "k k"]:
    """Inverse of ``symmetric_to_vector`` for a single matrix of size k."""
    return jnp.tensordot(vector, _symmetric_basis(k, vector.dtype), 1)


def _congruence(matrix: Array) -> Array:
    """The map A -> S A Sᵀ as a matrix in the coordinates of ``symmetric_to_vector``."""
    rows, columns, weight = symmetric_weights(matrix.shape[0], matrix.dtype)
    # S_ac for all rows a and columns c of the coordinates: products with a constant, which compile
    # to far less than the indexing that they stand for
    choice = jnp.asarray(np.eye(matrix.shape[0])[np.concatenate([rows, columns])], matrix.dtype)
    (of_rows, crossed), (crossed_back, of_columns) = (
        jnp.split(half, 2, axis=1) for half in jnp.split(choice @ matrix @ choice.T, 2)
    )
    weights = jnp.asarray(np.outer(0.5 * weight, weight))
    return weights * (of_rows * of_columns + crossed * crossed_back)


def _symmetric_basis(k: int, dtype: DTypeLike) -> Array:
    """The symmetric matrices of these coordinates, shape (p, k, k).

    Products with a constant compile to far less than the indexing that they stand for.
    """
    rows, columns, weight = symmetric_weights(k, np.float64)
    pairs = np.arange(len(rows))
    basis = np.zeros((len(rows), k, k))
    basis[pairs, rows, columns] = basis[pairs, columns, rows] = 1.0 / weight
    return jnp.asarray(basis, dtype)


def _cholesky(matrix: Array) -> Array:
    """Lower factor of a graded matrix, with room on its diagonal for rounding."""
    # Relative to each diagonal entry. One number for all of them would swamp the small eigenvalues
    # of a graded matrix, which are those that matter.
    room = 4 * matrix.shape[0] * jnp.finfo(matrix.dtype).eps
    return jnp.linalg.cholesky(matrix + room * jnp.diag(jnp.diag(matrix)))


def _step_to_boundary(scaled: Array, move: Array, change: Array) -> Array:
    """Largest step from the diagonal S that keeps both matrices positive semidefinite."""
    inverse_root = jax.lax.rsqrt(scaled)

    def limit(towards: Array) -> Array:
        lowest = jnp.linalg.eigvalsh(towards * jnp.outer(inverse_root, inverse_root))[0]
        return jnp.where(lowest < 0, -1.0 / lowest, jnp.finfo(scaled.dtype).max)

    return jnp.minimum(limit(move), limit(change))

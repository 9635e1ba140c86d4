"""Result codes of computations that run inside compiled code."""

import enum

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from sharpflow.theory.times import last_reached


class Status(enum.IntEnum):
    """How a computation ended; ``message`` says it in a sentence.

    Attributes:
      SUCCESS: as it should.
      NOT_CONVERGED: an iteration for eigenvalues ended before its tolerance.
      RETRACTION_FAILED: a point could not be brought back to Γ.
      EDGE_FULL: more eigenvalues reach the edge than a flow has room for.
      MAX_STEPS: a flow has used up its steps.
      DIVERGED: the loss, its gradient or the parameters are not finite, or in the central flow no
        oscillation holds an eigenvalue at the edge.
      NOT_FINITE: an operator returned entries that are not finite.
      NOT_SYMMETRIC: an operator is not symmetric.
      PRECISION: a tolerance on eigenvalues is finer than the rounding of products, or the products
        are so small that they underflow.
      EIGENPAIRS_FAILED: of a step of a flow, the eigenvalues of the Hessian.
      PROJECTION_FAILED: of a step of a flow, the projection of the edge gradients to the
        tangent space of Γ.
      PROGRAM_FAILED: of a step of a flow, the convex program for M.
      STEP_TOO_SMALL: every part of a step works, and its error exceeds the tolerance however
        short it is.
      MAX_SECONDS: a flow has used up its time.
      STALLED: of fifty attempted steps of a flow many erred too much, and the others led hardly
        any further: at ten times their pace it would still use up its steps. Where a part of the
        last one failed, that part is named instead.
    """

    SUCCESS = 0
    NOT_CONVERGED = 1
    RETRACTION_FAILED = 2
    EDGE_FULL = 3
    MAX_STEPS = 4
    DIVERGED = 5
    NOT_FINITE = 6
    NOT_SYMMETRIC = 7
    PRECISION = 8
    EIGENPAIRS_FAILED = 9
    PROJECTION_FAILED = 10
    PROGRAM_FAILED = 11
    STEP_TOO_SMALL = 12
    MAX_SECONDS = 13
    STALLED = 14

    def __str__(self) -> str:
        """The name, which ``print`` shows; as a number it is still an integer."""
        return self.name

    def __format__(self, spec: str) -> str:
        """The name, or the number where a specification such as ``"d"`` asks for one."""
        value = int(self) if spec[-1:] in ("d", "n", "x", "X", "o", "b") else self.name
        return format(value, spec)

    @property
    def message(self) -> str:
        """One sentence for people."""
        return _MESSAGES[self]


_MESSAGES = {
    Status.SUCCESS: "the computation ended as asked",
    Status.NOT_CONVERGED: "an iteration ended before it reached its tolerance",
    Status.RETRACTION_FAILED: "a point could not be brought back to the minimizer manifold",
    Status.EDGE_FULL: "more eigenvalues reach the edge than max_edge allows",
    Status.MAX_STEPS: "max_steps steps did not reach the last output time",
    Status.DIVERGED: "the loss, its gradient or the parameters stopped being finite",
    Status.NOT_FINITE: "an operator returned NaN or infinite entries",
    Status.NOT_SYMMETRIC: "an operator is not symmetric",
    Status.PRECISION: "the tolerance is below what rounding or underflow allows",
    Status.EIGENPAIRS_FAILED: "the largest eigenvalues of the Hessian could not be computed",
    Status.PROJECTION_FAILED: "the edge gradients could not be projected to the tangent space",
    Status.PROGRAM_FAILED: "the convex program for the oscillation could not be solved",
    Status.STEP_TOO_SMALL: "the error of a step exceeds its tolerance however short the step is",
    Status.MAX_SECONDS: "max_seconds seconds did not reach the last output time",
    Status.STALLED: "fifty attempted steps, of which many erred too much, led hardly any further",
}


def first_failure(*statuses: Int[Array, ""]) -> Int[Array, ""]:
    """The first of several codes that is not ``SUCCESS``.

    Args:
      *statuses: in the order of the parts that they belong to, each of shape ().

    Returns:
      A ``Status`` code, shape ().
    """
    first = jnp.asarray(Status.SUCCESS, jnp.int32)
    for status in reversed(statuses):
        first = jnp.where(status != Status.SUCCESS, status, first)
    return first


def outcome_in_words(
    status: Array | int, tau: Array | np.ndarray, column: Array | np.ndarray
) -> str:
    """How a flow ended, for people: ``SUCCESS``, or what failed and where.

    Args:
      status: a ``Status`` code, shape ().
      tau: output times, shape (T,).
      column: numbers at them, NaN where they were not reached, shape (T,).
    """
    code = Status(int(status))
    if code == Status.SUCCESS:
        return code.name
    return f"{code.name} after τ = {last_reached(np.asarray(tau), np.asarray(column)):g}"


def failure_unless(holds: Bool[Array, ""], failure: Status) -> Int[Array, ""]:
    """``SUCCESS`` where a part of a computation has done what it should, else its failure.

    Args:
      holds: whether it has, shape ().
      failure: the code where it has not.

    Returns:
      A ``Status`` code, shape ().
    """
    return jnp.where(holds, Status.SUCCESS, failure).astype(jnp.int32)

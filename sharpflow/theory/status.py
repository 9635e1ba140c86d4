"""Result codes of computations that run inside compiled code."""

import enum


class Status(enum.IntEnum):
    """How a computation ended; ``message`` says it in a sentence."""

    SUCCESS = 0
    NOT_CONVERGED = 1
    RETRACTION_FAILED = 2
    EDGE_FULL = 3
    MAX_STEPS = 4
    DIVERGED = 5
    NOT_FINITE = 6
    NOT_SYMMETRIC = 7
    PRECISION = 8

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
    Status.PRECISION: "the tolerance is below what rounding allows",
}

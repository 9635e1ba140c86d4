"""Loops of compiled code in pieces, between which the host hears of Ctrl-C, shows and stops."""

import math
import time
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from sharpflow.models.arguments import POSITIVE, optional
from sharpflow.models.leaves import is_concrete
from sharpflow.models.progress import UNSEEN, Display
from sharpflow.theory.failure import eigenvalues_at_edge
from sharpflow.theory.integration import Progress
from sharpflow.theory.status import Status

# Seconds of a piece. Ctrl-C waits for its end, and ten times as long would seem to be no answer;
# what the host does between two takes about a millisecond, a five-hundredth of it.
_PIECE_SECONDS = 0.5
# A piece may be so many times as long as the last one. A timing that misleads, as that of the first
# steps of a flow far below the edge, then makes a piece of 16 seconds at most; with 4 a flow of
# many quick steps would come back to the host more often than it needs to.
_LARGEST_GROWTH = 32
# Times as long as the eigenvalues at the start a step of a flow takes, as a first guess: one to ten
# with and without the Jacobian. A short flow then ends within its first piece, which saves it a
# return to the host; where the eigenvalues had to be compiled first, that piece is a single step.
_STEP_COST = 4
# Counts that no loop reaches: it runs to its end in one piece.
UNBROKEN = np.iinfo(np.int32).max

LIMIT = optional(POSITIVE)

Point = TypeVar("Point")
Row = TypeVar("Row")


class Pace:
    """How much of a loop the next piece makes, so that it takes about half a second.

    Args:
      first: units of the first piece.

    Attributes:
      count: units of the next piece, at least 1.
    """

    def __init__(self, first: int) -> None:
        self.count = first
        self._began = time.monotonic()

    def begin(self) -> None:
        """A piece begins."""
        self._began = time.monotonic()

    def end(self) -> None:
        """It has ended, and its results have arrived."""
        seconds = time.monotonic() - self._began
        growth = _PIECE_SECONDS / max(seconds, 1e-9)
        self.count = max(int(self.count * min(growth, _LARGEST_GROWTH)), 1)


def first_steps(seconds: float) -> int:
    """Steps of the first piece of a flow.

    Args:
      seconds: that the eigenvalues at its start have taken.
    """
    return max(int(_PIECE_SECONDS / (_STEP_COST * max(seconds, 1e-6))), 1)


class Deadline:
    """A limit of time that counts from here.

    Args:
      seconds: until it passes; None for never.
    """

    def __init__(self, seconds: float | None) -> None:
        self.seconds = seconds
        self._ends = math.inf if seconds is None else time.monotonic() + seconds

    @property
    def passed(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self._ends

    @property
    def left(self) -> float | None:
        """Seconds, hardly any where the time is up; None where there is no limit."""
        return None if self.seconds is None else max(self._ends - time.monotonic(), 1e-9)


def integrate_in_pieces(
    run: Callable[[Progress[Point], Row, Any], tuple[Progress[Point], Row]],
    start: Progress[Point],
    rows: Row,
    *,
    first: int,
    deadline: Deadline,
    display: Display,
    num_at_edge: Callable[[Point], int],
    tau_at: Callable[[float], float] = float,
) -> tuple[Progress[Point], Row]:
    """Integrate with rests, and the same result to the last bit.

    Under ``jit``, ``vmap`` and ``grad``, where nobody waits for a number, it is one call.

    Args:
      run: from ``start`` and the rows until there are so many steps and rejected steps.
      start: where.
      rows: what is known of the outputs.
      first: steps and rejected steps before the first rest.
      deadline: after which status ``MAX_SECONDS`` ends it at the next rest.
      display: advanced at every rest and at the end, by units of the flow's own time.
      num_at_edge: how many eigenvalues a point holds at the edge.
      tau_at: from that time to τ.

    Returns:
      As ``integration.integrate`` does where it does not rest.
    """
    if not is_concrete(*jax.tree.leaves((start, rows))):
        return run(start, rows, np.int32(UNBROKEN))
    progress, pace = start, Pace(first)
    attempts, shown = _num_attempts(start), float(start.time)
    while True:
        pace.begin()
        progress, rows = run(progress, rows, np.int32(min(attempts + pace.count, UNBROKEN)))
        ended = bool(progress.finished) or int(progress.status) != Status.SUCCESS
        pace.end()
        if display is not UNSEEN:
            at = float(progress.time)
            step = tau_at(at + float(progress.step)) - tau_at(at)
            note = (
                f", {int(progress.num_steps)} steps, now of {step:.1e}"
                f", {eigenvalues_at_edge(num_at_edge(progress.point))}"
            )
            display.advance(at - shown, note)
            shown = at
        if ended:
            return progress, rows
        if deadline.passed:
            late = jnp.asarray(Status.MAX_SECONDS, jnp.int32)
            return progress._replace(status=late), rows
        attempts = _num_attempts(progress)


def _num_attempts(progress: Progress) -> int:
    """On the host, where an operation of jax takes as long as a short step."""
    return int(progress.num_steps) + int(progress.num_rejected)

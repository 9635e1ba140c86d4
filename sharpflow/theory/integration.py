"""The loop of every flow: measure a point, note it at an output time, try a step.

A flow gives a stepper, which knows the equation. The loop knows time alone.
"""

from typing import Generic, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sharpflow.theory.status import Status, failure_unless, first_failure
from sharpflow.theory.step_control import next_proposal, step_growth, step_towards

# Of rtol, for the error of one step, so that a whole prediction is right to rtol: of a digits
# network with rtol 1e-3 the point after 20 steps is off by 9e-4 of the distance moved. A tenth
# takes 55 steps and gives 9e-5; ten times as much takes 9 steps and gives 1.5e-2.
_STEP_SHARE = 0.3
# Attempts over which headway is judged. Error control leaves a step that was too long, or too short
# by a factor of a million, within ten; a stretch that leads nowhere costs the time of two flows.
_STRETCH = 50
# Of these, where kinks stop a flow: it was 23 to 27 of a digits network with relu, and is some five
# where a flow is smooth.
_MANY_REJECTED = 15
# Times the pace of a stretch, at which the rest would still use up all steps. With 1 a flow would
# end that could get over its kinks and reach the end in time.
_FASTER = 10

Point = TypeVar("Point")
Measure = TypeVar("Measure")
Row = TypeVar("Row")
Row_co = TypeVar("Row_co", covariant=True)


class Trial(NamedTuple, Generic[Point]):
    """The outcome of an attempted step.

    Attributes:
      end: the point where it leads.
      start: the point from which to try again: the old one, with what the attempt found out.
      error: of the step, to be compared with rtol, shape ().
      repeat: whether to try again with the same length, from ``start``, shape ().
      status: ``SUCCESS``, or which part of the step failed, shape ().
    """

    end: Point
    start: Point
    error: Float[Array, ""]
    repeat: Bool[Array, ""]
    status: Int[Array, ""]


class Span(NamedTuple):
    """The times at which a step starts and ends, shape () each."""

    start: Float[Array, ""]
    end: Float[Array, ""]


class Stepper(Protocol[Point, Measure, Row_co]):
    """What a flow tells the loop.

    Attributes:
      order: p, where the error of a step is O(step^p).
      largest_growth: factor by which a step may grow at once.
      smallest_step: below which the loop gives up.
    """

    order: int
    largest_growth: float
    smallest_step: float

    def measure(self, point: Point) -> tuple[Measure, Int[Array, ""]]:
        """What a row and a step need to know of a point; and whether the flow may go on there.

        Args:
          point: where.

        Returns:
          The measure and a ``Status`` code.
        """
        ...

    def row(self, measure: Measure, time: Float[Array, ""]) -> tuple[Row_co, Int[Array, ""]]:
        """What an output keeps of a point, and whether it is known.

        Args:
          measure: of the point.
          time: of the output, shape ().

        Returns:
          The row and a ``Status`` code.
        """
        ...

    def attempt(self, measure: Measure, step: Float[Array, ""], span: Span) -> Trial[Point]:
        """One step.

        Args:
          measure: of the point where it starts.
          step: its length, shape ().
          span: the times of its ends, of which the difference is the length up to rounding.

        Returns:
          Where it leads, and its error.
        """
        ...


class Progress(NamedTuple, Generic[Point]):
    """Where an integration stands, and all it needs to go on.

    Attributes:
      point: of the stepper.
      time: shape ().
      step: the next step, shape ().
      num_steps, num_rejected: so far, shape ().
      status: a ``Status`` code, shape ().
      finished: whether the last output is among the rows, shape (). Without it, and with status
        ``SUCCESS``, the integration rests between two steps.
      stretch_time: when the stretch of attempts began over which headway is judged, shape ().
      stretch_rejected: attempts since then that were rejected, shape ().
      obstacle: what ended the last of them: the status of a part that failed, or ``STALLED`` where
        its error was too large, shape ().
    """

    point: Point
    time: Float[Array, ""]
    step: Float[Array, ""]
    num_steps: Int[Array, ""]
    num_rejected: Int[Array, ""]
    status: Int[Array, ""]
    finished: Bool[Array, ""]
    stretch_time: Float[Array, ""]
    stretch_rejected: Int[Array, ""]
    obstacle: Int[Array, ""]

    @property
    def num_attempts(self) -> Int[Array, ""]:
        """Steps and rejected steps together, shape ()."""
        return self.num_steps + self.num_rejected

    @classmethod
    def begun(cls, point: Point, time: Array, step: Array) -> "Progress[Point]":
        """An integration before its first step."""
        zero = jnp.zeros((), jnp.int32)
        return cls(
            point,
            time,
            step,
            num_steps=zero,
            num_rejected=zero,
            status=zero,
            finished=jnp.asarray(False),
            stretch_time=time,
            stretch_rejected=zero,
            obstacle=jnp.full((), Status.STALLED, jnp.int32),
        )


class _State(NamedTuple, Generic[Point, Row]):
    """Between two visits of points.

    Attributes:
      progress: with the point to be visited.
      rows: of the outputs before it.
    """

    progress: Progress[Point]
    rows: Row


def integrate(
    stepper: Stepper[Point, Measure, Row],
    start: Progress[Point],
    rows: Row,
    times: Float[Array, " T"],
    *,
    rtol: Float[Array, ""],
    step_size: Float[Array, ""],
    max_steps: Int[Array, ""],
    pause: Int[Array, ""],
) -> tuple[Progress[Point], Row]:
    """Integrate from ``start`` to the last output time, or until something fails.

    It rests where ``pause`` says, before it looks at the point that it has reached. From what it
    returns it goes on as if it had not rested, to the last bit.

    A step that fails is tried again at a fifth of its length, whichever part of it failed. Where
    that does not help, or the step is fixed, the status names the part. One that gets nowhere,
    as where every step of the length that is needed meets a kink, ends too: with the part that
    failed last, or with ``STALLED`` where the error was too large.

    Args:
      stepper: the flow.
      start: where, and when; ``time`` is at most ``times[0]``.
      rows: what the outputs hold until they are reached, with a leading axis T.
      times: increasing output times, then repeats of the last one, whose rows stay as they are.
      rtol: tolerance on the error of a step, shape ().
      step_size: a fixed step, or NaN for error control, shape ().
      max_steps: of steps and rejected steps together, shape ().
      pause: how many of them there are when it rests, shape ().

    Returns:
      Where it ended, and the rows.

    Source: docs/theory.md, sections 9 and 10.6.
    """
    fixed = jnp.isfinite(step_size)

    # Every turn of the loop measures the point where it stands, also after a rejected step, which
    # leaves it where it was. To carry the measure along instead would save that for the few steps
    # that are rejected, and would compile the measure a second time, for the first point.
    def visit(state: _State[Point, Row]) -> _State[Point, Row]:
        progress, rows = state.progress, state.rows
        measure, usable = stepper.measure(progress.point)
        index = jnp.sum(times < progress.time, dtype=jnp.int32)
        before = jax.tree.map(lambda leaf: leaf[index], rows)

        def noted() -> tuple[Row, Array]:
            row, known = stepper.row(measure, progress.time)
            reached = known == Status.SUCCESS
            return jax.tree.map(lambda new, old: jnp.where(reached, new, old), row, before), known

        is_output = (times[index] == progress.time) & (usable == Status.SUCCESS)
        row, known = jax.lax.cond(is_output, noted, lambda: (before, usable))
        finished = is_output & (known == Status.SUCCESS) & (progress.time >= times[-1])
        used_up = progress.num_attempts >= max_steps
        in_time = failure_unless(finished | ~used_up, Status.MAX_STEPS)
        is_due = (progress.num_attempts > 0) & (progress.num_attempts % _STRETCH == 0)
        # A beginning that is fast, as of the central flow, takes short steps too: those succeed.
        headway = progress.time - progress.stretch_time
        within_limit = headway / _STRETCH * _FASTER * max_steps.astype(times.dtype)
        slow = within_limit < times[-1] - progress.time
        hopeless = is_due & slow & (progress.stretch_rejected >= _MANY_REJECTED)
        moving = jnp.where(finished | ~hopeless, Status.SUCCESS, progress.obstacle)
        here = progress._replace(
            status=first_failure(usable, known, in_time, moving),
            finished=finished,
            stretch_time=jnp.where(is_due, progress.time, progress.stretch_time),
            stretch_rejected=jnp.where(is_due, 0, progress.stretch_rejected),
        )
        later = jnp.sum(times <= progress.time, dtype=jnp.int32)
        until = times[jnp.minimum(later, times.shape[0] - 1)]
        return _State(
            progress=jax.lax.cond(
                ~finished & (here.status == Status.SUCCESS),
                lambda: move(here, measure, until),
                lambda: here,
            ),
            rows=jax.tree.map(lambda leaf, new: leaf.at[index].set(new), rows, row),
        )

    def move(here: Progress[Point], measure: Measure, until: Array) -> Progress[Point]:
        """A step towards an output, or a shorter one to be tried."""
        step, last = step_towards(until - here.time, here.step)
        # the output time itself, which a sum of steps would miss by rounding
        end = jnp.where(last, until, here.time + step)
        trial = stepper.attempt(measure, step, Span(here.time, end))
        sound = trial.status == Status.SUCCESS
        ratio = jnp.where(sound, trial.error / (_STEP_SHARE * rtol), jnp.inf)
        repeat = sound & trial.repeat
        accepted = sound & ~repeat & (fixed | (ratio <= 1.0))
        growth = step_growth(ratio, stepper.order, largest=stepper.largest_growth)
        proposal = next_proposal(jnp.where(repeat, 1.0, growth), step, here.step)
        rejected = ~accepted & ~repeat
        obstacle = jnp.where(sound, Status.STALLED, trial.status).astype(jnp.int32)
        stuck = rejected & (fixed | (step < stepper.smallest_step))
        return Progress(
            point=jax.tree.map(
                lambda end, start: jnp.where(accepted, end, start), trial.end, trial.start
            ),
            time=jnp.where(accepted, end, here.time),
            step=jnp.where(fixed, step_size, proposal),
            num_steps=here.num_steps + accepted.astype(jnp.int32),
            num_rejected=here.num_rejected + (~accepted).astype(jnp.int32),
            status=jnp.where(
                stuck, jnp.where(sound, Status.STEP_TOO_SMALL, trial.status), Status.SUCCESS
            ).astype(jnp.int32),
            finished=here.finished,
            stretch_time=here.stretch_time,
            stretch_rejected=here.stretch_rejected + rejected.astype(jnp.int32),
            obstacle=jnp.where(rejected, obstacle, here.obstacle),
        )

    def unfinished(state: _State[Point, Row]) -> Array:
        progress = state.progress
        going_on = ~progress.finished & (progress.status == Status.SUCCESS)
        return going_on & (progress.num_attempts < pause)

    state = jax.lax.while_loop(unfinished, visit, _State(start, rows))
    return state.progress, state.rows

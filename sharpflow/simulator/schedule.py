"""How far each point of a grid runs, and when it records."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from sharpflow.models.arguments import COUNT, MOST, POSITIVE, ArgumentError, shown
from sharpflow.simulator.rules.edge_rule import edge_dynamics
from sharpflow.simulator.rules.scheduled import scheduled_states


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Steps and records of every point.

    Attributes:
      num_steps: updates of each point, shape (points,).
      every: steps from a record to the next, or None.
      at: recorded steps, the same for all points, or None.
      count: records of each point, evenly spaced over its own steps, or None.
      before: steps that each point has behind it at its start, shape (points,); None for none.
        All else counts from the start.
    """

    num_steps: np.ndarray
    every: int | None = None
    at: tuple[int, ...] | None = None
    count: int | None = None
    before: np.ndarray | None = None

    @property
    def dimension(self) -> str:
        """``"step"`` where all points record at the same steps, else ``"record"``."""
        apart = self.before is not None and bool(np.any(self.before != self.before[0]))
        return "step" if self.count is None and not apart else "record"

    def step_before(self, point: int) -> int:
        """Updates that a point has behind it at its start."""
        return 0 if self.before is None else int(self.before[point])

    @property
    def num_records(self) -> int:
        """Of the point with most of them."""
        return len(self.steps(int(np.argmax(self.num_steps))))

    def steps(self, point: int) -> np.ndarray:
        """Recorded steps of a point, increasing, 0 first."""
        last = int(self.num_steps[point])
        if self.count is not None:
            # In integers, so that no rounding moves a step between machines; in 64 bits, because
            # the product overflows 32.
            return np.arange(self.count, dtype=np.int64) * last // self.count
        if self.at is not None:
            return np.array([step for step in self.at if step < last], np.int64)
        assert self.every is not None
        return np.arange(0, last, self.every, dtype=np.int64)

    def gaps(self, point: int, pieces: int) -> np.ndarray:
        """Updates of a point in rows, the updates of a record spread over ``pieces`` rows.

        Returns:
          Shape (records · pieces,), the first row of each record never 0.
        """
        gaps = np.diff(np.append(self.steps(point), self.num_steps[point]))
        share, rest = np.divmod(gaps, pieces)
        # The first rows of a record get the updates that are left over. The first is never empty,
        # because it makes the record.
        spread = share[:, None] + (np.arange(pieces) < rest[:, None])
        return spread.reshape(-1).astype(np.int32)


def schedule(
    num_steps: int | None,
    tau: float | None,
    rates: np.ndarray,
    *,
    record_every: int | None,
    record_at: Sequence[int] | np.ndarray | None,
    num_records: int | None,
    steps_to: Callable[[float], np.ndarray] | None = None,
) -> Schedule:
    """The schedule that the user asks for.

    Args:
      num_steps, tau: updates of every point, or the flow time of every point.
      rates: flow time per step of each point, shape (points,); NaN where no number tells it.
      record_every, record_at, num_records: at most one of them; every step by default.
      steps_to: τ -> updates of each point that take it, shape (points,), looked at for those
        without a rate: infinite where they never do, NaN where nothing tells.

    Returns:
      The schedule of every point.

    Raises:
      ValueError: not exactly one of ``num_steps`` and ``tau``, or more than one way to
        record.
      ArgumentError: a ValueError: a number out of range.
    """
    if (num_steps is None) == (tau is None):
        raise ValueError(f"give num_steps or tau, one of them; got {num_steps!r} and {tau!r}")
    ways = {"record_every": record_every, "record_at": record_at, "num_records": num_records}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) > 1:
        raise ValueError(f"give one of record_every, record_at and num_records, got {given}")
    if num_steps is not None:
        steps = np.full(len(rates), require_count("num_steps", num_steps), np.int64)
    else:
        steps = _steps_of(tau, rates, steps_to)
    if num_records is not None:
        records = require_count("num_records", num_records)
        if records > steps.min():
            allowed = f"at most {steps.min()}, the steps of the point that makes fewest"
            raise ArgumentError("num_records", allowed, shown(records))
        return Schedule(steps, count=records)
    if record_at is not None:
        return Schedule(steps, at=_validated_steps(record_at, int(steps.max())))
    every = 1 if record_every is None else require_count("record_every", record_every)
    return Schedule(steps, every=every)


def flow_time_per_step(state: Any) -> float:
    """The clock of an update rule.

    Args:
      state: of the optimizer, at the start.

    Returns:
      τ that one step takes; NaN where no rule within the state tells it, and where it follows a
      schedule, so that no number tells it.
    """
    rate = edge_dynamics(state).intrinsic_rate
    return math.nan if rate is None or scheduled_states(state) else float(rate)


def require_count(name: str, value: Any) -> int:
    """An integer of at least 1, as a Python number.

    Args:
      name: what to call it in the error.
      value: the number.

    Returns:
      The number.

    Raises:
      ValueError: anything else.
    """
    COUNT.require(name, value)
    return int(value)


def plain(value: Any) -> Any:
    """A number, or a tuple of them, of Python.

    Args:
      value: a scalar or an array of numpy, jax, pandas or xarray, or what contains these.

    Returns:
      The number for a scalar or an array without axes, tuples for arrays and lists; all else is
      what it is.
    """
    if hasattr(value, "__array__"):
        value = np.asarray(value).tolist()
    return tuple(plain(item) for item in value) if isinstance(value, (list, tuple)) else value


def _steps_of(
    tau: Any, rates: np.ndarray, steps_to: Callable[[float], np.ndarray] | None
) -> np.ndarray:
    POSITIVE.require("tau", tau)
    # Rounded and not cut off: τ/ηλ is often a whole number that comes out a hair below it.
    steps = np.rint(np.divide(tau, rates, out=np.full(len(rates), np.inf), where=rates > 0))
    without = np.isnan(rates)
    if without.any():
        steps[without] = np.nan if steps_to is None else steps_to(tau)[without]
    if not np.all(np.isfinite(steps)):
        slowest = (
            "the update rule tells no flow time per step"
            if np.isnan(steps).any()
            else "its schedule lets the rates fall too soon"
            if without[np.isinf(steps)].any()
            else f"the least flow time per step is {np.nanmin(rates):g} "
            "(for gdwd it is learning_rate * weight_decay)"
        )
        allowed = f"a flow time that every point reaches, but {slowest}: give num_steps instead"
        raise ArgumentError("tau", allowed, shown(tau))
    steps = np.maximum(steps, 1.0)
    if steps.max() > MOST:
        allowed = f"a flow time of at most {MOST} steps; the slowest point takes {steps.max():.3g}"
        raise ArgumentError("tau", allowed, shown(tau))
    return steps.astype(np.int64)


def _validated_steps(record_at: Any, most: int) -> tuple[int, ...]:
    steps = np.asarray(record_at)
    if steps.ndim != 1 or not np.issubdtype(steps.dtype, np.integer) or not steps.size:
        raise ValueError(
            "record_at must be a vector of integer steps, at least one, "
            f"got shape {steps.shape} of dtype {steps.dtype}"
        )
    before = np.append(-1, steps[:-1])
    wrong = np.flatnonzero((steps <= before) | (steps >= most))
    if wrong.size:
        index = int(wrong[0])
        least = f"above {before[index]}, the step before" if index else "at least 0"
        allowed = f"{least}, and at most {most - 1}"
        raise ArgumentError(f"record_at[{index}]", allowed, shown(int(steps[index])))
    return tuple(int(step) for step in (steps if steps[0] == 0 else [0, *steps]))

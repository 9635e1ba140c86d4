"""Learning rate and weight decay of the central flow: numbers, or courses over flow time."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from sharpflow.models.arguments import POSITIVE, ArgumentError, Kind, shown
from sharpflow.theory.arguments import validate_rates
from sharpflow.theory.log_rate import LOG_RATE, Knots, LogRate

RateOverTime = float | tuple[Float[Array | np.ndarray, " n"], Float[Array | np.ndarray, " n"]]

# Of the logarithm of a rate, between two knots in steps of GD. A line of it over flow time is then
# one over steps to 1e-5; ten times as much would show beside the error of a step.
_FINE = 1e-2
# Response of a threshold, by which a break in a schedule is judged: that of GD+WD.
_RESPONSE = 2.0

_COURSE = Kind(
    "a number, or two vectors, flow times that do not decrease and the positive rate at each",
    lambda value: LOG_RATE.fits(value) and bool(np.all(np.asarray(value[1]) > 0)),
)


@chex.dataclass(frozen=True)
class Course:
    """A rate that changes.

    Attributes:
      first: the rate at time 0, shape ().
      log: its logarithm, less that of ``first``, over the time of the flow, in steps of GD.
    """

    first: Float[Array, ""]
    log: LogRate

    def at(self, time: Array) -> Float[Array, ""]:
        """The rate at a time.

        Args:
          time: in steps of GD, shape ().
        """
        return self.first * jnp.exp(self.log.at(time))


@chex.dataclass(frozen=True)
class Rates:
    """η and λ over the time of the flow.

    Attributes:
      learning_rate, weight_decay: numbers of shape (), or courses.
    """

    learning_rate: Array | Course
    weight_decay: Array | Course

    def at(self, time: Array) -> tuple[Array, Array]:
        """η and λ at a time, shape () each.

        Args:
          time: in steps of GD, shape ().
        """
        return tuple(  # type: ignore[return-value]
            rate.at(time) if isinstance(rate, Course) else rate
            for rate in (self.learning_rate, self.weight_decay)
        )

    def edge(self, time: Array) -> Float[Array, ""]:
        """The largest stable eigenvalue of ∇²L(w) at a time, 2/η − λ.

        Args:
          time: in steps of GD, shape ().
        """
        learning_rate, weight_decay = self.at(time)
        return 2.0 / learning_rate - weight_decay

    def over(self, start: Array, end: Array) -> tuple[Array, Array]:
        """The mean of η over a step of the flow, and that of λ with the weight η, shape () each.

        With them a step has the ∫η dt and ∫ηλ dt of its rates, by Simpson's rule. Differences of
        integrals would lose the short steps of a long flow in float32.

        Args:
          start, end: of the step, in steps of GD, shape ().
        """
        learning_rate, weight_decay = self.learning_rate, self.weight_decay
        places = (start, 0.5 * (start + end), end)
        (eta0, decay0), (eta1, decay1), (eta2, decay2) = map(self.at, places)
        if isinstance(learning_rate, Course):
            learning_rate = (eta0 + 4.0 * eta1 + eta2) / 6.0
        if isinstance(weight_decay, Course):
            product = (eta0 * decay0 + 4.0 * eta1 * decay1 + eta2 * decay2) / 6.0
            weight_decay = product / learning_rate
        return learning_rate, weight_decay


@dataclasses.dataclass(frozen=True)
class Timetable:
    """A central flow on its own time, which counts steps of GD.

    Attributes:
      rates: for compiled code.
      outputs: that time at the output times, from 0 on, shape (T,).
      breaks: at which a step should end, because a rate jumps or turns there, shape (n,).
      edge: 2/η − λ, shape (), or at the output times where a rate changes, (T,).
      tau_at: time -> τ.
      unit: τ of a unit of time; None where it changes.
    """

    rates: Rates
    outputs: np.ndarray
    breaks: np.ndarray
    edge: Float[Array, " T"] | Float[Array, ""]
    tau_at: Callable[[float], float]
    unit: float | None = None

    def in_steps(self, step_size: float) -> float:
        """A fixed step in τ, in steps of GD.

        Raises:
          ValueError: with a schedule.
        """
        if self.unit is None:
            raise ValueError(
                "step_size must be None with a schedule, whose steps of gradient descent take "
                f"changing flow times, got {step_size:g}"
            )
        return step_size / self.unit


def timetable(
    learning_rate: RateOverTime,
    weight_decay: RateOverTime,
    intrinsic_rate: float | None,
    times: np.ndarray,
    dtype: DTypeLike,
) -> Timetable:
    """What a central flow needs to know of time.

    Args:
      learning_rate, weight_decay, intrinsic_rate: as of ``central_flow``.
      times: output times τ, increasing, shape (T,).
      dtype: of the flow.

    Raises:
      ArgumentError: a ValueError: rates out of range, or of a course that is none.
    """
    if not _changes(learning_rate) and not _changes(weight_decay):
        validate_rates(learning_rate, weight_decay)  # type: ignore[arg-type]
        clock = _clock(learning_rate, weight_decay, intrinsic_rate)
        return Timetable(
            rates=Rates(
                learning_rate=jnp.asarray(learning_rate, dtype),
                weight_decay=jnp.asarray(weight_decay, dtype),
            ),
            outputs=(times - times[0]) / clock,
            breaks=np.zeros(0),
            edge=jnp.asarray(2.0 / learning_rate - weight_decay, dtype),  # type: ignore[operator]
            tau_at=lambda time: float(times[0] + clock * time),
            unit=clock,
        )
    eta = _Logarithm.of("learning_rate", learning_rate, dtype)
    decay = _Logarithm.of("weight_decay", weight_decay, dtype)
    if intrinsic_rate is None and weight_decay == 0:
        _clock(0.0, 0.0, None)
    breaks = np.union1d(eta.breaks, decay.breaks)
    breaks = breaks[(breaks > times[0]) & (breaks < times[-1])]
    tau = _grid(eta, decay, np.union1d(times, breaks))
    log_eta, log_decay = eta.at(tau), decay.at(tau)
    largest = float(np.max(np.exp(log_eta + log_decay)))
    if not largest < 1:
        raise ArgumentError("learning_rate * weight_decay", "below 1", shown(largest))
    if intrinsic_rate is None:
        log_clock = log_eta + log_decay
    else:
        POSITIVE.require("intrinsic_rate", intrinsic_rate)
        log_clock = np.full(tau.shape, np.log(float(intrinsic_rate)))
    time = _time(tau, log_clock)
    outputs = time[np.searchsorted(tau, times)]
    edge = 2.0 * np.exp(-eta.at(times)) - np.exp(decay.at(times))
    return Timetable(
        rates=Rates(
            learning_rate=eta.course(time, log_eta, dtype),
            weight_decay=decay.course(time, log_decay, dtype),
        ),
        outputs=outputs,
        breaks=time[np.searchsorted(tau, breaks)],
        edge=jnp.asarray(edge, dtype),
        tau_at=lambda at: float(np.interp(at, time, tau)),
    )


class _Logarithm(NamedTuple):
    """The logarithm of a rate over flow time.

    Attributes:
      number: the rate, where it does not change; NaN where it does.
      first: log of the rate at the first of the knots; minus infinity for a rate of 0.
      knots: None where it does not change.
    """

    number: float
    first: float
    knots: Knots | None

    @classmethod
    def of(cls, name: str, rate: Any, dtype: DTypeLike) -> "_Logarithm":
        """Of a number or a course, after its check.

        Args:
          name: of the argument.
          rate: it.
          dtype: of the flow.
        """
        if not _changes(rate):
            # the product of both is checked where it is known
            validate_rates(**{"learning_rate": 1e-300, "weight_decay": 0.0} | {name: rate})
            with np.errstate(divide="ignore"):
                return cls(float(rate), float(np.log(float(rate))), None)
        _COURSE.require(name, rate)
        tau, values = (np.asarray(one, np.float64) for one in rate)
        knots = Knots.of((tau, np.log(values)), dtype, name)
        return cls(np.nan, float(np.log(values[0])), knots)

    def at(self, tau: np.ndarray) -> np.ndarray:
        if self.knots is None:
            return np.full(np.shape(tau), self.first)
        return self.first + np.interp(tau, self.knots.tau, self.knots.values)

    @property
    def breaks(self) -> np.ndarray:
        return np.zeros(0) if self.knots is None else self.knots.breaks(_RESPONSE)

    def course(self, time: np.ndarray, values: np.ndarray, dtype: DTypeLike) -> Array | Course:
        """For compiled code, over the time of the flow."""
        if self.knots is None:
            return jnp.asarray(self.number, dtype)
        return Course(
            first=jnp.asarray(np.exp(values[0]), dtype),
            log=Knots.told_apart(time, values - values[0], dtype).compiled(dtype),
        )


def _grid(eta: _Logarithm, decay: _Logarithm, tau: np.ndarray) -> np.ndarray:
    """Flow times, with those of all knots between them, and more where a rate changes a lot."""
    for one in (eta, decay):
        if one.knots is not None:
            known = one.knots.tau
            tau = np.union1d(tau, known[(known > tau[0]) & (known < tau[-1])])
    if len(tau) == 1:
        return tau
    change = np.maximum(*(np.abs(np.diff(np.nan_to_num(one.at(tau)))) for one in (eta, decay)))
    count = np.maximum(np.ceil(change / _FINE), 1.0).astype(int)
    first = np.repeat(np.cumsum(count) - count, count)
    share = (np.arange(count.sum()) - first) / np.repeat(count, count)
    return np.append(np.repeat(tau[:-1], count) + share * np.repeat(np.diff(tau), count), tau[-1])


def _time(tau: np.ndarray, log_clock: np.ndarray) -> np.ndarray:
    """∫ e^{−log clock} dτ up to each flow time, exact where log clock is a line between them."""
    middle, half = 0.5 * (log_clock[1:] + log_clock[:-1]), 0.5 * np.diff(log_clock)
    flat = np.abs(half) < 1e-6
    stretch = np.where(flat, 1.0, np.sinh(half) / np.where(flat, 1.0, half))
    return np.append(0.0, np.cumsum(np.diff(tau) * np.exp(-middle) * stretch))


def _changes(rate: Any) -> bool:
    return isinstance(rate, (tuple, list))


def _clock(learning_rate: Any, weight_decay: Any, intrinsic_rate: float | None) -> float:
    """The τ of a step of GD."""
    if intrinsic_rate is None and weight_decay == 0:
        raise ValueError(
            "intrinsic_rate must be given where weight_decay is 0: τ = ηλ t would stand still"
        )
    clock = learning_rate * weight_decay if intrinsic_rate is None else intrinsic_rate
    POSITIVE.require("intrinsic_rate", clock)
    return float(clock)

"""What a schedule of the learning rate adds to the threshold of a flow."""

from typing import Any, NamedTuple

import chex
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from sharpflow.models.arguments import ArgumentError, Kind, array, shown

# In τ, of the line that stands for a jump. A step of a flow has ten thousand times as much, and a
# run makes the jump within a step of some 1e-5. In float32 it is made of as many roundings of τ.
_JUMP = 1e-7
_ROUNDINGS = 64
# Of b, by which the slope changes where a step of the flow is to end, and of log η, by which this
# must tell over the shorter line. Anywhere else a step goes over a knot, and takes the mean of both
# slopes. Knots of a smooth schedule have a hundredth of this; a step would end at each of them.
_BREAK = 0.1
_TOLD = 1e-3
# Knots of the shortest program: they cost nothing beside a step, and a flow is compiled for a
# number of them. With 16 the lengths below a thousand would have six programs more.
_SHORTEST = 1024

LOG_RATE = Kind(
    "two vectors, flow times that do not decrease and the logarithm of the learning rate at each",
    lambda value: (
        isinstance(value, (tuple, list))
        and len(value) == 2
        and all(map(array(1).fits, value))
        and len(value[0]) == len(value[1]) >= 2
    ),
)


@chex.dataclass(frozen=True)
class LogRate:
    """log η along lines between knots, ready for compiled code.

    Attributes:
      tau: increasing flow times, shape (K,).
      values: log η at each, up to a constant, shape (K,); outside it stays.
    """

    tau: Float[Array, " K"]
    values: Float[Array, " K"]

    def change(self, start: Array, end: Array) -> Float[Array, ""]:
        """log η(end) − log η(start).

        Differences of the same numbers, so that over many steps no rounding adds up.

        Args:
          start, end: flow times, shape ().
        """
        return self.at(end) - self.at(start)

    def slope(self, tau: Array, window: Array | float) -> Float[Array, ""]:
        """The mean of d log η/dτ from a flow time on, shape ().

        Args:
          tau: shape ().
          window: flow time to take it over, shape ().
        """
        return self.change(tau, tau + window) / window

    def at(self, tau: Array) -> Float[Array, ""]:
        """log η, up to the constant.

        Args:
          tau: shape ().
        """
        return jnp.interp(tau, self.tau, self.values)


class Knots(NamedTuple):
    """A schedule on the host, in double precision.

    Attributes:
      tau: increasing flow times, shape (K,).
      values: log η at each, shape (K,).
    """

    tau: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, given: Any, dtype: DTypeLike, name: str = "log_rate") -> "Knots":
        """The knots of what a user gave, with a short line in place of each jump.

        Args:
          given: flow times and log η at each.
          dtype: that has to tell the times apart.
          name: of the argument.

        Raises:
          ArgumentError: a ValueError: times that decrease, or stand more than twice.
        """
        tau, values = (np.asarray(one, np.float64) for one in given)
        gaps = np.diff(tau)
        if np.any(gaps < 0) or np.any((gaps[1:] == 0) & (gaps[:-1] == 0)):
            allowed = "flow times that do not decrease, a jump where one stands twice"
            raise ArgumentError(name, allowed, shown(tau.tolist()))
        jumps = np.flatnonzero(gaps == 0)
        before = np.append(-np.inf, tau)[jumps]  # the knot before the first of each pair
        widest = 0.5 * (tau[jumps] - before)
        rounding = _ROUNDINGS * np.finfo(np.dtype(dtype)).eps * np.abs(tau[jumps])
        # Before the jump, so that at its time the new rate holds, as it does at a step of a run.
        tau = tau.copy()
        tau[jumps] -= np.minimum(np.maximum(_JUMP, rounding), widest)
        return cls.told_apart(tau, values - values[0], dtype)

    @classmethod
    def told_apart(cls, tau: np.ndarray, values: np.ndarray, dtype: DTypeLike) -> "Knots":
        """The knots that a dtype tells apart, of those that it does not the last.

        Args:
          tau: flow times that do not decrease, shape (n,).
          values: at each, shape (n,).
          dtype: of the flow.
        """
        held = tau.astype(dtype).astype(np.float64)
        kept = np.append(np.diff(held) > 0, True)
        return cls(held[kept], values[kept])

    def compiled(self, dtype: DTypeLike) -> LogRate:
        """The same for compiled code, padded to a length that most schedules share.

        Args:
          dtype: of the flow.
        """
        count = len(self.tau)
        missing = max(_SHORTEST, 1 << (count - 1).bit_length()) - count
        beyond = self.tau[-1] + 1.0 + np.arange(missing)
        return LogRate(
            tau=jnp.asarray(np.append(self.tau, beyond), dtype),
            values=jnp.asarray(np.pad(self.values, (0, missing), mode="edge"), dtype),
        )

    def breaks(self, b: float) -> np.ndarray:
        """Flow times at which the slope jumps, so that a step of the flow should end there.

        Args:
          b: response of the threshold.
        """
        gaps = np.diff(self.tau)
        # outside the knots log η stays
        slopes = np.concatenate([[0.0], np.diff(self.values) / gaps, [0.0]])
        shorter = np.minimum(np.append(np.inf, gaps), np.append(gaps, np.inf))
        turn = np.abs(np.diff(slopes))
        told = turn * np.minimum(shorter, 1.0) >= _TOLD
        return self.tau[(turn >= _BREAK * b) & told]

    def crossing(self, time: float, excess: float, b: float) -> float:
        """When log λ* was higher by ``excess`` than at a time, had nothing but the clock moved it.

        Args:
          time: τ.
          excess: at least 0.
          b: response of the threshold.
        """

        def higher(tau: Any) -> Any:
            at = np.interp(time, self.tau, self.values)
            return b * (time - tau) + at - np.interp(tau, self.tau, self.values)

        known = np.append(self.tau[self.tau < time], time)[::-1]
        above = np.flatnonzero(higher(known) >= excess)
        if not above.size:
            return float(known[-1] - (excess - higher(known[-1])) / b)
        place = int(above[0])
        if place == 0:
            return time
        ends = known[place - 1 : place + 1]
        return float(np.interp(excess, higher(ends), ends))

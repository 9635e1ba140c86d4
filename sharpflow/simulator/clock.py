"""The clock of a rule whose rates follow a schedule: flow time and rates at every step."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from sharpflow.models.arguments import ArgumentError, shown
from sharpflow.models.representation import Summary, span, summarized
from sharpflow.simulator.rules.edge_rule import edge_dynamics
from sharpflow.simulator.rules.scheduled import (
    ScheduledUpdate,
    scheduled_states,
    scheduled_update,
)

# Steps that are evaluated at a time. Ten times as many would need 50 MB of numbers; a tenth as many
# would make a schedule of a million steps take seconds.
_BLOCK = 1 << 16
# Blocks that are searched for the step at which a flow time is reached, 134 million steps: more
# than a run has, and ten times as many would let a decay that never gets there look for minutes.
_MOST_BLOCKS = 1 << 11
# Of a step, by which τ between two knots may be off, and of log η and log ηλ. A record is a whole
# number of steps, so that a hundredth of one is never seen; ten times fewer would be three times as
# many knots.
_STEP_SHARE = 1e-2
_LOG_ERROR = 1e-6
# Of log η, by which a rate falls from a step to the next. A hundredth pauses the drift for 0.005 of
# flow time, a fraction of a step of the flow, to which it is a line as well as a jump.
_JUMP = 1e-2
# The logarithm of a rate of 0, which no flow is given.
_LOG_OF_ZERO = -1e4
_AS_ZERO = 0.5 * _LOG_OF_ZERO


@summarized
@chex.dataclass(frozen=True, mappable_dataclass=False)
class Clock:
    """Flow time and rates by the step, along lines between knots.

    Kept so, and not by the step, because a run of 1e8 steps has a schedule that a few thousand
    knots tell to a hundredth of a step.

    Attributes:
      step: increasing steps, whole numbers, shape (K,).
      tau: Σ η_s λ_s, or Σ η_s²/2, over the steps from the first knot to before each, shape (K,).
      log_intrinsic_rate: log of the flow time of each of these steps, shape (K,).
      log_rate: log η̃ of each at a fixed w, up to a constant: what a schedule adds to −log λ*,
        shape (K,).
    """

    step: np.ndarray
    tau: np.ndarray
    log_intrinsic_rate: np.ndarray
    log_rate: np.ndarray

    def tau_at(self, step: np.ndarray | float) -> np.ndarray:
        """Flow time before some steps, shape (...).

        Args:
          step: numbers of updates, within the knots, shape (...).
        """
        return np.interp(step, self.step, self.tau)

    def rate_at(self, step: np.ndarray | int) -> np.ndarray:
        """Flow time that some steps take, shape (...).

        Args:
          step: as of ``tau_at``.
        """
        return np.exp(np.interp(step, self.step, self.log_intrinsic_rate))

    def step_at(self, tau: np.ndarray | float) -> np.ndarray:
        """The step at which some flow times are reached, which need not be whole, shape (...).

        Args:
          tau: flow times since the first knot, shape (...).
        """
        # where a rate is 0 the clock stands still, and its first step there is meant
        moving = np.append(True, np.diff(self.tau) > 0)
        return np.interp(tau, self.tau[moving], self.step[moving])

    def log_rate_around(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """log η̃ at a fixed w over flow time, as ``sharpness_flow`` takes it.

        Args:
          first, last: steps within the knots, between which no rate may be 0.

        Returns:
          Flow times since the first knot, and log η̃ at each, shape (n,) both, of these steps and
          of those before and after with a rate above 0. A jump down stands at the step with the
          new rate, its flow time twice: until then the steps have the old one. A jump up is a line
          of one step, for no flow can follow it at once.

        Raises:
          ValueError: a rate of 0 in between, at which the threshold is infinite.
        """
        zero = self.log_rate <= _AS_ZERO
        why = "learning_rate is 0 at step {} of trajectory, where the threshold is infinite"
        part = self._without_zeros(first, last, zero, why)
        step, tau, log_rate = self.step[part], self.tau[part], self.log_rate[part]
        falls = (np.diff(step) == 1) & (np.diff(log_rate) < -_JUMP)
        return _with_jumps(falls, tau, log_rate)

    def rates_around(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """log η̃ at a fixed w and log of the flow time of a step, over flow time.

        Args:
          first, last: as of ``log_rate_around``.

        Returns:
          Flow times since the first knot, and both at each, shape (n,) all, with jumps of η as of
          ``log_rate_around``. A jump of the flow time of a step alone, by the weight decay, stands
          at its time twice, up or down.

        Raises:
          ValueError: a step in between that takes no flow time.
        """
        zero = self.log_intrinsic_rate <= _AS_ZERO
        why = "learning_rate * weight_decay is 0 at step {} of trajectory, where flow time stands"
        part = self._without_zeros(first, last, zero, why)
        step, tau, log_rate = self.step[part], self.tau[part], self.log_rate[part]
        log_clock = self.log_intrinsic_rate[part]
        change = np.diff(log_rate)
        falls = change < -_JUMP
        of_decay = (np.abs(np.diff(log_clock) - change) > _JUMP) & (change <= _JUMP)
        return _with_jumps((np.diff(step) == 1) & (falls | of_decay), tau, log_rate, log_clock)

    def _without_zeros(self, first: int, last: int, zero: np.ndarray, why: str) -> slice:
        """The knots around some steps up to those where something is 0; none may be in between."""
        step = self.step[zero]
        between = step[(step >= first) & (step <= last)]
        if between.size:
            raise ValueError(
                f"{why.format(between[0])}: no flow is predicted through it. Let its schedule stay "
                "above 0"
            )
        begin = max(step[step < first], default=self.step[0] - 1)
        end = min(step[step > last], default=self.step[-1] + 1)
        inside = np.flatnonzero((self.step > begin) & (self.step < end))
        return slice(inside[0], inside[-1] + 1)

    def _summary(self) -> Summary:
        return Summary(
            f"Clock of a schedule, {len(self.step):,} knots",
            [
                ("step t", span(self.step)),
                ("flow time τ", span(self.tau)),
                ("flow time of a step", span(np.exp(self.log_intrinsic_rate))),
            ],
        )


def clock_of(update: Any, state: Any, first: int, last: int) -> Clock | None:
    """The clock of a rule with schedules over the steps of a run.

    It is computed here from the schedules, which are functions of the step alone: a sum over the
    steps in double precision. A sum within a run in single precision would lose the small terms.

    Args:
      update: of an optax transformation.
      state: of it.
      first, last: steps, of which the last is the one after the last update.

    Returns:
      The clock; None for a rule without a schedule, of which one number tells the flow time of
      every step, and for one that hides its schedule, of which nothing is known.

    Raises:
      ArgumentError: a ValueError: a rate of a step that is negative or not finite, or ηλ ≥ 1.
    """
    following = _followed(update, state)
    if following is None:
        return None
    knots: list[np.ndarray] = []
    tau = 0.0
    for begin in range(first, last + 1, _BLOCK):
        # one more step, which begins the next block: neighbours share a knot
        steps = np.arange(begin, min(begin + _BLOCK, last) + 1)
        rate, log_rate = _rates(*following, steps)
        time = tau + np.concatenate([[0.0], np.cumsum(rate[:-1])])
        table = np.stack([steps, time, _logarithm(rate), log_rate])
        error = np.array([_STEP_SHARE * max(rate.mean(), 1e-300), _LOG_ERROR, _LOG_ERROR])
        kept = _knots(table[0], table[1:] / error[:, None])
        # of neighbouring blocks the second has the shared step
        knots.append(table[:, kept[:-1] if steps[-1] < last else kept])
        tau = time[-1]
        if steps[-1] == last:
            break
    step, time, log_intrinsic_rate, log_rate = np.concatenate(knots, axis=1)
    return Clock(
        step=step.astype(np.int64),
        tau=time,
        log_intrinsic_rate=log_intrinsic_rate,
        log_rate=log_rate,
    )


def steps_to(update: Any, state: Any, first: int, tau: float) -> float:
    """How many updates of a rule with schedules take a flow time, to the nearest.

    Args:
      update, state: as of ``clock_of``.
      first: step from which on they are made.
      tau: flow time of all of them.

    Returns:
      A whole number; infinite where a hundred million steps do not take it, or the clock stands
      still for a whole block of them; NaN where there is no clock.

    Raises:
      ArgumentError: as ``clock_of``.
    """
    following = _followed(update, state)
    if following is None:
        return np.nan
    before = 0.0
    for begin in range(first, first + _MOST_BLOCKS * _BLOCK, _BLOCK):
        steps = np.arange(begin, begin + _BLOCK)
        numbers, rate, _ = _evaluated(*following, steps)
        after = before + np.cumsum(rate)
        reached = np.flatnonzero(after >= tau)
        # after the last step that is made a schedule need not make sense
        count = reached[0] + 1 if reached.size else _BLOCK
        _require_possible(numbers, rate, steps[:count])
        if reached.size:
            # not this step where τ is nearer to its begin than to its end
            shorter = after[count - 1] - tau > 0.5 * rate[count - 1]
            return float(begin - first + count - int(shorter))
        if not np.any(rate):  # nobody waits longer for it to move on
            return np.inf
        before = after[-1]
    return np.inf


def _followed(update: Any, state: Any) -> tuple[ScheduledUpdate, Any] | None:
    """The schedules of a rule with a clock, and the state that follows them; else None."""
    following, states = scheduled_update(update), scheduled_states(state)
    if following is None or len(states) != 1 or edge_dynamics(state).intrinsic_rate is None:
        return None
    return following, states[0]


def _rates(update: ScheduledUpdate, state: Any, steps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flow time of each step, and log η̃ at a fixed w, both of shape (n,)."""
    numbers, rate, step_size = _evaluated(update, state, steps)
    _require_possible(numbers, rate, steps)
    return rate, _logarithm(step_size)


def _evaluated(
    update: ScheduledUpdate, state: Any, steps: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """The numbers of some steps, their flow times, and η̃ at a fixed w, each of shape (n,)."""
    unit = {"w": jnp.ones((1,), jax.tree.leaves(state.numbers)[0].dtype)}

    def of_step(step: Any) -> tuple[Any, Any, Any]:
        there = update.at_step(state, step)
        rule = edge_dynamics(there)
        effective = rule.effective_learning_rate
        step_size = rule.step_size if effective is None else effective(unit)
        return there.numbers, rule.intrinsic_rate, step_size

    # Whole blocks, so that jax compiles each of these operations for one length.
    padded = np.pad(steps, (0, max(_BLOCK + 1 - len(steps), 0)), mode="edge")
    told = jax.vmap(of_step)(jnp.asarray(padded, jnp.int32))
    numbers, rate, step_size = jax.tree.map(
        lambda values: np.asarray(values, np.float64)[: len(steps)], told
    )
    return numbers, rate, step_size


def _require_possible(numbers: dict[str, np.ndarray], rate: np.ndarray, steps: np.ndarray) -> None:
    """Refuse rates of these steps that cannot be; of later ones nothing is asked."""
    for name, values in numbers.items():
        values = values[: len(steps)]
        wrong = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
        if wrong.size:
            at = f"{name} at step {steps[wrong[0]]}"
            raise ArgumentError(at, "at least 0 and finite", shown(float(values[wrong[0]])))
    rate = rate[: len(steps)]
    if np.any(large := ~(rate < 1)):
        at = f"learning_rate * weight_decay at step {steps[np.argmax(large)]}"
        raise ArgumentError(at, "below 1", shown(float(rate[np.argmax(large)])))


def _with_jumps(after: np.ndarray, tau: np.ndarray, *columns: np.ndarray) -> tuple:
    """Knots, of which those after a jump stand twice, first with the values of the one before."""
    jumps = 1 + np.flatnonzero(after)
    held = (np.insert(column, jumps, column[jumps - 1]) for column in columns)
    return (np.insert(tau, jumps, tau[jumps]), *held)


def _logarithm(rate: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.maximum(np.log(rate), _LOG_OF_ZERO)


def _knots(x: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Places between which lines are nowhere off by more than 1, the first and the last included.

    Args:
      x: increasing, shape (n,).
      values: shape (q, n).

    Source: Douglas and Peucker 1973.
    """
    kept, waiting = {0, len(x) - 1}, [(0, len(x) - 1)]
    while waiting:
        low, high = waiting.pop()
        if high - low < 2:
            continue
        part = slice(low, high + 1)
        share = (x[part] - x[low]) / (x[high] - x[low])
        line = values[:, low, None] + share * (values[:, high, None] - values[:, low, None])
        off = np.max(np.abs(values[:, part] - line), axis=0)
        if off.max() > 1.0:
            middle = low + int(np.argmax(off))
            kept.add(middle)
            waiting += [(low, middle), (middle, high)]
    return np.array(sorted(kept))

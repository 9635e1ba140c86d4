"""Schedules of a rate that a run often has, each a share of its largest value."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array

from sharpflow.models.arguments import COUNT, POSITIVE, ArgumentError, Kind, checked, number, shown
from sharpflow.models.representation import words
from sharpflow.simulator.rules.scheduled import RateSchedule

_FINAL_SHARE = number(least=0, most=1)
_STEPS = Kind(
    "a sequence of increasing steps, each at least 1",
    lambda value: (
        isinstance(value, Sequence)
        and not isinstance(value, (str, bytes))
        and len(value) > 0
        and all(map(COUNT.fits, value))
        and all(before < after for before, after in itertools.pairwise(value))
    ),
)


# A class and no closure: equal schedules are equal, so that runs with them share compiled code, and
# a trajectory can say how its rate went.
@dataclasses.dataclass(frozen=True, repr=False)
class _Scaled:
    """A rate times a schedule of optax that goes up to 1.

    Attributes:
      name: of the function that made it.
      rate: its largest value, a number or a traced scalar.
      shape: the numbers of ``options`` -> schedule.
      options: by name.
    """

    name: str
    rate: Any
    shape: Callable[..., RateSchedule]
    options: tuple[tuple[str, Any], ...]

    def __call__(self, step: Array) -> Array:
        # In double precision too jax divides integers of 32 bits in single precision, which leaves
        # an error of 1e-6 near the end of a decay.
        step = jnp.asarray(step, float)
        return self.rate * self.shape(**dict(self.options))(step)

    def __repr__(self) -> str:
        options = (f"{name}={words(value)}" for name, value in self.options)
        return f"{self.name}({', '.join([words(self.rate), *options])})"


@checked(rate=POSITIVE, at=_STEPS, factor=POSITIVE)
def step_decay(rate: float, at: Sequence[int], factor: float = 0.1) -> RateSchedule:
    """A rate that is multiplied by a factor at each of some steps.

    Args:
      rate: before the first of them; a number or a traced scalar.
      at: increasing steps, the first ones with the new rate.
      factor: of each of them.

    Returns:
      step -> rate, for ``gdwd``, ``momentum`` and ``quasi_rmsprop``.

    Raises:
      ValueError: a number out of range.
    """
    return _Scaled(
        "step_decay", rate, _steps, (("at", tuple(map(int, at))), ("factor", float(factor)))
    )


@checked(rate=POSITIVE, num_steps=COUNT, final_share=_FINAL_SHARE)
def linear_decay(rate: float, num_steps: int, final_share: float = 0.0) -> RateSchedule:
    """A rate that falls along a line, and stays at its end.

    Args:
      rate: at step 0; a number or a traced scalar.
      num_steps: the step of its end.
      final_share: of the rate, there.

    Returns:
      step -> rate, for ``gdwd``, ``momentum`` and ``quasi_rmsprop``.

    Raises:
      ValueError: a number out of range.
    """
    return _Scaled(
        "linear_decay",
        rate,
        _line,
        (("num_steps", int(num_steps)), ("final_share", float(final_share))),
    )


@checked(rate=POSITIVE, num_steps=COUNT, final_share=_FINAL_SHARE)
def cosine_decay(rate: float, num_steps: int, final_share: float = 0.0) -> RateSchedule:
    """A rate that falls along half a period of a cosine, and stays at its end.

    Args:
      rate: at step 0; a number or a traced scalar.
      num_steps: the step of its end.
      final_share: of the rate, there.

    Returns:
      step -> rate, for ``gdwd``, ``momentum`` and ``quasi_rmsprop``.

    Raises:
      ValueError: a number out of range.

    Source: Loshchilov and Hutter 2017, arXiv 1608.03983.
    """
    return _Scaled(
        "cosine_decay",
        rate,
        _cosine,
        (("num_steps", int(num_steps)), ("final_share", float(final_share))),
    )


@checked(rate=POSITIVE, num_steps=COUNT)
def warmup(rate: float, num_steps: int) -> RateSchedule:
    """A rate that rises along a line, and stays.

    Args:
      rate: from the last step of the line on; a number or a traced scalar.
      num_steps: steps of the line, of which the first has the rate over ``num_steps``: at a rate of
        zero a step would do nothing, and its threshold would be infinite.

    Returns:
      step -> rate, for ``gdwd``, ``momentum`` and ``quasi_rmsprop``.

    Raises:
      ValueError: a number out of range.
    """
    return _Scaled("warmup", rate, _rise, (("num_steps", int(num_steps)),))


@checked(
    rate=POSITIVE,
    num_steps=COUNT,
    warmup_steps=COUNT,
    decay_steps=COUNT,
    final_share=_FINAL_SHARE,
)
def warmup_stable_decay(
    rate: float,
    num_steps: int,
    *,
    warmup_steps: int,
    decay_steps: int,
    final_share: float = 0.0,
) -> RateSchedule:
    """A rate that rises along a line, stays, and falls along a line.

    Args:
      rate: between the two lines; a number or a traced scalar.
      num_steps: the step of the end of the second.
      warmup_steps: steps of the first, as of ``warmup``.
      decay_steps: steps of the second.
      final_share: of the rate, at the end.

    Returns:
      step -> rate, for ``gdwd``, ``momentum`` and ``quasi_rmsprop``.

    Raises:
      ValueError: a number out of range, or lines that are longer together than ``num_steps``.

    Source: Hu et al. 2024, arXiv 2404.06395.
    """
    if warmup_steps + decay_steps > num_steps:
        allowed = f"at most num_steps = {shown(num_steps)}"
        got = f"{shown(warmup_steps)} + {shown(decay_steps)}"
        raise ArgumentError("warmup_steps + decay_steps", allowed, got)
    options = {
        "num_steps": int(num_steps),
        "warmup_steps": int(warmup_steps),
        "decay_steps": int(decay_steps),
        "final_share": float(final_share),
    }
    return _Scaled("warmup_stable_decay", rate, _trapezium, tuple(options.items()))


def _steps(at: tuple[int, ...], factor: float) -> RateSchedule:
    return optax.piecewise_constant_schedule(1.0, dict.fromkeys(at, factor))


def _line(num_steps: int, final_share: float) -> RateSchedule:
    return _not_below(final_share, optax.linear_schedule(1.0, final_share, num_steps))


def _cosine(num_steps: int, final_share: float) -> RateSchedule:
    return _not_below(final_share, optax.cosine_decay_schedule(1.0, num_steps, final_share))


def _rise(num_steps: int) -> RateSchedule:
    return optax.linear_schedule(1.0 / num_steps, 1.0, num_steps - 1)


def _trapezium(
    num_steps: int, warmup_steps: int, decay_steps: int, final_share: float
) -> RateSchedule:
    fall = _line(decay_steps, final_share)
    return optax.join_schedules([_rise(warmup_steps), fall], [num_steps - decay_steps])


def _not_below(least: float, schedule: RateSchedule) -> RateSchedule:
    """Compiled, the end of a fall to 0 may be rounded to a number below 0."""
    return lambda step: jnp.maximum(schedule(step), least)

"""Courses of the learning rate and the weight decay that the validation of schedules runs."""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import sharpflow as sf
from sharpflow.simulator import cosine_decay, step_decay, warmup

LEARNING_RATE = 0.1  # η₀, of which scale invariance leaves ηλ alone to matter
END = 2.0  # τ, by when rates that grow or shrink like e^{±τ} have done so sevenfold
JUMP = 0.5  # τ, from the edge on, of a step decay
NUM_RECORDS = 400

Rate = float | Callable[[jax.Array], jax.Array]


class Rates(NamedTuple):
    """What a run follows.

    Attributes:
      learning_rate, weight_decay: numbers or schedules.
      num_steps: until τ = ``END``.
    """

    learning_rate: Rate
    weight_decay: Rate
    num_steps: int


@dataclasses.dataclass(frozen=True)
class Course:
    """A schedule in units of the run.

    Attributes:
      words: what it is.
      rates: η₀λ₀ -> what the run follows.
      factor: of a single jump of the learning rate, or 1.
      begins: share of the learning rate at which λ* meets λ_1; 1 where the run begins there.
      largest: learning rate over η₀ at its largest. Errors are of order √(ηλ), so that they may be
        its root times as large.
    """

    words: str
    rates: Callable[[float], Rates]
    factor: float = 1.0
    begins: float = 1.0
    largest: float = 1.0

    @property
    def predicted_pause(self) -> float:
        """½ log r of flow time after a jump of the learning rate to 1/r of it."""
        return 0.5 * math.log(1.0 / self.factor)


def _exponential(h: float) -> Callable[[float], Rates]:
    """η = η₀ e^{hτ}: with dτ = ηλ dt it is η₀/(1 − h η₀λ t)."""

    def rates(rate: float) -> Rates:
        def eta(step: jax.Array) -> jax.Array:
            return LEARNING_RATE / (1.0 - h * rate * step)

        num_steps = round((1.0 - math.exp(-h * END)) / (h * rate))
        return Rates(eta, rate / LEARNING_RATE, num_steps)

    return rates


def _cosine(rate: float) -> Rates:
    # its mean is 0.55 of η₀
    num_steps = round(END / (0.55 * rate))
    return Rates(cosine_decay(LEARNING_RATE, num_steps, 0.1), rate / LEARNING_RATE, num_steps)


def _warmup(rate: float) -> Rates:
    # over τ = 0.3, in which the mean rate is half of η₀
    steps = round(0.3 / (0.5 * rate))
    return Rates(
        warmup(LEARNING_RATE, steps), rate / LEARNING_RATE, steps + round((END - 0.3) / rate)
    )


def _step(factor: float) -> Callable[[float], Rates]:
    def rates(rate: float) -> Rates:
        at = round(JUMP / rate)
        return Rates(
            step_decay(LEARNING_RATE, [at], factor),
            rate / LEARNING_RATE,
            at + round((END - JUMP) / (factor * rate)),
        )

    return rates


def _decay_steps(rate: float) -> Rates:
    """λ halved, and brought back: it enters through the clock alone."""
    first, second = round(0.5 / rate), round(0.5 / rate) + round(1.0 / rate)
    num_steps = second + round((END - 1.0) / rate)

    def decay(step: jax.Array) -> jax.Array:
        halved = (step >= first) & (step < second)
        return jnp.where(halved, 0.5, 1.0) * (rate / LEARNING_RATE)

    return Rates(LEARNING_RATE, decay, num_steps)


COURSES = {
    "growing": Course("η ∝ exp τ", _exponential(1.0), largest=math.exp(END)),
    "shrinking": Course("η ∝ exp(−τ)", _exponential(-1.0)),
    "cosine": Course("η along a cosine to a tenth", _cosine),
    "warm-up": Course("warm-up from below", _warmup, begins=0.6),
    "halved": Course("η halved", _step(0.5), factor=0.5),
    "tenth": Course("η to a tenth", _step(0.1), factor=0.1),
    "weight decay": Course("λ halved and back", _decay_steps),
}


def flow_times(rates: Rates) -> np.ndarray:
    """Flow time after each step of gradient descent, shape (num_steps,).

    Args:
      rates: that it follows.
    """
    step = np.arange(rates.num_steps)

    def values(rate: Rate) -> np.ndarray:
        if not callable(rate):
            return np.full(step.size, rate)
        return np.broadcast_to(np.asarray(jax.vmap(rate)(jnp.asarray(step))), step.shape)

    return np.cumsum(values(rates.learning_rate) * values(rates.weight_decay))


def records(tau: np.ndarray) -> np.ndarray:
    """Steps of records, about evenly over flow time, of which slower rates take more steps.

    Args:
      tau: flow time after each step, shape (num_steps,).
    """
    wanted = np.linspace(0.0, tau[-1], NUM_RECORDS, endpoint=False)
    return np.unique(np.searchsorted(tau, wanted))


def pause(tau: np.ndarray, sharpness: np.ndarray, plain: sf.FlowSolution, course: Course) -> float:
    """By how much flow time λ_1 is late, once it has moved on after the jump.

    Args:
      tau, sharpness: flow times, and λ_1 on Γ at each, shape (T,).
      plain: the flow of a rate that stays.
      course: with a jump; NaN of another.
    """
    if course.factor == 1.0:
        return float("nan")
    resumed = JUMP + course.predicted_pause
    there = np.interp(-sharpness, -np.asarray(plain.eigenvalues[:, 0]), np.asarray(plain.tau))
    late = tau >= 0.5 * (resumed + END)
    # a run is a little late or early anyway, which is no part of the pause
    before = (tau >= 0.5 * JUMP) & (tau <= JUMP)
    return float(np.mean((tau - there)[late]) - np.mean((tau - there)[before]))

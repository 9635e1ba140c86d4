"""η and λ of a trajectory of gradient descent with weight decay, which may follow schedules."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from sharpflow.simulator.rules.edge_rule import EdgeDynamics, edge_dynamics
from sharpflow.simulator.rules.scheduled import scheduled_states
from sharpflow.simulator.trajectory import Trajectory
from sharpflow.theory.rates import RateOverTime

# Relative: what a rule tells of itself is rounded to the dtype of its parameters.
_SAME_NUMBER = 1e-5


class Rates(NamedTuple):
    """η and λ of gradient descent with weight decay: numbers, or at some steps, shape (n,)."""

    learning_rate: float | np.ndarray
    weight_decay: float | np.ndarray


def is_gdwd(trajectory: Trajectory) -> bool:
    """Whether a trajectory was made by plain GD+WD, with schedules or without.

    The central flow is derived for no other rule. A rule is known by all the numbers that it tells.

    Args:
      trajectory: it.
    """
    if trajectory.clock is None:
        return rates_of_gdwd(trajectory) is not None
    told = trajectory.attributes
    numbers = (trajectory.kappa, trajectory.response, trajectory.oscillation_share)
    if not np.allclose(numbers, (0.0, 2.0, 1.0), rtol=_SAME_NUMBER, atol=0.0):
        return False
    if "weight_decay_schedule" in told:
        return True
    # quasi-RMSprop has these numbers too; its clock is η²/2 by the step, at an η̃ that v decides
    decay = rates_at(trajectory, trajectory.clock_tau).weight_decay
    known = told.get("weight_decay", np.nan)
    return bool(np.allclose(decay, known, rtol=_SAME_NUMBER, atol=0.0))


def may_be_gdwd(state: Any) -> bool:
    """Whether a run from this state may be one of plain GD+WD.

    Asked before it runs, so that of a rule with schedules the clock is not known: quasi-RMSprop
    with a schedule is told by ``is_gdwd`` alone.

    Args:
      state: of a rule at its start.
    """
    rule = edge_dynamics(state)
    if not scheduled_states(state):
        return _told_rates(rule.hyperparameters, rule) is not None
    numbers = [
        np.nan if number is None else float(number)
        for number in (rule.kappa, rule.response, rule.oscillation_share)
    ]
    return bool(np.allclose(numbers, (0.0, 2.0, 1.0), rtol=_SAME_NUMBER, atol=0.0))


def rates_of_gdwd(trajectory: Trajectory) -> Rates | None:
    """The rates of a trajectory of plain GD+WD without schedules; None where its rule is another.

    Args:
      trajectory: it.
    """
    return _told_rates(trajectory.attributes, trajectory)


def _told_rates(told: Mapping[str, Any], rule: Trajectory | EdgeDynamics) -> Rates | None:
    """The rates that a rule has if it is plain GD+WD; None if its numbers are those of another.

    Args:
      told: hyperparameters by name, perhaps among others.
      rule: what tells its numbers.
    """
    if not {"learning_rate", "weight_decay"} <= told.keys():
        return None
    learning_rate, weight_decay = float(told["learning_rate"]), float(told["weight_decay"])
    product = learning_rate * weight_decay
    if not 0.0 < product < 1.0 or rule.kappa != 0.0:
        return None
    numbers = (rule.intrinsic_rate, rule.response, rule.oscillation_share, rule.decay_at_rest)
    own = [np.nan if number is None else float(number) for number in numbers]
    of_gdwd = (product, 2.0, 1.0, -2.0 * float(np.log1p(-product)))
    if not np.allclose(own, of_gdwd, rtol=_SAME_NUMBER, atol=0.0):
        return None
    return Rates(learning_rate, weight_decay)


def rates_at(trajectory: Trajectory, tau: np.ndarray | float) -> Rates:
    """η and λ of the steps that begin at some flow times; numbers where there is no schedule.

    Args:
      trajectory: of plain GD+WD.
      tau: flow times, shape (n,).
    """
    if trajectory.clock is None:
        rates = rates_of_gdwd(trajectory)
        assert rates is not None
        return rates
    clock = trajectory.clock
    step = clock.step_at(np.asarray(tau) - trajectory.clock_tau)
    return _of_logarithms(
        np.interp(step, clock.step, clock.log_rate),
        np.interp(step, clock.step, clock.log_intrinsic_rate),
    )


def rates_over_time(trajectory: Trajectory, step: int) -> tuple[RateOverTime, RateOverTime]:
    """η and λ as ``central_flow`` takes them: numbers, or flow times and the rate at each.

    Args:
      trajectory: of plain GD+WD.
      step: from which on they must be known.

    Raises:
      ValueError: a rate of 0 between this step and the last snapshot.
    """
    if trajectory.clock is None:
        return rates_at(trajectory, 0.0)  # type: ignore[return-value]
    last = int(trajectory.snapshot_step[-1])
    tau, log_rate, log_intrinsic_rate = trajectory.clock.rates_around(step, last)
    rates = _of_logarithms(log_rate, log_intrinsic_rate)
    tau = trajectory.clock_tau + tau
    return (tau, rates.learning_rate), (tau, rates.weight_decay)  # type: ignore[return-value]


def _of_logarithms(log_rate: np.ndarray, log_intrinsic_rate: np.ndarray) -> Rates:
    """From log η/(1 − ηλ), of the η̃ that a clock has at ‖w‖ = 1, and log ηλ."""
    intrinsic_rate = np.exp(log_intrinsic_rate)
    learning_rate = np.exp(log_rate) * (1.0 - intrinsic_rate)
    return Rates(learning_rate, intrinsic_rate / learning_rate)

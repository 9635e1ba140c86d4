"""Schedules of other rules beside their flows, and of gradient descent beside the central flow."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import sharpflow as sf
from sharpflow.experiments.checks import Check, exponent_check
from sharpflow.experiments.power_law import fit_power_law
from sharpflow.experiments.validate.courses import (
    COURSES,
    END,
    JUMP,
    LEARNING_RATE,
    flow_times,
    pause,
    records,
)
from sharpflow.experiments.validate.ladder import PERTURBATION, root_mean_square
from sharpflow.models.problem import Params
from sharpflow.simulator import step_decay

_BETA = 0.5
_SHARE = (1.0 - _BETA) / (1.0 + _BETA)
# On both sides of what GD+WD has, 2, of the responses that are validated without a schedule: there
# a wrong place of b in the pause would not show.
_RESPONSE = 4.0
_OF_RULES = ("shrinking", "halved")
_OF_CENTRAL = ("growing", "shrinking", "halved")


@dataclasses.dataclass(frozen=True)
class _Run:
    """A trajectory to be made.

    Attributes:
      params: where it starts, at the edge.
      rule: with a schedule.
      tau: flow time after each of its steps, shape (num_steps,).
    """

    params: Params
    rule: optax.GradientTransformation
    tau: np.ndarray

    def trajectory(self, problem: sf.Problem, progress: bool | None) -> sf.Trajectory:
        """Made, with snapshots about evenly over flow time."""
        return sf.simulate(
            problem,
            self.params,
            self.rule,
            len(self.tau),
            record_at=records(self.tau),
            observables=("threshold", "loss_mean"),
            snapshot_every=1,
            progress=progress,
        )


Make = Callable[[sf.Problem, Params, str, float], _Run]


def checks(
    problem: sf.Problem, theta: Params, rates: Sequence[float], progress: bool | None
) -> list[Check]:
    """Errors of momentum, quasi-RMSprop and the central flow, and with which power they fall.

    Args:
      problem: scale-invariant.
      theta: a point of Γ.
      rates: the small parameter at the start, falling.
      progress: as in ``simulate``.
    """
    rules: dict[str, tuple[Make, float]] = {
        f"momentum, β = {_BETA:g}": (_momentum, 2.0),
        f"quasi-RMSprop, b = {_RESPONSE:g}": (_quasi_rmsprop, _RESPONSE),
    }
    found = []
    for words, (make, b) in rules.items():
        plain = sf.sharpness_flow(problem, theta, np.linspace(0.0, END, 81), b=b, progress=progress)
        for name in _OF_RULES:
            part = f"{words}, {COURSES[name].words}"
            runs = [
                _errors(problem, make(problem, theta, name, rate), None, progress) for rate in rates
            ]
            found += _of_errors(part, name, rates, runs)
            if name == "halved":
                # What the pause is too long by falls with the root of ε: once closer to the limit.
                closer = rates[-1] / 4
                run = _errors(problem, make(problem, theta, name, closer), None, progress)
                statement = "pause of the drift over log(r)/b at ε₀ = {:g}".format
                found += [
                    Check(part, statement(rates[-1]), _pause(runs[-1], plain, name, b)),
                    Check(part, statement(closer), _pause(run, plain, name, b), 0.94, 1.06),
                ]
    for name in _OF_CENTRAL:
        part = f"central flow, {COURSES[name].words}"
        runs = [
            _errors(problem, _gdwd(problem, theta, name, rate), "central_flow", progress)
            for rate in rates
        ]
        found += _of_errors(part, name, rates, runs)
    return found


def _errors(problem: sf.Problem, run: _Run, kind: Any, progress: bool | None) -> Any:
    """The trajectory beside its flow."""
    trajectory = run.trajectory(problem, progress)
    start = {"kind": kind} if kind else {"arrival_step": 0}
    flow = sf.predict(problem, trajectory, num_outputs=81, progress=progress, **start)
    return sf.compare(trajectory, flow, problem, progress=False)


def _of_errors(
    part: str, name: str, rates: Sequence[float], compared: Sequence[Any]
) -> list[Check]:
    found = []
    for column, words, most, least in (
        ("relative_error", "tracking error / distance moved", 0.02, 0.4),
        ("threshold_ratio", "threshold, measured/predicted − 1", 0.01, -math.inf),
    ):
        errors = []
        for one in compared:
            values = one[column].values[one["tau"].values >= 0.5 * END]
            errors.append(root_mean_square(values - (column == "threshold_ratio")))
        high = most * math.sqrt(COURSES[name].largest)
        found.append(Check(part, f"{words} at ε₀ = {rates[-1]:g}", errors[-1], high=high))
        fit = fit_power_law(np.array(rates), np.array(errors))
        found.append(exponent_check(part, f"{words}: exponent in ε₀", fit, least))
    return found


def _pause(compared: Any, plain: sf.FlowSolution, name: str, b: float) -> float:
    """How long the drift rests after a jump, over what is predicted."""
    course = COURSES[name]
    lasted = pause(compared["tau"].values, compared["sharpness"].values, plain, course)
    return lasted / (math.log(1.0 / course.factor) / b)


def _gdwd(problem: sf.Problem, theta: Params, name: str, rate: float) -> _Run:
    rates = COURSES[name].rates(rate)
    params = sf.theory.start_at_edge(
        problem, theta, LEARNING_RATE, rate / LEARNING_RATE, PERTURBATION
    )
    return _Run(params, sf.gdwd(rates.learning_rate, rates.weight_decay), flow_times(rates))


def _momentum(problem: sf.Problem, theta: Params, name: str, rate: float) -> _Run:
    """With the small parameter ηλ/c of docs/other-dynamics.md, section 3."""
    rates = COURSES[name].rates(_SHARE * rate)
    # to the threshold, a learning rate of share · η without momentum is the same
    eta = _SHARE * LEARNING_RATE
    params = sf.theory.start_at_edge(problem, theta, eta, _SHARE * rate / eta, PERTURBATION)
    rule = sf.simulator.momentum(rates.learning_rate, rates.weight_decay, beta=_BETA)
    return _Run(params, rule, flow_times(rates))


def _quasi_rmsprop(problem: sf.Problem, theta: Params, name: str, rate: float) -> _Run:
    """With the small parameter η²/2, so that η = η₀ e^{−τ} is η₀/√(1 + η₀² t)."""
    first = math.sqrt(2.0 * rate)
    if name == "halved":
        at = round(JUMP / rate)
        factor = COURSES[name].factor
        schedule = step_decay(first, [at], factor)
        num_steps = at + round((END - JUMP) / (factor**2 * rate))
    else:
        num_steps = round((math.exp(2.0 * END) - 1.0) / first**2)

        def schedule(step: jax.Array) -> jax.Array:
            return first / jnp.sqrt(1.0 + first**2 * step)

    eta = np.asarray(jax.vmap(schedule)(jnp.arange(num_steps)))
    values, vectors = sf.theory.spherical_sharpness(problem, theta)
    params = jax.tree.map(lambda leaf, v: leaf + PERTURBATION * v[0], theta, vectors)
    rule = sf.quasi_rmsprop(schedule, _RESPONSE, v0=(0.5 * first * float(values[0])) ** 2)
    return _Run(params, rule, np.cumsum(0.5 * np.square(eta)))

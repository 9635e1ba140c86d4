"""What a simulation takes for granted, and what it says where that does not hold."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sharpflow.models import Params, Problem, check_scale_invariance
from sharpflow.models.arguments import ArgumentError, number, shown
from sharpflow.models.caller import warn_caller
from sharpflow.models.invariance import maker, points_around
from sharpflow.models.precision import compiled
from sharpflow.simulator.chunk import Chunk
from sharpflow.simulator.moment import Observable
from sharpflow.simulator.observables import DEFAULT
from sharpflow.simulator.program import EffectiveRate, LoopState, Program
from sharpflow.simulator.rules import edge_dynamics
from sharpflow.theory.arguments import KAPPA

# A rate may be 0, as at the start of a warmup.
_RATE = number(least=0)
_TOLD = ("step_size", "stability_line", "intrinsic_rate", "response", "oscillation_share")


def require_possible_rule(state: Any, params: Params) -> None:
    """Refuse a rule that tells numbers that no descent has, at the start of a trajectory.

    The rules of this package refuse such numbers where they are made. One from outside is known
    by nothing but what it tells.

    Args:
      state: of the optimizer.
      params: w_0.

    Raises:
      ArgumentError: a ValueError that names the number.
    """
    rule = edge_dynamics(state)
    told = {name: getattr(rule, name) for name in _TOLD}
    told["learning_rate"] = rule.hyperparameters.get("learning_rate")
    # η̃ itself is compiled, which takes longer: only where nothing else tells its sign
    if rule.effective_learning_rate is not None and all(value is None for value in told.values()):
        told["effective_learning_rate"] = _effective_rate(state, params)
    where = f"what the optimizer tells, {type(state).__name__}.edge_dynamics()."
    for name, value in told.items():
        # NaN is not known, which leaves out what needs it
        if value is not None and np.asarray(value) < 0:
            raise ArgumentError(
                f"{where}{name}",
                _RATE.allowed,
                shown(float(value)),
                "a step with a negative rate climbs the loss: give the rule a positive "
                "learning_rate",
            )
    if np.asarray(rule.kappa) <= -1:
        raise ArgumentError(f"{where}kappa", KAPPA.allowed, shown(float(rule.kappa)))


@compiled
def _effective_rate(state: Any, params: Params) -> jax.Array:
    tell = edge_dynamics(state).effective_learning_rate
    assert tell is not None
    return tell(params)


def warn_of_missing_columns(
    requested: Any,
    observables: Sequence[Observable],
    problem: Problem,
    state: Any,
    rate: EffectiveRate | None,
) -> None:
    """Warn of what was asked for by name and makes no column, and say how to get it.

    Args:
      requested: observables as they were asked for; the default ones promise no column.
      observables: what they are.
      problem: what is trained.
      state: of the optimizer.
      rate: (optimizer state, params) -> η̃ that was given, or None.
    """
    if isinstance(requested, Sequence) and tuple(requested) == DEFAULT:
        return
    lacking = [seen.name for seen in _without_rate(observables, problem, state, rate)]
    if lacking:
        warn_caller(
            f"observables names {', '.join(map(repr, lacking))}, and there will be no such column: "
            "it needs the effective learning rate, which this optimizer does not tell. Give "
            "effective_learning_rate=, a function (state, params) -> rate, or leave it out. "
            "docs/howto-optimizer.md, 'The effective learning rate', says which rate that is: with "
            "momentum it is not the learning rate alone"
        )
    if not problem.metrics and any(seen.name == "metrics" for seen in observables):
        warn_caller(
            "observables names 'metrics', and there will be no such column: the problem has no "
            "metrics. Make it with test=(x, y), or with metrics={name: function}, or give it some "
            "by problem.with_metrics"
        )


def _without_rate(
    observables: Sequence[Observable], problem: Problem, state: Any, rate: EffectiveRate | None
) -> list[Observable]:
    """Those that need η̃, where nobody tells it."""
    rule = edge_dynamics(state)
    # as EdgeDynamics.effective_rate has it, whose value is not needed here
    told = rule.effective_learning_rate if problem.scale_invariant else rule.step_size
    known = rate is not None or told is not None
    return [] if known else [seen for seen in observables if seen.needs_rule]


def warn_of_scale(
    chunk: Chunk,
    program: Program,
    problem: Problem,
    state: LoopState,
    hyperparameters: dict[str, Any],
    as_lanes: Callable[[Any], Any],
) -> None:
    """Warn once of a problem that is taken to be scale-invariant, and is not.

    The losses are those that the compiled loop makes in its first update, from some points and
    from these points scaled: nothing is compiled for them, which may take longer than a run. Only
    a loss that changes is given to ``check_scale_invariance``, which finds out what changes it.

    Args:
      chunk: that is about to run.
      program: what it does.
      problem: what is trained, with the data of this one trajectory.
      state: before the first update.
      hyperparameters: of the update rule.
      as_lanes: a state and hyperparameters -> the same with the axis of lanes of the chunk.
    """
    absent = _without_rate(program.observables, problem, state.optimizer_state, program.rate)
    assuming = [
        seen.name for seen in program.observables if seen.assumes_invariance and seen not in absent
    ]
    if problem.is_marked or not assuming or not problem.is_new_to("scale"):
        return
    width = jax.tree.leaves(as_lanes(np.zeros(())))[0].shape[0]
    placed = chunk.program(0, [problem] * width)

    def loss(params: Params) -> float:
        begun = state.replace(params=params)  # type: ignore[attr-defined]
        lanes, numbers = chunk.place(as_lanes((begun, hyperparameters)), 0)
        rows = chunk.rows(np.ones((1, width), np.int32), observe=False)
        after, *_ = chunk.run(0, placed, lanes, numbers, rows)
        # of a step that was lost it is the largest number, whose changes are no number
        lost = int(np.asarray(after.status)[0])
        return np.nan if lost else float(np.asarray(after.previous_loss)[0])

    points, scales, unravel, tolerance = points_around(state.params, 2)
    for point, scale in zip(points, scales, strict=True):
        before, after = (loss(unravel(jnp.asarray(at))) for at in (point, scale * point))
        if abs(after - before) > tolerance * abs(before):
            break
    else:
        return
    try:
        check_scale_invariance(problem, state.params)
    except ValueError as error:
        assumed_by = ", ".join(assuming)
        warn_caller(
            f"problem is taken to be scale-invariant, as is assumed by {assumed_by}, but {error} "
            "Sharpness and threshold of an ablation are those at w itself. scale_invariant= of "
            f"{maker(problem)} says which it is: False of an ablation, True where the loss is near "
            "enough to invariant"
        )

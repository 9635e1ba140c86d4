"""Simulate a single trajectory."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence, Set
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sharpflow.models import Params, Problem, validate_params
from sharpflow.models.arguments import COUNT, FLAG, FUNCTION, checked, optional
from sharpflow.models.caller import warn_caller
from sharpflow.models.compiled_function import special_values_allowed
from sharpflow.models.fitting import require_fitting
from sharpflow.models.precision import FULL, MatmulPrecision, validated_precision
from sharpflow.models.problem import PROBLEM
from sharpflow.models.progress import progress_bar
from sharpflow.models.stored_tree import StoredLeaves
from sharpflow.simulator.chunk import Chunk
from sharpflow.simulator.clock import clock_of
from sharpflow.simulator.host import Host, Lane, Layout, Starts, as_lane
from sharpflow.simulator.interrupt import Stop
from sharpflow.simulator.moment import Observable
from sharpflow.simulator.observables import DEFAULT, OBSERVABLES, RUNNING, resolve
from sharpflow.simulator.premises import (
    require_possible_rule,
    warn_of_missing_columns,
    warn_of_scale,
)
from sharpflow.simulator.program import (
    EffectiveRate,
    LoopState,
    Program,
    Rule,
    SnapshotParts,
    initial_memories,
    initial_state,
)
from sharpflow.simulator.provenance import provenance
from sharpflow.simulator.quantities import recorded_quantities
from sharpflow.simulator.rules import edge_dynamics
from sharpflow.simulator.rules.carried import carried
from sharpflow.simulator.rules.edge_rule import OPTIMIZER
from sharpflow.simulator.rules.scheduled import (
    scheduled_states,
    scheduled_update,
    schedules_in_words,
)
from sharpflow.simulator.rules.wrapped import at_step, buffers, require_followed_schedules
from sharpflow.simulator.schedule import schedule
from sharpflow.simulator.store.checkpoint import Checkpoint
from sharpflow.simulator.trajectory import ANCESTRY, Snapshot, Trajectory, rule_fields
from sharpflow.theory import Status

# Of a trajectory, about. Progress shows after each, and the host waits for a device as often. With
# ten times as many a short run would be mostly waiting; with a tenth the bar would jump.
_CHUNKS = 32


@special_values_allowed()
@checked(
    problem=PROBLEM,
    optimizer=OPTIMIZER,
    num_steps=COUNT,
    record_every=COUNT,
    observables=OBSERVABLES,
    snapshot_every=optional(COUNT),
    effective_learning_rate=optional(FUNCTION),
    progress=optional(FLAG),
)
def simulate(
    problem: Problem,
    params: "Params | Trajectory | Snapshot",
    optimizer: optax.GradientTransformation,
    num_steps: int,
    *,
    record_every: int = 1,
    record_at: Sequence[int] | np.ndarray | None = None,
    observables: str | Observable | Sequence[str | Observable] = DEFAULT,
    snapshot_every: int | None = None,
    effective_learning_rate: EffectiveRate | None = None,
    matmul_precision: MatmulPrecision = FULL,
    progress: bool | None = None,
) -> Trajectory:
    """Simulate full-batch training and record what was asked for.

    Records are made in compiled code, inside chunks that the host strings together;
    memory does not grow with the number of steps beyond what is recorded.

    Args:
      problem: what to train.
      params: where to start; or a ``Trajectory``, to go on from its end with its
        optimizer state; or what its method ``snapshot`` returns, to go on from there with any
        rule. Steps and flow time are then counted on. From a snapshot a schedule begins at its
        step. Buffers of the rule, such as averages of gradients, are taken over from a
        trajectory whose rule had the same ones; else they begin as at a start, which a warning
        says. A trajectory may be one that ``load`` read.
      optimizer: an optax transformation, or anything with its ``init`` and ``update``; of
        ``value``, ``grad`` and ``value_fn`` it is passed those that its update takes.
      num_steps: number of updates.
      record_every: steps from a record to the next.
      record_at: increasing steps to record instead, counted from this start; step 0
        is always recorded. ``log_spaced`` makes them.
      observables: names (``"loss"``, ``"norm_squared"``, ``"gradient_norm"``,
        ``"effective_learning_rate"``, ``"threshold"``, ``"metrics"``,
        ``"sharpness_iterate"``, ``"sharpness_midpoint"``, ``"sharpness_manifold"``,
        ``"hessian_sharpness"``, ``"preconditioned_sharpness"``, ``"loss_mean"``,
        ``"loss_rises"``) and ``Observable``s. docs/quantities.md defines the columns that
        they make.
      snapshot_every: records from a snapshot of the params, and of the buffers of the rule, to the
        next; none by default.
      effective_learning_rate: (optimizer state, params) -> η̃ for rules of others;
        without it they get no threshold. Both are those before a step; in the state of
        ``optax.inject_hyperparams`` the hyperparameters are those of this step.
      matmul_precision: of the products in training steps: ``"highest"``, true float32 on
        every backend, ``"high"`` or ``"default"``, the fastest; see ``Problem.at_precision``.
        What is recorded of curvature is always computed at the highest.
      progress: whether to show a progress bar; by default on a terminal only.

    Returns:
      The trajectory. A loss, or an update, that is not finite ends it with status ``DIVERGED`` at
      this step.

    Warns:
      UserWarning: once of a problem that is not scale-invariant and not marked so, where something
        recorded assumes it, with what ``check_scale_invariance`` says; and of an observable that
        the rule or the problem makes no column of, with how to get it; and of a rule whose
        buffers are not in the snapshot from which it begins.

    Raises:
      ValueError: unusable params, numbers out of range, an unknown observable or precision,
        a rule that tells a negative rate, or a trajectory that another rule made.
    """
    requested, running = resolve(observables)
    # One trajectory is a grid of one point. Its flow time per step is not asked for, because a
    # number of steps is given.
    times = schedule(
        num_steps,
        None,
        np.full(1, np.nan),
        record_every=None if record_at is not None else record_every,
        record_at=record_at,
        num_records=None,
    )
    keep_previous = any(observable.needs_previous for observable in requested)
    state = _starting_state(problem, params, optimizer, requested, keep_previous)
    warn_of_missing_columns(
        observables, requested, problem, state.optimizer_state, effective_learning_rate
    )
    start = int(state.step)
    # before the run, so that a rate that cannot be is refused before anything is computed
    clock = clock_of(
        optimizer.update, state.optimizer_state, _clock_begin(params), start + num_steps
    )
    began = time.perf_counter()
    num_rows = _rows_per_chunk(times.num_records)
    program = Program(
        problem=problem,
        rule=Rule.of_update(optimizer.update),
        observables=requested,
        rate=effective_learning_rate,
        num_snapshots=0 if snapshot_every is None else -(-num_rows // snapshot_every),
        matmul_precision=validated_precision(matmul_precision),
    )
    records = _Records({*RUNNING, "step"} - {*running})
    chunk = Chunk(program, num_rows)
    host = Host(
        chunk,
        Layout(width=1, groups=1, devices=1, rows=num_rows, capacity=num_rows, pieces=1),
        Starts(lambda _: state, lambda _: {}, lambda _: problem, lambda _: start),
        times,
        records,
        snapshot_every=snapshot_every,
    )
    with progress_bar(num_steps, progress) as display:
        warn_of_scale(chunk, program, problem, state, {}, as_lane)
        host.run([0], Checkpoint({}, {}), Stop(), lambda count, note: display.advance(count))
    last, num_records = records.last_state, records.num_records
    seconds = time.perf_counter() - began
    snapshot_row = np.arange(0, num_records, snapshot_every) if snapshot_every else np.zeros(0, int)
    rule = rule_fields(problem, last.optimizer_state)
    snapshots = None
    if snapshot_every:
        snapshots = jax.tree.map(
            lambda *parts: _joined(parts, len(snapshot_row)), *records.snapshots
        )
    kept = None if snapshots is None else snapshots.buffers
    return Trajectory(
        step=start + times.steps(0)[:num_records],
        columns={name: _joined(parts, num_records) for name, parts in records.columns.items()},
        params=None if snapshots is None else snapshots.params,
        buffers=None if kept is None else StoredLeaves.of(kept),
        snapshot_row=snapshot_row,
        final_step=int(last.step),
        final_params=last.params,
        final_state=last,
        status=Status(int(last.status)),
        **rule,
        **_clock(params, rule["intrinsic_rate"]),
        clock=clock,
        attributes=provenance(last.params, [problem])
        | _ancestry(params)
        | _hyperparameters(last.optimizer_state)
        | schedules_in_words(optimizer.update)
        | {"matmul_precision": matmul_precision, "seconds": seconds},
        quantities=recorded_quantities(records.columns, requested),
    )


class _Records:
    """Records of the one trajectory, part by part.

    Args:
      unwanted: columns that the loop makes and nobody asked for.

    Attributes:
      columns, snapshots: parts in their order.
      num_records: that were due in the chunks that ran. A trajectory that ended within a chunk
        rests for the rest of it, and has no records there.
      last_state: where it ended.
    """

    def __init__(self, unwanted: Set[str]) -> None:
        self._unwanted = unwanted
        self.columns: dict[str, list[np.ndarray]] = {}
        self.snapshots: list[SnapshotParts] = []
        self.num_records = 0
        self.last_state: LoopState

    def keeps(self, name: str) -> bool:
        return name not in self._unwanted

    def write(self, name: str, point: int, first: int, values: np.ndarray) -> None:
        self.columns.setdefault(name, []).append(values)

    def write_snapshots(self, point: int, first: int, parts: SnapshotParts) -> None:
        self.snapshots.append(parts)

    def finish(self, lane: Lane, state: Callable[[], LoopState]) -> None:
        self.num_records, self.last_state = lane.position, state()

    def checkpoint(self, *arguments: Any) -> None:
        """Nothing is saved: to go on, pass the trajectory to ``simulate``."""


def _joined(parts: Sequence[np.ndarray], num_rows: int) -> np.ndarray:
    """Parts one after the other, and NaN for rows that were not reached."""
    values = np.concatenate(parts)[:num_rows]
    missing = num_rows - len(values)
    if not missing:
        return values
    # Integers have no NaN, so that a column of them becomes one of floats where something is
    # missing. By jnp, which knows bfloat16.
    floating = jnp.issubdtype(values.dtype, jnp.inexact)
    nothing = np.full((missing, *values.shape[1:]), np.nan, values.dtype if floating else float)
    return np.concatenate([values, nothing])


@checked(num_steps=COUNT, count=COUNT)
def log_spaced(num_steps: int, count: int) -> np.ndarray:
    """About ``count`` steps in [0, num_steps), logarithmically spaced, 0 first.

    Args:
      num_steps: updates that are made.
      count: of steps, before those that round to the same one are merged.

    Returns:
      Increasing integers, for ``record_at``.

    Raises:
      ValueError: numbers below 1.
    """
    # From 1, minus 1, because step 0 has no place on a logarithmic axis.
    return np.unique(np.concatenate([[0], np.geomspace(1, num_steps, count).astype(int) - 1]))


def _rows_per_chunk(num_rows: int) -> int:
    """About ``_CHUNKS`` chunks; powers of two, so that few lengths are compiled."""
    return 1 << (max(num_rows // _CHUNKS, min(num_rows, 16)) - 1).bit_length()


def _starting_state(
    problem: Problem,
    params: "Params | Trajectory | Snapshot",
    optimizer: optax.GradientTransformation,
    observables: tuple[Observable, ...],
    keep_previous: bool,
) -> LoopState:
    if not isinstance(params, Trajectory):
        snapshot = params if isinstance(params, Snapshot) else None
        step = 0 if snapshot is None else snapshot.step
        params = validate_params(problem, params if snapshot is None else snapshot.params)
        begun = optimizer.init(params)
        require_followed_schedules(begun)
        require_possible_rule(begun, params)
        begun = at_step(begun, step, optimizer.update) if step else begun
        kept = None if snapshot is None else snapshot.optimizer_state
        begun, anew = carried(kept, begun)
        if step and anew:
            warn_caller(
                f"params is a snapshot, which {_told_of_buffers(kept)}: {anew} of the rule begin "
                f"at step {step} as at a start. {_KEPT}"
            )
        state = initial_state(params, begun, observables, keep_previous=keep_previous)
        state = dataclasses.replace(state, step=jnp.asarray(step, state.step.dtype))
        if snapshot is None or math.isnan(snapshot.previous_loss):
            return state
        before = jnp.asarray(snapshot.previous_loss, state.previous_loss.dtype)
        return dataclasses.replace(state, previous_loss=before)
    last = params.final_state
    if last is None:
        raise ValueError(
            "params is a point of a grid, which holds no state to go on from: take "
            "params.snapshot(step)"
        )
    require_fitting(problem, last.params, "params of the trajectory")
    fresh = optimizer.init(last.params)
    state = _with_classes(last, fresh)
    # as sets, because jax declares no comparison of structures
    same = {jax.tree.structure(fresh)} == {jax.tree.structure(state.optimizer_state)}
    same = same and _follows(optimizer.update, state.optimizer_state)
    if not same or _hyperparameters(fresh) != _hyperparameters(state.optimizer_state):
        raise ValueError(
            "optimizer must be the rule that made this trajectory, with the same numbers; "
            "start from trajectory.snapshot() to change it, or from trajectory.final_params to "
            "count the steps anew"
        )
    # Copied: the loop overwrites the state that it is given, and the user still holds the
    # trajectory.
    state = jax.tree.map(jnp.copy, state)
    memories = initial_memories(state.params, observables)
    if isinstance(state.memories, StoredLeaves) and state.memories.fits(memories):
        state = state.replace(memories=state.memories.like(memories))
    if _shapes(memories) != _shapes(state.memories):
        state = state.replace(memories=memories)
    if keep_previous and state.previous is None:
        return state.replace(previous=jax.tree.map(jnp.copy, state.params))
    return state if keep_previous else state.replace(previous=None)


_KEPT = (
    "They are kept with snapshots and where a trajectory ends, and taken over by a rule that has "
    "the same ones"
)


def _told_of_buffers(kept: Any) -> str:
    """What a snapshot lacks of an optimizer's state."""
    if kept is None:
        return "holds no state of an optimizer"
    if isinstance(kept, StoredLeaves):  # without the classes that would tell which
        return "has no such ones of the rule before"
    return f"has {buffers(kept) or 'none'} of the rule before, and these are not those of this rule"


def _with_classes(state: LoopState, fresh: Any) -> LoopState:
    """A state that a file gave back, with the classes of the rule; one of another rule as it is."""
    stored = state.optimizer_state
    if isinstance(stored, StoredLeaves) and stored.fits(fresh):
        return dataclasses.replace(state, optimizer_state=stored.like(fresh))
    return state


def _clock(start: "Params | Trajectory | Snapshot", intrinsic_rate: float) -> dict[str, Any]:
    """Where the flow time of a trajectory is counted from."""
    if isinstance(start, Snapshot):
        return start.clock(intrinsic_rate)
    if isinstance(start, Trajectory):
        return {"clock_step": start.clock_step, "clock_tau": start.clock_tau}
    return {}


def _ancestry(start: "Params | Trajectory | Snapshot") -> dict[str, str]:
    """What a trajectory keeps of those that it was forked from."""
    if isinstance(start, Snapshot):
        return start.attributes
    if isinstance(start, Trajectory) and start.ancestry:  # the same fork, gone on with
        return {ANCESTRY: start.attributes[ANCESTRY]}
    return {}


def _clock_begin(start: "Params | Trajectory | Snapshot") -> int:
    """The step from which the clock of a schedule counts, as ``_clock`` has it."""
    if isinstance(start, Snapshot):
        return start.step
    return start.clock_step if isinstance(start, Trajectory) else 0


def _follows(update: Any, state: Any) -> bool:
    """Whether the schedules of a rule lead to the numbers of a state, or it has none."""
    following = scheduled_update(update)
    if following is None:
        return True
    return all(
        np.allclose(number, following.at_step(part, part.num_updates).numbers[name], rtol=1e-5)
        for part in scheduled_states(state)
        for name, number in part.numbers.items()
    )


def _shapes(tree: Any) -> tuple:
    """The structure of a pytree and the shapes of its arrays; its own kinds need no equality."""
    return jax.tree.structure(tree), *map(jnp.shape, jax.tree.leaves(tree))


def _hyperparameters(optimizer_state: Any) -> dict[str, float]:
    """The numbers that a rule tells, by name."""
    numbers = edge_dynamics(optimizer_state).hyperparameters
    return {name: float(value) for name, value in numbers.items()}

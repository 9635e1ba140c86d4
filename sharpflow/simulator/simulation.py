"""Simulate a single trajectory."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from sharpflow.models import Params, Problem, validate_params
from sharpflow.models.arguments import COUNT, FLAG, FUNCTION, checked, optional
from sharpflow.models.bound_function import BoundFunction
from sharpflow.models.compiled_function import special_values_allowed
from sharpflow.models.precision import FULL, MatmulPrecision, compiled, validated_precision
from sharpflow.models.problem import PROBLEM
from sharpflow.models.static_function import StaticFunction
from sharpflow.simulator import observables as recorded
from sharpflow.simulator.loop import padded_rows, run_chunk
from sharpflow.simulator.observables import OBSERVABLES
from sharpflow.simulator.program import (
    EffectiveRate,
    Hyperparameters,
    LoopState,
    Program,
    initial_memories,
    initial_state,
)
from sharpflow.simulator.progress import progress_bar
from sharpflow.simulator.provenance import provenance
from sharpflow.simulator.quantities import recorded_quantities
from sharpflow.simulator.rules import edge_dynamics
from sharpflow.simulator.rules.edge_rule import OPTIMIZER
from sharpflow.simulator.rules.wrapped import require_followed_schedules
from sharpflow.simulator.schedule import schedule
from sharpflow.simulator.trajectory import Trajectory, rule_fields
from sharpflow.theory import Status

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
    params: "Params | Trajectory",
    optimizer: optax.GradientTransformation,
    num_steps: int,
    *,
    record_every: int = 1,
    record_at: Sequence[int] | np.ndarray | None = None,
    observables: str | recorded.Observable | Sequence[str | recorded.Observable] = recorded.DEFAULT,
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
        optimizer state: steps are then counted on.
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
        ``"loss_rises"``) and ``Observable``s.
      snapshot_every: records from a snapshot of the params to the next; none by default.
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

    Raises:
      ValueError: unusable params, numbers out of range, an unknown observable or precision,
        or a trajectory that another rule made.
    """
    requested, running = recorded.resolve(observables)
    gaps = schedule(
        num_steps,
        None,
        np.full(1, np.nan),
        record_every=None if record_at is not None else record_every,
        record_at=record_at,
        num_records=None,
    ).gaps(0, pieces=1)
    keep_previous = any(observable.needs_previous for observable in requested)
    state = _starting_state(problem, params, optimizer, requested, keep_previous)
    start = int(state.step)
    began = time.perf_counter()
    rows_per_chunk = _rows_per_chunk(len(gaps))
    program = Program(
        problem=problem,
        rule=BoundFunction.of(_GivenRule(optimizer.update), None, None, static=StaticFunction),
        observables=requested,
        rate=effective_learning_rate,
        num_snapshots=0 if snapshot_every is None else -(-rows_per_chunk // snapshot_every),
        matmul_precision=validated_precision(matmul_precision),
    )
    lane = _as_lane(state)
    pieces, snapshots = [], []
    with progress_bar(num_steps, progress) as advance:
        for first in range(0, len(gaps), rows_per_chunk):
            part = gaps[first : first + rows_per_chunk]
            kept = (first + np.arange(len(part))) % (snapshot_every or 1) == 0
            rows = padded_rows(part[:, None], True, kept[:, None], rows_per_chunk)
            lane, columns, taken = run_chunk(program, lane, {}, rows)
            pieces.append({name: np.asarray(v)[: len(part), 0] for name, v in columns.items()})
            if taken is not None:
                count = int(kept.sum())
                snapshots.append(jax.tree.map(lambda v, n=count: np.asarray(v)[:n, 0], taken))
            advance(int(part.sum()))
            if int(lane.status[0]) != Status.SUCCESS:
                break
    state = _of_lane(lane)
    seconds = time.perf_counter() - began

    flat = {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
    num_records = len(flat["step"])
    steps = start + np.concatenate([[0], np.cumsum(gaps[:-1])])[:num_records]
    # a trajectory that ended within a chunk rests for the rest of it, and has no records there
    reached = flat["step"] == steps
    wanted = [name for name in flat if name in running or name not in (*recorded.RUNNING, "step")]
    snapshot_row = np.arange(0, num_records, snapshot_every) if snapshot_every else np.zeros(0, int)
    return Trajectory(
        step=steps,
        columns={name: _nan_unless(reached, flat[name]) for name in wanted},
        params=jax.tree.map(
            lambda *leaves: _nan_unless(reached[snapshot_row], np.concatenate(leaves)), *snapshots
        )
        if snapshot_every
        else None,
        snapshot_row=snapshot_row,
        final_step=int(state.step),
        final_params=state.params,
        final_state=state,
        status=Status(int(state.status)),
        **rule_fields(problem, state.optimizer_state),
        attributes=provenance(state.params)
        | _hyperparameters(state.optimizer_state)
        | {"matmul_precision": matmul_precision, "seconds": seconds},
        quantities=recorded_quantities(wanted, requested),
    )


def _nan_unless(reached: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The rows that were reached, and NaN in place of the others."""
    if np.all(reached):
        return values
    rows = reached.reshape(-1, *(1 for _ in values.shape[1:]))
    return np.where(rows, values, np.asarray(np.nan, values.dtype if _is_float(values) else float))


def _is_float(values: np.ndarray) -> bool:
    return bool(jnp.issubdtype(values.dtype, jnp.inexact))


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
    return np.unique(np.concatenate([[0], np.geomspace(1, num_steps, count).astype(int) - 1]))


def _rows_per_chunk(num_rows: int) -> int:
    """About ``_CHUNKS`` chunks; powers of two, so that few lengths are compiled."""
    return 1 << (max(num_rows // _CHUNKS, min(num_rows, 16)) - 1).bit_length()


@compiled
def _as_lane(state: LoopState) -> LoopState:
    """A copy with an axis for lanes, which the loop may overwrite."""
    return jax.tree.map(lambda leaf: leaf[None], state)


@compiled
def _of_lane(lane: LoopState) -> LoopState:
    return jax.tree.map(lambda leaf: leaf[0], lane)


def _starting_state(
    problem: Problem,
    params: "Params | Trajectory",
    optimizer: optax.GradientTransformation,
    observables: tuple[recorded.Observable, ...],
    keep_previous: bool,
) -> LoopState:
    if not isinstance(params, Trajectory):
        params = validate_params(problem, params)
        begun = optimizer.init(params)
        require_followed_schedules(begun)
        return initial_state(params, begun, observables, keep_previous=keep_previous)
    state = params.final_state
    if state is None:
        raise ValueError("params is a point of a grid, which holds no state to go on from")
    fresh = optimizer.init(state.params)
    # as sets, because jax declares no comparison of structures
    same = {jax.tree.structure(fresh)} == {jax.tree.structure(state.optimizer_state)}
    if not same or _hyperparameters(fresh) != _hyperparameters(state.optimizer_state):
        raise ValueError(
            "optimizer must be the rule that made this trajectory, with the same numbers; "
            "start from trajectory.final_params to change it"
        )
    state = jax.tree.map(jnp.copy, state)
    memories = initial_memories(state.params, observables)
    if _shapes(memories) != _shapes(state.memories):
        state = state.replace(memories=memories)
    if keep_previous and state.previous is None:
        return state.replace(previous=jax.tree.map(jnp.copy, state.params))
    return state if keep_previous else state.replace(previous=None)


def _shapes(tree: Any) -> tuple:
    """The structure of a pytree and the shapes of its arrays; its own kinds need no equality."""
    return jax.tree.structure(tree), *map(jnp.shape, jax.tree.leaves(tree))


def _hyperparameters(optimizer_state: Any) -> dict[str, float]:
    """The numbers that a rule tells, by name."""
    told = edge_dynamics(optimizer_state).hyperparameters
    return {name: float(value) for name, value in told.items()}


@partial(jax.tree_util.register_dataclass, data_fields=("update",), meta_fields=())
@dataclasses.dataclass(frozen=True)
class _GivenRule:
    """The same rule whatever the hyperparameters; a pytree of arrays if its update is one."""

    update: Callable[..., Any]

    def __call__(self, hyperparameters: Hyperparameters) -> optax.GradientTransformation:
        return optax.GradientTransformation(_no_init, self.update)


def _no_init(params: Params) -> Any:
    raise AssertionError("the loop never initialises an optimizer")

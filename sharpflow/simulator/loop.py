"""The compiled inner loop: lanes side by side, each a trajectory, through rows of updates."""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Int

from sharpflow.models import Params, Problem
from sharpflow.models.precision import compiled, full_precision, products_at
from sharpflow.simulator.columns import joined_columns
from sharpflow.simulator.moment import Moment
from sharpflow.simulator.program import Hyperparameters, LoopState, Program, SnapshotParts
from sharpflow.simulator.rules import edge_dynamics
from sharpflow.simulator.rules.wrapped import (
    step_hyperparameters,
    update_with_extras,
    with_step_hyperparameters,
)
from sharpflow.theory import Status


class _Step(NamedTuple):
    """What a record sees of the step that begins at it.

    Attributes:
      loss: L(w_t), shape ().
      gradient: ∇L(w_t), as the params.
      hyperparameters: of this step, for each ``optax.inject_hyperparams`` in the rule.
    """

    loss: Array
    gradient: Params
    hyperparameters: list[dict[str, Array]]


# (problem, state, step, following params, active) of a lane -> columns and memories
_Record = Callable[[Problem, LoopState, _Step, Params, Array], tuple[dict[str, Array], tuple]]


@chex.dataclass(frozen=True)
class ChunkRows:
    """What a chunk does: each row may record, and then makes updates.

    A chunk is compiled for R rows and runs ``count`` of them. The updates from a record to
    the next may be spread over several rows, of which the first records.

    Attributes:
      gaps: updates in each row and lane, shape (R, lanes); a lane with 0 rests.
      observe: whether the row records, shape (R,).
      snapshot: whether a snapshot is kept from before its first update, shape (R, lanes).
      count: rows to run, shape ().
    """

    gaps: Int[Array | np.ndarray, "rows lanes"]
    observe: Bool[Array | np.ndarray, " rows"]
    snapshot: Bool[Array | np.ndarray, "rows lanes"]
    count: Int[Array | np.integer, ""]


def padded_rows(
    gaps: np.ndarray,
    observe: np.ndarray | bool,
    snapshot: np.ndarray | bool,
    num_rows: int,
) -> ChunkRows:
    """Rows of a chunk, padded to the number that it was compiled for.

    Args:
      gaps: updates in each row and lane, shape (r, lanes).
      observe, snapshot: shapes (r,) and (r, lanes), or one flag for all.
      num_rows: R ≥ r.
    """
    count, lanes = gaps.shape
    padded = np.zeros((num_rows, lanes), np.int32)
    observed, kept = np.zeros(num_rows, bool), np.zeros((num_rows, lanes), bool)
    padded[:count], observed[:count], kept[:count] = gaps, observe, snapshot
    return ChunkRows(gaps=padded, observe=observed, snapshot=kept, count=np.int32(count))


def run_rows(
    program: Program, state: LoopState, hyperparameters: Hyperparameters, rows: ChunkRows
) -> tuple[LoopState, dict[str, Array], SnapshotParts | None]:
    """Record and update through a chunk.

    Lanes do not touch each other: one that diverges is frozen and changes no bit of the
    others.

    Args:
      program: what to do.
      state: where to start, leading axis (lanes,).
      hyperparameters: of the update rule, each of shape (lanes,).
      rows: how far.

    Returns:
      The state after the last update; columns with leading axes (R, lanes), of which the
      rows that ran and recorded mean something; the snapshots with leading axes
      (num_snapshots, lanes), or None. ``loss_mean`` and ``loss_rises`` are over the
      updates since the last record.
    """
    num_rows, num_lanes = rows.gaps.shape
    lanes, problem = jnp.arange(num_lanes), program.problem
    snapshot_parts = jax.vmap(SnapshotParts.of)
    # compiled functions of their own: traced once, though used twice
    one_step = jax.jit(partial(_one_step, program))
    record_moving: _Record = jax.jit(partial(_record, program))
    shapes = _recorded_shapes(program, record_moving, state)
    record_lane = partial(_record_if_active, record_moving, shapes)
    side_by_side = _alone if num_lanes == 1 else _side_by_side
    step = partial(side_by_side, program.own_data, one_step, problem)
    observe = _in_turn if program.in_turn else side_by_side
    record = partial(observe, program.own_data, record_lane, problem)

    def row(index: Array, carry: tuple) -> tuple:
        state, columns, snapshots, taken = carry
        if snapshots is not None:
            # out of range, and so dropped, in lanes without a snapshot
            slot = jnp.where(rows.snapshot[index], taken, program.num_snapshots)
            snapshots = jax.tree.map(
                lambda kept, now: kept.at[slot, lanes].set(now, mode="drop"),
                snapshots,
                snapshot_parts(state),
            )
            taken = taken + rows.snapshot[index].astype(jnp.int32)
        gap, observed = rows.gaps[index], rows.observe[index]
        before = _forget_running(state, observed & (gap > 0))
        # The first update of a row is made before its record, outside the loop of the others: a
        # record looks at the loss and the gradient that this update evaluates anyway, and at where
        # it leads, so that it costs no pass of its own.
        state, made = step(before, gap > 0, hyperparameters)
        row_columns, memories = jax.lax.cond(
            observed,
            lambda: record(gap > 0, before, made, state.params),
            lambda: (_zeros(shapes, num_lanes), before.memories),
        )
        state = state.replace(memories=memories)
        # as many turns as the lane with most updates; the others rest meanwhile, and lose nothing
        # by it where all lanes of a group have the same schedule, as they mostly do
        state = jax.lax.fori_loop(
            1, jnp.max(gap), lambda i, now: step(now, i < gap, hyperparameters)[0], state
        )
        # names that ``joined_columns`` keeps for these
        row_columns = row_columns | _running(state) | {"step": before.step}
        columns = jax.tree.map(lambda kept, now: kept.at[index].set(now), columns, row_columns)
        return state, columns, snapshots, taken

    carry = (
        state,
        _zeros(shapes | _further_shapes(state), num_rows, num_lanes),
        _zeros(jax.eval_shape(snapshot_parts, state), program.num_snapshots)
        if program.num_snapshots
        else None,
        jnp.zeros(lanes.shape, jnp.int32),
    )
    state, columns, snapshots, _ = jax.lax.fori_loop(0, rows.count, row, carry)
    return jax.vmap(_marked_if_lost)(state), columns, snapshots


def column_shapes(
    program: Program, state: LoopState, axes: Collection[str] = ()
) -> dict[str, jax.ShapeDtypeStruct]:
    """One record of one lane, by column.

    Args:
      program: what is recorded.
      state: of some lanes, leading axis (lanes,).
      axes: of the grid, whose names no column may have.

    Raises:
      ValueError: columns with names that are taken.
    """
    lane = _one_lane(state)
    record = _one_record.eval_shape(program, lane, _step_shapes(lane), axes=tuple(axes))
    return record | _further_shapes(state)


def _one_step(
    program: Program,
    problem: Problem,
    state: LoopState,
    active: Array,
    hyperparameters: Hyperparameters,
) -> tuple[LoopState, _Step]:
    """One update of one lane where ``active``, and what a record before it sees."""
    problem = problem.at_precision(program.matmul_precision)
    with products_at(program.matmul_precision):
        loss, gradient = jax.value_and_grad(problem.loss_value)(state.params)
        # Within the context of the training steps: a rule may make products too, as that of SAM
        # does.
        changes, optimizer_state = update_with_extras(
            program.rule.update(hyperparameters),
            gradient,
            state.optimizer_state,
            state.params,
            {"value": loss, "grad": gradient, "value_fn": problem.loss_value},
        )
        params = optax.apply_updates(state.params, changes)
    # The loss may be finite where its gradient is not. Asked of the changes, and not of the
    # gradient, because a rule may mend it, as optax.zero_nans does; and not of the new params,
    # because to wait for these would take a copy of them in every step.
    finite = jnp.isfinite(loss) & _all_finite(changes)
    status = jnp.where(finite, state.status, Status.DIVERGED).astype(jnp.int32)
    rises = (loss > state.previous_loss).astype(jnp.int32)
    after = LoopState(
        params=params,
        previous=None if state.previous is None else state.params,
        optimizer_state=optimizer_state,
        previous_loss=loss,
        step=state.step + 1,
        status=status,
        since_record=state.since_record + 1,
        loss_total=state.loss_total + loss,
        loss_rises=state.loss_rises + rises,
        memories=state.memories,
    )
    moving = active & (status == Status.SUCCESS)
    # Selected and not branched over: under vmap a branch becomes this selection anyway.
    kept = jax.tree.map(lambda new, old: jnp.where(moving, new, old), after, state)
    kept = kept.replace(status=jnp.where(active, status, state.status))
    return kept, _Step(loss, gradient, step_hyperparameters(optimizer_state))


def _record_if_active(
    record: _Record,
    shapes: dict[str, jax.ShapeDtypeStruct],
    problem: Problem,
    active: Array,
    state: LoopState,
    step: _Step,
    following: Params,
) -> tuple[dict[str, Array], tuple]:
    """The columns of one lane and the memories after them; zeros in a lane that rests."""

    return jax.lax.cond(
        active,
        lambda: record(problem, state, step, following, active),
        lambda: (_zeros(shapes), state.memories),
    )


@full_precision
def _record(
    program: Program,
    problem: Problem,
    state: LoopState,
    step: _Step,
    following: Params,
    active: Array,
    *,
    axes: Collection[str] = (),
) -> tuple[dict[str, Array], tuple]:
    optimizer_state = with_step_hyperparameters(state.optimizer_state, step.hyperparameters)
    rule = edge_dynamics(optimizer_state)
    effective = (
        rule.effective_rate(state.params, scale_invariant=problem.scale_invariant)
        if program.rate is None
        else program.rate(optimizer_state, state.params)
    )
    moment = Moment(
        problem=problem,
        params=state.params,
        loss=step.loss,
        gradient=step.gradient,
        rule=rule,
        effective_learning_rate=effective,
        following=following,
        previous=state.params if state.previous is None else state.previous,
        active=active,
    )
    parts = []
    memories = []
    for observable, memory in zip(program.observables, state.memories, strict=True):
        if not (observable.needs_rule and effective is None):
            columns, memory = observable.observe(moment, memory)
            parts.append((observable, columns))
        memories.append(memory)
    return joined_columns(parts, axes), tuple(memories)


def _all_finite(tree: Params) -> Array:
    """Whether every entry is finite, shape ()."""
    return jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]).all()


def _marked_if_lost(state: LoopState) -> LoopState:
    """Marks a lane whose params are not finite, as the next step would by its loss."""
    finite = jnp.isfinite(optax.tree.norm(state.params))
    status = jnp.where(finite, state.status, Status.DIVERGED).astype(jnp.int32)
    return state.replace(status=status)  # type: ignore[attr-defined]


# Each of the three calls ``function(problem, *lane)`` for all lanes, whose arguments have a leading
# axis. The problem has one too where every lane has data of its own.


def _alone(own_data: bool, function: Callable, problem: Problem, *lanes: Any) -> Any:
    """One lane, without a batched axis in its arithmetic."""
    problem = _first(problem) if own_data else problem
    return jax.tree.map(lambda leaf: leaf[None], function(problem, *_first(lanes)))


def _side_by_side(own_data: bool, function: Callable, problem: Problem, *lanes: Any) -> Any:
    """All lanes in one batched arithmetic, which goes on as long as the longest of them."""
    # vmap has a way of its own with sparse arrays, in which their leaves have no axis of lanes: it
    # gets the leaves alone
    leaves, structure = jax.tree.flatten(problem)

    def of_leaves(leaves: list[Array], *lane: Any) -> Any:
        return function(jax.tree.unflatten(structure, leaves), *lane)

    axes = (0 if own_data else None, *(0 for _ in lanes))
    return jax.vmap(of_leaves, in_axes=axes)(leaves, *lanes)


def _in_turn(own_data: bool, function: Callable, problem: Problem, *lanes: Any) -> Any:
    """One lane after the other, each as long as it takes."""
    if own_data:
        return jax.lax.map(lambda lane: function(*lane), (problem, *lanes))
    return jax.lax.map(lambda lane: function(problem, *lane), lanes)


def _first(lanes: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[0], lanes)


def _forget_running(state: LoopState, where: Array) -> LoopState:
    def reset(leaf: Array) -> Array:
        return jnp.where(where, jnp.zeros_like(leaf), leaf)

    return state.replace(  # type: ignore[attr-defined]
        since_record=reset(state.since_record),
        loss_total=reset(state.loss_total),
        loss_rises=reset(state.loss_rises),
    )


def _running(state: LoopState) -> dict[str, Array]:
    """Means over the updates since the last record; NaN where the first of them was lost."""
    count = state.since_record.astype(state.loss_total.dtype)
    count = jnp.where(count > 0, count, jnp.nan)
    return {
        "loss_mean": state.loss_total / count,
        "loss_rises": state.loss_rises.astype(count.dtype) / count,
    }


def _recorded_shapes(
    program: Program, record: _Record, state: LoopState
) -> dict[str, jax.ShapeDtypeStruct]:
    lane = _one_lane(state)
    problem = _one_lane(program.problem) if program.own_data else program.problem
    active = jax.ShapeDtypeStruct((), bool)
    return jax.eval_shape(record, problem, lane, _step_shapes(lane), lane.params, active)[0]


@compiled(static_argnames=("axes",))
def _one_record(
    program: Program, lane: LoopState, step: _Step, *, axes: tuple[str, ...] = ()
) -> dict[str, Array]:
    """The columns of a record of one lane, for their shapes: it is never run."""
    active = jnp.ones((), bool)
    return _record(program, program.problem, lane, step, lane.params, active, axes=axes)[0]


def _step_shapes(lane: LoopState) -> _Step:
    return _Step(lane.loss_total, lane.params, step_hyperparameters(lane.optimizer_state))


def _further_shapes(state: LoopState) -> dict[str, jax.ShapeDtypeStruct]:
    lane = _one_lane(state)
    return jax.eval_shape(_running, lane) | {"step": lane.step}


def _one_lane(lanes: Any) -> Any:
    def one(leaf: Any) -> jax.ShapeDtypeStruct:
        weak = getattr(leaf, "weak_type", False)
        return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype, weak_type=weak)

    return jax.tree.map(one, lanes)


def _zeros(shapes: Any, *leading: int) -> Any:
    return jax.tree.map(lambda like: jnp.zeros((*leading, *like.shape), like.dtype), shapes)


run_chunk = compiled(run_rows, donate_argnames=("state",))

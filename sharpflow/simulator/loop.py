"""The compiled inner loop: a scan over records, and updates between them."""

from collections.abc import Callable
from functools import partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from sharpflow.models.problem import Params, Problem
from sharpflow.simulator.moment import Moment, Observable
from sharpflow.simulator.updates import find_rule
from sharpflow.theory.status import Status

EffectiveRate = Callable[[Any, Params], Array]


@chex.dataclass(frozen=True)
class LoopState:
    """Everything a trajectory needs to go on, bit for bit.

    Attributes:
      params: w_t.
      previous: w_{t−1}, or None where nothing asks for it.
      optimizer_state: of the update rule.
      previous_loss: L(w_{t−1}), infinite at t = 0.
      step: t.
      status: ``Status.SUCCESS``, or ``DIVERGED`` once the loss is not finite.
      memories: what each observable remembers from record to record.
    """

    params: Params
    previous: Params | None
    optimizer_state: Any
    previous_loss: Float[Array, ""]
    step: Int[Array, ""]
    status: Int[Array, ""]
    memories: tuple


def initial_state(
    params: Params,
    optimizer_state: Any,
    observables: tuple[Observable, ...] = (),
    *,
    keep_previous: bool,
) -> LoopState:
    """The state before the first update."""
    dtype = jax.tree.leaves(params)[0].dtype
    return LoopState(
        params=params,
        previous=jax.tree.map(jnp.copy, params) if keep_previous else None,
        optimizer_state=optimizer_state,
        previous_loss=jnp.asarray(jnp.inf, dtype),
        step=jnp.zeros((), jnp.int32),
        status=jnp.zeros((), jnp.int32),
        memories=initial_memories(params, observables),
    )


def initial_memories(params: Params, observables: tuple[Observable, ...]) -> tuple:
    """What each observable remembers before its first record."""
    return tuple(None if seen.memory is None else seen.memory(params) for seen in observables)


@partial(
    jax.jit,
    static_argnames=("problem", "optimizer", "observables", "rate", "snapshots"),
    donate_argnames=("state",),
)
def run_chunk(
    state: LoopState,
    gaps: Int[Array, "blocks rows"],
    *,
    problem: Problem,
    optimizer: optax.GradientTransformation,
    observables: tuple[Observable, ...],
    rate: EffectiveRate | None,
    snapshots: bool,
) -> tuple[LoopState, dict[str, Array], Params | None]:
    """Record and update through a chunk of records.

    Args:
      state: where to start; its buffers are reused.
      gaps: updates from each record to the next; a gap of 0 pads: nothing happens and
        its row means nothing.
      problem, optimizer, observables: what to do; ``optimizer.init`` is not called.
      rate: (optimizer state, params) -> η̃ for rules that do not tell it.
      snapshots: whether the params at the first record of every block are returned.

    Returns:
      The state after the last update; columns with leading axes (blocks, rows); the
      snapshots with leading axis (blocks,), or None.
    """
    update = optax.with_extra_args_support(optimizer).update
    value_and_grad = jax.value_and_grad(problem.loss_value)

    def one_step(state: LoopState, active: Bool[Array, ""]) -> tuple[LoopState, Array, Params]:
        loss, gradient = value_and_grad(state.params)
        changes, optimizer_state = update(
            gradient,
            state.optimizer_state,
            state.params,
            value=loss,
            grad=gradient,
            value_fn=problem.loss_value,
        )
        params = optax.apply_updates(state.params, changes)
        finite = jnp.isfinite(loss) & jnp.isfinite(optax.tree.norm(params))
        status = jnp.where(finite, state.status, Status.DIVERGED).astype(jnp.int32)
        moving = active & (status == Status.SUCCESS)
        after = LoopState(
            params=params,
            previous=None if state.previous is None else state.params,
            optimizer_state=optimizer_state,
            previous_loss=loss,
            step=state.step + 1,
            status=status,
            memories=state.memories,
        )
        kept = jax.tree.map(lambda new, old: jnp.where(moving, new, old), after, state)
        kept = kept.replace(status=jnp.where(active, status, state.status))
        return kept, loss, gradient

    def observed(
        state: LoopState, loss: Array, gradient: Params, following: Params
    ) -> tuple[dict[str, Array], tuple]:
        rule = find_rule(state.optimizer_state)
        effective: Array | None = None
        if rate is not None:
            effective = rate(state.optimizer_state, state.params)
        elif rule is not None:
            effective = rule.effective_learning_rate(state.params)
        moment = Moment(
            problem=problem,
            params=state.params,
            loss=loss,
            gradient=gradient,
            rule=rule,
            effective_learning_rate=effective,
            following=following,
            previous=state.params if state.previous is None else state.previous,
        )
        columns: dict[str, Array] = {}
        memories = []
        for observable, memory in zip(observables, state.memories, strict=True):
            if not (observable.needs_rule and effective is None):
                found, memory = observable.observe(moment, memory)
                columns |= found
            memories.append(memory)
        return columns, tuple(memories)

    def row(state: LoopState, gap: Array) -> tuple[LoopState, dict[str, Array]]:
        before = state
        state, loss, gradient = one_step(before, gap > 0)
        columns, memories = observed(before, loss, gradient, state.params)
        memories = jax.tree.map(
            lambda new, old: jnp.where(gap > 0, new, old), memories, before.memories
        )
        state = state.replace(memories=memories)  # type: ignore[attr-defined]
        running = (loss, (loss > before.previous_loss).astype(loss.dtype))

        def more(_: Array, carry: tuple) -> tuple:
            state, (total, rises) = carry
            previous_loss = state.previous_loss
            state, loss, _ = one_step(state, jnp.ones((), bool))
            return state, (total + loss, rises + (loss > previous_loss).astype(loss.dtype))

        state, (total, rises) = jax.lax.fori_loop(1, gap, more, (state, running))
        count = jnp.maximum(gap, 1).astype(loss.dtype)
        return state, columns | {
            "step": before.step,
            "loss_mean": total / count,
            "loss_rises": rises / count,
        }

    def block(state: LoopState, gaps: Array) -> tuple[LoopState, tuple]:
        first = state.params if snapshots else None
        state, columns = jax.lax.scan(row, state, gaps)
        return state, (columns, first)

    state, (columns, kept) = jax.lax.scan(block, state, gaps)
    return state, columns, kept

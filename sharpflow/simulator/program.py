"""What the inner loop does, and what it carries from step to step."""

import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import Any

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sharpflow.models import Params, Problem
from sharpflow.models.bound_function import BoundFunction
from sharpflow.models.precision import FULL, MatmulPrecision
from sharpflow.models.static_function import StaticFunction, static_part
from sharpflow.simulator.moment import Observable

EffectiveRate = Callable[[Any, Params], Array]
Hyperparameters = dict[str, Array]


@chex.dataclass(frozen=True)
class LoopState:
    """Everything a trajectory needs to go on, bit for bit.

    Attributes:
      params: w_t.
      previous: w_{t−1}, or None where nothing asks for it.
      optimizer_state: of the update rule.
      previous_loss: L(w_{t−1}), the largest number at t = 0.
      step: t.
      status: ``Status.SUCCESS``, or ``DIVERGED`` once the loss or the next update is not finite;
        the params then stay where that is so.
      since_record: updates since the last record.
      loss_total: sum of L over them.
      loss_rises: how often L was higher than the step before.
      memories: what each observable remembers from record to record.
    """

    params: Params
    previous: Params | None
    optimizer_state: Any
    previous_loss: Float[Array, ""]
    step: Int[Array, ""]
    status: Int[Array, ""]
    since_record: Int[Array, ""]
    loss_total: Float[Array, ""]
    loss_rises: Int[Array, ""]
    memories: tuple


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True)
class Program:
    """What the loop does: a pytree whose leaves are the data of the problem, all else static.

    Attributes:
      problem: what is trained.
      rule: a dictionary of hyperparameters -> the update rule; called with traced values. The
        rule's ``init`` is not called.
      observables: what is recorded.
      rate: (optimizer state, params) -> η̃ for rules that do not tell it.
      num_snapshots: most snapshots of the params in a chunk.
      in_turn: whether the lanes are observed one after the other: an iteration that
        takes a number of steps of its own in each lane, as Lanczos' does, then costs no
        lane more than its own.
      own_data: whether each lane has data of its own: the leaves of ``problem`` then have a
        leading axis (lanes,).
      matmul_precision: of the products in training steps; records are made at the highest.
    """

    problem: Problem
    rule: BoundFunction
    observables: tuple[Observable, ...]
    rate: EffectiveRate | None = None
    num_snapshots: int = 0
    in_turn: bool = True
    own_data: bool = False
    matmul_precision: MatmulPrecision = FULL

    def tree_flatten(self) -> tuple[tuple[Problem, BoundFunction], tuple]:
        """The problem and the rule; all else is static."""
        flags = self.num_snapshots, self.in_turn, self.own_data, self.matmul_precision
        return (self.problem, self.rule), (static_part(self._functions), flags)

    @cached_property
    def _functions(self) -> StaticFunction:
        """What the user gave beside the problem and the rule; made once, for every chunk asks."""
        return StaticFunction((self.observables, self.rate))

    @classmethod
    def tree_unflatten(cls, static: tuple, children: tuple[Problem, BoundFunction]) -> "Program":
        """The same program with other arrays."""
        functions, flags = static
        return cls(*children, *functions.function, *flags)


def initial_state(
    params: Params,
    optimizer_state: Any,
    observables: tuple[Observable, ...] = (),
    *,
    keep_previous: bool,
) -> LoopState:
    """The state of one trajectory before its first update, without an axis for lanes."""
    dtype = jax.tree.leaves(params)[0].dtype
    return LoopState(
        params=params,
        previous=jax.tree.map(jnp.copy, params) if keep_previous else None,
        optimizer_state=optimizer_state,
        # not infinite, which jax_debug_infs would refuse; no finite loss is higher
        previous_loss=jnp.asarray(jnp.finfo(dtype).max, dtype),
        step=jnp.zeros((), jnp.int32),
        status=jnp.zeros((), jnp.int32),
        since_record=jnp.zeros((), jnp.int32),
        loss_total=jnp.zeros((), dtype),
        loss_rises=jnp.zeros((), jnp.int32),
        memories=initial_memories(params, observables),
    )


def initial_memories(params: Params, observables: tuple[Observable, ...]) -> tuple:
    """What each observable remembers before its first record."""
    return tuple(None if seen.memory is None else seen.memory(params) for seen in observables)

"""What the inner loop does, and what it carries from step to step."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from sharpflow.models import Params, Problem
from sharpflow.models.bound_function import is_pytree_of_arrays
from sharpflow.models.precision import FULL, MatmulPrecision
from sharpflow.models.representation import summarized
from sharpflow.models.static_function import StaticFunction, static_part
from sharpflow.simulator.moment import Observable
from sharpflow.simulator.rules.carried import remembered
from sharpflow.simulator.rules.edge_rule import OPTIMIZER

EffectiveRate = Callable[[Any, Params], Array]
Hyperparameters = dict[str, Array]
MakeOptimizer = Callable[..., optax.GradientTransformation]


def rule_at(
    optimizer: MakeOptimizer, hyperparameters: Mapping[str, Any]
) -> optax.GradientTransformation:
    """The update rule of a point of a grid.

    Args:
      optimizer: (learning_rate, weight_decay, **further axes) -> transformation. What its first
        two arguments are called is left to it.
      hyperparameters: by name; traced values inside compiled code.

    Raises:
      ValueError: the function returns something else.
    """
    others = dict(hyperparameters)
    learning_rate, weight_decay = others.pop("learning_rate"), others.pop("weight_decay")
    rule = optimizer(learning_rate, weight_decay, **others)
    OPTIMIZER.require("what optimizer returns", rule)
    return rule


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True)
class Rule:
    """The update of one rule, or what makes the rule of each lane from its hyperparameters.

    As a pytree its leaves are the arrays of an update that is a pytree of arrays itself.

    Attributes:
      function: the update of an optax transformation, or what makes the transformation.
      makes: whether it is the second.
      static: the function, where it is no pytree of arrays; what is compared.
    """

    function: Callable[..., Any]
    makes: bool
    static: StaticFunction | None

    @classmethod
    def of_update(cls, update: Callable[..., Any]) -> "Rule":
        """The same rule in every lane."""
        return cls(update, False, None if is_pytree_of_arrays(update) else StaticFunction(update))

    @classmethod
    def made_by(cls, optimizer: MakeOptimizer) -> "Rule":
        """A rule for each lane; the argument is as of ``rule_at``."""
        return cls(optimizer, True, StaticFunction(optimizer))

    def update(self, hyperparameters: Hyperparameters) -> Callable[..., Any]:
        """The update of a lane."""
        return rule_at(self.function, hyperparameters).update if self.makes else self.function

    def tree_flatten(self) -> tuple[tuple[Any], tuple]:
        """The function's own arrays; all else is static."""
        arrays = self.function if self.static is None else None
        return (arrays,), (static_part(self.static), self.makes)

    @classmethod
    def tree_unflatten(cls, constants: tuple, children: tuple[Any]) -> "Rule":
        """The same rule with other arrays."""
        static, makes = constants
        return cls(children[0] if static is None else static.function, makes, static)


@summarized
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
      rule: the update of each lane.
      observables: what is recorded.
      rate: (optimizer state, params) -> η̃ for rules that do not tell it.
      num_snapshots: most snapshots in a chunk.
      in_turn: whether the lanes are observed one after the other: an iteration that
        takes a number of steps of its own in each lane, as Lanczos' does, then costs no
        lane more than its own.
      own_data: whether each lane has data of its own: the leaves of ``problem`` then have a
        leading axis (lanes,).
      matmul_precision: of the products in training steps; records are made at the highest.
    """

    problem: Problem
    rule: Rule
    observables: tuple[Observable, ...]
    rate: EffectiveRate | None = None
    num_snapshots: int = 0
    in_turn: bool = True
    own_data: bool = False
    matmul_precision: MatmulPrecision = FULL

    def tree_flatten(self) -> tuple[tuple[Problem, Rule], tuple]:
        """The problem and the rule; all else is static."""
        flags = self.num_snapshots, self.in_turn, self.own_data, self.matmul_precision
        return (self.problem, self.rule), (static_part(self._functions), flags)

    @cached_property
    def _functions(self) -> StaticFunction:
        """What the user gave beside the problem and the rule; made once, for every chunk asks."""
        return StaticFunction((self.observables, self.rate))

    @classmethod
    def tree_unflatten(cls, static: tuple, children: tuple[Problem, Rule]) -> "Program":
        """The same program with other arrays."""
        functions, flags = static
        return cls(*children, *functions.function, *flags)


class SnapshotParts(NamedTuple):
    """What a snapshot keeps of a trajectory.

    Attributes:
      params: w_t.
      buffers: what the optimizer remembers there, as of ``remembered``.
    """

    params: Params
    buffers: Any

    @classmethod
    def of(cls, state: LoopState) -> "SnapshotParts":
        """Those of a state, without an axis for lanes."""
        return cls(state.params, remembered(state.optimizer_state))


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

"""Rules some of whose numbers follow schedules, functions of the step alone."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from sharpflow.models import Params
from sharpflow.models.arguments import NOT_NEGATIVE, ArgumentError, Kind, any_of
from sharpflow.models.leaves import is_concrete
from sharpflow.simulator.rules.edge_rule import EdgeDynamics, edge_dynamics
from sharpflow.simulator.rules.printed import printed_as

RateSchedule = Callable[[Array], Array]
SCHEDULE = Kind("a schedule of optax, a function of the step", callable)

# What stands for the numbers of a schedule where a rule is made, before anybody knows them. Half
# precision holds this rate, and any weight decay below 8,192 goes with it.
_PLACEHOLDERS = {"learning_rate": 2.0**-13, "weight_decay": 0.0}


def or_schedule(kind: Kind) -> Kind:
    """A number of a kind, or a schedule of it."""
    return any_of(kind, SCHEDULE)


class ScheduledState(NamedTuple):
    """The state of a rule with schedules; its numbers are those of the coming step.

    So the threshold, the edge ratio and the clock that a state tells are those of the step that
    begins there. ``optax.inject_hyperparams`` keeps the numbers of the step before.

    Attributes:
      num_updates: made before.
      numbers: that follow a schedule, by name.
      rule: the state of the rule, whose own fields of these names are not looked at.
    """

    num_updates: Int[Array, ""]
    numbers: dict[str, Array]
    rule: Any

    @property
    def of_step(self) -> Any:
        """The state of the rule with the numbers of the coming step."""
        return self.rule._replace(**self.numbers)

    def edge_dynamics(self) -> EdgeDynamics:
        """That of the rule; what a schedule changes is none of its hyperparameters."""
        rule = edge_dynamics(self.of_step)
        fixed = {n: v for n, v in rule.hyperparameters.items() if n not in self.numbers}
        return dataclasses.replace(rule, hyperparameters=fixed)


# Compared by its fields, so that rules with the same schedule functions share compiled code.
@dataclasses.dataclass(frozen=True)
class ScheduledUpdate:
    """The update of a rule with schedules.

    Attributes:
      base: the update of the rule with numbers.
      schedules: by the names of the numbers that follow them.
    """

    base: Callable[..., Any]
    schedules: tuple[tuple[str, RateSchedule], ...]

    def __call__(
        self, updates: Params, state: ScheduledState, params: Params | None = None
    ) -> tuple[Params, ScheduledState]:
        changes, rule = self.base(updates, state.of_step, params)
        num_updates = state.num_updates + 1
        numbers = self.numbers_at(num_updates, jax.tree.leaves(state.numbers)[0].dtype)
        return changes, ScheduledState(num_updates=num_updates, numbers=numbers, rule=rule)

    def numbers_at(self, step: Array, dtype: Any) -> dict[str, Array]:
        """The numbers of a step.

        Args:
          step: shape ().
          dtype: of the params.

        Raises:
          ArgumentError: a ValueError: a schedule that makes an array.
        """
        # Schedules of optax multiply integers by floats, which strict promotion would refuse.
        with jax.numpy_dtype_promotion("standard"):
            numbers = {name: jnp.asarray(schedule(step)) for name, schedule in self.schedules}
        for name, value in numbers.items():
            if value.shape != ():
                allowed = "a schedule from the step to one number"
                raise ArgumentError(name, allowed, f"one to an array of shape {value.shape}")
        return {name: value.astype(dtype) for name, value in numbers.items()}

    def at_step(self, state: ScheduledState, step: Array | int) -> ScheduledState:
        """A state whose schedules have come to a step.

        Args:
          state: of this rule.
          step: updates that were made before.
        """
        num_updates = jnp.asarray(step, state.num_updates.dtype)
        dtype = jax.tree.leaves(state.numbers)[0].dtype
        return state._replace(num_updates=num_updates, numbers=self.numbers_at(num_updates, dtype))


def scheduled(
    make: Callable[..., optax.GradientTransformation], **numbers: Any
) -> optax.GradientTransformation:
    """A rule some of whose numbers follow schedules.

    Args:
      make: the rule with numbers; its state is a named tuple with fields of their names.
      **numbers: its arguments, numbers and schedules.

    Returns:
      An optax transformation whose state is a ``ScheduledState``.

    Raises:
      ValueError: what ``make`` refuses of the numbers that follow none, or a schedule whose first
        number is negative or not finite.
    """
    following = tuple((name, value) for name, value in numbers.items() if callable(value))
    base = make(**numbers | {name: _PLACEHOLDERS[name] for name, _ in following})
    update = ScheduledUpdate(base.update, following)

    def init(params: Params) -> ScheduledState:
        dtype = jax.tree.leaves(params)[0].dtype
        zero = jnp.zeros((), jnp.int32)
        first = update.numbers_at(zero, dtype)
        for name, value in first.items():
            if is_concrete(value):
                NOT_NEGATIVE.require(f"{name} at step 0", np.asarray(value).item())
        return ScheduledState(num_updates=zero, numbers=first, rule=base.init(params))

    return printed_as(optax.GradientTransformation(init, update), make.__name__, **numbers)


def scheduled_update(update: Any) -> ScheduledUpdate | None:
    """The update with schedules that an update is or is made of; None where nothing tells of one.

    Args:
      update: of any optax transformation. ``ire`` names its base.
    """
    while update is not None and not isinstance(update, ScheduledUpdate):
        update = getattr(update, "base", None)
    return update


def schedules_in_words(update: Any) -> dict[str, str]:
    """What the numbers of a rule follow, as attributes of a result: ``learning_rate_schedule``.

    Args:
      update: of any optax transformation.
    """
    following = scheduled_update(update)
    schedules = () if following is None else following.schedules
    return {
        f"{name}_schedule": getattr(schedule, "__qualname__", None) or repr(schedule)
        for name, schedule in schedules
    }


def scheduled_states(state: Any) -> list[ScheduledState]:
    """The states with schedules within an optimizer state.

    Args:
      state: of any optax transformation.
    """
    parts = jax.tree.leaves(state, is_leaf=is_scheduled_state)
    return [part for part in parts if is_scheduled_state(part)]


def is_scheduled_state(part: Any) -> bool:
    """Whether this is a state of ours whose numbers follow schedules.

    Args:
      part: of an optimizer state.
    """
    return isinstance(part, ScheduledState)

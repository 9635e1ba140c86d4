"""What optax wraps around a rule: extra arguments, and hyperparameters that change by the step."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from sharpflow.models import Params
from sharpflow.simulator.rules.edge_rule import edge_dynamics
from sharpflow.simulator.rules.scheduled import (
    is_scheduled_state,
    scheduled_states,
    scheduled_update,
)


def update_with_extras(
    update: Callable[..., Any],
    gradient: Params,
    state: Any,
    params: Params,
    extras: Mapping[str, Any],
) -> tuple[Params, Any]:
    """Call the update of any rule with those of the extra arguments that it takes.

    The type of a transformation does not tell which these are. ``optax.contrib.sam`` is a
    ``GradientTransformationExtraArgs`` and takes none of ours; ``optax.MultiSteps`` is no
    transformation at all, and hands on all of them to the rule within it.

    Args:
      update: (gradient, state, params, **extra arguments) -> (changes, state).
      gradient, state, params: its arguments.
      extras: extra arguments by name.

    Returns:
      What the update returns.
    """
    try:
        parameters = inspect.signature(update).parameters
    except (TypeError, ValueError):  # written in C, without a signature
        return update(gradient, state, params)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    given = {name: value for name, value in extras.items() if takes_any or name in parameters}
    try:
        return update(gradient, state, params, **given)
    # Told by the words of the message, since Python has no other sign of it. Any other TypeError is
    # the rule's own.
    except TypeError as error:
        # a chain takes any and hands them on, perhaps to a rule that takes none
        if not given or "unexpected keyword argument" not in str(error):
            raise
    return update(gradient, state, params)


def step_hyperparameters(after: Any) -> list[dict[str, Array]]:
    """The hyperparameters with which a step was made that left this optimizer state.

    Args:
      after: an optimizer state after the step.

    Returns:
      Those of each ``optax.inject_hyperparams`` within the state, which keeps the ones that it
      last used; an empty list for other rules.
    """
    hyperparameters = []
    for part in jax.tree.leaves(after, is_leaf=_is_injected):
        if _is_injected(part):
            hyperparameters += [part.hyperparams, *step_hyperparameters(part.inner_state)]
    return hyperparameters


def with_step_hyperparameters(before: Any, hyperparameters_of_step: list[dict[str, Array]]) -> Any:
    """An optimizer state before a step that tells the hyperparameters of this step.

    ``optax.inject_hyperparams`` evaluates its schedules within the step, so that its state
    before the step tells the learning rate of the step before. All else stays: a count, for
    instance, is right before the step and not after it.

    Args:
      before: the optimizer state before the step.
      hyperparameters_of_step: ``step_hyperparameters`` of the state after it.

    Returns:
      The state.
    """
    waiting = iter(hyperparameters_of_step)

    def told(part: Any) -> Any:
        if not _is_injected(part):
            return part
        hyperparameters = next(waiting)
        return part._replace(hyperparams=hyperparameters, inner_state=walked(part.inner_state))

    def walked(tree: Any) -> Any:
        return jax.tree.map(told, tree, is_leaf=_is_injected)

    return walked(before) if hyperparameters_of_step else before


def at_step(state: Any, step: int, update: Any = None) -> Any:
    """A fresh optimizer state whose schedules have come to a step.

    Args:
      state: as ``init`` returns it.
      step: updates that were made before, by any rule.
      update: of the rule, which knows the schedules of this package's own rules.

    Returns:
      The state; averages of gradients in it stay as they begin.

    Raises:
      ValueError: ``optax.MultiSteps``, whose rule counts only some of the updates, and whose state
        does not tell how many of them; or a schedule of one of our rules within a rule that hides
        it.
    """
    if is_accumulating(state):
        raise ValueError(
            "params is a snapshot, from which optax.MultiSteps cannot go on: its state holds "
            "gradients and counts of its own. Go on from the trajectory itself, where it ends"
        )

    following = scheduled_update(update)
    if following is None and scheduled_states(state):
        raise ValueError(
            "params is a snapshot, from which a schedule goes on at its step, but optimizer hides "
            "the schedule of the rule within it: give that rule itself, or sharpflow.simulator.ire "
            "around it"
        )

    # The count of a schedule stands alone in its state, or beside the hyperparameters that it
    # injects. Adam's stands beside its averages and tells how many gradients are in those.
    def is_scheduled(part: Any) -> bool:
        alone = getattr(part, "_fields", ()) == ("count",)
        return alone or _is_injected(part) or is_scheduled_state(part)

    def set_count(part: Any) -> Any:
        if not is_scheduled(part):
            return part
        if is_scheduled_state(part):
            assert following is not None
            return following.at_step(part, step)
        others = {
            name: jax.tree.map(set_count, value, is_leaf=is_scheduled)
            for name, value in part._asdict().items()
            if name != "count"
        }
        count = {"count": jnp.asarray(step, part.count.dtype)} if hasattr(part, "count") else {}
        return part._replace(**count, **others)

    return jax.tree.map(set_count, state, is_leaf=is_scheduled)


def buffers(state: Any) -> list[str]:
    """Where an optimizer state keeps what it has seen, such as averages of gradients.

    Args:
      state: of any optax transformation.

    Returns:
      The field of each, without the hyperparameters and the counts of schedules.
    """
    constants = {*edge_dynamics(state).hyperparameters, "count", "hyperparams"}
    for part in scheduled_states(state):
        constants |= {"numbers", "num_updates", *part.numbers}
    found: dict[str, None] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        names = [key.name for key in path if isinstance(key, jax.tree_util.GetAttrKey)]
        if names and not constants & set(names) and not _is_fixed(leaf):
            found[names[-1]] = None
    return list(found)


def _is_fixed(leaf: Any) -> bool:
    """Whether this is no state: a flag, or a number of Python, which no update changes."""
    return not hasattr(leaf, "dtype") or leaf.dtype == bool


def require_followed_schedules(state: Any) -> None:
    """Refuse a schedule around a rule that tells fixed numbers, and would never see it.

    Args:
      state: an optimizer state at the start.

    Raises:
      ValueError: ``optax.inject_hyperparams`` schedules numbers of a rule that reads them from
        its own state, where they stay as they were at the start.
    """
    for part in jax.tree.leaves(state, is_leaf=_is_injected):
        if not _is_injected(part):
            continue
        fixed = edge_dynamics(part.inner_state).hyperparameters
        if fixed and getattr(part, "hyperparams_states", None):
            raise ValueError(
                f"optimizer schedules {sorted(part.hyperparams_states)} of a rule by "
                f"optax.inject_hyperparams, but that rule keeps {sorted(fixed)} in its own state "
                "and would not follow. gdwd, momentum and quasi_rmsprop of sharpflow take the "
                "schedule itself in place of the number; of optax's own rules make "
                "optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate)), "
                "and give effective_learning_rate="
            )
        require_followed_schedules(part.inner_state)


def is_accumulating(state: Any) -> bool:
    """Whether a state of ``optax.MultiSteps`` is within an optimizer state.

    Args:
      state: of any optax transformation.
    """
    return any(map(_accumulates, jax.tree.leaves(state, is_leaf=_accumulates)))


def _accumulates(part: Any) -> bool:
    return {"mini_step", "gradient_step", "acc_grads"} <= set(getattr(part, "_fields", ()))


def _is_injected(part: Any) -> bool:
    """Whether this is a state of ``optax.inject_hyperparams``, of whatever version of it."""
    fields = getattr(part, "_fields", ())
    return "hyperparams" in fields and "inner_state" in fields

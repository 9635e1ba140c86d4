"""Numbers that are refused before anything is computed with them."""

from typing import Any

from sharpflow.models.arguments import (
    INTEGER,
    NOT_NEGATIVE,
    POSITIVE,
    ArgumentError,
    Kind,
    array,
    number,
    shown,
)
from sharpflow.models.leaves import is_concrete

TIMES = Kind(
    "a vector of finite output times",
    lambda value: array(1).fits(value) and len(value) > 0,
)
KAPPA = Kind("finite and above -1", number(above=-1).fits)


def _schedule(rate: Any) -> str:
    """What takes a schedule, for who gives one where a number is meant."""
    if not callable(rate):
        return ""
    return (
        "gdwd, momentum and quasi_rmsprop take a schedule. Any other one needs a rule of optax: "
        "optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(schedule)). For a "
        "threshold that follows it give simulate effective_learning_rate=, and make the rule by a "
        "function under @optax.inject_hyperparams. The page docs/howto-optimizer.md, 'SGD with "
        "momentum and a schedule', has the code"
    )


_LEARNING_RATE = POSITIVE.with_remedy(_schedule)
_WEIGHT_DECAY = NOT_NEGATIVE.with_remedy(_schedule)


def validate_rates(learning_rate: float, weight_decay: float) -> None:
    """Refuse rates with which GD+WD makes no sense; traced ones pass.

    Args:
      learning_rate, weight_decay: η and λ.

    Raises:
      ArgumentError: a ValueError: η ≤ 0, λ < 0, ηλ ≥ 1, or either is not finite.
    """
    _LEARNING_RATE.require("learning_rate", learning_rate)
    _WEIGHT_DECAY.require("weight_decay", weight_decay)
    if not is_concrete(learning_rate, weight_decay):
        return
    product = learning_rate * weight_decay
    if not product < 1:
        got = f"{shown(learning_rate)} * {shown(weight_decay)} = {product:g}"
        raise ArgumentError("learning_rate * weight_decay", "below 1", got)


def require_positive(**numbers: Any) -> None:
    """Refuse numbers that are not positive and finite; traced ones and None pass.

    Args:
      **numbers: by the names that the error gives them.

    Raises:
      ValueError: names the first that is not.
    """
    for name, value in numbers.items():
        if value is not None:
            POSITIVE.require(name, value)


def require_at_least_one(**counts: Any) -> None:
    """Refuse counts that are no integers, or below 1.

    Args:
      **counts: by the names that the error gives them.

    Raises:
      ValueError: names the first that is.
    """
    for name, value in counts.items():
        INTEGER.require(name, value)
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")

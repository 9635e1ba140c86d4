"""Numbers that are refused before anything is computed with them."""

import math

from sharpflow.models.problem import is_concrete


def validate_rates(learning_rate: float, weight_decay: float) -> None:
    """Refuse rates with which GD+WD makes no sense; traced ones pass.

    Args:
      learning_rate, weight_decay: η and λ.

    Raises:
      ValueError: η ≤ 0, λ < 0, ηλ ≥ 1, or either is not finite.
    """
    if not is_concrete(learning_rate, weight_decay):
        return
    require_positive(learning_rate=learning_rate)
    if not (weight_decay >= 0 and math.isfinite(weight_decay)):
        raise ValueError(f"weight_decay must be at least 0 and finite, got {weight_decay!r}")
    if not learning_rate * weight_decay < 1:
        raise ValueError(
            "learning_rate * weight_decay must be below 1, got "
            f"{learning_rate!r} * {weight_decay!r} = {learning_rate * weight_decay:g}"
        )


def require_positive(**numbers: float | None) -> None:
    """Refuse numbers that are not positive and finite; traced ones and None pass.

    Args:
      **numbers: by the names that the error gives them.

    Raises:
      ValueError: names the first that is not.
    """
    for name, value in numbers.items():
        if value is None or not is_concrete(value):
            continue
        if not (value > 0 and math.isfinite(value)):
            raise ValueError(f"{name} must be positive and finite, got {value!r}")


def require_at_least_one(**counts: int) -> None:
    """Refuse counts below 1.

    Args:
      **counts: by the names that the error gives them.

    Raises:
      ValueError: names the first that is.
    """
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")

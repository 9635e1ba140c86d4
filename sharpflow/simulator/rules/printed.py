"""Rules that print their name and their numbers, where optax prints two functions."""

from typing import Any

import optax

from sharpflow.models.representation import words


class _Printed:
    """Adds a representation to a named tuple; whoever makes another tuple of it has the plain one.

    Attributes:
      made_by: name and arguments of the function that made it; in words only when it is printed,
        for a number may still be on its way from a device.
    """

    made_by: tuple[str, dict[str, Any]] | None = None

    def __repr__(self) -> str:
        if self.made_by is None:
            return super().__repr__()
        name, numbers = self.made_by
        told = (f"{key}={words(value)}" for key, value in numbers.items() if value is not None)
        return f"{name}({', '.join(told)})"


class _Rule(_Printed, optax.GradientTransformation):
    pass


class _RuleWithExtras(_Printed, optax.GradientTransformationExtraArgs):
    pass


def printed_as(rule: optax.GradientTransformation, name: str, **numbers: Any) -> Any:
    """The same transformation, which prints as the call that made it.

    Args:
      rule: ours, new.
      name: of the function that makes it.
      **numbers: its arguments; those that are None are left out.

    Returns:
      Of the class of ``rule``, or of one that inherits from it.
    """
    takes_extras = isinstance(rule, optax.GradientTransformationExtraArgs)
    printed = (_RuleWithExtras if takes_extras else _Rule)(*rule)
    printed.made_by = name, numbers
    return printed

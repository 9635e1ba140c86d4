"""The axes of a grid, and its points."""

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np

from sharpflow.models.arguments import real, shown
from sharpflow.simulator.columns import KEYWORDS, RESERVED, is_free
from sharpflow.simulator.observables import STANDARD
from sharpflow.simulator.schedule import plain

BASE = ("seed", "learning_rate", "weight_decay")

# What is passed by position to each of the functions that a grid, or a config for it, calls.
BY_POSITION: dict[str, tuple[str, ...]] = {
    "problem": (),
    "observables": (),
    "start": ("key", "learning_rate", "weight_decay"),
    "optimizer": ("learning_rate", "weight_decay"),
    "schedule": ("learning_rate",),
}


@dataclasses.dataclass(frozen=True)
class Axes:
    """Named axes, the last of which varies fastest.

    Attributes:
      values: of each axis, in order: seed, learning_rate, weight_decay, and any others.
    """

    values: dict[str, tuple]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the axes, in the order of the dimensions of a dataset."""
        return tuple(self.values)

    @property
    def shape(self) -> tuple[int, ...]:
        """How many values each axis has, in the same order."""
        return tuple(len(values) for values in self.values.values())

    @property
    def num_points(self) -> int:
        """How many points the grid has: every combination of values is one."""
        return math.prod(self.shape)

    def index(self, point: int) -> tuple[int, ...]:
        """Where a point lies along each axis."""
        return tuple(int(place) for place in np.unravel_index(point, self.shape))

    def at(self, point: int) -> dict[str, Any]:
        """The value of each axis at a point."""
        places = zip(self.values.items(), self.index(point), strict=True)
        return {name: values[place] for (name, values), place in places}

    def describe(self, point: int) -> str:
        """The values of a point, as ``seed=0, learning_rate=0.1``, for errors."""
        return ", ".join(f"{name}={value}" for name, value in self.at(point).items())


def grid_axes(
    seeds: int | Sequence[int],
    learning_rates: float | Sequence[float],
    weight_decays: float | Sequence[float],
    others: Mapping[str, Sequence] | None,
) -> Axes:
    """The axes of a grid from what the user gives.

    Args:
      seeds, learning_rates, weight_decays: one value or several.
      others: further axes by name, each a sequence of numbers, strings or tuples.

    Raises:
      ValueError: an axis that is empty, holds a value twice or one that is out of range,
        or has a name that is taken.
    """
    values: dict[str, tuple] = {
        "seed": tuple(_integer(seed) for seed in _several(seeds)),
        "learning_rate": tuple(_number("learning_rates", v) for v in _several(learning_rates)),
        "weight_decay": tuple(_number("weight_decays", v) for v in _several(weight_decays)),
    }
    _validate_names(others or {})
    for name, given in (others or {}).items():
        several = isinstance(given, Iterable) and getattr(given, "ndim", 1) > 0
        if not several or isinstance(given, (str, bytes, Mapping, Set, np.ma.MaskedArray)):
            raise ValueError(f"axes[{name!r}] must be a sequence of values, got {given!r}")
        values[name] = tuple(plain(value) for value in given)
        for value in values[name]:
            _require_label(name, value)
    for name, labels in values.items():
        argument = f"{name}s" if name in BASE else f"axes[{name!r}]"
        if not labels:
            raise ValueError(f"{argument}: the axis {name} is empty; it needs at least one value")
        # Two points with the same labels could not be told apart in the result, and would be
        # computed twice.
        if len(set(labels)) < len(labels):
            raise ValueError(f"{argument}: the axis {name} holds a value twice: {shown(labels)}")
    if any(rate <= 0 for rate in values["learning_rate"]):
        raise ValueError(f"learning_rates must be positive, got {values['learning_rate']}")
    if any(decay < 0 for decay in values["weight_decay"]):
        raise ValueError(f"weight_decays must not be negative, got {values['weight_decay']}")
    return Axes(values)


def _validate_names(names: Iterable[Any]) -> None:
    """Refuse axes whose names are taken, all of them at once."""
    taken = [
        name
        for name in names
        if not isinstance(name, str) or not name.isidentifier() or not is_free(name)
    ]
    if taken:
        raise ValueError(
            f"axes has {', '.join(map(repr, taken))}; names are identifiers other than "
            f"{', '.join((*RESERVED, *KEYWORDS))}, those of params, and of sharpflow's own columns "
            f"{', '.join(sorted(STANDARD))}"
        )


def keywords_of(
    function: Callable, names: Sequence[str], by_position: Sequence[str] = ()
) -> tuple[str, ...]:
    """Those of ``names`` that a function takes as keywords.

    Args:
      function: any.
      names: of axes.
      by_position: what a grid passes by position, which is then no keyword, whatever it is called.
    """
    parameters = list(inspect.signature(function).parameters.values())
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    filled = positional[: len(by_position)]
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters):
        return tuple(name for name in names if name not in filled)
    taken = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    return tuple(name for name in names if name in taken - set(filled))


def call_mistake(
    function: Callable, by_position: Sequence[str], keywords: Sequence[str]
) -> tuple[str, str] | None:
    """Why a function cannot be called as a grid calls it; None where it can.

    Args:
      function: any.
      by_position: names of what is passed by position.
      keywords: names of what is passed by keyword.

    Returns:
      What it must be, and what Python says of it.
    """
    try:
        inspect.signature(function).bind(*by_position, **dict.fromkeys(keywords))
    except TypeError as error:
        called = ", ".join([*by_position, *(f"{name}=..." for name in keywords)])
        return f"a function that can be called as f({called})", str(error)
    except ValueError:  # written in C, without a signature
        return None
    return None


def _several(values: Any) -> list:
    """One value or several; an array of numpy, jax, pandas or xarray is as a list."""
    if isinstance(values, (np.ma.MaskedArray, Set)):
        raise ValueError(
            f"learning_rates, weight_decays and seeds must be numbers or sequences of them, got "
            f"{shown(values)}, which hides values or has no order"
        )
    # By this method, and not by class: pandas and xarray have it too, and are not imported for it.
    if hasattr(values, "__array__"):
        values = np.asarray(values)
        return list(values) if values.ndim else [values]
    several = isinstance(values, Iterable) and not isinstance(values, (str, bytes, Mapping))
    return list(values) if several else [values]


def _require_label(axis: str, value: Any) -> None:
    """Refuse a value that cannot be written down: it labels the result, and describes a run."""
    if isinstance(value, tuple):
        for item in value:
            _require_label(axis, item)
    elif not isinstance(value, (str, int, float, type(None))):
        raise ValueError(
            f"axes[{axis!r}] must hold numbers, texts or tuples of them, got {shown(value)}: give "
            "a number or a name for each, of which problem, start or optimizer makes what it means"
        )


def _integer(value: Any) -> int:
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**32:
        raise ValueError(f"seeds must be integers from 0 to 2**32 - 1, got {shown(value)}")
    return value


def _number(name: str, value: Any) -> float:
    number = real(plain(value))
    if number is None or not math.isfinite(number):
        raise ValueError(f"{name} must be finite numbers, got {shown(value)}")
    return number

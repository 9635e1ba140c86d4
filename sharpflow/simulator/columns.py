"""The columns of a record, put together from all observables: one name is one column."""

from collections.abc import Collection, Iterator, Mapping, Sequence

import jax.numpy as jnp
from jaxtyping import Array

from sharpflow.models.names import is_of_params, is_text
from sharpflow.simulator.moment import Observable
from sharpflow.simulator.observables import STANDARD, makes_standard_columns
from sharpflow.simulator.quantities import RESULT

# Coordinates, dimensions and arrays that results have whatever is recorded, and the keyword of a
# start beside its rates.
RESERVED = (*RESULT, "key")

# what ``grid_point`` takes beside the labels of the axes
KEYWORDS = ("grid", "problem", "optimizer")


def is_free(name: str) -> bool:
    """Whether an axis may have this name, which nothing else in a result has.

    Args:
      name: of the axis.
    """
    return not _is_reserved(name) and name not in STANDARD and name not in KEYWORDS


def _is_reserved(name: str) -> bool:
    return name in RESERVED or is_of_params(name)


def dimensions(name: str, rank: int) -> tuple[str, ...]:
    """The dimensions of one record of a column.

    Args:
      name: of the column.
      rank: of its arrays.
    """
    return tuple(f"{name}_{axis}" for axis in range(rank))


def joined_columns(
    parts: Sequence[tuple[Observable, Mapping[str, Array]]], axes: Collection[str] = ()
) -> dict[str, Array]:
    """The columns of all observables, no two of which may have one name.

    A dictionary keeps the last of two equal names without a word, so that a column would hold
    another quantity than its name says. This is the one place where columns come together, and it
    is called while the loop is traced: before anything runs.

    Args:
      parts: each observable with the columns that it makes.
      axes: of the grid, if there is one.

    Returns:
      All of them by name.

    Raises:
      ValueError: names that are taken, or that are no text; every one of them is told.
    """
    mistakes = list(dict.fromkeys(_mistakes(parts, axes)))
    if mistakes:
        raise ValueError(
            f"columns need names of their own, but {'; '.join(mistakes)}: rename the metrics or "
            "the observables"
        )
    return {name: values for _, columns in parts for name, values in columns.items()}


def _mistakes(
    parts: Sequence[tuple[Observable, Mapping[str, Array]]], axes: Collection[str]
) -> Iterator[str]:
    makers: dict[str, str] = {}
    lengths: dict[str, str] = {}  # dimension -> column
    for observable, columns in parts:
        maker = repr(observable.name)
        for name, values in columns.items():
            if not is_text(name):
                yield f"{name!r} of {maker} is no text of at least one character"
                continue
            if _is_reserved(name):
                yield f"{name!r} of {maker} is a coordinate or an array of every result"
            elif name in axes:
                yield f"{name!r} of {maker} is an axis of the grid"
            elif name in STANDARD and not makes_standard_columns(observable):
                yield f"{name!r} of {maker} is the name of a column of sharpflow's own"
            elif name in makers:
                yield f"{name!r} of {maker} is recorded by {makers[name]} too"
            makers[name] = maker
            lengths |= dict.fromkeys(dimensions(name, jnp.ndim(values)), name)
    for name in (*makers, *axes):
        if name in lengths:
            yield f"{name!r} is a dimension of the column {lengths[name]!r}"

"""What the arguments of figures must be."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sharpflow.models import arguments
from sharpflow.models.arguments import (
    Kind,
    any_of,
    array,
    nearest,
    of_lazy_type,
    optional,
    remedies,
)
from sharpflow.simulator.observables import how_to_get
from sharpflow.simulator.trajectory import TRAJECTORY, Trajectory

# matplotlib and xarray are loaded by whoever draws, and not by this check
_AXES = of_lazy_type("matplotlib", "Axes", "matplotlib axes")
AX = optional(_AXES)
FIGURE = of_lazy_type("matplotlib", "FigureBase", "a matplotlib figure")
SEVERAL_AXES = Kind(
    "several matplotlib axes, in a sequence or an array",
    lambda value: (
        isinstance(value, (Sequence, np.ndarray))
        and not isinstance(value, str)
        and len(value) > 0
        and all(_AXES.fits(ax) for ax in flat_axes(value))
    ),
)
DATASET = arguments.DATASET.with_remedy(
    remedies(
        (
            TRAJECTORY,
            "a trajectory is drawn by sharpflow.plots.panel and metric; simulate_grid returns a "
            "grid, and compare a comparison",
        )
    )
)
DRAWN = any_of(FIGURE, _AXES, SEVERAL_AXES)
RECORD = any_of(TRAJECTORY, DATASET)
FIT = optional(
    Kind(
        "a power law, with exponent, interval and prefactor",
        lambda value: all(hasattr(value, name) for name in ("exponent", "interval", "prefactor")),
    )
)
VECTOR = array(1, missing=True)
TWO_VECTORS = Kind(
    "a pair of vectors of one length",
    lambda value: (
        isinstance(value, Sequence)
        and len(value) == 2
        and all(VECTOR.fits(one) for one in value)
        and np.shape(value[0]) == np.shape(value[1])
    ),
)
ON_SPHERE = Kind(
    "an array of unit vectors of shape (T, 3), at least one",
    lambda value: (
        array(2, missing=True).fits(value) and np.shape(value)[1] == 3 and np.shape(value)[0] > 0
    ),
)


def flat_axes(axes: Any) -> list[Any]:
    """Axes in their order, whether in a sequence or in the array that ``pyplot.subplots`` gives.

    Args:
      axes: a sequence or an array of any shape.
    """
    return list(axes.flat) if isinstance(axes, np.ndarray) else list(axes)


def require_columns(name: str, record: Any, *columns: str) -> None:
    """Refuse a trajectory or dataset without what is drawn of it.

    Args:
      name: of the argument.
      record: what was given.
      *columns: that it must have.

    Raises:
      ValueError: names those that are missing.
    """
    missing = [column for column in columns if column not in record]
    if missing:
        held = record.columns if isinstance(record, Trajectory) else record
        known = [str(column) for column in getattr(held, "variables", held)]
        remedy = how_to_get(missing[0]) or nearest(missing[0], known)
        raise ValueError(
            f"{name} must have the columns {list(columns)}, got none for {missing}{remedy}"
        )

"""What was recorded before a fork, as a grid with the points of the fork."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sharpflow.experiments.grid_summary import POINT, extra_axes

if TYPE_CHECKING:
    import xarray

    from sharpflow.experiments.report.before import Before


def grid_before(
    before: "Sequence[Before] | None", dataset: "xarray.Dataset"
) -> "xarray.Dataset | None":
    """The records before those of a fork, labelled as its own are.

    Args:
      before: of each point; None where there is nothing before, as in a run that is no fork.
      dataset: of the fork.

    Returns:
      A grid with the axes of the dataset and as many records as the point with the most has, NaN
      after those of the others.
    """
    if before is None:
        return None
    axes = (*POINT, *extra_axes(dataset))
    columns = {
        str(name): _labelled([piece.columns.get(str(name)) for piece in before], dataset, axes)
        for name in dataset.data_vars
        if any(str(name) in piece.columns for piece in before)
    }
    clocks = {"step": _labelled([piece.step for piece in before], dataset, axes)}
    if all(piece.tau is not None for piece in before):
        clocks["tau"] = _labelled([piece.tau for piece in before], dataset, axes)
    # The clocks of a grid are alike for all seeds; those of a run before are those of its rates.
    return (
        dataset[["status"]]
        .assign(columns)
        .assign_coords({name: clock.isel(seed=0, drop=True) for name, clock in clocks.items()})
    )


def require_same_axes(before: "xarray.Dataset", dataset: "xarray.Dataset") -> None:
    """Refuse what is no grid with the axes of another one.

    Raises:
      ValueError: it has no status, or another number of values along an axis.
    """
    axes = (*POINT, *extra_axes(dataset))
    wanted = {axis: dataset.sizes[axis] for axis in axes}
    found = {axis: before.sizes.get(axis, 0) for axis in axes}
    if "status" not in before or found != wanted:
        raise ValueError(
            f"before must be a grid with as many values along each axis as dataset, {wanted}, got "
            f"{found if 'status' in before else 'a dataset without a status'}"
        )


def _labelled(
    rows: Sequence[np.ndarray | None], dataset: "xarray.Dataset", axes: tuple[str, ...]
) -> "xarray.DataArray":
    """Records of each point, NaN beyond its own, dims (*axes, record)."""
    import xarray

    most = max(0 if row is None else len(row) for row in rows)
    values = np.full((len(rows), most), np.nan)
    for place, row in enumerate(rows):
        if row is not None:
            values[place, : len(row)] = row
    shape = (*(dataset.sizes[name] for name in axes), most)
    return xarray.DataArray(values.reshape(shape), dims=(*axes, "record"))

"""The points of a run, one after the other, as a report goes through them."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sharpflow.experiments.grid_summary import POINT, column, edge_ratio_name, extra_axes
from sharpflow.experiments.report.page import shown
from sharpflow.simulator.quantities import axis_quantity

if TYPE_CHECKING:
    import xarray


def short_name(axis: str) -> str:
    """An axis of the grid by its symbol, or by its name where it has none."""
    return axis_quantity(axis).symbol or axis


@dataclasses.dataclass(frozen=True)
class Records:
    """A run as arrays whose first axis is the point.

    Attributes:
      axes: of the grid, in order.
      shape: points along each axis.
      values: of each axis at each point, name -> list.
      status: -1 pending, 0 ended well, else diverged, shape (points,).
      step: of the records, shape (points, T).
      tau: flow time of the records, shape (points, T), or None.
      intrinsic_rate: shape (points,); NaN where no rule tells it.
      columns: by name, shapes (points, T); of several eigenvalues the largest.
      made: updates made, shape (points,).
      asked: updates to make, shape (points,).
    """

    axes: tuple[str, ...]
    shape: tuple[int, ...]
    values: dict[str, list[Any]]
    status: np.ndarray
    step: np.ndarray
    tau: np.ndarray | None
    intrinsic_rate: np.ndarray
    columns: dict[str, np.ndarray]
    made: np.ndarray
    asked: np.ndarray

    @property
    def count(self) -> int:
        """Of the points."""
        return len(self.status)

    def place(self, point: int) -> tuple[int, ...]:
        """Where a point lies along each axis."""
        return tuple(int(index) for index in np.unravel_index(point, self.shape))

    def title(self, point: int) -> str:
        """A point in words: ``seed 0, η = 0.1, λ = 0.01``."""
        return ", ".join(
            f"seed {self.values[name][point]}"
            if name == "seed"
            else f"{short_name(name)} = {label(self.values[name][point])}"
            for name in self.axes
        )

    def measured(self, point: int) -> dict[str, np.ndarray]:
        """The columns of a point, the edge ratio that is nearest to theory as ``edge_ratio``."""
        columns = {name: values[point] for name, values in self.columns.items()}
        ratio = edge_ratio_name(columns)  # type: ignore[arg-type]
        return columns if ratio is None else columns | {"edge_ratio": columns[ratio]}


def label(value: Any) -> str:
    """A value of an axis."""
    return shown(value) if isinstance(value, float) else str(value)


def records(dataset: "xarray.Dataset", time: str, labels: Mapping[str, list[Any]]) -> Records:
    """The points of a run as arrays.

    Args:
      dataset: of the run.
      time: its dimension of records.
      labels: values of each axis, by name: a metric may hide those of the dataset.

    Raises:
      ValueError: it is no grid of trajectories.
    """
    axes = (*POINT, *extra_axes(dataset))
    shape = tuple(dataset.sizes[name] for name in axes)
    count = int(np.prod(shape))
    grids = np.meshgrid(*(np.arange(size) for size in shape), indexing="ij")
    given = {name: labels.get(name, dataset[name].values.tolist()) for name in axes}
    values = {
        name: [given[name][place] for place in grid.reshape(-1)]
        for name, grid in zip(axes, grids, strict=True)
    }
    like = dataset["status"].transpose(*axes)
    names = [
        str(name)
        for name, variable in dataset.data_vars.items()
        if time in variable.dims and name not in ("step", "tau") and variable.dtype.kind == "f"
    ]
    columns = {}
    for name in names:
        try:
            columns[name] = column(dataset, name).values.reshape(count, -1)
        except ValueError:  # a column of the user's own, with dimensions of its own
            continue

    def spread(name: str, *trailing: str) -> np.ndarray:
        """A variable of some of the axes at every point."""
        variable = dataset[name].broadcast_like(like).transpose(*axes, *trailing)
        return variable.values.reshape(count, *(dataset.sizes[dim] for dim in trailing))

    step = spread("step", time)
    asked = spread("num_steps") if "num_steps" in dataset else step[:, -1]
    made = spread("final_step") if "final_step" in dataset else asked
    status = like.values.reshape(-1)
    return Records(
        axes=axes,
        shape=shape,
        values=values,
        status=status,
        step=step,
        tau=spread("tau", time) if "tau" in dataset else None,
        intrinsic_rate=spread("intrinsic_rate")
        if "intrinsic_rate" in dataset
        else _rates(dataset, step, spread, time),
        columns=columns,
        made=np.where(status == -1, _reached(columns, step), made),
        asked=asked,
    )


def _rates(dataset: "xarray.Dataset", step: np.ndarray, spread: Any, time: str) -> np.ndarray:
    if "tau" not in dataset:
        return np.full(len(step), np.nan)
    return spread("tau", time)[:, -1] / np.maximum(step[:, -1], 1)


def _reached(columns: dict[str, np.ndarray], step: np.ndarray) -> np.ndarray:
    """The last step of which anything is recorded; 0 where nothing is."""
    finite = np.zeros(step.shape, bool)
    for values in columns.values():
        finite |= np.isfinite(values)
    return np.max(np.where(finite, step, 0), axis=1)

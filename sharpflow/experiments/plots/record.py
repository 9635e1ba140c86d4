"""One trajectory as figures take it, whatever holds it: its columns on a clock."""

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sharpflow.experiments.plots import quantities
from sharpflow.experiments.plots.arguments import require_columns
from sharpflow.simulator.quantities import RESULT
from sharpflow.simulator.quantity import Quantity
from sharpflow.simulator.trajectory import Trajectory

if TYPE_CHECKING:
    import xarray

CLOCKS = ("step", "tau")
# Above it no value is drawn, as of a loss that diverged: matplotlib would overflow in its ticks.
_LARGEST = 1e100


class Curve(NamedTuple):
    """What is drawn as a line.

    Attributes:
      time: places on the clock of the axes, shape (T,).
      values: there, shape (T,).
    """

    time: np.ndarray
    values: np.ndarray


@dataclasses.dataclass(frozen=True)
class Record:
    """The columns of one trajectory, against the clock that its figure has.

    Attributes:
      dataset: with one dimension of time, and none of a grid.
      clock: ``"step"`` or ``"tau"``.
    """

    dataset: "xarray.Dataset"
    clock: str

    def __contains__(self, name: str) -> bool:
        return name in self.dataset

    @property
    def time_dimension(self) -> str:
        """The dimension of the columns."""
        return str(self.dataset["step"].dims[0])

    @property
    def time_label(self) -> str:
        """The label of the clock."""
        return quantities.label(RESULT[self.clock])

    def quantity(self, name: str) -> Quantity:
        """What a column is."""
        return quantities.shown_quantity(self.dataset, name)

    def values(self, name: str) -> np.ndarray:
        """A column, NaN where nothing is drawn, shape (T,); of several eigenvalues the largest."""
        values = np.asarray(self.dataset[name], dtype=np.float64)
        values = values[:, 0] if values.ndim == 2 else values
        return np.where(np.abs(values) < _LARGEST, values, np.nan)

    def curve(self, name: str, time: np.ndarray | None = None) -> Curve:
        """A column against the clock, or other times; of several eigenvalues the largest.

        Records without a value, as between measurements of the sharpness, are passed over.
        """
        values = self.values(name)
        kept = np.isfinite(values)
        places = np.asarray(self.dataset[self.clock] if time is None else time, dtype=np.float64)
        return Curve(places[kept], values[kept])

    def on_clock(self, tau: np.ndarray | float) -> np.ndarray:
        """Where flow times lie on the clock: a trajectory has the same flow time for each step."""
        if self.clock == "tau":
            return np.asarray(tau)
        steps, times = (np.asarray(self.dataset[name], dtype=np.float64) for name in CLOCKS)
        first, last = np.nanargmin(steps), np.nanargmax(steps)
        if first == last:
            return np.asarray(tau) * steps[last] / times[last]
        # a fork begins at a step and at a flow time that are not in the ratio of its own rule
        rate = (times[last] - times[first]) / (steps[last] - steps[first])
        return steps[first] + (np.asarray(tau) - times[first]) / rate


def one_trajectory(
    argument: str, record: "Trajectory | xarray.Dataset"
) -> "Trajectory | xarray.Dataset":
    """A trajectory as it is; a grid of one point as the dataset of its trajectory.

    Args:
      argument: what the caller calls it.
      record: a trajectory, its dataset, or a grid.

    Raises:
      ValueError: a grid of several points, or a dataset without steps.
    """
    if isinstance(record, Trajectory):
        return record
    require_columns(argument, record.coords if "step" in record.coords else record, "step")
    if "status" not in record.variables:
        return record
    points = {str(dim): record.sizes[dim] for dim in record["status"].dims}
    several = {dim: size for dim, size in points.items() if size > 1}
    if several:
        one = ", ".join(f"{dim}=0" for dim in several)
        raise ValueError(
            f"{argument} must be one trajectory, got a grid of {several}: select a point of it, as "
            f"in .isel({one})"
        )
    return record.isel(dict.fromkeys(points, 0))


def record_of(
    argument: str, source: "Trajectory | xarray.Dataset", clock: str | None = None
) -> Record:
    """The record of a trajectory.

    Args:
      argument: what the caller calls it.
      source: a trajectory, its dataset, or a grid of one point.
      clock: ``"step"`` or ``"tau"``; by default the flow time where there is one.

    Raises:
      ValueError: as ``one_trajectory``, another clock, or a flow time that there is not.
    """
    if clock is not None and clock not in CLOCKS:
        raise ValueError(f"against must be one of {CLOCKS}, got {clock!r}")
    single = one_trajectory(argument, source)
    if isinstance(single, Trajectory):  # of which no figure here shows the snapshots
        single = dataclasses.replace(single, params=None).to_dataset()
    if clock == "tau" and not has_flow_time(single):
        raise ValueError(
            f"{argument} has no flow time tau, as without weight decay: give against='step'"
        )
    return Record(single, clock or ("tau" if has_flow_time(single) else "step"))


def has_flow_time(dataset: "xarray.Dataset") -> bool:
    """Whether the flow time of a trajectory passes, as it does not without weight decay.

    Args:
      dataset: of one trajectory.
    """
    return "tau" in dataset.coords and bool(np.nanmax(np.asarray(dataset["tau"])) > 0)

"""The columns of a grid against time: over the seeds, on a clock, within bounds."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sharpflow.experiments.grid_summary import (
    AT_EDGE,
    column,
    edge_ratio_name,
    is_diverged,
    time_dimension,
)
from sharpflow.experiments.plots import quantities
from sharpflow.simulator.grid.prediction_quantities import OUTPUT

if TYPE_CHECKING:
    import xarray

ENOUGH_FOR_PERCENTILES = 5
CLOCKS = ("step", "tau")

# Of the values of a metric after the transient: at 5 and 95 a burst after the entry would be cut
# off that takes a tenth of the records, at 0 and 100 a single record would make the axis.
_LATE_PERCENTILES = (1.0, 99.0)
# Of that range, how far beyond it the axis goes for a band that ends there: cut by the border it
# would look narrower than it is. With twice as much single bursts would make the axis.
_ROOM = 0.5
# Whole range over the range after the transient from which on the latter makes the axis. Below 2
# half of the axis or more would show it anyway.
WHOLE = 2.0


class Band(NamedTuple):
    """What the seeds do at one learning rate and weight decay.

    Attributes:
      time: of the records with any value, shape (T,).
      median, low, high: over the seeds that have a value then, shape (T,).
    """

    time: np.ndarray
    median: np.ndarray
    low: np.ndarray
    high: np.ndarray


def band(time: np.ndarray, values: np.ndarray) -> Band:
    """Median, 10th and 90th percentile at every record; of fewer than 5 seeds their range.

    Args:
      time: of the records, shape (T,).
      values: of the seeds, NaN where there is none, shape (seeds, T).
    """
    kept = np.isfinite(time) & np.isfinite(values).any(axis=0)
    if not kept.any():
        return Band(*np.empty((4, 0)))
    few = len(values) < ENOUGH_FOR_PERCENTILES
    levels = [50.0, 0.0, 100.0] if few else [50.0, 10.0, 90.0]
    return Band(time[kept], *_percentiles(values[:, kept], levels))


def _percentiles(values: np.ndarray, levels: list[float]) -> np.ndarray:
    """Of what is not NaN in each column, shape (levels, columns).

    ``numpy.nanpercentile`` gives the same numbers, but goes through the columns one by one.
    """
    ordered = np.sort(values, axis=0)  # NaN last
    counts = np.isfinite(ordered).sum(axis=0)
    percentiles = np.empty((len(levels), values.shape[1]))
    for count in np.unique(counts):
        alike = counts == count
        percentiles[:, alike] = np.percentile(ordered[:count, alike], levels, axis=0)
    return percentiles


def predicted(dataset: "xarray.Dataset", name: str) -> "xarray.DataArray | None":
    """What the predictions say of a column, at the records of each trajectory.

    Every prediction has times of its own. A median over the seeds needs common ones, and those of
    the records are what the column itself is drawn at.

    Args:
      dataset: of a grid, with predictions or without.
      name: of the column.

    Returns:
      As ``column``, linear between the outputs of a prediction and NaN outside of them; None where
      the predictions say nothing of the column.
    """
    if (source := quantities.prediction_of(dataset, name)) is None:
        return None
    measured = column(dataset, name)
    along = (*measured.dims[:-1], OUTPUT)
    steps, values = (
        dataset[of].transpose(*along).values.astype(np.float64)
        for of in ("prediction_step", source)
    )
    records = np.broadcast_to(times(dataset, "step"), measured.shape)
    at_records = np.full(measured.shape, np.nan)
    for point in np.ndindex(measured.shape[:-1]):
        known = np.isfinite(steps[point]) & np.isfinite(values[point])
        if known.any():
            outputs = steps[point][known], values[point][known]
            at_records[point] = np.interp(records[point], *outputs, left=np.nan, right=np.nan)
    return measured.copy(data=at_records)


def once_all_begin(values: np.ndarray) -> np.ndarray:
    """Predictions of seeds without what comes before the last of them begins.

    Predictions begin at different times, and each new one would make a step in the median, which
    no trajectory takes.

    Args:
      values: of the seeds, NaN where there is none, shape (seeds, T).
    """
    begun = np.cumsum(np.isfinite(values), axis=1) > 0
    return np.where(begun[begun.any(axis=1)].all(axis=0), values, np.nan)


def steady(dataset: "xarray.Dataset", name: str) -> "xarray.DataArray":
    """A column without the last tenth of the values of the trajectories that diverged."""
    values = column(dataset, name)
    finite = np.isfinite(values.values)
    late = np.cumsum(finite, axis=-1) > 0.9 * finite.sum(axis=-1, keepdims=True)
    return values.where(~(late & is_diverged(dataset).values[..., None]))


def bounds(
    dataset: "xarray.Dataset", name: str, before: "xarray.Dataset | None" = None
) -> tuple[float, float, bool] | None:
    """Where a scale begins and ends that holds all that is steady, and whether it is a log one.

    It holds what is predicted, too. That of a metric holds what ``_late`` takes of both, and that
    of a sharpness its edge, too. That
    of a quantity with a value to be compared with, as 1 for an edge ratio, holds this value, and of
    the first half of the records no more than 1.5 times it or 1.2 times the largest of the second:
    before the edge it may be passed far and shortly. What came before a fork counts as that half.

    Args:
      dataset: a grid.
      name: of the column.
      before: what its points recorded before, if they go on from those of a run.

    Returns:
      None where there is no value.
    """
    names = (name, quantities.edge_of(dataset, name))
    parts = [steady(dataset, part).values for part in names if part is not None]
    if (expected := predicted(dataset, name)) is not None:
        parts.append(expected.values)
    if before is not None:
        parts += [
            column(before, part).values for part in names if part is not None and part in before
        ]
    shown = np.concatenate([part[np.isfinite(part)] for part in parts])
    if not shown.size:
        return None
    quantity = quantities.shown_quantity(dataset, name)
    if (line := quantities.line_of(quantity)) is not None:
        late = parts[0][..., parts[0].shape[-1] // 2 :]
        most = max(1.5 * line, 1.2 * late[np.isfinite(late)].max(initial=line))
        shown = np.append(np.minimum(shown, most), line)
    if quantities.is_logarithmic(quantity, shown):
        low, high = float(shown[shown > 0].min()), float(shown.max())
        room = (high / low) ** 0.04
        return low / room, high * room, True
    if name in quantities.metric_names(dataset, time_dimension(dataset)):
        of_metric = [parts[0]] if expected is None else [parts[0], expected.values]
        shown = _late(dataset, np.stack(of_metric), shown)
    low, high = float(shown.min()), float(shown.max())
    margin = 0.04 * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin, False


def _late(dataset: "xarray.Dataset", values: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """What the axis of a metric holds: all, or what follows the transient where that is small.

    The first records of a metric may lie so far from all others that on an axis with them two
    ends look alike that are not. The transient ends where the edge ratio first comes to
    ``AT_EDGE``, after a tenth of the records at least; or in the middle of the records where it
    was not recorded or comes there later. Of what follows, single values far from all others are
    left out, but no last one, and no end of a band that is near.

    Args:
      dataset: a grid.
      values: of the metric, NaN where there is none, shape (..., time).
      shown: those that are finite, shape (V,).
    """
    records = np.arange(values.shape[-1])
    begin = np.full(values.shape[:-1], values.shape[-1] // 2)
    if (ratio := edge_ratio_name(dataset)) is not None:
        at_edge = column(dataset, ratio).values >= AT_EDGE[0]
        entry = np.where(at_edge.any(axis=-1), at_edge.argmax(axis=-1), begin)
        begin = np.clip(entry, values.shape[-1] // 10, begin)
    finite = np.isfinite(values)
    after = values[finite & (records >= begin[..., None])]
    if not after.size:
        return shown
    last = finite & (np.cumsum(finite[..., ::-1], axis=-1)[..., ::-1] == 1)
    late = np.append(np.percentile(after, _LATE_PERCENTILES), values[last])
    banded = np.where(records >= begin[..., None], values, np.nan)
    banded = np.moveaxis(banded, -4, 0).reshape(values.shape[-4], -1)  # (seeds, all else)
    edges = band(np.zeros(banded.shape[1]), banded)
    room = _ROOM * np.ptp(late)
    ends = np.concatenate([edges.low, edges.high])
    near = (ends >= late.min() - room) & (ends <= late.max() + room)
    late = np.concatenate([late, ends[near]])
    return late if np.ptp(shown) > WHOLE * np.ptp(late) else shown


def clock(dataset: "xarray.Dataset", against: str | None) -> str:
    """``"step"`` or ``"tau"``: the one given, or the one on which the points end together.

    Raises:
      ValueError: an unknown clock, or one that the dataset does not have.
    """
    if against is not None and against not in CLOCKS:
        raise ValueError(f"against must be one of {CLOCKS}, got {against!r}")
    flows = "tau" in dataset.coords
    if flows:
        last = dataset["tau"].max(time_dimension(dataset), skipna=True)
        flows = bool(np.all(last > 0))
    if against == "tau" and not flows:
        raise ValueError(
            "dataset has no flow time tau at some point, as without weight decay: give "
            "against='step'"
        )
    if against is not None:
        return against
    planned = dataset["num_steps"].values if "num_steps" in dataset else np.zeros(1)
    return "tau" if flows and planned.min() < planned.max() else "step"


def times(dataset: "xarray.Dataset", on: str) -> np.ndarray:
    """A clock at every record, shape (learning_rate, weight_decay, time), in float64."""
    dims = ("learning_rate", "weight_decay", time_dimension(dataset))
    variable = dataset[on].variable.set_dims({name: dataset.sizes[name] for name in dims})
    return variable.transpose(*dims).values.astype(np.float64)


def thinned(dataset: "xarray.Dataset", dim: str, most: int) -> tuple["xarray.Dataset", str]:
    """At most so many values along a dimension, evenly chosen with both ends, and a note."""
    count = dataset.sizes[dim]
    if count <= most:
        return dataset, ""
    places = np.unique(np.linspace(0, count - 1, most).round().astype(int))
    return dataset.isel({dim: places}), f"{len(places)} of {count} {dim.replace('_', ' ')}s"

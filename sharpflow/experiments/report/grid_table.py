"""The grid as a table: a row for each point, with what it came to."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from sharpflow.experiments.grid_summary import (
    SHARPNESSES,
    Outcome,
    edge_ratio_name,
    last_values,
    loss_name,
    outcomes,
    time_dimension,
)
from sharpflow.experiments.plots.quantities import metric_names, shown_quantity
from sharpflow.experiments.report.page import Cell, Table, number, words
from sharpflow.experiments.report.points import Records, label, short_name
from sharpflow.experiments.report.predicted import Prediction
from sharpflow.simulator.comparison_quantities import COMPARISON_NUMBERS

if TYPE_CHECKING:
    import xarray

_STATUS = {-1: "pending", 0: "success"}


def grid_table(
    dataset: "xarray.Dataset",
    points: Records,
    predictions: Mapping[int, Prediction],
    *,
    curves: int,
) -> Table:
    """Axes, status, steps and last values of every point.

    Args:
      dataset: of the run.
      points: of it.
      predictions: the points with a flow, whose tracking error is shown where the run does not
        keep those of all points.
      curves: how many of the points, the first ones, have curves to lead to.
    """
    time = time_dimension(dataset)
    last = _last_columns(dataset, time)
    ended = _outcomes(dataset)
    heads = ["point", *map(short_name, points.axes), "status", "steps", "τ"]
    heads += [f"last {shown_quantity(dataset, name).label}" for name in last]
    errors = _tracking_errors(dataset, points.count, predictions)
    if errors is not None:
        heads.append(COMPARISON_NUMBERS["final_relative_error"].label)
    rows = []
    for point in range(points.count):
        status = int(points.status[point])
        link = f"#point-{point}" if point < curves else None
        text = _STATUS.get(status, "diverged") if ended is None else ended[point]
        tau = points.intrinsic_rate[point] * points.made[point]
        row = [
            Cell(str(point), float(point), "number", link),
            *(_axis(points.values[name][point]) for name in points.axes),
            Cell(text, text, "fails" if text == "diverged" else "text"),
            number(points.made[point]),
            number(tau),
            *(number(values[point]) for values in last.values()),
        ]
        if errors is not None:
            row.append(number(errors[point]))
        rows.append(row)
    return Table("grid-table", heads, rows)


def _tracking_errors(
    dataset: "xarray.Dataset", count: int, predictions: Mapping[int, Prediction]
) -> np.ndarray | None:
    """Of every point, NaN where no prediction reaches its end; the run's folder has those of all.

    Returns:
      Shape (points,), or None where nothing is predicted.
    """
    name = "final_relative_error"
    if name in dataset:
        return last_values(dataset, name).values.reshape(count)
    if not predictions:
        return None
    errors = np.full(count, np.nan)
    for point, prediction in predictions.items():
        errors[point] = prediction.comparison.attrs[name]
    return errors


def _axis(value: float | int | str) -> Cell:
    return words(value) if isinstance(value, str) else number(value, label(value))


def _last_columns(dataset: "xarray.Dataset", time: str) -> dict[str, np.ndarray]:
    """The last values of the loss, sharpness, threshold, edge ratio and metrics."""
    sharpness = next((name for name in SHARPNESSES if name in dataset), None)
    threshold = "threshold" if "threshold" in dataset else None
    wanted = (loss_name(dataset), sharpness, threshold, edge_ratio_name(dataset))
    names = [*filter(None, wanted), *metric_names(dataset, time)]
    return {name: last_values(dataset, name).values.reshape(-1) for name in names}


def _outcomes(dataset: "xarray.Dataset") -> list[str] | None:
    """How each point ended; None where no loss tells."""
    if loss_name(dataset) is None:
        return None
    return [Outcome(code).label for code in outcomes(dataset).values.reshape(-1)]

"""The grid as a table: a row for each point, with what it came to."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from sharpflow.experiments.grid_summary import (
    EDGE_RATIOS,
    Outcome,
    last_values,
    outcomes,
    time_dimension,
)
from sharpflow.experiments.plots.quantities import metric_names
from sharpflow.experiments.report.curves import name_of
from sharpflow.experiments.report.page import Cell, Table, number, words
from sharpflow.experiments.report.points import Records, label
from sharpflow.experiments.report.predicted import Prediction

if TYPE_CHECKING:
    import xarray

_HEADS = {"learning_rate": "η", "weight_decay": "λ"}
_SHARPNESSES = (
    "sharpness_manifold",
    "sharpness_midpoint",
    "sharpness_iterate",
    "hessian_sharpness",
    "preconditioned_sharpness",
)
_STATUS = {-1: "pending", 0: "success"}


def grid_table(
    dataset: "xarray.Dataset", points: Records, found: Mapping[int, Prediction], *, curves: int
) -> Table:
    """Axes, status, steps and last values of every point.

    Args:
      dataset: of the run.
      points: of it.
      found: the points with a flow, whose tracking error is shown.
      curves: how many of the points, the first ones, have curves to lead to.
    """
    time = time_dimension(dataset)
    last = _last_columns(dataset, time)
    ended = _outcomes(dataset)
    heads = ["point", *(_HEADS.get(name, name) for name in points.axes), "status", "steps", "τ"]
    heads += [f"last {name_of(name)}" for name in last]
    if found:
        heads.append("tracking error")
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
        if found:
            error = (
                found[point].comparison.attrs["final_relative_error"] if point in found else None
            )
            row.append(number(np.nan if error is None else error))
        rows.append(row)
    return Table("grid-table", heads, rows)


def _axis(value: float | int | str) -> Cell:
    return words(value) if isinstance(value, str) else number(value, label(value))


def _last_columns(dataset: "xarray.Dataset", time: str) -> dict[str, np.ndarray]:
    """The last values of the loss, sharpness, threshold, edge ratio and metrics."""
    losses = [name for name in ("loss_mean", "loss") if name in dataset][:1]
    sharpnesses = [name for name in _SHARPNESSES if name in dataset][:1]
    ratios = [name for name in EDGE_RATIOS if name in dataset][:1]
    threshold = ["threshold"] if "threshold" in dataset else []
    names = [*losses, *sharpnesses, *threshold, *ratios, *metric_names(dataset, time)]
    return {name: last_values(dataset, name).values.reshape(-1) for name in names}


def _outcomes(dataset: "xarray.Dataset") -> list[str] | None:
    """How each point ended; None where no loss tells."""
    if not {"loss", "loss_mean"} & set(map(str, dataset)):
        return None
    return [Outcome(code).label for code in outcomes(dataset).values.reshape(-1)]

"""What a report takes and says of the predictions that the folder of a run holds."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from sharpflow.experiments.plots.quantities import metric_names
from sharpflow.experiments.report.points import Records
from sharpflow.experiments.report.predicted import Prediction
from sharpflow.experiments.run import kinds_in_words
from sharpflow.simulator.comparison_quantities import COMPARISON_NUMBERS
from sharpflow.simulator.grid.prediction_quantities import NONE, OUTPUT
from sharpflow.simulator.store.arrays import PENDING
from sharpflow.theory.status import Status

if TYPE_CHECKING:
    import xarray

# Reasons of points differ in the numbers that they name, as a distance or a step.
_NUMBER = re.compile(r"[+−-]?\d[\d.,]*(e[+-]?\d+)?")
# What the page shows of every comparison, NaN where the folder does not keep it.
_SHOWN = (
    "predicted_sharpness",
    "predicted_threshold",
    "predicted_loss",
    "relative_error",
    "threshold_ratio",
)


def kept_predictions(
    dataset: "xarray.Dataset", points: Records, time: str
) -> dict[int, Prediction]:
    """The predictions that the folder of a run holds, by the numbers of their points.

    Args:
      dataset: of the run.
      points: of it.
      time: its dimension of records.
    """
    import xarray

    if "prediction_kind" not in dataset:
        return {}
    flat = {
        name: dataset[name].transpose(*points.axes, ...).values
        for name in map(str, dataset.data_vars)
        if {*dataset[name].dims} in ({*points.axes}, {*points.axes, OUTPUT})
    }
    flat = {name: each.reshape(points.count, -1) for name, each in flat.items()}
    metrics = [name for name in metric_names(dataset, time) if f"predicted_{name}" in flat]
    along = {*_SHOWN, *(f"predicted_{name}" for name in metrics)}
    made = {}
    for point in np.flatnonzero(flat["prediction_kind"][:, 0] != NONE):
        tau = flat["prediction_tau"][point]
        known = np.isfinite(tau)
        columns = {
            name: flat[name][point][known] if name in flat else np.full(known.sum(), np.nan)
            for name in along
        }
        columns["threshold"] = columns["threshold_ratio"] * columns["predicted_threshold"]
        numbers = {
            name: float(flat[name][point, 0]) if name in flat else np.nan
            for name in COMPARISON_NUMBERS
        }
        made[int(point)] = Prediction(
            kind=str(flat["prediction_kind"][point, 0]),
            reason=str(flat["prediction_reason"][point, 0]),
            reaches_end=int(flat["prediction_status"][point, 0]) == Status.SUCCESS,
            comparison=xarray.Dataset(
                {name: ("tau", values) for name, values in columns.items()},
                {"tau": tau[known]},
                numbers,
            ),
            metrics={name: columns[f"predicted_{name}"] for name in metrics},
        )
    return made


def said_of_kept(
    dataset: "xarray.Dataset", points: Records, predictions: Mapping[int, Prediction]
) -> list[str]:
    """How many points are predicted and by which flow, and why others are not; one line each.

    Args:
      dataset: of the run.
      points: of it.
      predictions: that its folder holds.

    Returns:
      Nothing where the folder holds no predictions.
    """
    if "prediction_kind" not in dataset:
        return []
    kinds, reasons = (
        dataset[name].transpose(*points.axes).values.reshape(-1)
        for name in ("prediction_kind", "prediction_reason")
    )
    parts = kinds_in_words(kinds)
    lines = [
        f"The folder holds predictions of {len(predictions)} of {points.count} "
        f"points{': ' if parts else ''}{', '.join(parts)}."
    ]
    missing = (kinds == NONE) & (reasons == "")
    untried = np.count_nonzero(missing & (points.status != PENDING))
    if untried:
        lines.append(
            f"{_counted(untried)} not predicted yet: sharpflow predict goes on with "
            f"{'it' if untried == 1 else 'them'}."
        )
    if unfinished := np.count_nonzero(missing & (points.status == PENDING)):
        lines.append(f"{_counted(unfinished)} not finished, and not predicted before.")
    failed = np.flatnonzero((kinds == NONE) & (reasons != ""))
    without = {int(point): str(reasons[point]) for point in failed}
    return lines + reasons_in_words(points, predictions, without)


def reasons_in_words(
    points: Records, predictions: Mapping[int, Prediction], without: Mapping[int, str]
) -> list[str]:
    """Why points have no prediction, one that ends early, or a central flow; one line each.

    Points with the same reason, but for its numbers, share a line, which shows that of the first.

    Args:
      points: of the run.
      predictions: of some of them.
      without: the reasons of points that have none.
    """
    said = [(point, "No prediction", reason) for point, reason in without.items()]
    said += [
        (
            point,
            "The central flow" if each.reaches_end else "A prediction that ends early",
            each.reason,
        )
        for point, each in predictions.items()
        if each.reason
    ]
    alike: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for point, what, reason in sorted(said):
        alike.setdefault((what, _NUMBER.sub("#", reason)), []).append((point, reason))
    lines = []
    for (what, _), group in alike.items():
        point, reason = group[0]
        first = points.title(point)
        where = first if len(group) == 1 else f"{len(group)} points, the first of them {first}"
        lines.append(f"{what} at {where}: {reason}")
    return lines


def _counted(count: int | np.integer) -> str:
    return "1 point is" if count == 1 else f"{count} points are"

"""The records of every point, thinned to what a screen shows, for the page to draw."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sharpflow.experiments.plots.quantities import edge_of, is_edge_ratio, metric_names
from sharpflow.experiments.report.measured import Measures
from sharpflow.experiments.report.points import Records
from sharpflow.experiments.report.predicted import Prediction
from sharpflow.experiments.report.statements import statement_facts

if TYPE_CHECKING:
    import xarray

MOST_BUCKETS = 240
FEWEST_BUCKETS = 20
MOST_VALUES = 300_000  # of all curves of a page, about 9 bytes each

_NAMES = {
    "loss": "loss L",
    "loss_mean": "mean loss L̄",
    "threshold": "threshold λ*",
    "stability_line": "2/η",
    "sharpness_iterate": "λ₁ at θₜ",
    "sharpness_midpoint": "λ₁ at the midpoint",
    "sharpness_manifold": "λ₁ at Φ(θₜ)",
    "hessian_sharpness": "λ₁(∇²L(w))",
    "preconditioned_sharpness": "preconditioned λ₁",
    "edge_ratio_iterate": "λ₁/λ* at θₜ",
    "edge_ratio_midpoint": "λ₁/λ* at the midpoint",
    "edge_ratio_manifold": "λ₁/λ* at Φ(θₜ)",
    "norm_squared": "‖w‖²",
}


def all_curves(
    dataset: "xarray.Dataset",
    time: str,
    points: Records,
    measures: list[Measures],
    found: dict[int, Prediction],
) -> tuple[dict[str, Any], str]:
    """The curves of as many points as a page can hold, and how they were thinned.

    Args:
      dataset: of the run.
      time: its dimension of records.
      points: of it.
      measures: of every point.
      found: the points with a flow.
    """
    drawn = panels(dataset, time)
    names = list(dict.fromkeys(name for panel in drawn for name in panel["columns"]))
    buckets = num_buckets(points.count * max(len(names), 1))
    most = MOST_VALUES // (2 * buckets * max(len(names), 1))
    kept = range(min(points.count, max(most, 1)))
    data = []
    for point in kept:
        tau = None if points.tau is None else points.tau[point]
        moving = tau is not None and points.intrinsic_rate[point] > 0
        columns = {name: points.columns[name][point] for name in names if name in points.columns}
        data.append(
            {
                "title": points.title(point),
                "facts": statement_facts(measures[point], found.get(point)),
                "entry": packed(np.array([measures[point]["entry_step"]]))[0],
                **_curves_of(columns, points.step[point], tau if moving else None, buckets),
                "predicted": _predicted_curves(found.get(point)),
            }
        )
    labels = {name: name_of(name) for name in names}
    rows = points.step.shape[1]
    note = (
        f"Curves show every one of up to {rows} records."
        if rows <= 2 * buckets
        else f"Of {rows} records each curve shows the smallest and the largest in each of "
        f"{buckets} parts: an oscillation keeps its width."
    )
    if len(kept) < points.count:
        note += f" Only the first {len(kept)} points have curves: the page would be too large."
    return {"panels": drawn, "labels": labels, "points": data}, note


def _predicted_curves(prediction: Prediction | None) -> dict[str, Any] | None:
    if prediction is None:
        return None
    names = {"threshold": "predicted_threshold", "loss_mean": "predicted_loss"}
    compared = prediction.comparison
    found = {name: packed(compared[column].values) for name, column in names.items()}
    found["sharpness"] = packed(compared["predicted_sharpness"].values)
    found["tracking"] = packed(compared["relative_error"].values)
    metrics = {name: packed(values) for name, values in prediction.metrics.items()}
    # apart from each other: metrics have names of the user's own
    return {"tau": packed(compared["tau"].values), "columns": found, "metrics": metrics}


def name_of(column: str) -> str:
    """A column in a word and a symbol."""
    return _NAMES.get(column, column.replace("_", " "))


def panels(dataset: "xarray.Dataset", time: str) -> list[dict[str, Any]]:
    """What is drawn together: each panel has a title, a scale and the columns in it.

    Args:
      dataset: of a run.
      time: its dimension of records.
    """
    sharpnesses = [name for name in _NAMES if "sharpness" in name and name in dataset]
    edges = dict.fromkeys(edge for name in sharpnesses if (edge := edge_of(dataset, name)))
    if "threshold" in dataset:
        edges["threshold"] = None
    ratios = [name for name in _NAMES if is_edge_ratio(name) and name in dataset]
    losses = [name for name in ("loss", "loss_mean") if name in dataset]
    found = [
        _panel("training loss", losses, log=True),
        _panel("sharpness and threshold", [*edges, *sharpnesses], log=True),
        _panel("edge ratio", ratios, line=1.0),
        *(_panel(name_of(name), [name]) for name in metric_names(dataset, time)),
    ]
    return [panel for panel in found if panel["columns"]]


def _panel(
    title: str, columns: Sequence[str], *, log: bool = False, line: float | None = None
) -> dict[str, Any]:
    return {"title": title, "columns": list(columns), "log": log, "line": line}


def num_buckets(num_curves: int) -> int:
    """Into how many parts each curve is thinned, so that a large grid makes no huge page."""
    share = MOST_VALUES // (2 * max(num_curves, 1))
    return max(FEWEST_BUCKETS, min(MOST_BUCKETS, share))


def bucket_width(rows: int, buckets: int) -> int:
    """Records of a bucket; 1 where thinning would spare nothing."""
    return 1 if rows <= 2 * buckets else -(-rows // buckets)


def envelope(values: np.ndarray, width: int) -> np.ndarray:
    """The smallest and the largest value of each bucket, in the order in which they come.

    Args:
      values: of every record, shape (T,); NaN where there is none.
      width: records of a bucket.

    Returns:
      Two values for each bucket, shape (2 ⌈T/width⌉,); ``values`` where the width is 1.
    """
    if width == 1:
        return values
    padded = np.full(-(-len(values) // width) * width, np.nan)
    padded[: len(values)] = values
    rows = padded.reshape(-1, width)
    lowest = np.argmin(np.where(np.isfinite(rows), rows, np.inf), axis=1)
    highest = np.argmax(np.where(np.isfinite(rows), rows, -np.inf), axis=1)
    places = np.sort(np.stack([lowest, highest], axis=1), axis=1)
    return np.take_along_axis(rows, places, axis=1).reshape(-1)


def times(values: np.ndarray, width: int) -> np.ndarray:
    """Times for the pairs of ``envelope``: the first and the last of each bucket."""
    if width == 1:
        return values
    starts = np.arange(0, len(values), width)
    ends = np.minimum(starts + width, len(values)) - 1
    return np.stack([values[starts], values[ends]], axis=1).reshape(-1)


def packed(values: np.ndarray) -> list[float | None]:
    """Numbers to five digits for JSON, which knows no NaN."""
    return [
        float(f"{value:.5g}") if np.isfinite(value) else None for value in np.asarray(values, float)
    ]


def _curves_of(
    columns: Mapping[str, np.ndarray],
    step: np.ndarray,
    tau: np.ndarray | None,
    buckets: int,
) -> dict[str, Any]:
    """The curves of one point.

    Args:
      columns: by name, shapes (T,).
      step, tau: of every record, shapes (T,); ``tau`` None where it does not move.
      buckets: as ``num_buckets`` gives it.

    Returns:
      ``step``, ``tau`` and ``columns`` as lists.
    """
    known = [np.flatnonzero(np.isfinite(values)) for values in columns.values()]
    last = max((int(found[-1]) + 1 for found in known if found.size), default=0)
    width = bucket_width(last, buckets)
    return {
        "step": [int(value) for value in times(step[:last], width)],
        "tau": None if tau is None else packed(times(tau[:last], width)),
        "columns": {
            name: packed(envelope(values[:last], width)) for name, values in columns.items()
        },
    }

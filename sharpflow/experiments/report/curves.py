"""The records of every point, thinned to what a screen shows, for the page to draw."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sharpflow.experiments.grid_summary import EDGE_RATIOS, SHARPNESSES
from sharpflow.experiments.plots.quantities import edge_of, line_of, metric_names, shown_quantity
from sharpflow.experiments.report.before import Before
from sharpflow.experiments.report.measured import Measures
from sharpflow.experiments.report.points import Records
from sharpflow.experiments.report.predicted import Prediction
from sharpflow.experiments.report.statements import statement_facts
from sharpflow.simulator.comparison_quantities import COMPARISON
from sharpflow.simulator.quantities import RESULT
from sharpflow.simulator.quantity import Quantity

if TYPE_CHECKING:
    import xarray

MOST_BUCKETS = 240
FEWEST_BUCKETS = 20
MOST_VALUES = 300_000  # of all curves of a page, about 9 bytes each

_EXPECTED = {
    "sharpness": "predicted_sharpness",
    "threshold": "predicted_threshold",
    "loss_mean": "predicted_loss",
}


def all_curves(
    dataset: "xarray.Dataset",
    time: str,
    points: Records,
    measures: list[Measures],
    predictions: dict[int, Prediction],
    before: Sequence[Before] | None = None,
) -> tuple[dict[str, Any], str]:
    """The curves of as many points as a page can hold, and how they were thinned.

    Args:
      dataset: of the run.
      time: its dimension of records.
      points: of it.
      measures: of every point.
      predictions: the points with a flow.
      before: of a fork what was recorded of each point before it.
    """
    drawn = panels(dataset, time)
    names = list(dict.fromkeys(name for panel in drawn for name in panel["columns"]))
    curves = max(len(names), 1) * (1 if before is None else 2)
    buckets = num_buckets(points.count * curves)
    most = MOST_VALUES // (2 * buckets * curves)
    kept = range(min(points.count, max(most, 1)))
    data = []
    for point in kept:
        tau = None if points.tau is None else points.tau[point]
        moving = tau is not None and points.intrinsic_rate[point] > 0
        columns = {name: points.columns[name][point] for name in names if name in points.columns}
        data.append(
            {
                "title": points.title(point),
                "facts": statement_facts(measures[point], predictions.get(point)),
                "entry": packed(np.array([measures[point]["entry_step"]]))[0],
                **_curves_of(columns, points.step[point], tau if moving else None, buckets),
                "predicted": _predicted_curves(predictions.get(point)),
                "before": None
                if before is None
                else _before(before[point], names, moving, buckets),
            }
        )
    labels = {name: shown_quantity(dataset, name).label for name in names}
    rows = points.step.shape[1]
    note = (
        f"Curves show every one of up to {rows} records."
        if rows <= 2 * buckets
        else f"Of {rows} records each curve shows the smallest and the largest in each of "
        f"{buckets} parts: an oscillation keeps its width."
    )
    if len(kept) < points.count:
        note += f" Only the first {len(kept)} points have curves: the page would be too large."
    shown = {
        "panels": drawn,
        "labels": labels,
        # of what was predicted; the first is that of every spherical sharpness
        "expected": {name: COMPARISON[of].label for name, of in _EXPECTED.items()},
        "edges": sorted(filter(None, (edge_of(dataset, name) for name in names))),
        "times": {name: RESULT[name].label for name in ("tau", "step")},
        "points": data,
    }
    return shown, note


def _before(
    recorded: Before, names: Sequence[str], moving: bool, buckets: int
) -> dict[str, Any] | None:
    """The curves before a fork; None where they have not the clock of those after it."""
    if moving and recorded.tau is None:
        return None
    columns = {name: recorded.columns[name] for name in names if name in recorded.columns}
    return _curves_of(columns, recorded.step, recorded.tau if moving else None, buckets)


def _predicted_curves(prediction: Prediction | None) -> dict[str, Any] | None:
    if prediction is None:
        return None
    compared = prediction.comparison
    expected = {name: packed(compared[column].values) for name, column in _EXPECTED.items()}
    expected["tracking"] = packed(compared["relative_error"].values)
    metrics = {name: packed(values) for name, values in prediction.metrics.items()}
    # apart from each other: metrics have names of the user's own
    return {"tau": packed(compared["tau"].values), "columns": expected, "metrics": metrics}


def panels(dataset: "xarray.Dataset", time: str) -> list[dict[str, Any]]:
    """What is drawn together: each panel has a title, a scale and the columns in it.

    Args:
      dataset: of a run.
      time: its dimension of records.
    """
    sharpnesses = [name for name in SHARPNESSES if name in dataset]
    edges = dict.fromkeys(edge for name in sharpnesses if (edge := edge_of(dataset, name)))
    if "threshold" in dataset:
        edges["threshold"] = None
    together = {
        "training loss": [name for name in ("loss", "loss_mean") if name in dataset],
        "sharpness and threshold": [*edges, *sharpnesses],
        "edge ratio": [name for name in EDGE_RATIOS if name in dataset],
    }
    # pairs, because two metrics may be called alike in words
    alone = [(shown_quantity(dataset, n).label, [n]) for n in metric_names(dataset, time)]
    candidates = [
        _panel(title, [shown_quantity(dataset, name) for name in names])
        for title, names in (*together.items(), *alone)
    ]
    return [panel for panel in candidates if panel["columns"]]


def _panel(title: str, quantities: Sequence[Quantity]) -> dict[str, Any]:
    """A panel for quantities of one kind, which share its scale and its line."""
    lines = [line for each in quantities if (line := line_of(each)) is not None]
    return {
        "title": title,
        "columns": [each.name for each in quantities],
        "log": any(each.scale == "log" for each in quantities),
        "line": lines[0] if lines else None,
    }


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
    last = max((int(indices[-1]) + 1 for indices in known if indices.size), default=0)
    width = bucket_width(last, buckets)
    return {
        "step": [int(value) for value in times(step[:last], width)],
        "tau": None if tau is None else packed(times(tau[:last], width)),
        "columns": {
            name: packed(envelope(values[:last], width)) for name, values in columns.items()
        },
    }

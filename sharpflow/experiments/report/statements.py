"""What theory says of the points of a run, in one table for all and a few lines for each."""

from collections.abc import Mapping, Sequence

import numpy as np

from sharpflow.experiments.report.measured import Measures
from sharpflow.experiments.report.page import Cell, Table, number, shown, words
from sharpflow.experiments.report.predicted import Prediction
from sharpflow.experiments.run import FLOWS
from sharpflow.simulator.comparison_quantities import COMPARISON_NUMBERS
from sharpflow.simulator.crossing import SETTLE_TAU

SETTLED = (
    "The entry is the step at which the edge ratio first rises through 1 from below. A start above "
    "1 that falls below it is none. The oscillation answers the entry late: once the mean loss "
    "first reaches half of the predicted one. Means after the entry begin "
    f"{SETTLE_TAU:g} of flow time after that, or after the entry itself where no loss is known."
)

_HEADS = ("statement", "predicted", "median", "smallest", "largest", "points")


def statement_table(measures: Sequence[Measures], predictions: Mapping[int, Prediction]) -> Table:
    """Each statement with its prediction and what was measured over the points.

    Args:
      measures: of every point.
      predictions: the points with a flow.
    """
    ratios = {
        "entry step, measured / predicted from rest": ("1", _ratio(measures, "entry_step")),
        "mean edge ratio after the entry": ("1", _values(measures, "edge_ratio")),
        "|‖w‖² · 2(1 − ηλ)/(ηλ*) − 1|, largest of a point": ("0", _values(measures, "norm_error")),
        "mean loss after the entry / ½ ηλ λ* tr M, M from the fall of λ*": (
            "1",
            _ratio(measures, "loss"),
        ),
        "share of steps after the entry that raise the loss": ("½", _values(measures, "rises")),
    }
    if predictions:
        flows = [each.comparison for each in predictions.values()]
        of_flow = {
            name: [flow.attrs.get(name, np.nan) for flow in flows] for name in _FLOW_ATTRIBUTES
        }
        entry, expected = (np.array(of_flow[f"{of}entry_step"]) for of in ("", "predicted_"))
        # a start at the edge enters at once, and a ratio of nothing to nothing says nothing
        late = (entry > 0) & (expected >= 1)
        ratios |= {
            "flow: entry step, measured / predicted": (
                "1",
                np.where(late, entry / np.maximum(expected, 1), np.nan),
            ),
            f"flow: {_words('final_relative_error')}, at the end": (
                "0",
                of_flow["final_relative_error"],
            ),
            "flow: threshold, measured / predicted, at the end": (
                "1",
                [_last(flow["threshold_ratio"].values) for flow in flows],
            ),
            f"flow: {_words('mean_edge_ratio')}": ("1", of_flow["mean_edge_ratio"]),
            f"flow: {_words('mean_loss_ratio')}": ("1", of_flow["mean_loss_ratio"]),
        }
    rows = [
        _row(statement, predicted, np.asarray(values, float))
        for statement, (predicted, values) in ratios.items()
    ]
    return Table("statements-table", _HEADS, rows)


_FLOW_ATTRIBUTES = (
    "entry_step",
    "predicted_entry_step",
    "final_relative_error",
    "mean_edge_ratio",
    "mean_loss_ratio",
)


def statement_facts(measures: Measures, prediction: Prediction | None) -> list[list[str]]:
    """Of one point: what, measured and predicted, in words."""
    facts = [
        ["entry step", _said(measures["entry_step"]), _said(measures["predicted_entry_step"])],
        ["mean edge ratio after the entry", _said(measures["edge_ratio"]), "1"],
        ["mean loss after the entry", _said(measures["loss"]), _said(measures["predicted_loss"])],
        [_words("loss_rises_after"), _said(measures["rises"]), "½"],
    ]
    if prediction is not None:
        attributes = prediction.comparison.attrs
        facts += [
            ["predicted by", "", FLOWS[prediction.kind]],
            [
                "entry step, from the arrival on Γ",
                _said(attributes.get("entry_step", np.nan)),
                _said(attributes.get("predicted_entry_step", np.nan)),
            ],
            [_words("final_relative_error"), _said(attributes["final_relative_error"]), "0"],
            [
                "threshold at the end",
                _said(_last(prediction.comparison["threshold"].values)),
                _said(_last(prediction.comparison["predicted_threshold"].values)),
            ],
            [f"{_words('mean_loss_ratio')} by the flow", _said(attributes["mean_loss_ratio"]), "1"],
        ]
    return [fact for fact in facts if fact[1] != "–"]


def _words(number: str) -> str:
    """What a comparison says of one of its numbers."""
    return COMPARISON_NUMBERS[number].label


def _row(statement: str, predicted: str, values: np.ndarray) -> list[Cell]:
    known = values[np.isfinite(values)]
    summary = [np.median(known), known.min(), known.max()] if known.size else [np.nan] * 3
    return [
        words(statement, "statement"),
        Cell(predicted, predicted, "number"),
        *(number(value) for value in summary),
        number(known.size),
    ]


def _values(measures: Sequence[Measures], name: str) -> list[float]:
    return [point[name] for point in measures]


def _ratio(measures: Sequence[Measures], name: str) -> np.ndarray:
    expected = np.array(_values(measures, f"predicted_{name}"))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(expected > 0, np.divide(_values(measures, name), expected), np.nan)


def _said(value: float) -> str:
    return shown(value) if np.isfinite(value) else "–"


def _last(values: np.ndarray) -> float:
    return float(values[-1]) if values.size else float("nan")

"""What theory says of a point without a flow, beside what was recorded."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sharpflow.experiments.grid_summary import LOSS_TOLERANCE, edge_ratio_name
from sharpflow.simulator.crossing import entry_step, known_mean, settled_step
from sharpflow.theory import edge_entry_step
from sharpflow.theory.stability import edge_loss, edge_loss_integral, edge_trace_integral

if TYPE_CHECKING:
    import xarray

_RESPONSE = 2.0  # b of GD+WD, the one rule whose loss is predicted from its threshold here

Measures = dict[str, float]

# What a report does not tell of a run, by the column without which it cannot.
NEEDS = {
    "threshold": "the norm, the predicted entry and the predicted loss",
    "norm_squared": "the norm beside the threshold",
    "loss": "the predicted entry",
    "loss_mean": "the mean loss",
    "loss_rises": "the share of steps that raise the loss",
}

_PLACES = {
    "edge_ratio_iterate": "The edge ratio is that at the iterates: there the oscillation itself "
    "adds to the sharpness on Γ, the more the larger ηλ.",
    "edge_ratio_midpoint": "The edge ratio is that at the midpoint of the oscillation, near Γ.",
}


def measure(
    columns: Mapping[str, np.ndarray],
    step: np.ndarray,
    rates: tuple[float, float] | None,
    intrinsic_rate: float,
    num_steps: int,
    loss_infimum: float = 0.0,
) -> Measures:
    """Entry, edge ratio, norm, mean loss and rises of one point; NaN where a column is missing.

    Args:
      columns: by name, shapes (T,); the edge ratio as ``edge_ratio``.
      step: of the records, shape (T,).
      rates: η and λ of GD+WD; None for another rule, whose entry and loss are not predicted here.
      intrinsic_rate: flow time per step.
      num_steps: updates made; the last mean loss is over the steps from its record to there.
      loss_infimum: inf L.

    Returns:
      By name: ``entry_step`` and ``predicted_entry_step``; ``edge_ratio``, its mean after
      the entry; ``norm_error``, the largest |‖w‖² · 2(1−ηλ)/(ηλ*) − 1|; ``loss`` and
      ``predicted_loss``, means after the entry; ``rises``, the share of steps after the entry
      that raise the loss.

    Source: docs/theory.md, sections 2 and 5. The predicted loss is ½ ηλ λ* tr M with the tr M that
    the fall of the threshold itself implies, d log λ*/dτ = 2 (2 tr M − 1).
    """
    measures = dict.fromkeys(
        ("entry_step", "predicted_entry_step", "edge_ratio", "norm_error", "loss",
         "predicted_loss", "rises"), np.nan)  # fmt: skip
    threshold = columns.get("threshold")
    if rates is not None and threshold is not None and "norm_squared" in columns:
        eta, decay = rates
        ratio = columns["norm_squared"] * 2.0 * (1.0 - eta * decay) / (eta * threshold)
        measures["norm_error"] = _largest(np.abs(ratio - 1.0))
    if "edge_ratio" not in columns or not intrinsic_rate > 0:
        return measures
    edge_ratio = columns["edge_ratio"]
    known = np.isfinite(edge_ratio) & (edge_ratio > 0)
    log_ratio = np.log(edge_ratio[known])
    measures["entry_step"] = entry_step(step[known].astype(float), log_ratio, intrinsic_rate)
    if rates is not None and threshold is not None and "loss" in columns:
        excess = columns["loss"] - loss_infimum
        measures["predicted_entry_step"] = _predicted_entry(
            step, excess, threshold, edge_ratio, rates, measures["entry_step"]
        )
    loss = None
    if rates is not None and threshold is not None and "loss_mean" in columns:
        loss = columns["loss_mean"] - loss_infimum
    expected = _equilibrium(step, threshold, measures["entry_step"], intrinsic_rate)
    begin = settled_step(step, measures["entry_step"], intrinsic_rate, loss, expected)
    settled = step >= begin
    measures["edge_ratio"] = known_mean(edge_ratio[settled])
    if "loss_rises" in columns:
        measures["rises"] = known_mean(columns["loss_rises"][settled])
    if loss is not None and threshold is not None:
        measures["loss"], measures["predicted_loss"] = _losses(
            step, loss, threshold, settled, intrinsic_rate, num_steps
        )
    return measures


def _predicted_entry(
    step: np.ndarray,
    loss: np.ndarray,
    threshold: np.ndarray,
    edge_ratio: np.ndarray,
    rates: tuple[float, float],
    entry: float,
) -> float:
    """The step of the entry, predicted from a rest before it; NaN where there was none.

    The trajectory rests where its loss is near the infimum and its edge ratio below 1: nothing but
    the norm changes from there on. The prediction starts at the first such record.
    """
    finite = loss[np.isfinite(loss)]
    known = np.isfinite(edge_ratio) & np.isfinite(threshold) & (edge_ratio < 1.0)
    if not finite.size:
        return float("nan")
    resting = np.flatnonzero(known & (loss <= LOSS_TOLERANCE * finite[0]))
    # after its entry nothing rests
    if not resting.size or step[resting[0]] >= entry:
        return float("nan")
    row = resting[0]
    eta, decay = rates
    norm_squared = 0.5 * eta * threshold[row] / (1.0 - eta * decay)
    sharpness = edge_ratio[row] * threshold[row]
    return edge_entry_step(float(norm_squared), float(sharpness), eta, decay, step=int(step[row]))


def _equilibrium(
    step: np.ndarray, threshold: np.ndarray | None, entry: float, intrinsic_rate: float
) -> np.ndarray | None:
    """The mean loss at the edge with the tr M that the fall of λ* since the entry implies.

    It is the mean tr M that is taken: its course is not known before the oscillation is there.
    """
    if threshold is None:
        return None
    rows = np.flatnonzero((step >= entry) & np.isfinite(threshold))
    if len(rows) < 2:
        return None
    tau, ends = intrinsic_rate * step[rows[[0, -1]]], threshold[rows[[0, -1]]]
    trace = float(edge_trace_integral(tau, ends, _RESPONSE)[0]) / (tau[1] - tau[0])
    return edge_loss(intrinsic_rate, threshold, trace)


def _losses(
    step: np.ndarray,
    loss: np.ndarray,
    threshold: np.ndarray,
    settled: np.ndarray,
    intrinsic_rate: float,
    num_steps: int,
) -> tuple[float, float]:
    """Mean loss since the entry, measured, and as the threshold implies it."""
    kept = settled & np.isfinite(loss) & np.isfinite(threshold)
    if kept.sum() < 3:
        return float("nan"), float("nan")
    gaps = np.diff(np.append(step, num_steps))[kept]
    step, loss, threshold = step[kept], loss[kept], threshold[kept]
    tau = intrinsic_rate * step
    integral = edge_loss_integral(intrinsic_rate, tau, threshold, _RESPONSE).sum()
    predicted = integral / (tau[-1] - tau[0])
    return float(np.sum(loss[:-1] * gaps[:-1]) / np.sum(gaps[:-1])), float(predicted)


def remarks(
    dataset: "xarray.Dataset",
    measures: Sequence[Measures],
    loss_infimum: float | None,
    *,
    of_gdwd: bool,
) -> list[str]:
    """How to read the measures of a run, and which are absent and why, one line each.

    Args:
      dataset: of the run.
      measures: of its points.
      loss_infimum: inf L; None where the problem was not made anew and 0 was taken.
      of_gdwd: whether its rule is GD+WD with constant rates.
    """
    lines = []
    ratio = edge_ratio_name(dataset)
    if ratio in _PLACES:
        lines.append(_PLACES[ratio])
    entered = [point for point in measures if np.isfinite(point["entry_step"])]
    predicted = [np.isfinite(point["predicted_entry_step"]) for point in entered]
    if of_gdwd and entered and not any(predicted):
        lines.append(
            "No entry is predicted without a flow. That needs a record before the entry whose loss "
            f"is at most {LOSS_TOLERANCE:g} of the first, and no point has one."
        )
    of_loss = [point[name] for point in measures for name in ("loss", "predicted_entry_step")]
    if loss_infimum is None and np.isfinite(of_loss).any():
        lines.append(
            "Losses count from 0: the problem was not made anew, so that its infimum is not known. "
            "Where that is not 0, as of a cross-entropy, neither the mean loss nor the entry "
            "predicted from rest holds."
        )
    if ratio is None:
        lines.append(
            "No edge ratio was recorded: there is no entry and nothing after it. Name a sharpness "
            'among the observables, as "sharpness_manifold".'
        )
    lines += [
        f"The column {name} was not recorded: {what} cannot be told."
        for name, what in NEEDS.items()
        if name not in dataset
    ]
    if not of_gdwd:
        lines.append(
            "The norm, the entry from rest and the mean loss are predicted without a flow for "
            "gradient descent with weight decay at constant rates, which this is not."
        )
    if "tau" not in dataset and "intrinsic_rate" not in dataset:
        lines.append("The optimizer tells no flow time: there is no prediction.")
    return lines


def _largest(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.max()) if finite.size else float("nan")

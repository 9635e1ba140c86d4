"""A comparison in a few lines, and why a number of it is NaN."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from sharpflow.models.arguments import ArgumentError, checked, of_lazy_type
from sharpflow.models.representation import Summary, number, span, wrapped
from sharpflow.simulator.comparison_quantities import COMPARISON_NUMBERS

if TYPE_CHECKING:
    import xarray

_COMPARISON = of_lazy_type("xarray", "Dataset", "an xarray.Dataset, as compare returns it")
# Of the numbers, which say how well the trajectory is predicted; the others say how they were made.
_TOLD = {
    "entry_step": "step at which the edge ratio first rises through 1",
    "predicted_entry_step": "the same, predicted from the norm on arrival",
    "final_relative_error": "{label}, at the end",
    "mean_edge_ratio": "{label}",
    "mean_loss_ratio": "{label}",
    "mean_angle_ratio": "{label}",
    "loss_rises_before": "{label}",
    "loss_rises_after": "{label}",
}
# Of a column that nobody has unless he asks for it: that it was not recorded is told by the
# attribute, and a line of a print is for what its reader may miss.
_OPTIONAL = ("mean_angle_ratio",)
_NOT_RECORDED = "was not recorded"
_OF_LATTER_HALF = {
    "mean_loss_ratio": "mean loss of the latter half over predicted",
    "mean_angle_ratio": "angle of a step, latter half, over predicted",
}
# The one attribute that has reasons: a file of netCDF takes text, and no table.
ATTRIBUTE = "why_nan"
# The attribute that says why a central flow was taken, as the column of a predicted grid does.
WHY_AVERAGE = "prediction_reason"
_BETWEEN, _AFTER_NAME = "; ", ": "
# Lines of a reason, beside those of the numbers.
_MOST_OF_REASON = 4


def reasons_in_text(reasons: Mapping[str, str]) -> dict[str, str]:
    """The attribute of a comparison that says why numbers of it are NaN; none where none is.

    Args:
      reasons: by the names of the numbers, without ";" in them.
    """
    told = _BETWEEN.join(f"{name}{_AFTER_NAME}{reason}" for name, reason in reasons.items())
    return {ATTRIBUTE: told} if told else {}


def _reasons(comparison: "xarray.Dataset") -> dict[str, str]:
    told = str(comparison.attrs.get(ATTRIBUTE, ""))
    pairs = (each.partition(_AFTER_NAME) for each in told.split(_BETWEEN))
    return {name: reason for name, _, reason in pairs}


@checked(comparison=_COMPARISON)
def comparison_summary(comparison: "xarray.Dataset") -> Summary:
    """The handful of numbers of a comparison with their meaning, in twelve lines at most.

    Args:
      comparison: what ``compare`` returns.

    Returns:
      What ``print`` and notebooks show: a line for each number with what it is and what theory
      says, or why it is NaN. ``comparison.attrs`` has the numbers themselves.

    Raises:
      ValueError: a dataset that ``compare`` did not make.
    """
    if "tau" not in comparison.coords or not _TOLD.keys() <= comparison.attrs.keys():
        raise ArgumentError(
            "comparison", _COMPARISON.allowed, f"a dataset with {sorted(map(str, comparison))}"
        )
    lines = [("flow time τ", span(comparison["tau"].values))]
    unknown: dict[str, list[str]] = {}
    reasons = _reasons(comparison)
    of_average = "edge_ratio" not in comparison
    for name, meaning in _TOLD.items():
        value, quantity = float(comparison.attrs[name]), COMPARISON_NUMBERS[name]
        if np.isnan(value) and name in _OPTIONAL and _NOT_RECORDED in reasons.get(name, ""):
            continue
        if np.isnan(value):
            unknown.setdefault(reasons.get(name, "for a reason that is not known"), []).append(name)
            continue
        theory = quantity.reference
        beside = f", {theory:g} in theory" if isinstance(theory, float) else ""
        said = meaning.format(label=quantity.label)
        if of_average and name in _OF_LATTER_HALF:  # a central flow knows of no entry
            said = _OF_LATTER_HALF[name]
        lines.append((name, f"{number(value):11} {said}{beside}"))
    moved = float(comparison["distance_moved"].values[-1])
    lines.append(("distance_moved", f"{number(moved):11} by the flow, at the end"))
    why = str(comparison.attrs.get(WHY_AVERAGE, ""))
    widest = max(map(len, _TOLD))
    # Each number has a line of its own unless a reason needs the room.
    for reason, names in unknown.items():
        if why:
            lines += wrapped("NaN", f"{', '.join(names)}: {reason}", 3, beside=widest)
        else:
            lines += [(name, f"NaN, {reason}") for name in names]
    lines += wrapped("why not on Γ", why, _MOST_OF_REASON, beside=widest) if why else []
    return Summary("Comparison of a trajectory with its flow", lines)

"""What a report says of the predictions that the folder of a run holds."""

import re
from typing import TYPE_CHECKING

import numpy as np

from sharpflow.experiments.report.points import Records
from sharpflow.experiments.run import kinds_in_words
from sharpflow.simulator.grid.predictions import NONE
from sharpflow.simulator.store.arrays import PENDING

if TYPE_CHECKING:
    import xarray

# Reasons of points differ in the numbers that they name, as a distance or a step.
_NUMBER = re.compile(r"[+−-]?\d[\d.,]*(e[+-]?\d+)?")


def kept_predictions(dataset: "xarray.Dataset", points: Records) -> list[str]:
    """How many points are predicted and by which flow, and why others are not; one line each.

    Points with the same reason, but for its numbers, share a line, which shows that of the first.

    Args:
      dataset: of the run.
      points: of it.

    Returns:
      Nothing where the folder holds no predictions.
    """
    if "prediction_kind" not in dataset:
        return []
    kinds, reasons = (
        dataset[name].transpose(*points.axes).values.reshape(-1)
        for name in ("prediction_kind", "prediction_reason")
    )
    parts = kinds_in_words(dataset)
    lines = [
        f"The folder holds predictions of {np.count_nonzero(kinds != NONE)} of {points.count} "
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
    alike: dict[tuple[bool, str], list[int]] = {}
    for point in np.flatnonzero(reasons != ""):
        without = bool(kinds[point] == NONE)
        alike.setdefault((without, _NUMBER.sub("#", str(reasons[point]))), []).append(int(point))
    for (without, _), group in alike.items():
        what = "No prediction" if without else "A prediction that ends early"
        first = points.title(group[0])
        where = first if len(group) == 1 else f"{len(group)} points, the first of them {first}"
        lines.append(f"{what} at {where}: {reasons[group[0]]}")
    return lines


def _counted(count: int | np.integer) -> str:
    return "1 point is" if count == 1 else f"{count} points are"

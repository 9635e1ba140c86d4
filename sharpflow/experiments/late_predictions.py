"""How long a prediction stays within the band of what was measured after the fit."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sharpflow.experiments.grid_summary import LAST_PART, with_point_axes
from sharpflow.experiments.late_generalization import Curve, curves, generalization
from sharpflow.experiments.plots import series
from sharpflow.experiments.plots.late_curves import (
    DrawnCurve,
    drawn_curve,
    over_seeds,
    predicted_mean,
)

if TYPE_CHECKING:
    import xarray

# As far apart as rounding in single precision may set the same number twice.
_ROUNDING = 1e-6


class Comparison(NamedTuple):
    """One column of one curve beside its prediction, at the records from the fit on.

    The band is Student's 95 % interval for the mean over the seeds of what was measured. The
    prediction is the mean over the same seeds.

    Attributes:
      curve: which one.
      name: of the column.
      measured, low, high, predicted: at the end, each a mean over the last tenth of the records
        that are compared.
      inside: share of the records at which the prediction lies within the band.
      leaves_at: τ of the first record at which it does not; NaN where there is none.
      ends_at: τ of the last record that is compared.
      num_seeds: of the band.
    """

    curve: Curve
    name: str
    measured: float
    low: float
    high: float
    predicted: float
    inside: float
    leaves_at: float
    ends_at: float
    num_seeds: int


def late_comparisons(dataset: "xarray.Dataset") -> list[Comparison]:
    """Every column of ``generalization`` that has a prediction and at least two seeds beside it.

    A single record may leave the band by chance: of independent records one in twenty would, if the
    prediction were the true mean. So the share of records inside says more than the first outside.

    Args:
      dataset: what ``sharpflow.simulate_grid`` returns, with predictions and ``train_accuracy``.

    Returns:
      For each combination of the axes its columns, as ``generalization`` names them; empty where
      nothing is predicted.

    Raises:
      ValueError: as ``generalization``.
    """
    dataset = with_point_axes(dataset)
    changes = generalization(dataset)
    found = []
    for curve in curves(dataset):
        drawn = drawn_curve(dataset, changes, curve)
        for name in map(str, changes["quantity"].values):
            compared = _compared(drawn, name)
            if compared is not None:
                found.append(compared)
    return found


def _compared(drawn: DrawnCurve, name: str) -> Comparison | None:
    expected = predicted_mean(drawn, name, False)
    band = over_seeds(drawn, name, False)
    if expected is None or len(band.values) < 2:
        return None
    # both are at records of the grid, of which each may lack some
    shared, own, others = np.intersect1d(band.time, expected[0], return_indices=True)
    late = shared >= drawn.fit_step
    if not late.any():
        return None
    own, predicted = own[late], expected[1][others[late]]
    low, high, measured = band.low[own], band.high[own], band.mean[own]
    margin = _ROUNDING * np.abs(measured)
    inside = (predicted >= low - margin) & (predicted <= high + margin)
    tau = _flow_times(drawn, shared[late])
    last = slice(-max(int(np.ceil(LAST_PART * len(tau))), 1), None)
    return Comparison(
        curve=drawn.curve,
        name=name,
        measured=float(measured[last].mean()),
        low=float(low[last].mean()),
        high=float(high[last].mean()),
        predicted=float(predicted[last].mean()),
        inside=float(inside.mean()),
        leaves_at=float("nan") if inside.all() else float(tau[np.argmin(inside)]),
        ends_at=float(tau[-1]),
        num_seeds=len(band.values),
    )


def _flow_times(drawn: DrawnCurve, steps: np.ndarray) -> np.ndarray:
    """τ of some records."""
    every, tau = (series.times(drawn.part, clock).reshape(-1) for clock in ("step", "tau"))
    return tau[np.searchsorted(every, steps)]

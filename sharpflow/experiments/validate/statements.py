"""The statements of theory, their tolerances, and whether a ladder of ηλ keeps them."""

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from sharpflow.experiments.checks import Check, exponent_check
from sharpflow.experiments.power_law import PowerLaw, fit_power_law

if TYPE_CHECKING:
    import xarray

# Their prediction is of leading order in √(ηλ). In the demo's problem the overshoot is 0.175 at
# 1e-3, where 0.159 is predicted, and 0.049 for 0.048 at 1e-4. Just above the rung 2e-4, whose last
# digit is a matter of rounding.
SMALL_RATE = 2.1e-4  # largest ηλ at which the delay and the overshoot must hold


@dataclasses.dataclass(frozen=True)
class Statement:
    """An error that should vanish with ηλ.

    Attributes:
      name: of the variable that holds it.
      words: what it is, for tables and figures.
      tolerance: largest error that counts as holding, at the smallest ηλ of a ladder.
      exponent: least exponent in ηλ, or None where none is asked for.
    """

    name: str
    words: str
    tolerance: float
    exponent: float | None = None


# Round numbers above what was measured at ηλ = 2e-5, two to fifteen times as large
# (docs/validation.md). An exponent must be at least 0.4: with several eigenvalues at the edge
# errors fall like √(ηλ), and a fit over five rungs scatters by a tenth. With a wrong term in the
# flow they would not fall at all.
STATEMENTS = (
    Statement("tracking_error", "tracking error / distance moved", 0.03, 0.4),
    Statement("threshold_error", "threshold, measured/predicted − 1", 0.01, 0.4),
    Statement("edge_error", "mean edge ratio − 1", 0.02, 0.4),
    Statement("loss_error", "mean loss, measured/predicted − 1", 0.03),
    Statement("covariance_error", "oscillation covariance, spectrum/predicted − 1", 0.1),
    Statement("period_two_error", "share of the oscillation without period two", 0.01),
)


def edge_checks(part: str, ladder: "xarray.Dataset") -> list[Check]:
    """The statements at the smallest ηλ, and the exponents of their errors.

    Args:
      part: name of the problem.
      ladder: of ``climb``.
    """
    checks = []
    smallest = float(ladder["intrinsic_rate"].min())
    for statement in STATEMENTS:
        errors = ladder[statement.name]
        last = float(np.sqrt(np.mean(np.square(errors.sel(intrinsic_rate=smallest).values))))
        text = f"{statement.words} at ηλ = {smallest:g}"
        checks.append(Check(part, text, last, high=statement.tolerance))
        if statement.exponent is not None:
            text = f"{statement.words}: exponent in ηλ"
            checks.append(exponent_check(part, text, fit_error(errors), statement.exponent))
    return checks


def fit_error(errors: "xarray.DataArray") -> PowerLaw:
    """The power law of an error over (seed, intrinsic_rate), the mean over seeds at each ηλ."""
    return fit_power_law(errors["intrinsic_rate"].values, _mean_over_seeds(errors))


def entry_checks(part: str, entries: "xarray.Dataset") -> list[Check]:
    """Entry step at every ηλ; delay and overshoot where ηλ is small.

    Args:
      part: name of the problem.
      entries: of ``measure_entries``.
    """
    late = entries["entry_step"] - entries["predicted_entry_step"]
    small = entries.sel(intrinsic_rate=entries["intrinsic_rate"] <= SMALL_RATE)
    checks = [
        Check(
            part,
            "entry step, measured − predicted, largest over ηλ",
            float(late.values.flat[np.argmax(np.abs(late.values))]),
            -1.0,
            1.0,
        )
    ]
    for name, words in (("delay", "delay of the oscillation"), ("overshoot", "overshoot")):
        ratio = (small[name] / small[f"predicted_{name}"]).values
        # Farthest on a log axis, on which half and twice are as far from 1.
        worst = float(ratio.flat[np.argmax(np.abs(np.log(ratio)))])
        text = f"{words}, measured/predicted, farthest from 1 at ηλ ≤ {SMALL_RATE:.0e}"
        checks.append(Check(part, text, worst, 0.9, 1.1))
    return checks


def limits_of(errors: "xarray.DataArray", tolerance: float) -> tuple[float, float]:
    """The largest ηλ up to which an error keeps its tolerance, and the next one tried.

    Args:
      errors: over (seed, intrinsic_rate). NaN of one seed counts as failed, of all as not
        measured.
      tolerance: of the mean over the seeds.

    Returns:
      Both ηλ; 0 where it fails at once, infinite where it never does.
    """
    order = np.argsort(errors["intrinsic_rate"].values)
    order = order[errors.notnull().any("seed").values[order]]
    rates = errors["intrinsic_rate"].values[order]
    failed = np.flatnonzero(~(_mean_over_seeds(errors)[order] <= tolerance))
    if not failed.size:
        return float(rates[-1]), math.inf
    first = int(failed[0])
    return float(rates[first - 1]) if first else 0.0, float(rates[first])


def _mean_over_seeds(errors: "xarray.DataArray") -> np.ndarray:
    """The geometric mean at each ηλ, NaN where a seed has none."""
    values = errors.transpose("seed", "intrinsic_rate").values
    # Geometric, because errors of seeds differ by factors, and a fit on log axes is through their
    # logarithms.
    return np.exp(np.mean(np.log(values), axis=0))

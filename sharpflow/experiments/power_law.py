"""How an error falls with a small parameter."""

from typing import NamedTuple

import numpy as np


class PowerLaw(NamedTuple):
    """A fit y ≈ prefactor · x^exponent.

    Attributes:
      exponent: slope on log axes.
      interval: its confidence interval, (low, high).
      prefactor: y at x = 1.
    """

    exponent: float
    interval: tuple[float, float]
    prefactor: float


def fit_power_law(x: np.ndarray, y: np.ndarray, *, confidence: float = 0.95) -> PowerLaw:
    """Least squares on log axes, with Student's interval for the exponent.

    Args:
      x: positive, shape (n,), at least three different values.
      y: positive, shape (n,).
      confidence: of the interval.

    Returns:
      The fit.

    Raises:
      ValueError: fewer than three different x, or entries that are not positive.
    """
    from scipy.stats import linregress, t

    x, y = np.asarray(x, float), np.asarray(y, float)
    if x.shape != y.shape or x.ndim != 1 or np.unique(x).size < 3:
        raise ValueError(
            "x and y must be vectors of one length with at least three different x, "
            f"got shapes {x.shape} and {y.shape}"
        )
    if not (np.all(x > 0) and np.all(y > 0)):
        raise ValueError(f"x and y must be positive, got least {x.min():g} and {y.min():g}")
    # A straight line on log axes, and not a fit of the curve itself: the errors of a ladder scatter
    # by a factor, and a fit of their values would see the largest alone.
    line = linregress(np.log(x), np.log(y))
    reach = t.ppf(0.5 * (1.0 + confidence), x.size - 2) * line.stderr
    return PowerLaw(
        exponent=float(line.slope),
        interval=(float(line.slope - reach), float(line.slope + reach)),
        prefactor=float(np.exp(line.intercept)),
    )

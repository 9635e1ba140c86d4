"""When something first crosses a line, between two records."""

import numpy as np


def first_crossing(step: np.ndarray, excess: np.ndarray) -> float:
    """Where ``excess`` first rises through zero, interpolated; NaN where it does not.

    Args:
      step: of the records, shape (T,).
      excess: at each, shape (T,). One that begins at or above zero does not rise through it.
    """
    above = np.flatnonzero(excess >= 0.0)
    if not above.size or above[0] == 0:
        return float("nan")
    after, before = above[0], above[0] - 1
    share = excess[before] / (excess[before] - excess[after])
    return float(step[before] + share * (step[after] - step[before]))

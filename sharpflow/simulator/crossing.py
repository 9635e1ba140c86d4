"""When a trajectory first crosses a line, between two records: the edge, above all."""

import numpy as np

_AT_EDGE = 10.0  # steps of the intrinsic rate by which a start may miss the edge, and be on it


def entry_step(step: np.ndarray, log_ratio: np.ndarray, intrinsic_rate: float) -> float:
    """The step at which the Edge of Stability is entered; NaN where it is not.

    Args:
      step: of the records, shape (T,).
      log_ratio: log λ_1/λ* at each, finite, shape (T,). A start at the edge counts as
        entered, whatever the rounding of its norm.
      intrinsic_rate: flow time per step.
    """
    if log_ratio.size and log_ratio[0] >= -_AT_EDGE * intrinsic_rate:
        return float(step[0])
    return first_crossing(step, log_ratio)


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

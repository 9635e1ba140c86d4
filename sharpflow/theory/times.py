"""Output times of an integration."""

import math

import numpy as np

_SHORTEST = 16
_MOST_PADDING = 1 << 22  # numbers in the rows that are computed for nothing


def validated_times(tau: object) -> np.ndarray:
    """``tau`` as a vector of float64, shape (T,).

    Raises:
      ValueError: not a vector of finite numbers, or one that does not increase.
    """
    times = np.asarray(tau, np.float64)
    if times.ndim != 1 or times.size < 1 or not np.all(np.isfinite(times)):
        raise ValueError(f"tau must be a vector of finite output times, got shape {times.shape}")
    if np.any(np.diff(times) <= 0):
        index = int(np.argmax(np.diff(times) <= 0))
        raise ValueError(
            f"tau must increase strictly, but tau[{index + 1}] = {times[index + 1]:g} follows "
            f"tau[{index}] = {times[index]:g}"
        )
    return times


def padded_times(times: np.ndarray, row_size: int) -> np.ndarray:
    """Output times with the last one repeated, up to a length that most calls share.

    A program is compiled for a number of output times; so one serves many.

    Args:
      times: shape (T,).
      row_size: how many numbers an output has.

    Returns:
      Shape (P,), P the power of two from 16 on that is at least T; ``times`` where the
      rows of the padding would take more memory than that is worth.
    """
    padding = max(_SHORTEST, 1 << (len(times) - 1).bit_length()) - len(times)
    if padding * row_size > _MOST_PADDING:
        return times
    return np.pad(times, (0, padding), mode="edge")


def last_reached(times: np.ndarray, rows: np.ndarray) -> float:
    """The last output time whose row is not NaN; NaN where there is none.

    Args:
      times: shape (T,).
      rows: one number of each row, shape (T,).
    """
    reached = np.asarray(times)[np.isfinite(rows)]
    return float(reached[-1]) if reached.size else math.nan

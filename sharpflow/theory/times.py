"""Output times of an integration."""

import math

import numpy as np
from numpy.typing import DTypeLike

# Output times of the shortest program. A plot has some ten or more, and 16 rows cost nothing; with
# 1 every length below 16 would compile four more programs.
_SHORTEST = 16
# Numbers in the rows that are padding: 32 MiB in float64. Padding is worth a compilation of
# seconds, and not memory that a large network needs.
_MOST_PADDING = 1 << 22


def validated_times(tau: object, dtype: DTypeLike = np.float64) -> np.ndarray:
    """``tau`` as a vector of float64, shape (T,).

    Args:
      tau: output times.
      dtype: that has to tell them apart.

    Raises:
      ValueError: not a vector of finite numbers, or one that does not increase.
    """
    times = np.asarray(tau, np.float64)
    if times.ndim != 1 or times.size < 1 or not np.all(np.isfinite(times)):
        raise ValueError(f"tau must be a vector of finite output times, got shape {times.shape}")
    for known, remark in ((times, ""), (times.astype(dtype), f", the same in {np.dtype(dtype)}")):
        if np.any(np.diff(known) <= 0):
            index = int(np.argmax(np.diff(known) <= 0))
            raise ValueError(
                f"tau must increase strictly, but tau[{index + 1}] = {float(times[index + 1])} "
                f"follows tau[{index}] = {float(times[index])}{remark}"
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
    count = len(times)
    missing = max(_SHORTEST, 1 << (count - 1).bit_length()) - count
    if not missing or missing * row_size > _MOST_PADDING:
        return times
    return np.pad(times, (0, missing), mode="edge")


def with_breaks(times: np.ndarray, breaks: np.ndarray, dtype: DTypeLike) -> np.ndarray:
    """Output times, and between them those at which a schedule breaks, as a dtype holds them.

    Args:
      times: shape (T,).
      breaks: increasing, shape (n,).
      dtype: of the flow.
    """
    held = times.astype(dtype).astype(np.float64)
    inside = breaks[(breaks > held[0]) & (breaks < held[-1])]
    place = np.searchsorted(held, inside)
    away = np.minimum(inside - held[place - 1], held[place] - inside)
    # one that rounding alone parts from an output would make a step of rounding
    apart = away > 4 * np.finfo(np.dtype(dtype)).eps * np.abs(inside)
    return np.union1d(held, inside[apart])


def last_reached(times: np.ndarray, rows: np.ndarray) -> float:
    """The last output time whose row is not NaN; NaN where there is none.

    Args:
      times: shape (T,).
      rows: one number of each row, shape (T,).
    """
    reached = np.asarray(times)[np.isfinite(rows)]
    return float(reached[-1]) if reached.size else math.nan

"""Output times of an integration."""

import numpy as np

_SHORTEST = 16


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


def padded_times(times: np.ndarray) -> np.ndarray:
    """Output times with the last one repeated, up to a length that most calls share.

    A program is compiled for a number of output times; so one serves many.

    Args:
      times: shape (T,).

    Returns:
      Shape (P,), P the power of two from 16 on that is at least T.
    """
    length = max(_SHORTEST, 1 << (len(times) - 1).bit_length())
    return np.pad(times, (0, length - len(times)), mode="edge")

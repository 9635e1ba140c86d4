"""Output times of an integration."""

import numpy as np


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

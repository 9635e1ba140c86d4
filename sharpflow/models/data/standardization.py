"""Pixels in units of stated constants, never of the images at hand."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from sharpflow.models.representation import summarized


@summarized
class Standardization(NamedTuple):
    """The constants of x = (pixel − mean) / deviation, for pixels in [0, 1].

    Attributes:
      mean: one per channel, or a single one for all.
      deviation: as many, positive.
    """

    mean: tuple[float, ...]
    deviation: tuple[float, ...]


# Mean and standard deviation per channel of all official training images, to the four
# digits that are in common use. tests/models/data/test_official_cifar10.py finds those
# of CIFAR-10 again in real images.
CIFAR10_STANDARDIZATION = Standardization((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
CIFAR100_STANDARDIZATION = Standardization((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762))
FASHION_MNIST_STANDARDIZATION = Standardization((0.2860,), (0.3530,))


def validated_standardization(
    constants: tuple[Sequence[float], Sequence[float]] | None, num_channels: int
) -> Standardization | None:
    """The constants for images of so many channels, refused where they do not fit.

    Args:
      constants: (mean, deviation), or None.
      num_channels: c.

    Returns:
      The same as a ``Standardization``, or None.

    Raises:
      ValueError: not a pair, not one constant or one per channel, not finite, or a
        deviation that is not positive.
    """
    if constants is None:
        return None
    try:
        mean, deviation = (tuple(float(value) for value in part) for part in constants)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "standardize must be None or a pair (mean, deviation) of sequences of numbers, "
            f"got {constants!r}"
        ) from error
    for name, part in (("mean", mean), ("deviation", deviation)):
        if len(part) not in (1, num_channels) or not np.all(np.isfinite(part)):
            raise ValueError(
                f"the {name} of standardize must be one finite number or {num_channels}, "
                f"one for each channel, got {part}"
            )
    if min(deviation) <= 0.0:
        raise ValueError(f"the deviation of standardize must be positive, got {deviation}")
    return Standardization(mean, deviation)


def standardized(
    pixels: np.ndarray, constants: Standardization | None, dtype: np.dtype
) -> np.ndarray:
    """x = (pixel − mean) / deviation, with bytes as pixels in [0, 1].

    Args:
      pixels: shape (..., c); uint8 stands for 0, 1/255, …, 1, floats for themselves.
      constants: None leaves the pixels as they are.
      dtype: of the arithmetic and of the result.

    Returns:
      Shape (..., c).
    """
    x = pixels.astype(dtype)
    # In place, because all of CIFAR-10 takes 600 MB in float32.
    if pixels.dtype == np.uint8:
        x /= 255
    if constants is not None:
        x -= np.asarray(constants.mean, dtype)
        x /= np.asarray(constants.deviation, dtype)
    return x

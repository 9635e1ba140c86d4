"""Arrays in memory as labelled images."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from sharpflow.models.arguments import DATA, TEXT, checked
from sharpflow.models.data.images import Images
from sharpflow.models.data.labels import named_classes
from sharpflow.models.data.origin import Origin
from sharpflow.models.data.standardization import validated_standardization
from sharpflow.models.inputs import floating_dtype


@checked(images=DATA, labels=DATA, name=TEXT)
def arrays(
    images: np.ndarray,
    labels: np.ndarray,
    *,
    classes: int | Sequence[str] | None = None,
    standardize: tuple[Sequence[float], Sequence[float]] | None = None,
    dtype: npt.DTypeLike = np.float32,
    name: str = "arrays",
) -> Images:
    """Arrays in memory as labelled images, copied.

    Args:
      images: shape (n, h, w, c), (n, h, w) for a single channel, or (n, d) for flat
        data; uint8, read as pixels from 0 to 255, or floating point, taken as it is.
      labels: integer classes, shape (n,) or (n, 1).
      classes: the names of the classes 0, 1, …, or how many there are; by default those
        that occur.
      standardize: (mean, deviation), one number or one per channel, of pixels in
        [0, 1] where ``images`` is uint8; None for pixels as they are.
      dtype: of the standardised images, float32 or float64.
      name: what to call the data in its record.

    Returns:
      ``Images``; (n, h, w) becomes (n, h, w, 1).

    Raises:
      ValueError: naming the argument, what it is and what is allowed.
    """
    pixels = validated_pixels(images)
    targets = validated_classes(labels, len(pixels))
    names = named_classes(classes, targets)
    return labelled_images(pixels, targets, names, Origin(name), standardize, dtype)


def labelled_images(
    pixels: np.ndarray,
    labels: np.ndarray,
    classes: Mapping[int, str],
    origin: Origin,
    standardize: tuple[Sequence[float], Sequence[float]] | None,
    dtype: npt.DTypeLike,
) -> Images:
    """All that was read from one place, as ``Images`` without a subset taken.

    Raises:
      ValueError: a label out of range, or unusable constants or dtype.
    """
    return Images(
        pixels,
        labels,
        classes=classes,
        origin=origin,
        standardization=validated_standardization(standardize, pixels.shape[-1]),
        dtype=floating_dtype(dtype),
        indices=np.arange(len(pixels)),
    )


def validated_pixels(images: np.ndarray, name: str = "images") -> np.ndarray:
    """A copy of shape (n, h, w, c) or (n, d), uint8 or finite floating point.

    Raises:
      ValueError: another shape or dtype, no images, or NaN or infinite entries.
    """
    # A copy always: the digest in `source` is of what was given, whatever the caller does with the
    # array later.
    pixels = np.array(images)
    if pixels.ndim not in (2, 3, 4) or 0 in pixels.shape:
        raise ValueError(
            f"{name} must have shape (n, h, w, c), (n, h, w) or (n, d), got {pixels.shape}"
        )
    if pixels.dtype != np.uint8 and not np.issubdtype(pixels.dtype, np.floating):
        raise ValueError(f"{name} must be uint8 or floating point, got dtype {pixels.dtype}")
    if pixels.dtype != np.uint8 and not np.all(np.isfinite(pixels)):
        raise ValueError(f"{name} has NaN or infinite entries; all must be finite")
    return pixels[..., None] if pixels.ndim == 3 else pixels


def validated_classes(labels: np.ndarray, n: int, name: str = "labels") -> np.ndarray:
    """A copy of the integer classes of n images, shape (n,), int64.

    Raises:
      ValueError: not integers, negative, or not one for each image.
    """
    targets = np.array(labels)
    if targets.shape not in ((n,), (n, 1)):
        raise ValueError(f"{name} must have shape ({n},), one for each image, got {targets.shape}")
    if not np.issubdtype(targets.dtype, np.integer):
        raise ValueError(f"{name} must be integer classes, got dtype {targets.dtype}")
    targets = targets.reshape(n).astype(np.int64)
    if targets.min() < 0:
        raise ValueError(f"{name} must not be negative, got {targets.min()}")
    return targets

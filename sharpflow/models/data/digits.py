"""Data that comes with the package: the handwritten digits of scikit-learn."""

from collections.abc import Sequence

import numpy as np

from sharpflow.models.arguments import INTEGER, Kind, checked, count, optional

CLASSES = Kind(
    "a sequence of distinct digits from 0 to 9, at least one",
    lambda value: (
        isinstance(value, Sequence)
        and len(value) == len({*value} if all(count(0, 9).fits(one) for one in value) else ()) > 0
    ),
)


@checked(num_images=optional(INTEGER), offset=INTEGER, classes=CLASSES)
def digits(
    num_images: int | None = None, *, offset: int = 0, classes: tuple[int, ...] = tuple(range(10))
) -> tuple[np.ndarray, np.ndarray]:
    """Handwritten digits, 8 × 8 pixels, scaled to [0, 1].

    Args:
      num_images: how many, in the order of the data set; all by default.
      offset: index of the first image taken, among those of the classes kept.
      classes: digits to keep.

    Returns:
      Images, shape (n, 64), float64; labels, shape (n,), int64.

    Raises:
      ValueError: more images asked for than there are.

    Source: Alpaydin and Kaynak 1998, UCI; embedded in scikit-learn.
    """
    # Here, so that only who wants digits waits for scikit-learn, which takes as long to load as all
    # of this package.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    kept = np.isin(bunch.target, classes)
    # The pixels are counts from 0 to 16 of the 4 × 4 bits that were scanned for each.
    images, labels = bunch.data[kept] / 16.0, bunch.target[kept].astype(np.int64)
    stop = len(labels) if num_images is None else offset + num_images
    if not 0 <= offset < stop <= len(labels):
        raise ValueError(
            f"num_images={num_images} from offset={offset} is not within the "
            f"{len(labels)} images of classes {classes}"
        )
    return images[offset:stop], labels[offset:stop]

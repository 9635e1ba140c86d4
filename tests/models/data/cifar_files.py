"""Files in the binary layout of CIFAR, written byte by byte."""

from pathlib import Path

import numpy as np


def write_batch(path: Path, pixels: np.ndarray, *labels: np.ndarray) -> None:
    """Write records: the labels of an image, then red, green, blue.

    Args:
      path: its folder is made where it is missing.
      pixels: shape (n, 32, 32, 3), bytes.
      labels: one column for CIFAR-10, the coarse and the fine one for CIFAR-100.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        for index, image in enumerate(pixels):
            file.write(bytes(int(column[index]) for column in labels))
            for channel in range(3):
                file.write(image[:, :, channel].tobytes())

"""The images of CIFAR-10, or random ones in the same layout where there are none."""

from pathlib import Path

import numpy as np

from sharpflow.models.data.cifar import CIFAR10, cifar10

RANDOM = 1017  # images in a file, as many as in the part of CIFAR-10 that the presets were tried on


def cifar10_folder(data: Path, out: Path) -> tuple[Path, str]:
    """A folder that ``vgg11_cifar10`` reads, and what its images are, in words.

    Args:
      data: where the images may be.
      out: folder of the results; random images are made below it.
    """
    if any((data / CIFAR10.folder).glob("*.bin")) or any(data.glob("*_batch*.bin")):
        return data, "; ".join(images.origin.sentence() for images in cifar10(data))
    root = out / "runs" / "random-images"
    folder = root / CIFAR10.folder
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for names in CIFAR10.files.values():
        for name in names:
            records = random.integers(0, 256, (RANDOM, CIFAR10.record_bytes), np.uint8)
            records[:, 0] = np.arange(RANDOM) % 10
            (folder / name).write_bytes(records.tobytes())
    return root, "random"

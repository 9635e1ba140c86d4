"""CIFAR-10 and CIFAR-100 in the official binary layout, complete or in part."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sharpflow.models.arguments import FLAG, PATH, TEXT, checked
from sharpflow.models.data.arrays import labelled_images
from sharpflow.models.data.download import RemoteFile, fetch_archive
from sharpflow.models.data.folders import data_folder, require_complete
from sharpflow.models.data.images import Images
from sharpflow.models.data.labels import (
    CIFAR10_CLASSES,
    CIFAR100_COARSE_CLASSES,
    CIFAR100_FINE_CLASSES,
    require_labels,
)
from sharpflow.models.data.origin import FileRead, Origin
from sharpflow.models.data.standardization import (
    CIFAR10_STANDARDIZATION,
    CIFAR100_STANDARDIZATION,
)
from sharpflow.models.paths import user_path

# As the files have a picture: all of its red, then all of its green, then all of its blue.
_CHANNELS_HEIGHT_WIDTH = (3, 32, 32)
_PIXEL_BYTES = 3 * 32 * 32


@dataclasses.dataclass(frozen=True)
class BinaryLayout:
    """How a data set lies in files of records: bytes of labels, then of pixels.

    Attributes:
      dataset: its name.
      folder: in the archive.
      files: split to file to official number of records.
      classes: of each byte of label in a record, kind of label to names.
      archive: the official one.
    """

    dataset: str
    folder: str
    files: Mapping[str, Mapping[str, int]]
    classes: Mapping[str, tuple[str, ...]]
    archive: RemoteFile

    @property
    def record_bytes(self) -> int:
        """Bytes of an image and its labels."""
        return len(self.classes) + _PIXEL_BYTES


CIFAR10 = BinaryLayout(
    "cifar10",
    "cifar-10-batches-bin",
    files={
        "train": {f"data_batch_{number}.bin": 10_000 for number in range(1, 6)},
        "test": {"test_batch.bin": 10_000},
    },
    classes={"class": CIFAR10_CLASSES},
    archive=RemoteFile(
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        size=170_052_171,
        md5="c32a1d4ab5d03f1284b67883e8d87530",
    ),
)
CIFAR100 = BinaryLayout(
    "cifar100",
    "cifar-100-binary",
    files={"train": {"train.bin": 50_000}, "test": {"test.bin": 10_000}},
    classes={"coarse": CIFAR100_COARSE_CLASSES, "fine": CIFAR100_FINE_CLASSES},
    archive=RemoteFile(
        "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        size=168_513_733,
        md5="03b5dce01913d631647c71ecec9e9cb8",
    ),
)


@checked(root=PATH, download=FLAG)
def cifar10(
    root: str | os.PathLike[str],
    *,
    download: bool = False,
    standardize: tuple[Sequence[float], Sequence[float]] | None = CIFAR10_STANDARDIZATION,
    dtype: npt.DTypeLike = np.float32,
) -> tuple[Images, Images]:
    """CIFAR-10 training and test images from the official binary files that are there.

    Batches may be missing or hold fewer records than the official 10,000: how many were
    found shows in ``repr`` and in ``source``. A set without a file is empty.

    Args:
      root: the folder with ``data_batch_1.bin``, …, or the one above
        ``cifar-10-batches-bin``.
      download: fetch the official archive (170 MB) into ``root`` if none of the files
        is there; what is there must then be complete.
      standardize: (mean, deviation) per channel of pixels in [0, 1]; by default those of
        the official training images; None for pixels in [0, 1].
      dtype: of the images, float32 or float64.

    Returns:
      (train, test), of shape (n, 32, 32, 3) each.

    Raises:
      FileNotFoundError: none of the files, with the places looked at.
      FileExistsError: ``download`` where a part of the files is.
      OSError: a download that fails.
      ValueError: a file that is not whole records or more than the official ones, a
        label out of range, or an archive that is not the official one.

    Source: Krizhevsky 2009; https://www.cs.toronto.edu/~kriz/cifar.html.
    """
    return read(CIFAR10, root, "class", download=download, standardize=standardize, dtype=dtype)


@checked(root=PATH, labels=TEXT, download=FLAG)
def cifar100(
    root: str | os.PathLike[str],
    *,
    labels: str = "fine",
    download: bool = False,
    standardize: tuple[Sequence[float], Sequence[float]] | None = CIFAR100_STANDARDIZATION,
    dtype: npt.DTypeLike = np.float32,
) -> tuple[Images, Images]:
    """CIFAR-100 training and test images from the official binary files that are there.

    Args:
      root: the folder with ``train.bin`` and ``test.bin``, or the one above
        ``cifar-100-binary``.
      labels: ``"fine"`` for the 100 classes, ``"coarse"`` for the 20 superclasses.
      download, standardize, dtype: as in ``cifar10``.

    Returns:
      (train, test), of shape (n, 32, 32, 3) each.

    Raises:
      FileNotFoundError, FileExistsError, OSError, ValueError: as ``cifar10``.

    Source: Krizhevsky 2009; https://www.cs.toronto.edu/~kriz/cifar.html.
    """
    return read(CIFAR100, root, labels, download=download, standardize=standardize, dtype=dtype)


def read(
    layout: BinaryLayout,
    root: str | os.PathLike[str],
    kind: str,
    *,
    download: bool,
    standardize: tuple[Sequence[float], Sequence[float]] | None,
    dtype: npt.DTypeLike,
) -> tuple[Images, Images]:
    """Training and test images of a layout, with labels of a kind; see ``cifar10``."""
    if kind not in layout.classes:
        raise ValueError(f"labels must be one of {tuple(layout.classes)}, got {kind!r}")
    folder = data_folder(
        user_path(root),
        [layout.folder],
        [name for files in layout.files.values() for name in files],
        layout.archive.url,
        fetch=partial(fetch_archive, layout.archive) if download else None,
    )
    origins = [_origin(folder, layout, split, kind) for split in layout.files]
    if download:
        require_complete(folder, origins)
    classes = dict(enumerate(layout.classes[kind]))
    train, test = (
        labelled_images(
            *_read_files(folder, origin, layout, kind), classes, origin, standardize, dtype
        )
        for origin in origins
    )
    return train, test


def _origin(folder: Path, layout: BinaryLayout, split: str, kind: str) -> Origin:
    """What is there of a split, by the sizes of its files."""
    files = tuple(
        FileRead(name, _num_records(folder / name, layout, official), official)
        for name, official in layout.files[split].items()
    )
    options = (("labels", kind),) if len(layout.classes) > 1 else ()
    return Origin(layout.dataset, split, files, options)


def _num_records(path: Path, layout: BinaryLayout, official: int) -> int:
    """Records in a file, by its size alone; 0 where there is no file."""
    if not path.is_file():
        return 0
    size = path.stat().st_size
    # By the size alone, so that the record of what is there costs no reading; the files have no
    # header that would say it.
    count, rest = divmod(size, layout.record_bytes)
    if rest or not count:
        raise ValueError(
            f"{path} has {size} bytes, which is not a whole number of records "
            f"of {layout.record_bytes} bytes, at least one"
        )
    if count > official:
        raise ValueError(f"{path} holds {count} records, more than the official {official}")
    return count


def _read_files(
    folder: Path, origin: Origin, layout: BinaryLayout, kind: str
) -> tuple[np.ndarray, np.ndarray]:
    channels, height, width = _CHANNELS_HEIGHT_WIDTH
    pixels = np.empty((origin.found, height, width, channels), np.uint8)
    labels = np.empty(origin.found, np.int64)
    start = 0
    for file in (file for file in origin.files if file.found):
        stop = start + file.found
        # As many bytes as were counted: a file that another process is still writing may have
        # grown.
        content = np.fromfile(folder / file.name, np.uint8, file.found * layout.record_bytes)
        records = content.reshape(file.found, layout.record_bytes)
        for place, (byte, names) in enumerate(layout.classes.items()):
            # Every byte of labels is looked at, also where the other kind was asked for: a file of
            # another layout shows itself there, and nowhere else.
            require_labels(records[:, place], range(len(names)), str(folder / file.name))
            if byte == kind:
                labels[start:stop] = records[:, place]
        channel_first = records[:, len(layout.classes) :].reshape(-1, *_CHANNELS_HEIGHT_WIDTH)
        pixels[start:stop] = channel_first.transpose(0, 2, 3, 1)
        start = stop
    return pixels, labels

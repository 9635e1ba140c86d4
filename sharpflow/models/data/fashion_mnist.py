"""Fashion-MNIST from its IDX files, plain or gzipped."""

import math
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sharpflow.models.arguments import FLAG, PATH, checked
from sharpflow.models.data.arrays import labelled_images
from sharpflow.models.data.download import RemoteFile, fetch_files
from sharpflow.models.data.folders import data_folder, require_complete
from sharpflow.models.data.idx import read_idx
from sharpflow.models.data.images import Images
from sharpflow.models.data.labels import FASHION_MNIST_CLASSES, require_labels
from sharpflow.models.data.origin import FileRead, Origin
from sharpflow.models.data.standardization import FASHION_MNIST_STANDARDIZATION
from sharpflow.models.paths import user_path

_DATASET = "fashion_mnist"
_FOLDERS = ("fashion-mnist", "FashionMNIST/raw")  # our own download's, and torchvision's
# The publisher's own, which has no https; the digests below vouch for what comes.
_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_SIZE = (28, 28)
_SPLITS = {  # split: images, labels, official number
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", 60_000),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte", 10_000),
}
FILES = {
    f"{name}.gz": RemoteFile(f"{_URL}{name}.gz", size, md5)
    for name, size, md5 in (
        ("train-images-idx3-ubyte", 26_421_880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
        ("train-labels-idx1-ubyte", 29_515, "25c81989df183df01b3e8a0aad5dffbe"),
        ("t10k-images-idx3-ubyte", 4_422_102, "bef4ecab320f06d8554ea6380940ec79"),
        ("t10k-labels-idx1-ubyte", 5_148, "bb300cfdad3c16e7a12a480ee83cd310"),
    )
}


@checked(root=PATH, download=FLAG)
def fashion_mnist(
    root: str | os.PathLike[str],
    *,
    download: bool = False,
    standardize: tuple[Sequence[float], Sequence[float]] | None = FASHION_MNIST_STANDARDIZATION,
    dtype: npt.DTypeLike = np.float32,
) -> tuple[Images, Images]:
    """Fashion-MNIST training and test images from the IDX files that are there.

    Args:
      root: the folder with ``train-images-idx3-ubyte`` and so on, each plain or with
        ``.gz``, or the one above ``fashion-mnist`` or ``FashionMNIST/raw``.
      download: fetch the four official files (31 MB) into ``root`` if none is there;
        what is there must then be complete.
      standardize: (mean, deviation) of pixels in [0, 1]; by default those of the
        official training images; None for pixels in [0, 1].
      dtype: of the images, float32 or float64.

    Returns:
      (train, test), of shape (n, 28, 28, 1) each; a set without files is empty.

    Raises:
      FileNotFoundError: none of the files, with the places looked at, or images without
        their labels or the other way round.
      FileExistsError: ``download`` where a part of the files is.
      OSError: a download that fails.
      ValueError: a wrong magic number, a file cut short, images of another size, not
        as many labels as images, more than the official number, a label out of range,
        or a download that is not the official one.

    Source: Xiao, Rasul, Vollgraf 2017, arXiv:1708.07747.
    """
    return read(FILES, root, download=download, standardize=standardize, dtype=dtype)


def read(
    files: Mapping[str, RemoteFile],
    root: str | os.PathLike[str],
    *,
    download: bool,
    standardize: tuple[Sequence[float], Sequence[float]] | None,
    dtype: npt.DTypeLike,
) -> tuple[Images, Images]:
    """As ``fashion_mnist``, where a download takes these files."""
    names = [name for images, labels, _ in _SPLITS.values() for name in (images, labels)]
    folder = data_folder(
        user_path(root),
        _FOLDERS,
        [*names, *(f"{name}.gz" for name in names)],
        _URL,
        fetch=partial(fetch_files, files) if download else None,
    )
    splits = [_read_split(folder, split) for split in _SPLITS]
    if download:
        require_complete(folder, [origin for *_, origin in splits])
    classes = dict(enumerate(FASHION_MNIST_CLASSES))
    train, test = (
        labelled_images(pixels, labels, classes, origin, standardize, dtype)
        for pixels, labels, origin in splits
    )
    return train, test


def _read_split(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray, Origin]:
    """Pixels, shape (n, 28, 28, 1), labels, shape (n,), and their record."""
    images_name, labels_name, official = _SPLITS[split]
    # Either both or none: a set of images without labels would otherwise look like one that is not
    # there.
    images_path, labels_path = _path(folder, images_name), _path(folder, labels_name)
    if images_path is None and labels_path is None:
        origin = Origin(_DATASET, split, (FileRead(images_name, 0, official),))
        return np.empty((0, *_SIZE, 1), np.uint8), np.empty(0, np.int64), origin
    if images_path is None or labels_path is None:
        missing = images_name if images_path is None else labels_name
        raise FileNotFoundError(
            f"{images_path or labels_path} is there, but neither {missing} nor {missing}.gz"
        )
    images = read_idx(images_path, 3, official, math.prod(_SIZE), "images")
    labels = read_idx(labels_path, 1, official, 1, "labels")
    if images.shape[1:] != _SIZE:
        raise ValueError(
            f"{images_path} holds images of {images.shape[1:]} pixels; "
            f"those of {_DATASET} are {_SIZE}"
        )
    if len(images) != len(labels):
        raise ValueError(
            f"{images_path} holds {len(images)} images, but {labels_path} {len(labels)} labels"
        )
    if not len(images):
        raise ValueError(
            f"{images_path} holds {len(images)} images; allowed are 1 to the official {official}"
        )
    require_labels(labels, range(len(FASHION_MNIST_CLASSES)), str(labels_path))
    origin = Origin(_DATASET, split, (FileRead(images_path.name, len(images), official),))
    return images[..., None], labels.astype(np.int64), origin


def _path(folder: Path, name: str) -> Path | None:
    """The plain file of that name or the gzipped one, where there is either."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    return None

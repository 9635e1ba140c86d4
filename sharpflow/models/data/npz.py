"""Any ``.npz`` archive with named arrays of images and labels."""

import contextlib
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np
import numpy.typing as npt

from sharpflow.models.arguments import PATH, checked
from sharpflow.models.data.arrays import labelled_images, validated_classes, validated_pixels
from sharpflow.models.data.images import Images
from sharpflow.models.data.labels import named_classes
from sharpflow.models.data.origin import FileRead, Origin
from sharpflow.models.paths import user_path

# What zipfile and numpy raise where bytes of an archive are not as they were written.
_DAMAGES = (
    ValueError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    KeyError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    SyntaxError,
    TypeError,
)


@overload
def npz(
    path: str | os.PathLike[str],
    train: tuple[str, str] = ...,
    test: tuple[str, str] = ...,
    *,
    classes: int | Sequence[str] | None = ...,
    standardize: tuple[Sequence[float], Sequence[float]] | None = ...,
    dtype: npt.DTypeLike = ...,
) -> tuple[Images, Images]: ...


@overload
def npz(
    path: str | os.PathLike[str],
    train: tuple[str, str] = ...,
    test: None = ...,
    *,
    classes: int | Sequence[str] | None = ...,
    standardize: tuple[Sequence[float], Sequence[float]] | None = ...,
    dtype: npt.DTypeLike = ...,
) -> tuple[Images, None]: ...


@checked(path=PATH)
def npz(
    path: str | os.PathLike[str],
    train: tuple[str, str] = ("x_train", "y_train"),
    test: tuple[str, str] | None = ("x_test", "y_test"),
    *,
    classes: int | Sequence[str] | None = None,
    standardize: tuple[Sequence[float], Sequence[float]] | None = None,
    dtype: npt.DTypeLike = np.float32,
) -> tuple[Images, Images | None]:
    """Training and test images from the named arrays of an ``.npz`` archive.

    Args:
      path: of the archive.
      train: names of the arrays of images and of labels, as ``arrays`` takes them.
      test: the same for the test images, or None where there are none.
      classes, standardize, dtype: as in ``arrays``; the classes that occur are those of
        the training and test images together.

    Returns:
      (train, test), the second None where ``test`` is.

    Raises:
      FileNotFoundError: no such file.
      ValueError: not an ``.npz`` archive or a damaged one, an array that is not there or
        holds pickled objects, arrays that are not images and labels, or test images of another
        size.
    """
    path = user_path(path)
    # Where there is no file, the error of opening it below says so.
    if path.exists() and not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not an .npz archive")
    with _opened(path) as stored:
        parts = [
            (split, names, *_named_pair(stored, names, path))
            for split, names in (("train", train), ("test", test))
            if names is not None
        ]
    shapes = [pixels.shape[1:] for _, _, pixels, _ in parts]
    if shapes[0] != shapes[-1]:
        raise ValueError(
            f"{path}: the images of test have shape {shapes[-1]}, those of train {shapes[0]}"
        )
    occurring = named_classes(classes, np.concatenate([labels for *_, labels in parts]))
    images = []
    for split, names, pixels, labels in parts:
        origin = Origin(
            "npz",
            split,
            (FileRead(path.name, len(pixels)),),
            options=(("images", names[0]), ("labels", names[1])),
        )
        images.append(labelled_images(pixels, labels, occurring, origin, standardize, dtype))
    return (images[0], images[1]) if test is not None else (images[0], None)


def _opened(path: Path) -> np.lib.npyio.NpzFile:
    with _told(f"{path} is not a whole .npz archive"):
        with path.open("rb") as file:
            # of any other file numpy says that it may be a pickle, and how to read one
            if not file.read(4).startswith(b"PK"):
                raise ValueError("its first bytes are those of no zip archive")
        return np.load(path, allow_pickle=False)


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """What damaged bytes of an archive raise, as a ``ValueError``; a missing file is told as is."""
    try:
        yield
    except OSError as error:
        if error.filename is not None:
            raise
        raise ValueError(f"{what}: {error}") from error
    except _DAMAGES as error:
        raise ValueError(f"{what}: {error}") from error


def _named_pair(
    stored: np.lib.npyio.NpzFile, names: tuple[str, str], path: Path
) -> tuple[np.ndarray, np.ndarray]:
    pixels = validated_pixels(_named(stored, names[0], path), f"{path}: {names[0]}")
    labels = _named(stored, names[1], path)
    return pixels, validated_classes(labels, len(pixels), f"{path}: {names[1]}")


def _named(stored: np.lib.npyio.NpzFile, name: str, path: Path) -> np.ndarray:
    if name not in stored.files:
        raise ValueError(f"{path} has no array {name!r}; it holds {sorted(stored.files)}")
    # a ValueError is an array of objects, which only pickle can read
    with _told(f"{path}: the array {name!r} cannot be read"):
        # Read here and not when it is used: a damaged archive shows only when its bytes are
        # unpacked, and the sentence should name the file.
        return stored[name]

"""The IDX format of the MNIST family: a magic number, lengths, then unsigned bytes."""

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

_UNSIGNED_BYTE = 0x08


def read_idx(path: Path, num_axes: int) -> np.ndarray:
    """An array of unsigned bytes from an IDX file, plain or gzipped by its name.

    Args:
      path: of the file; read through gzip where it ends in ``.gz``.
      num_axes: how many axes the array must have.

    Returns:
      uint8, of the shape that the file states.

    Raises:
      ValueError: a wrong magic number, not as many bytes as the shape says, or a
        damaged gzip file.

    Source: LeCun, Cortes, Burges, http://yann.lecun.com/exdb/mnist: two zero bytes, the
    type, the number of axes, then each length as four bytes, the highest first.
    """
    content = _content(path)
    expected = bytes([0, 0, _UNSIGNED_BYTE, num_axes])
    if content[:4] != expected:
        raise ValueError(
            f"{path} begins with the magic number 0x{content[:4].hex()}, not with "
            f"0x{expected.hex()} for unsigned bytes along {num_axes} axes"
        )
    header = 4 + 4 * num_axes
    if len(content) < header:
        raise ValueError(f"{path} ends within its header of {header} bytes")
    shape = tuple(int(length) for length in np.frombuffer(content, ">u4", num_axes, offset=4))
    if len(content) - header != math.prod(shape):
        raise ValueError(
            f"{path} has {len(content) - header} bytes of data, "
            f"but its header says {shape}, {math.prod(shape)} bytes"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _content(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path) as file:
            return file.read()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a whole gzip file: {error}") from error

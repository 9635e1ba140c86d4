"""The IDX format of the MNIST family: a magic number, lengths, then unsigned bytes."""

import gzip
import io
import math
import zlib
from pathlib import Path

import numpy as np

# The code of the type in the third byte of a file.
_UNSIGNED_BYTE = 0x08
# What is held beside the data while they are unpacked. Nothing else depends on it.
_PIECE_BYTES = 1 << 20


def read_idx(path: Path, num_axes: int, records: int, record: int, what: str) -> np.ndarray:
    """An array of unsigned bytes from an IDX file, plain or gzipped by its name.

    Args:
      path: of the file; read through gzip where it ends in ``.gz``.
      num_axes: how many axes the array must have.
      records: that are allowed, along the first axis.
      record: bytes of one. No more than one byte beyond all of them is read, so that a small
        file which gzip makes a huge one fills no memory.
      what: they are, for the error.

    Returns:
      uint8, of the shape that the file states.

    Raises:
      ValueError: a wrong magic number, not as many bytes as the shape says, more than
        are allowed, or a damaged gzip file.

    Source: LeCun, Cortes, Burges, http://yann.lecun.com/exdb/mnist: two zero bytes, the
    type, the number of axes, then each length as four bytes, the highest first.
    """
    header, most = 4 + 4 * num_axes, records * record
    content = _content(path, header + most + 1)
    expected = bytes([0, 0, _UNSIGNED_BYTE, num_axes])
    if content[:4] != expected:
        raise ValueError(
            f"{path} begins with the magic number 0x{content[:4].hex()}, not with "
            f"0x{expected.hex()} for unsigned bytes along {num_axes} axes"
        )
    if len(content) < header:
        raise ValueError(f"{path} ends within its header of {header} bytes")
    # As integers of Python: the product of three lengths of four bytes overflows 64 bits, and a
    # hostile header could then claim to be small.
    shape = tuple(int(length) for length in np.frombuffer(content, ">u4", num_axes, offset=4))
    if len(content) - header > most and math.prod(shape) <= most:
        raise ValueError(
            f"{path} has more than {most} bytes of data, as many as are allowed, "
            f"but its header says {shape}, {math.prod(shape)} bytes"
        )
    if shape[0] > records:
        raise ValueError(f"{path} holds {shape[0]} {what}; allowed are 1 to the official {records}")
    if len(content) - header != math.prod(shape):
        raise ValueError(
            f"{path} has {len(content) - header} bytes of data, "
            f"but its header says {shape}, {math.prod(shape)} bytes"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _content(path: Path, most: int) -> bytes:
    """The first bytes of a file, unpacked where it is gzipped."""
    if path.suffix != ".gz":
        with path.open("rb") as plain:
            return _first(plain, most)
    try:
        with gzip.open(path) as file:
            return _first(file, most)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is not a whole gzip file: {error}") from error


def _first(file: io.BufferedIOBase, most: int) -> bytes:
    """The first bytes; piece by piece, as one large read would take memory for all at once."""
    pieces = []
    while most > 0 and (piece := file.read(min(most, _PIECE_BYTES))):
        pieces.append(piece)
        most -= len(piece)
    return b"".join(pieces)

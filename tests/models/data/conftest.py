"""Small files in the official layouts, written byte by byte."""

import gzip
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sharpflow.models.data.download import RemoteFile

sys.path.insert(0, str(Path(__file__).parent))

from cifar_files import write_batch

Records = tuple[np.ndarray, np.ndarray]


@pytest.fixture
def random_records() -> Callable[..., Records]:
    """Pixels (n, h, w, c) and the labels 0, 1, …, repeated, of n images."""

    def records(n: int, num_classes: int = 10, shape: tuple[int, ...] = (32, 32, 3)) -> Records:
        pixels = np.random.default_rng(n).integers(0, 256, (n, *shape), dtype=np.uint8)
        return pixels, np.arange(n) % num_classes

    return records


@pytest.fixture(name="write_batch")
def _write_batch() -> Callable[..., None]:
    """Writes a file of CIFAR records, as ``cifar_files.write_batch``."""
    return write_batch


@pytest.fixture
def write_idx() -> Callable[..., None]:
    """Writes an IDX file of unsigned bytes, gzipped where the name ends in .gz."""

    def write(
        path: Path, array: np.ndarray, lengths: tuple[int, ...] | None = None, magic: int = 0x0800
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = (magic + array.ndim).to_bytes(4, "big")
        for length in array.shape if lengths is None else lengths:
            content += length.to_bytes(4, "big")
        content += bytes(array.astype(np.uint8).ravel().tolist())
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)

    return write


@pytest.fixture
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder apart from tmp_path, for what is to be fetched."""
    return tmp_path_factory.mktemp("served")


@pytest.fixture
def as_remote() -> Callable[[Path], RemoteFile]:
    """A file on this machine, described truthfully as a remote one."""

    def remote(path: Path) -> RemoteFile:
        content = path.read_bytes()
        return RemoteFile(path.as_uri(), len(content), hashlib.md5(content).hexdigest())

    return remote

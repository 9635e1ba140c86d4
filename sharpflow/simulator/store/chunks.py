"""How the arrays of a run lie in files, and whether a file is what was written."""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sharpflow.simulator.store.errors import RunError

# What we write, and all that is read: a codec is code, and the metadata of a folder that somebody
# sent could name any that is installed, such as one that unpickles.
CODECS = ("bytes", "vlen-utf8", "zstd", "crc32c")

REMEDY = "put it back from a copy of the run; without one, run again into another folder"

# Of CRC-32C, by its definition.
_CHECKSUM_BYTES = 4


@dataclasses.dataclass(frozen=True)
class ArrayFiles:
    """An array of a run as files, one to a chunk.

    Attributes:
      name: of the array.
      dims: names of its dimensions.
      shape: along them.
      chunks: entries of a chunk along them.
      codecs: names of what its chunks went through, in that order.
    """

    name: str
    dims: tuple[str, ...]
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    codecs: tuple[str, ...]

    @property
    def grid(self) -> tuple[int, ...]:
        """Chunks along each dimension."""
        return tuple(math.ceil(n / part) for n, part in zip(self.shape, self.chunks, strict=True))

    def indices(self) -> Iterator[tuple[int, ...]]:
        """Where each chunk lies in the grid of chunks."""
        return itertools.product(*map(range, self.grid))

    def key(self, index: tuple[int, ...]) -> str:
        """The file of a chunk, within the group."""
        return "/".join([self.name, "c", *map(str, index)])

    def require_whole(self, path: Path, content: bytes) -> None:
        """Make sure that a chunk is what was written.

        Args:
          path: of its file, for the error.
          content: of it.

        Raises:
          RunError: naming the file. Of a run that an earlier version wrote, without checksums, only
            where the chunk cannot be unpacked.
        """
        damage = self._damage(content)
        if damage:
            raise RunError(f"{path} is damaged: {damage}; {REMEDY}")

    def _damage(self, content: bytes) -> str:
        if self.codecs[-1] == "crc32c":
            import google_crc32c

            # finds every change within 32 bits in a row, and 2**32 - 1 of 2**32 others
            stored = content[-_CHECKSUM_BYTES:]
            right = google_crc32c.value(content[:-_CHECKSUM_BYTES]).to_bytes(4, "little")
            return "" if stored == right else "its checksum is another one"
        if self.codecs[-1] == "zstd":
            from numcodecs.zstd import Zstd

            try:
                Zstd().decode(content)
            except (RuntimeError, ValueError) as error:
                return str(error)
        return ""


def read_arrays(folder: Path) -> dict[str, ArrayFiles]:
    """The arrays of a Zarr group, by name, from its metadata alone.

    Raises:
      RunError: no group in the third format of Zarr, or one that we would not have written.
    """
    path = folder / "zarr.json"
    try:
        root = read_metadata(path)
        if root["node_type"] != "group":
            raise ValueError(f"it is no group but {root['node_type']!r}")
        if is_consolidated(root):
            metadata_by_name = root["consolidated_metadata"]["metadata"]
        else:
            metadata_by_name = {
                each.parent.name: read_metadata(each) for each in folder.glob("*/zarr.json")
            }
        return {name: _array(name, metadata) for name, metadata in metadata_by_name.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        said = f"zarr.json says no {error}" if isinstance(error, KeyError) else str(error)
        raise RunError(f"{folder} cannot be read: {said}") from error


def is_consolidated(root: Mapping[str, Any]) -> bool:
    """Whether the metadata of a group hold those of its arrays."""
    return bool(root.get("consolidated_metadata"))


def read_metadata(path: Path) -> dict[str, Any]:
    """Metadata in the third format of Zarr.

    Raises:
      ValueError: of another format, or damaged.
      OSError: it cannot be read.
    """
    metadata = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(metadata, dict) or metadata.get("zarr_format") != 3:
        raise ValueError("only the third format of Zarr is read")
    return metadata


def _array(name: str, metadata: Mapping[str, Any]) -> ArrayFiles:
    if not {"", ".", ".."}.isdisjoint(name.split("/")):
        raise ValueError(f"an array is named {name!r}, which leads elsewhere")
    codecs = tuple(codec["name"] for codec in metadata["codecs"])
    unknown = [codec for codec in codecs if codec not in CODECS]
    if unknown or not codecs or metadata.get("storage_transformers"):
        raise ValueError(f"{name} went through {codecs}; read are {CODECS} alone")
    grid, keys = metadata["chunk_grid"], metadata["chunk_key_encoding"]
    if grid["name"] != "regular" or keys["name"] != "default":
        raise ValueError(f"the chunks of {name} lie in another order")
    if keys.get("configuration", {}).get("separator", "/") != "/":
        raise ValueError(f"the chunks of {name} lie in files of other names")
    shape, chunks = metadata["shape"], grid["configuration"]["chunk_shape"]
    dims = metadata.get("dimension_names") or [""] * len(shape)
    if not len(shape) == len(chunks) == len(dims) or any(part < 1 for part in chunks):
        raise ValueError(f"{name} has shape {shape} in chunks of {chunks} along {dims}")
    return ArrayFiles(name, tuple(dims), tuple(shape), tuple(chunks), codecs)

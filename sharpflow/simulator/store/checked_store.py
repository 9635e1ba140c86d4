"""The files of a Zarr group, each of which is looked at before its values are used."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from zarr.storage import LocalStore

from sharpflow.simulator.store.chunks import REMEDY, ArrayFiles
from sharpflow.simulator.store.errors import RunError


class CheckedStore(LocalStore):
    """Local files that are refused by name where one is damaged, or missing but promised.

    Zarr itself finds a wrong checksum, but does not say in which file; and it takes a missing
    file for a chunk that was never written.

    Args:
      root: folder of the group.
      arrays: of it.
      promised: by array, which chunks must be there, of the shape of its grid of chunks.
      read_only: whether nothing may be written.
    """

    def __init__(
        self,
        root: Path | str,
        *,
        arrays: Mapping[str, ArrayFiles],
        promised: Mapping[str, np.ndarray] | None = None,
        read_only: bool = False,
    ) -> None:
        super().__init__(root, read_only=read_only)
        self.arrays, self.promised = arrays, promised or {}

    def with_read_only(self, read_only: bool = False) -> "CheckedStore":
        """The same files, to read only or to write to."""
        return type(self)(
            self.root, arrays=self.arrays, promised=self.promised, read_only=read_only
        )

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        """A file as Zarr asks for it, or None where there is none.

        Raises:
          RunError: it is a chunk that is damaged, or missing but promised.
        """
        content = await super().get(key, prototype, byte_range)
        self._check(key, content, byte_range)
        return content

    def get_sync(self, key: str, *, prototype: Any = None, byte_range: Any = None) -> Any:
        """As ``get``, which newer releases of Zarr ask in this way too."""
        content = super().get_sync(key, prototype=prototype, byte_range=byte_range)
        self._check(key, content, byte_range)
        return content

    def _check(self, key: str, content: Any, byte_range: Any) -> None:
        name, _, place = key.rpartition("/c/")
        array = self.arrays.get(name)
        if array is None or byte_range is not None:
            return
        if content is not None:
            array.require_whole(self.root / key, content.to_bytes())
        elif name in self.promised and self.promised[name][tuple(map(int, place.split("/")))]:
            raise RunError(f"{self.root / key} is missing; {REMEDY}")

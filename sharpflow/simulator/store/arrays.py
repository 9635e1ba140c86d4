"""The labelled arrays of a grid, in memory or in a Zarr folder."""

import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sharpflow.models.stored_names import NAME, stored_names
from sharpflow.simulator.store.chunks import ArrayFiles, is_consolidated, read_metadata

if TYPE_CHECKING:
    import xarray

PENDING = -1  # the status of a point that has not ended


@dataclasses.dataclass(frozen=True)
class Variable:
    """One labelled array.

    Attributes:
      dims: names of its dimensions.
      shape: along them.
      dtype: of its entries.
      fill: what it holds where nothing was written.
      attributes: what else a reader should know.
      values: all of it, where that is known from the start: then it is a coordinate.
      chunks: of it in a Zarr folder; by default it is one.
    """

    dims: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: np.dtype
    fill: Any = np.nan
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    values: np.ndarray | None = None
    chunks: tuple[int, ...] | None = None


def known(dims: tuple[str, ...], values: Any, **attributes: Any) -> Variable:
    """A variable whose values are known from the start."""
    values = np.asarray(values)
    fill: Any = "" if values.dtype.kind == "U" else 0
    return Variable(dims, values.shape, values.dtype, fill, attributes, values)


def in_memory(variables: Mapping[str, Variable]) -> dict[str, np.ndarray]:
    """Arrays by name, filled or with their values."""
    return {
        name: np.full(v.shape, v.fill, v.dtype) if v.values is None else v.values
        for name, v in variables.items()
    }


def create_zarr(
    folder: Path, variables: Mapping[str, Variable], attributes: Mapping[str, Any]
) -> None:
    """A Zarr group with all arrays, of which nothing but known values is written yet.

    A chunk of it is a file that is replaced as a whole: a reader never sees half of one. It ends
    with the checksum of its bytes as they are on the disk, so that a change anywhere in the
    file is found; the checksum that zstd can add is of the values, and passes over flags of its own
    header. A chunk that holds nothing but fill values is written as well: one that is not there
    was lost.
    """
    import zarr
    from zarr.codecs import Crc32cCodec, ZstdCodec

    with _quiet():
        coordinates = [name for name, v in variables.items() if v.values is not None]
        marked = dict(attributes) | {"coordinates": " ".join(coordinates)}
        group = zarr.create_group(folder, zarr_format=3, attributes=marked)
        stored = stored_names(variables)
        for name, variable in variables.items():
            own_name = {} if stored[name] == name else {NAME: name}
            array = group.create_array(
                stored[name],
                shape=variable.shape,
                chunks=tuple(max(size, 1) for size in variable.chunks or variable.shape),
                dtype="str" if variable.dtype.kind == "U" else variable.dtype,
                compressors=[ZstdCodec(), Crc32cCodec()],
                fill_value=variable.fill,
                dimension_names=variable.dims,
                attributes=dict(variable.attributes) | own_name,
                config={"write_empty_chunks": True},
            )
            if variable.values is not None:
                array[...] = variable.values
        zarr.consolidate_metadata(folder)


def open_zarr(
    folder: Path, arrays: Mapping[str, ArrayFiles], *, read_only: bool = False
) -> dict[str, Any]:
    """The arrays of a Zarr group, to write to or to read only."""
    import zarr

    from sharpflow.simulator.store.checked_store import CheckedStore

    store = CheckedStore(folder, arrays=arrays, read_only=read_only)
    consolidated = is_consolidated(read_metadata(folder / "zarr.json"))
    # what an array takes from the settings of Zarr it takes when it is opened
    with _quiet(), zarr.config.set({"array.write_empty_chunks": True}):
        group = zarr.open_group(
            store,
            mode="r" if read_only else "r+",
            zarr_format=3,
            use_consolidated=consolidated,
        )
        return {str(array.attrs.get(NAME, stored)): array for stored, array in group.arrays()}


def zarr_dataset(
    folder: Path, arrays: Mapping[str, ArrayFiles], promised: Mapping[str, np.ndarray]
) -> "xarray.Dataset":
    """A Zarr group as a dataset; values are read when they are used.

    Args:
      folder: of the group.
      arrays: of it.
      promised: by array, which chunks must be there.
    """
    import xarray

    from sharpflow.simulator.store.checked_store import CheckedStore

    opened = xarray.open_zarr(
        CheckedStore(folder, arrays=arrays, promised=promised, read_only=True),
        chunks=None,
        decode_times=False,
        zarr_format=3,
        consolidated=is_consolidated(read_metadata(folder / "zarr.json")),
    )
    own = {stored: str(a.attrs[NAME]) for stored, a in opened.items() if NAME in a.attrs}
    opened = opened.rename_vars(own)
    # The attribute says only what the file is called; a dataset that is saved again under its names
    # must not carry it.
    for name in own.values():
        del opened[name].attrs[NAME]
    return opened


def dataset(
    arrays: Mapping[str, np.ndarray],
    variables: Mapping[str, Variable],
    attributes: Mapping[str, Any],
) -> "xarray.Dataset":
    """Arrays in memory as a dataset."""
    import xarray

    labelled = {
        name: (variable.dims, arrays[name], dict(variable.attributes))
        for name, variable in variables.items()
    }
    coordinates = [name for name, variable in variables.items() if variable.values is not None]
    return xarray.Dataset(labelled, attrs=dict(attributes)).set_coords(coordinates)


@contextmanager
def _quiet() -> Iterator[None]:
    """Zarr warns that strings and consolidated metadata came after its specification."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="zarr")
        warnings.filterwarnings("ignore", message=".*specification.*")
        yield

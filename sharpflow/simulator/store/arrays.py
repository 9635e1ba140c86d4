"""The labelled arrays of a grid, in memory or in a Zarr folder."""

import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sharpflow.simulator.store.names import NAME, stored_names

if TYPE_CHECKING:
    import xarray


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

    A chunk of it is a file that is replaced as a whole: a reader never sees half of one.
    """
    import zarr

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
                chunks=variable.chunks or tuple(max(size, 1) for size in variable.shape),
                dtype="str" if variable.dtype.kind == "U" else variable.dtype,
                fill_value=variable.fill,
                dimension_names=variable.dims,
                attributes=dict(variable.attributes) | own_name,
            )
            if variable.values is not None:
                array[...] = variable.values
        zarr.consolidate_metadata(folder)


def open_zarr(folder: Path) -> dict[str, Any]:
    """The arrays of a Zarr group, to write to."""
    import zarr

    with _quiet():
        group = zarr.open_group(folder, mode="r+", use_consolidated=False)
        return {str(array.attrs.get(NAME, stored)): array for stored, array in group.arrays()}


def zarr_dataset(folder: Path) -> "xarray.Dataset":
    """A Zarr group as a dataset; values are read when they are used."""
    import xarray

    found = xarray.open_zarr(folder, chunks=None, decode_times=False)
    own = {stored: array.attrs[NAME] for stored, array in found.items() if NAME in array.attrs}
    found = found.rename_vars(own)
    for name in own.values():
        del found[name].attrs[NAME]
    return found


def dataset(
    arrays: Mapping[str, np.ndarray],
    variables: Mapping[str, Variable],
    attributes: Mapping[str, Any],
) -> "xarray.Dataset":
    """Arrays in memory as a dataset."""
    import xarray

    found = {
        name: (variable.dims, arrays[name], dict(variable.attributes))
        for name, variable in variables.items()
    }
    coordinates = [name for name, variable in variables.items() if variable.values is not None]
    return xarray.Dataset(found, attrs=dict(attributes)).set_coords(coordinates)


@contextmanager
def _quiet() -> Iterator[None]:
    """Zarr warns that strings and consolidated metadata came after its specification."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="zarr")
        warnings.filterwarnings("ignore", message=".*specification.*")
        yield

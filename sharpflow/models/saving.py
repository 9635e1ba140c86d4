"""Results in one file: labelled arrays that xarray reads, and beside them all else, bit for bit.

The file is netCDF, or a Zarr folder. Its root is the dataset of the object. A group ``sharpflow``
holds the object as JSON (``object``) and the bytes of the arrays that the dataset does not hold as
they are (``arrays``). Nothing is pickled, and nothing that a file names is imported or called.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sharpflow.models.arguments import ArgumentError, shown
from sharpflow.models.files import replaced
from sharpflow.models.paths import user_path
from sharpflow.models.stored_names import NAME, stored_names
from sharpflow.models.stored_tree import Classes, Reader, Writer

if TYPE_CHECKING:
    import xarray

_GROUP = "sharpflow"
# Raised when a reader of before would misread a file; a reader refuses what is newer than it.
_VERSION = 1
_SUFFIXES = (".nc", ".zarr")


def save(
    value: Any, dataset: "xarray.Dataset", path: str | os.PathLike[str], classes: Classes
) -> None:
    """Write an object to a file, which is there as a whole or not at all.

    Args:
      value: an instance of one of the classes.
      dataset: what of it others should be able to read.
      path: ``.nc`` for a netCDF file, ``.zarr`` for a Zarr folder; one that is there already is
        replaced, and through a symbolic link what it points to.
      classes: that may be within the object, by name.

    Raises:
      ValueError: another ending, a folder that holds something else, or an object with a part that
        no file keeps.
      OSError: the disk did not take it; what was there before is still there.
    """
    place = _validated(path)
    labelled = storable(dataset)
    columns = {
        str(name): array.values
        for name, array in labelled.variables.items()
        if _is_kept_as_it_is(array.dtype) and array.size
    }
    writer = Writer(columns, classes)
    kind = type(value).__name__
    text = json.dumps(writer.node(value, kind)).encode()
    content = writer.content
    stored = {
        "object": (("bytes_of_object",), np.frombuffer(text, np.uint8)),
        "arrays": (("bytes_of_arrays",), content if content.size else np.zeros(1, np.uint8)),
    }
    attributes = {
        "format": str(_VERSION),  # text: netCDF makes a vector of a number
        "kind": kind,
        "sha256": hashlib.sha256(text).hexdigest(),
        "about": "what sharpflow.load reads; the dataset beside this group is for all others",
    }
    place.parent.mkdir(parents=True, exist_ok=True)
    import xarray

    group = xarray.Dataset(stored, attrs=attributes)
    with replaced(place) as partial:
        _write(labelled, partial, place.suffix, group=None)
        _write(group, partial, place.suffix, group=_GROUP)
        if place.suffix == ".zarr":  # else xarray warns whoever opens it
            _consolidate(partial)


def read(path: str | os.PathLike[str], classes: Classes) -> Any:
    """The object that ``save`` wrote.

    Args:
      path: of the file or folder.
      classes: that may be within the object, by name.

    Raises:
      ValueError: there is none, it is something else, of a newer version, or damaged.
    """
    place = user_path(path)
    if not place.exists():
        raise ArgumentError("path", "a file that save wrote", f"{place}, which is not there")
    if (place / "run.json").is_file():
        raise ArgumentError(
            "path", "a file that save wrote", f"{place}, which is a run: use sharpflow.open_run"
        )
    try:
        with _opened(place) as (attributes, array):
            if attributes is None:
                raise ArgumentError(
                    "path",
                    "a file that save wrote",
                    f"{place}, which holds no object of sharpflow; xarray may read it",
                )
            text = array(f"{_GROUP}/object").tobytes()
            if int(attributes["format"]) > _VERSION:
                raise ArgumentError(
                    "path",
                    f"a file of format {_VERSION} or before",
                    f"{place} of format {int(attributes['format'])}; a newer sharpflow wrote it: "
                    "update this one",
                )
            if hashlib.sha256(text).hexdigest() != attributes["sha256"]:
                raise ValueError("what describes the object is not what was saved")
            reader = Reader(array(f"{_GROUP}/arrays"), array, classes)
            return reader.value(json.loads(text))
    except ArgumentError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"path = {str(place)!r} cannot be read: {error}") from error


def _validated(path: str | os.PathLike[str]) -> Path:
    place = user_path(path)
    if place.suffix not in _SUFFIXES:
        raise ArgumentError("path", "a name that ends in .nc or .zarr", shown(str(place)))
    is_ours = (place / _GROUP / "zarr.json").is_file()
    if place.is_dir() and (place.suffix == ".nc" or not is_ours):
        raise ArgumentError(
            "path", "a new name, or what save wrote before", f"the folder {str(place)!r}"
        )
    if place.is_file() and place.suffix == ".zarr":
        raise ArgumentError("path", "a new name, or a Zarr folder", f"the file {str(place)!r}")
    return place


def _is_kept_as_it_is(dtype: np.dtype) -> bool:
    """Whether both formats hold this dtype without a code of their own, as they have for flags."""
    return dtype.kind in "iuf" and dtype.itemsize in (1, 2, 4, 8) and dtype != np.float16


def storable(dataset: "xarray.Dataset") -> "xarray.Dataset":
    """With names and attributes that files take; an own name stays in an attribute."""
    own_names = dict.fromkeys([*map(str, dataset.variables), *map(str, dataset.dims)])
    names = stored_names(own_names, taken=[_GROUP])
    changed = {own: stored for own, stored in names.items() if own != stored}
    copy = dataset.copy()
    for name in changed:
        if name in copy.variables:
            copy[name].attrs[NAME] = name
    copy = copy.rename({own: stored for own, stored in changed.items()
                        if own in copy.variables or own in copy.dims})  # fmt: skip
    for array in copy.variables.values():
        array.attrs = {str(k): _attribute(v) for k, v in array.attrs.items()}
        # by default both formats mark NaN as missing, and readers then give integers as floats
        array.encoding = {"_FillValue": None}
    copy.attrs = {str(k): _attribute(v) for k, v in copy.attrs.items()}
    return copy


def _attribute(value: Any) -> Any:
    """A value that an attribute of a file holds; others in words, for the object has them whole."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float, np.number)):
        return str(value)
    return str(value) if isinstance(value, int) and abs(value) >= 2**63 else value


def _write(dataset: "xarray.Dataset", path: Path, suffix: str, group: str | None) -> None:
    mode: Any = "w" if group is None else "a"
    if suffix == ".nc":
        dataset.to_netcdf(path, mode=mode, group=group, engine="h5netcdf")
        return
    with _quiet():
        dataset.to_zarr(
            path,
            mode=mode,
            group=group,
            zarr_format=3,
            consolidated=False,
            write_empty_chunks=True,  # else zeros of the other sign would be taken for the fill
        )


def _consolidate(path: Path) -> None:
    import zarr

    with _quiet():
        zarr.consolidate_metadata(path)


@contextmanager
def _opened(place: Path) -> Iterator[tuple[Mapping[str, Any] | None, Callable[[str], np.ndarray]]]:
    """The attributes of the group, None without it; and what reads an array as it lies there."""
    if place.is_dir():
        import zarr

        with _quiet():
            root = zarr.open_group(place, mode="r", use_consolidated=False)
            attributes = dict(root[_GROUP].attrs) if _GROUP in root else None
            yield attributes, lambda name: np.asarray(root[name][...])  # type: ignore[index]
        return
    import h5py

    with h5py.File(place, "r") as file:
        attributes = dict(file[_GROUP].attrs) if _GROUP in file else None
        yield attributes, lambda name: np.asarray(file[name][...])


@contextmanager
def _quiet() -> Iterator[None]:
    """Zarr warns of what came after its specification, and of groups without consolidation."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="zarr")
        warnings.filterwarnings("ignore", message=".*specification.*")
        yield

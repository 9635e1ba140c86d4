"""The predictions of the points of a run, in one file of its folder."""

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from sharpflow.models.files import replaced
from sharpflow.models.saving import storable
from sharpflow.models.stored_names import NAME
from sharpflow.simulator.store.errors import RunError, storage_errors
from sharpflow.simulator.store.folder import RunFolder

if TYPE_CHECKING:
    import xarray


def predictions_path(run: RunFolder) -> Path:
    """The file, whether it is there or not."""
    return run.path / "predictions.nc"


def write_predictions(run: RunFolder, predictions: "xarray.Dataset") -> None:
    """Put the predictions of all points in place of those that are there.

    Raises:
      StorageError: the disk did not take them; those that were there before are whole.
    """
    stored = storable(predictions)
    # A checksum for the numbers, which HDF5 keeps for arrays that are stored in chunks.
    encoding = {
        str(name): {"fletcher32": True, "chunksizes": array.shape}
        for name, array in stored.data_vars.items()
        if array.dtype.kind in "if" and array.size
    }
    with storage_errors(run.path), replaced(predictions_path(run)) as partial:
        stored.to_netcdf(partial, engine="h5netcdf", encoding=encoding)


def read_predictions(run: RunFolder) -> "xarray.Dataset | None":
    """The predictions that are kept, or None where there are none.

    Raises:
      RunError: the file is damaged.
    """
    path = predictions_path(run)
    if not path.exists():
        return None
    import xarray

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with xarray.open_dataset(path, engine="h5netcdf", decode_cf=False) as opened:
                stored = opened.load()
        own = {name: array.attrs.pop(NAME) for name, array in stored.variables.items()
               if NAME in array.attrs}  # fmt: skip
        named = stored.rename(own)
        for name in ("prediction_kind", "prediction_reason"):
            named[name] = named[name].astype(str)
        if named["prediction_kind"].dims != named["prediction_steps"].dims:
            raise ValueError("its arrays do not go together")
    except (OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise RunError(
            f"{path} cannot be read: {error}; remove it, and predict the run again"
        ) from error
    return named


def with_predictions(grid: "xarray.Dataset", predictions: "xarray.Dataset") -> "xarray.Dataset":
    """A grid with the columns of its predictions; those that it had are replaced.

    Args:
      grid: as ``simulate_grid`` gives it.
      predictions: over the axes of the grid, and along the predictions.
    """
    import xarray

    own = predictions.drop_vars(list(predictions.coords))
    kept = grid.drop_vars([name for name in own.data_vars if name in grid])
    kept = kept.drop_dims([dim for dim in own.dims if dim not in grid["status"].dims],
                          errors="ignore")  # fmt: skip
    merged = xarray.merge([kept, own], join="exact", combine_attrs="override")
    return merged.assign_attrs(grid.attrs)

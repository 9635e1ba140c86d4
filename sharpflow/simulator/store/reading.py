"""Runs as they are read: what must be there is there, and is what was written."""

import contextlib
import hashlib
import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sharpflow.models.arguments import FLAG, PATH, checked
from sharpflow.simulator.quantities import axis_quantity, is_described, quantity_of
from sharpflow.simulator.store.arrays import Variable, zarr_dataset
from sharpflow.simulator.store.chunks import REMEDY, ArrayFiles
from sharpflow.simulator.store.errors import RunError
from sharpflow.simulator.store.folder import RunFolder
from sharpflow.simulator.store.predictions import read_predictions, with_predictions
from sharpflow.simulator.store.promises import Chunks, Progress, absent, promised
from sharpflow.theory import Status

if TYPE_CHECKING:
    import xarray

_MEMORY = ("predicted_memory_bytes", "peak_memory_bytes")
_PROGRESS = ("status", "final_step", "num_steps", "step")


@checked(folder=PATH, verify=FLAG)
def open_run(folder: str | os.PathLike[str], *, verify: bool = False) -> "xarray.Dataset":
    """The labelled arrays of a run, finished or not.

    Nothing that the folder names is imported or called.

    Args:
      folder: of the run, as given to ``simulate_grid(out=...)`` or ``sharpflow run --out``.
      verify: read every file of the arrays now and compare its checksum; by default that is
        done for those that are used, when they are used.

    Returns:
      A dataset as ``simulate_grid`` gives it, with the predictions of its points where
      ``predict_grid`` has kept them in the folder. Values are read from the disk when they are
      used; points that have not ended have the status ``PENDING``. Its attributes say how the
      first launch was made, and of the last that computed anything the memory, in bytes:
      ``predicted_memory_bytes``, and ``peak_memory_bytes`` where the device tells it.

    Raises:
      RunError: a ValueError: no run in this folder, or a file of it is damaged, missing, or not
        one that sharpflow writes. A file that is damaged raises it when its values are used.
    """
    run = RunFolder.at(folder)
    chunks = promised_chunks(run)
    if verify:
        verified_digest(run)
    try:
        run_dataset = zarr_dataset(run.data, run.arrays(), chunks)
    except RunError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise RunError(f"{run.data} cannot be read: {error}") from error
    axes = run.description.get("axes")
    for name, labels in axes.items() if isinstance(axes, dict) else ():
        if name in run_dataset.coords and not _same_labels(run_dataset[name].values, labels):
            raise RunError(
                f"the axis {name} in {run.data} and {run.path / 'run.json'} do not agree: one is "
                f"damaged; "
                f"{REMEDY}"
            )
    _describe(run_dataset, run.description)
    run_dataset = run_dataset.assign_attrs(noted_memory(run))
    predictions = read_predictions(run)
    return run_dataset if predictions is None else with_predictions(run_dataset, predictions)


def _describe(run_dataset: "xarray.Dataset", description: Mapping[str, Any]) -> None:
    """Add what arrays of runs that earlier versions wrote do not say of themselves."""
    axes, recorded = description.get("axes"), description.get("observables")
    # an observable with options is written as its name, a colon and the options
    names = recorded if isinstance(recorded, list) else []
    observables = [str(name).partition(": ")[0] for name in names]
    for name, array in run_dataset.variables.items():
        if not is_described(array.attrs):
            of_axis = isinstance(axes, dict) and name in axes
            quantity = (
                axis_quantity(str(name))
                if of_axis
                else quantity_of(str(name), observables=observables)
            )
            array.attrs = quantity.attributes | array.attrs


def noted_memory(run: RunFolder) -> dict[str, int]:
    """The memory of a device that the last launch which computed anything predicted and measured.

    Returns:
      ``predicted_memory_bytes`` and ``peak_memory_bytes``, in bytes, those that are known. None
      where the launches cannot be read: the numbers of the run do not depend on them.
    """
    memory: dict[str, int] = {}
    with contextlib.suppress(RunError):
        for launch in run.launches():
            noted = {name: launch[name] for name in _MEMORY if _is_size(launch.get(name))}
            memory = noted or memory
    return memory


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def verified_digest(run: RunFolder) -> str:
    """Read every file of the arrays, and make sure that it is what was written.

    Returns:
      A digest of all that they hold.

    Raises:
      RunError: naming the first file that is missing or damaged.
    """
    promised_chunks(run)
    digest_of_values = hashlib.sha256()
    for array in run.arrays().values():
        for index in array.indices():
            path = run.data / array.key(index)
            try:
                content = path.read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise RunError(f"{path} cannot be read: {error}; {REMEDY}") from error
            array.require_whole(path, content)
            digest_of_values.update(f"{array.key(index)} {len(content)} ".encode())
            digest_of_values.update(hashlib.sha256(content).digest())
    return digest_of_values.hexdigest()


def promised_chunks(run: RunFolder) -> Chunks:
    """Which files of the arrays must be there, once it is known that they are.

    A point that has ended has all its records, and one in flight those that its checkpoint counts.
    What is promised is read before it is looked for, or is looked for again: a run that goes on
    meanwhile writes first and promises then.

    Raises:
      RunError: one is missing.
    """
    arrays = run.arrays()
    if "status" not in arrays:
        return {}
    shape = arrays["status"].shape
    ended, flying = Progress(shape), Progress(shape)
    ended.ended = run.ended(math.prod(shape)).reshape(shape)
    for positions, pieces in run.positions():
        flying.in_flight(positions, pieces)
    lacking = absent(run.data, arrays)
    if not lacking:
        return {name: np.ones(array.grid, bool) for name, array in arrays.items()}
    _add_what_arrays_say(run, arrays, ended)
    flying.ended, flying.records = ended.ended, np.maximum(ended.records, flying.records)
    described = run.described
    every = described.grid.get("snapshot_every")
    of_ended, of_all = (
        promised(arrays, progress, every, every_chunk=described.sealed)
        for progress in (ended, flying)
    )
    for name, indices in lacking.items():
        for index in indices:
            path = run.data / arrays[name].key(index)
            # A second look: the run may go on in another process, which has written the file since.
            if of_all[name][index] and not path.is_file():
                raise RunError(
                    f"{path} is missing; {REMEDY}"
                    if of_ended[name][index]
                    else f"{path} is missing; put it back from a copy of the run, or remove "
                    f"{run.path / 'checkpoints'} and resume: the points that had not ended begin "
                    "again"
                )
    return of_all


def require_values(run: RunFolder, variables: Mapping[str, Variable]) -> None:
    """Make sure that the values that are known from the start are those on the disk.

    Raises:
      RunError: naming the array whose values differ.
    """
    arrays = run.open_arrays(read_only=True)
    for name, variable in variables.items():
        if variable.values is None or name not in arrays:
            continue
        if not _same_values(np.asarray(arrays[name][...]), variable.values):
            raise RunError(
                f"{run.data / arrays[name].path} is damaged: it does not hold what was asked for; "
                f"{REMEDY}"
            )


def _add_what_arrays_say(
    run: RunFolder, arrays: Mapping[str, ArrayFiles], progress: Progress
) -> None:
    """Add the points that have ended by their status, with their records."""
    if any(name not in arrays for name in _PROGRESS):
        return
    points = arrays["status"]
    if any((arrays[n].dims, arrays[n].shape) != (points.dims, points.shape) for n in _PROGRESS[:3]):
        raise RunError(f"{run.data} is no grid of points: {_PROGRESS[:3]} have other dimensions")
    opened = run.open_arrays(read_only=True)
    status, final_step, num_steps, step = (np.asarray(opened[name][...]) for name in _PROGRESS)
    progress.by_status(status, final_step, num_steps, step)
    # earlier versions left out final steps of 0, which a point that ended well has not
    short = np.argwhere((status == Status.SUCCESS) & (final_step != num_steps))
    if short.size and not run.described.sealed:
        files = arrays["final_step"]
        index = tuple(int(i) // part for i, part in zip(short[0], files.chunks, strict=True))
        raise RunError(f"{run.data / files.key(index)} is missing; {REMEDY}")


def _same_labels(stored: np.ndarray, labels: Any) -> bool:
    """Whether an axis has the labels that were asked for; tuples are lists in JSON."""
    if not isinstance(labels, list) or stored.shape != (len(labels),):
        return False
    if stored.dtype.kind in "biuf":
        return bool(stored.tolist() == labels)
    return [str(label) for label in stored] == [str(_tuples(label)) for label in labels]


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _same_values(stored: np.ndarray, known: np.ndarray) -> bool:
    """Equal; floats up to the rounding of another machine."""
    if stored.shape != known.shape:
        return False
    if known.dtype.kind == "f":
        # Coordinates such as steps times ηλ are computed again, and may round otherwise on another
        # machine, by some 1e-16. A value that was changed by hand differs by more than 1e-6.
        return bool(np.allclose(stored, known, rtol=1e-6, atol=0.0, equal_nan=True))
    return bool(np.array_equal(stored.astype(known.dtype), known))

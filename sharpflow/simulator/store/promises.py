"""Which files of a run's arrays must be there, by what the run says of itself."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from sharpflow.simulator.store.arrays import PENDING
from sharpflow.simulator.store.chunks import ArrayFiles

_OF_POINTS = ("status", "final_step")
# Columns that hold a number in every record of a point that ended well. Earlier versions left out
# chunks of nothing but NaN, so that of the others a missing one says nothing.
_NEVER_EMPTY = ("loss", "loss_mean", "norm_squared", "gradient_norm")

Chunks = dict[str, np.ndarray]


class Progress:
    """How far the points of a run are.

    Attributes:
      shape: of the grid of points.
      ended: which of them are noted to have ended, of this shape.
      records: how many records of each are on the disk, at least, of this shape.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.ended = np.zeros(shape, bool)
        self.records = np.zeros(shape, np.int64)

    def in_flight(self, positions: Mapping[int, int], pieces: int) -> None:
        """Note points of a checkpoint: rows that each has done, of which ``pieces`` are a record.

        The first row of a record observes it, and later ones overwrite its running means.
        """
        for point, rows in positions.items():
            place = np.unravel_index(point, self.shape)
            self.records[place] = max(self.records[place], -(-rows // pieces))

    def by_status(
        self, status: np.ndarray, final_step: np.ndarray, num_steps: np.ndarray, step: np.ndarray
    ) -> None:
        """Note what the arrays say: a point that has ended has all records up to its last step.

        Args:
          status, final_step, num_steps: of the points.
          step: of the records, shape (T,), or (..., T) over all axes but the seed.
        """
        cells = [()] if step.ndim == 1 else list(np.ndindex(step.shape[:-1]))
        for cell in cells:
            at = (slice(None), *cell)
            own = np.searchsorted(step[cell], num_steps[at], side="left")
            made = np.searchsorted(step[cell], final_step[at], side="right")
            ended = status[at] != PENDING
            self.ended[at] |= ended
            written = np.where(ended, np.minimum(own, made), 0)
            self.records[at] = np.maximum(self.records[at], written)


def promised(
    arrays: Mapping[str, ArrayFiles],
    progress: Progress,
    snapshot_every: int | None,
    *,
    every_chunk: bool,
) -> Chunks:
    """Which chunks must be there, by array, of the shape of its grid of chunks.

    Args:
      arrays: of the run.
      progress: of its points.
      snapshot_every: records from a snapshot to the next, or None.
      every_chunk: whether every chunk that was written to is there; else, in runs of earlier
        versions, those alone that hold something.
    """
    points = arrays["status"].dims
    chunks = {}
    for name, array in arrays.items():
        if array.dims[: len(points)] != points or name == "num_steps":
            chunks[name] = np.full(array.grid, every_chunk)
            continue
        parts = array.chunks[: len(points)]
        ended = _blocks(progress.ended, parts)
        if name in _OF_POINTS:
            here = ended if every_chunk or name == "status" else np.zeros_like(ended)
        elif len(array.dims) > len(points) and array.dims[len(points)] in ("step", "record"):
            here = _rows(_blocks(progress.records, parts), array, len(points))
            here &= every_chunk or name in _NEVER_EMPTY
        elif len(array.dims) > len(points) and array.dims[len(points)] == "snapshot":
            snapshots = -(-progress.records // (snapshot_every or 1))
            here = _rows(_blocks(snapshots, parts), array, len(points))
        else:
            here = ended
        further = (1,) * (len(array.grid) - here.ndim)
        chunks[name] = np.broadcast_to(here.reshape(*here.shape, *further), array.grid)
    return chunks


def absent(folder: Path, arrays: Mapping[str, ArrayFiles]) -> dict[str, list[tuple[int, ...]]]:
    """The chunks that are not there, by array, of those alone that lack some."""
    missing = {name: list(_absent(folder, array)) for name, array in arrays.items()}
    return {name: indices for name, indices in missing.items() if indices}


def _absent(folder: Path, array: ArrayFiles) -> Iterator[tuple[int, ...]]:
    # as text: the paths of a large run are many
    return (i for i in array.indices() if not os.path.isfile(f"{folder}/{array.key(i)}"))


def _blocks(values: np.ndarray, parts: tuple[int, ...]) -> np.ndarray:
    """The largest value within each chunk of points."""
    for axis, part in enumerate(parts):
        values = np.maximum.reduceat(values, np.arange(0, values.shape[axis], part), axis=axis)
    return values


def _rows(counts: np.ndarray, array: ArrayFiles, axis: int) -> np.ndarray:
    """Which chunks along the axis of records hold one of the first ``counts``."""
    starts = np.arange(array.grid[axis]) * array.chunks[axis]
    return counts[..., None] > starts

"""Where the records of a grid go: arrays in memory, or a run's folder."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from sharpflow.models.parameter_names import parameter_names
from sharpflow.models.stored_tree import StoredLeaves
from sharpflow.simulator.axes import Axes
from sharpflow.simulator.host import Lane
from sharpflow.simulator.observables import RUNNING
from sharpflow.simulator.program import LoopState, SnapshotParts
from sharpflow.simulator.rules.carried import STATE
from sharpflow.simulator.store.arrays import PENDING
from sharpflow.simulator.store.errors import RunError, storage_errors
from sharpflow.simulator.store.folder import RunFolder
from sharpflow.theory import Status


class Sink:
    """Takes the records of single points.

    Args:
      axes: of the grid.
      arrays: by name, of numpy or of Zarr.
      run: the folder they are in, if they are in one.
      process: index of this process, whose checkpoints these are.
      unfinished: the points that had not ended before; all by default.
      final_params: whether the last params of a point are kept.
      final_state: whether all that it would need to go on is kept, in the folder.
      end_taus: τ at the end of the points whose rules follow schedules, kept with their states.
    """

    def __init__(
        self,
        axes: Axes,
        arrays: Mapping[str, Any],
        run: RunFolder | None = None,
        process: int = 0,
        unfinished: Sequence[int] | None = None,
        *,
        final_params: bool = False,
        final_state: bool = False,
        end_taus: Mapping[int, float] | None = None,
    ) -> None:
        self.axes, self.arrays, self.run, self.process = axes, arrays, run, process
        self.final_params, self.final_state = final_params, final_state
        self.end_taus = end_taus or {}
        self._ended = np.full(axes.num_points, unfinished is not None)
        self._ended[list(unfinished or ())] = False
        self._noted = 0

    def keeps(self, name: str) -> bool:
        """Whether a column of the loop has an array: those it makes unasked may have none."""
        return name != "step" and (name not in RUNNING or name in self.arrays)

    def write(self, name: str, point: int, first: int, values: np.ndarray) -> None:
        """Some records of a column, or snapshots, from the ``first`` on."""
        self._put(name, (*self.axes.index(point), slice(first, first + len(values))), values)

    def write_snapshots(self, point: int, first: int, parts: SnapshotParts) -> None:
        """Snapshots of a point, leaves with leading axis (snapshots,)."""
        for name, leaf in self._named("params", parts.params):
            self.write(name, point, first, leaf)
        buffers = self._named(STATE, parts.buffers)
        # a run that an earlier version began has no arrays for them, and goes on without
        if any(name in self.arrays for name, _ in buffers):
            for name, leaf in buffers:
                self.write(name, point, first, leaf)

    def finish(self, lane: Lane, state: Callable[[], LoopState]) -> None:
        """A point that ended: its records have been written before.

        Args:
          lane: where it is.
          state: fetches its last state.
        """
        if self.final_params:
            for name, leaf in self._named("final_params", state().params):
                self._put(name, self.axes.index(lane.point), leaf)
        if self.final_state and self.run is not None:
            parts = _in_parts(state())
            if lane.point in self.end_taus:
                # no record stands at the end, and no rate tells the flow time since the last one
                tau = np.asarray(self.end_taus[lane.point], np.float64)
                parts["tau"] = StoredLeaves.of(tau)
            self.run.save_state(lane.point, parts)
        place = self.axes.index(lane.point)
        self._put("final_step", place, lane.step)
        # Last, for a reader takes a point whose status is there to have all else.
        self._put("status", place, int(lane.status))
        self._ended[lane.point] = True

    def _note_ended(self) -> None:
        """Keep which points have ended, where that is more than was noted before."""
        count = int(self._ended.sum())
        if self.run is not None and count > self._noted:
            self.run.note_ended(self.process, self._ended)
            self._noted = count

    def checkpoint(
        self, batch: int, positions: Mapping[int, int], states: Callable[[], list[list]]
    ) -> None:
        """Keep where the points in flight are, if there is a folder.

        Args:
          batch: their number.
          positions: rows that each of them has done.
          states: fetches the leaves of each, in the same order.
        """
        if self.run is None:
            return
        # first: once a point is in no checkpoint, nothing else says that it ever ran
        self._note_ended()
        if positions:
            leaves = [np.stack(leaf) for leaf in zip(*states(), strict=True)]
            self.run.save_checkpoint(batch, self.process, positions, leaves)
        else:
            self.run.remove_checkpoints(batch, self.process)

    def statuses(self) -> np.ndarray:
        """Of all points, shape (points,)."""
        return np.asarray(self.arrays["status"][...]).reshape(-1)

    def _put(self, name: str, place: tuple, values: Any) -> None:
        """Write to an array, which there must be: what is recorded is never left out."""
        if name not in self.arrays:
            where = "" if self.run is None else f" in {self.run.data}"
            raise RunError(
                f"there is no array for {name!r}{where}; there are {sorted(self.arrays)}: begin "
                "the run anew in another folder"
            )
        with self._guarded():
            self.arrays[name][place] = values

    def _named(self, prefix: str, tree: Any) -> list[tuple[str, Any]]:
        return list(zip(parameter_names(tree, prefix), jax.tree.leaves(tree), strict=True))

    def _guarded(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if self.run is None else storage_errors(self.run.path)


def _in_parts(state: LoopState) -> dict[str, StoredLeaves]:
    """A state as a file keeps it, each of its fields by itself."""
    fields = dataclasses.fields(state)
    return {field.name: StoredLeaves.of(getattr(state, field.name)) for field in fields}


def summary(statuses: np.ndarray) -> str:
    """How many points ended how, in words."""
    names = {PENDING: "pending"} | {int(status): status.name.lower() for status in Status}
    values, counts = np.unique(statuses, return_counts=True)
    return ", ".join(f"{count} {names[int(v)]}" for v, count in zip(values, counts, strict=True))

"""The host's side of a grid: points enter lanes, run chunk by chunk, and leave when done."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from sharpflow.simulator.grid.lanes import CompiledChunk
from sharpflow.simulator.grid.layout import Layout
from sharpflow.simulator.grid.points import Points
from sharpflow.simulator.grid.sink import Sink
from sharpflow.simulator.interrupt import Interrupted, Stop
from sharpflow.simulator.loop import LoopState
from sharpflow.simulator.observables import RUNNING
from sharpflow.simulator.progress import Advance
from sharpflow.simulator.schedule import Schedule
from sharpflow.simulator.store.checkpoint import Checkpoint
from sharpflow.theory.status import Status


@dataclasses.dataclass
class _Lane:
    """A point in flight.

    Attributes:
      point: its number.
      gaps: updates of each of its rows.
      starts: step at which each row begins.
      position: rows done.
    """

    point: int
    gaps: np.ndarray
    starts: np.ndarray
    position: int

    @property
    def rows_left(self) -> int:
        return len(self.gaps) - self.position


class BatchRun:
    """Runs the points of a batch to their ends.

    Args:
      number: of the batch.
      chunk: compiled for ``layout``.
      points: how they start.
      schedule: how far they run.
      sink: where records go.
      snapshot_every: records from a snapshot to the next, or None.
      final_params: whether the last params are kept.
    """

    def __init__(
        self,
        number: int,
        chunk: CompiledChunk,
        layout: Layout,
        points: Points,
        schedule: Schedule,
        sink: Sink,
        *,
        snapshot_every: int | None,
        final_params: bool,
    ) -> None:
        self.number, self.chunk, self.layout = number, chunk, layout
        self.points, self.schedule, self.sink = points, schedule, sink
        self.snapshot_every, self.final_params = snapshot_every, final_params
        self.lanes: list[_Lane | None] = [None] * chunk.lanes.count

    def run(
        self, pending: Sequence[int], resumed: Checkpoint, stop: Stop, advance: Advance
    ) -> None:
        """Run points until all have ended.

        Args:
          pending: points, in the order in which they enter.
          resumed: where those are that had begun.
          stop: asked between chunks.
          advance: told of updates made.

        Raises:
          Interrupted: somebody asked to stop; a checkpoint has been written.
          StorageError: the disk did not take what had to be written.
        """
        begun = [point for point in pending if point in resumed.positions]
        waiting = begun + [point for point in pending if point not in resumed.positions]
        example = self.points.state(pending[0])
        width = self.chunk.lanes.count
        host = jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[None], width, axis=0), example)
        keywords = {
            name: np.repeat(value, width)
            for name, value in self.points.hyperparameters(pending[0]).items()
        }
        state: Any = None
        while True:
            if self._fill(waiting, resumed, host, keywords):
                state = self.chunk.lanes.place(host)
                placed = self.chunk.lanes.place(keywords)
                self._checkpoint(host)
            if all(lane is None for lane in self.lanes):
                return
            if stop.signal_number is not None:
                raise Interrupted("stopped between two chunks", stop.signal_number)
            state, made = self._run_chunk(state, placed, host)
            advance(made, self._note(waiting))

    def _fill(
        self, waiting: list[int], resumed: Checkpoint, host: LoopState, keywords: dict
    ) -> bool:
        """Put waiting points into empty lanes; those in flight are at the same piece."""
        filled = False
        for index, lane in enumerate(self.lanes):
            if lane is not None or not waiting:
                continue
            phase = self._phase()
            pieces = self.layout.pieces
            fitting = (
                place
                for place, point in enumerate(waiting)
                if phase in (None, resumed.positions.get(point, 0) % pieces)
            )
            place = next(fitting, None)
            if place is None:
                break
            point = waiting.pop(place)
            gaps = self.schedule.gaps(point, pieces)
            position = resumed.positions.get(point, 0)
            self.lanes[index] = _Lane(point, gaps, np.cumsum(gaps) - gaps, position)
            if point in resumed.states:
                leaves = resumed.states[point]
            else:
                leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(self.points.state(point))]
            for kept, leaf in zip(jax.tree.leaves(host), leaves, strict=True):
                kept[index] = leaf
            for name, value in self.points.hyperparameters(point).items():
                keywords[name][index] = value
            filled = True
        return filled

    def _phase(self) -> int | None:
        lane = next((lane for lane in self.lanes if lane is not None), None)
        return None if lane is None else lane.position % self.layout.pieces

    def _run_chunk(
        self, state: LoopState, keywords: dict, host: LoopState
    ) -> tuple[LoopState, int]:
        """One chunk; the state after it, also in ``host``, and the updates made."""
        occupied = [(index, lane) for index, lane in enumerate(self.lanes) if lane is not None]
        count = min(self.layout.rows, max(lane.rows_left for _, lane in occupied))
        pieces, phase = self.layout.pieces, occupied[0][1].position % self.layout.pieces
        observe = (phase + np.arange(count)) % pieces == 0
        gaps = np.zeros((count, len(self.lanes)), np.int32)
        snapshot = np.zeros(gaps.shape, bool)
        for index, lane in occupied:
            own = lane.gaps[lane.position : lane.position + count]
            gaps[: len(own), index] = own
            if self.snapshot_every is not None:
                records = (lane.position + np.arange(count)) // pieces
                snapshot[:, index] = observe & (records % self.snapshot_every == 0)
        snapshot &= gaps > 0
        before = host.step.copy()
        state, columns, snapshots = self.chunk(
            state, keywords, self.chunk.rows(gaps, observe, snapshot)
        )
        columns, snapshots = jax.tree.map(np.asarray, (columns, snapshots))
        # copies: the next chunk reuses the buffers of the state
        for kept, leaf in zip(jax.tree.leaves(host), jax.tree.leaves(state), strict=True):
            kept[...] = np.asarray(leaf)
        for index, lane in occupied:
            made = {name: values[:count, index] for name, values in columns.items()}
            self._write(lane, made, observe)
            if snapshots is not None:
                taken = jax.tree.map(lambda leaf, i=index: leaf[:, i], snapshots)
                self._write_snapshots(lane, taken, made["step"], snapshot[:, index])
            lane.position += min(count, lane.rows_left)
            self._leave_if_done(index, lane, host)
        self._checkpoint(host)
        return state, int((host.step - before).sum())

    def _write(self, lane: _Lane, columns: dict[str, np.ndarray], observe: np.ndarray) -> None:
        """Write the rows that a lane ran before it was done or diverged."""
        valid = self._valid(lane, columns["step"])
        if not valid:
            return
        pieces = self.layout.pieces
        rows = np.flatnonzero(observe[:valid])
        records = (lane.position + np.arange(valid)) // pieces
        for name, values in columns.items():
            if name in RUNNING:
                # of each record the last row: means over all updates since it
                last = np.append(np.flatnonzero(np.diff(records)), valid - 1)
                self.sink.write(name, lane.point, int(records[0]), values[last])
            elif name != "step" and rows.size:
                self.sink.write(name, lane.point, int(records[rows[0]]), values[rows])

    def _write_snapshots(
        self, lane: _Lane, taken: Any, steps: np.ndarray, snapshot: np.ndarray
    ) -> None:
        assert self.snapshot_every is not None
        valid = self._valid(lane, steps)
        rows = np.flatnonzero(snapshot[:valid])
        if rows.size:
            first = (lane.position + int(rows[0])) // self.layout.pieces // self.snapshot_every
            kept = jax.tree.map(lambda leaf: leaf[: rows.size], taken)
            self.sink.write_snapshots(lane.point, first, kept)

    def _valid(self, lane: _Lane, steps: np.ndarray) -> int:
        """Rows at whose start the lane was where its schedule has it."""
        count = min(lane.rows_left, len(steps))
        planned = lane.starts[lane.position : lane.position + count]
        late = np.flatnonzero(steps[:count] != planned)
        return int(late[0]) if late.size else count

    def _leave_if_done(self, index: int, lane: _Lane, host: LoopState) -> None:
        status = int(host.status[index])
        if status == Status.SUCCESS and lane.rows_left:
            return
        if self.final_params:
            last = jax.tree.map(lambda leaf: leaf[index], host.params)
            self.sink.write_params("final_params", lane.point, last)
        self.sink.finish(lane.point, status, int(host.step[index]))
        self.lanes[index] = None

    def _checkpoint(self, host: LoopState) -> None:
        occupied = [index for index, lane in enumerate(self.lanes) if lane is not None]
        positions = {lane.point: lane.position for lane in self.lanes if lane is not None}
        leaves = [leaf[occupied] for leaf in jax.tree.leaves(host)]
        self.sink.checkpoint(self.number, positions, leaves)

    def _note(self, waiting: Sequence[int]) -> str:
        flying = sum(lane is not None for lane in self.lanes)
        return f", {flying} points in flight, {len(waiting)} waiting"

"""The host's side of a grid: points enter lanes, run chunk by chunk, and leave when done."""

import math
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from sharpflow.simulator.grid.compiled import CompiledChunk, stacked
from sharpflow.simulator.grid.lanes import Group, Lane
from sharpflow.simulator.grid.layout import Layout
from sharpflow.simulator.grid.points import Points
from sharpflow.simulator.grid.sink import Sink
from sharpflow.simulator.interrupt import Interrupted, Stop
from sharpflow.simulator.observables import RUNNING
from sharpflow.simulator.progress import Advance
from sharpflow.simulator.schedule import Schedule
from sharpflow.simulator.store.checkpoint import Checkpoint
from sharpflow.theory import Status

_QUICK_CHECKPOINT = 0.1  # seconds: shorter ones are made after every chunk, which takes two
_CHECKPOINT_SHARE = 0.02  # of the time, at most, for longer ones


class BatchRun:
    """Runs the points of a batch to their ends.

    Args:
      number: of the batch.
      chunk: compiled for ``layout``.
      layout: how many points are in flight, and how far a chunk goes.
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
        self.groups: list[Group] = []
        self.waiting: list[int] = []
        self.resumed = Checkpoint({}, {})
        self.made = 0
        self._saved_at, self._saving = -math.inf, 0.0  # the last checkpoint's end, and its seconds

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
        self.waiting = begun + [point for point in pending if point not in resumed.positions]
        self.resumed = resumed
        width, first = self.layout.width, pending[0]
        state, keywords = self.points.state(first), self.points.hyperparameters(first)
        self.groups = [
            Group([None] * width, stacked([state] * width), stacked([keywords] * width))
            for _ in range(self.layout.groups * self.chunk.num_devices)
        ]
        while True:
            for group in self.groups:
                self._fill(group)
            active = [group for group in self.groups if group.occupied]
            if not active or stop.signal_number is not None or self._checkpoint_is_due():
                self._checkpoint()
            if not active:
                return
            if stop.signal_number is not None:
                raise Interrupted("stopped between two chunks", stop.signal_number)
            self.made = 0
            self.chunk.spread(active, self._run_chunk)
            for group in active:
                self._harvest(group)
            advance(self.made, self._note())

    def _fill(self, group: Group) -> None:
        """Put waiting points into empty lanes; those of a group are at the same piece."""
        for index, lane in enumerate(group.lanes):
            if lane is not None or not self.waiting:
                continue
            phases = [other.position % self.layout.pieces for _, other in group.occupied]
            position = self.resumed.positions.get
            fitting = (
                place
                for place, point in enumerate(self.waiting)
                if not phases or position(point, 0) % self.layout.pieces == phases[0]
            )
            place = next(fitting, None)
            if place is None:
                return
            point = self.waiting.pop(place)
            gaps = self.schedule.gaps(point, self.layout.pieces)
            group.lanes[index] = Lane(point, gaps, np.cumsum(gaps) - gaps, position(point, 0))
            leaves = self.resumed.states.get(point) or jax.tree.leaves(self.points.state(point))
            for kept, leaf in zip(jax.tree.leaves(group.fetch()), leaves, strict=True):
                kept[index] = leaf
            for name, value in self.points.hyperparameters(point).items():
                group.keywords[name][index] = value
            group.device = group.placed = group.fetched = group.program = None

    def _run_chunk(self, group: Group, device: int) -> None:
        """One chunk of a group, on a device; called by a thread of its own."""
        occupied = group.occupied
        count = min(self.layout.rows, max(lane.rows_left for _, lane in occupied))
        pieces = self.layout.pieces
        phase = occupied[0][1].position % pieces
        gaps = np.zeros((count, len(group.lanes)), np.int32)
        group.observe = (phase + np.arange(count)) % pieces == 0
        group.snapshot = np.zeros(gaps.shape, bool)
        for index, lane in occupied:
            own = lane.gaps[lane.position : lane.position + count]
            gaps[: len(own), index] = own
            if self.snapshot_every is not None:
                records = (lane.position + np.arange(count)) // pieces
                due = group.observe & (records % self.snapshot_every == 0)
                group.snapshot[:, index] = due & (gaps[:, index] > 0)
        rows = self.chunk.rows(gaps, group.observe, group.snapshot)
        if group.device != device or group.placed is None:
            group.placed = self.chunk.place((group.fetch(), group.keywords), device)
            group.program = None
        if group.program is None:
            # a lane that is empty rests, and may as well have the data of another
            some = occupied[0][1].point
            points = [some if lane is None else lane.point for lane in group.lanes]
            problems = [self.points.problem(point) for point in points]
            group.program = self.chunk.program(device, problems)
        placed, keywords = group.placed
        state, columns, snapshots = self.chunk.run(device, group.program, placed, keywords, rows)
        group.columns, group.snapshots = jax.tree.map(np.asarray, (columns, snapshots))
        group.step, group.status = np.array(state.step), np.array(state.status)
        group.device, group.placed = device, (state, keywords)

    def _harvest(self, group: Group) -> None:
        """Write what a chunk recorded; points that are done leave."""
        count = len(group.observe)
        for index, lane in group.occupied:
            columns = {name: values[:count, index] for name, values in group.columns.items()}
            valid = lane.valid_rows(columns["step"])
            self._write(lane, columns, group.observe[:valid])
            if group.snapshots is not None:
                taken = jax.tree.map(lambda leaf, i=index: leaf[:, i], group.snapshots)
                self._write_snapshots(lane, taken, group.snapshot[:valid, index])
            self.made += int(group.step[index]) - int(columns["step"][0])
            lane.position += min(count, lane.rows_left)
            status = int(group.status[index])
            if status != Status.SUCCESS:
                self._write_nothing(lane, group, index)
            if status != Status.SUCCESS or not lane.rows_left:
                if self.final_params:
                    last = jax.tree.map(lambda leaf, i=index: leaf[i], group.fetch().params)
                    self.sink.write_params("final_params", lane.point, last)
                self.sink.finish(lane.point, status, int(group.step[index]))
                group.lanes[index] = None

    def _write(self, lane: Lane, columns: dict[str, np.ndarray], observe: np.ndarray) -> None:
        """Write rows, of which ``observe`` says whether they recorded."""
        if not observe.size:
            return
        rows = np.flatnonzero(observe)
        records = (lane.position + np.arange(observe.size)) // self.layout.pieces
        for name, values in columns.items():
            if not self._is_kept(name):
                continue
            if name in RUNNING:
                # of each record the last row: means over all updates since it
                last = np.append(np.flatnonzero(np.diff(records)), observe.size - 1)
                self.sink.write(name, lane.point, int(records[0]), values[last])
            elif rows.size:
                self.sink.write(name, lane.point, int(records[rows[0]]), values[rows])

    def _is_kept(self, name: str) -> bool:
        """Whether a column of the loop has an array: those it keeps unasked may have none."""
        return name != "step" and (name not in RUNNING or name in self.sink.arrays)

    def _write_snapshots(self, lane: Lane, taken: Any, snapshot: np.ndarray) -> None:
        assert self.snapshot_every is not None
        rows = np.flatnonzero(snapshot)
        if rows.size:
            record = (lane.position + int(rows[0])) // self.layout.pieces
            kept = jax.tree.map(lambda leaf: leaf[: rows.size], taken)
            self.sink.write_snapshots(lane.point, record // self.snapshot_every, kept)

    def _write_nothing(self, lane: Lane, group: Group, index: int) -> None:
        """NaN for the record that was due where a point was found lost between two chunks.

        The arrays hold it already. But so the folder of a run holds a record of every step that a
        point reached, and one that is missing was lost.
        """
        record = -(-lane.position // self.layout.pieces)
        row = record * self.layout.pieces
        if row >= len(lane.starts) or lane.starts[row] != group.step[index]:
            return
        for name, values in group.columns.items():
            if self._is_kept(name):
                one = np.full((1, *values.shape[2:]), np.nan)
                self.sink.write(name, lane.point, record, one)
        if self.snapshot_every is not None and record % self.snapshot_every == 0:
            params = jax.tree.map(lambda leaf: leaf[index], group.fetch().params)
            lost = jax.tree.map(lambda leaf: np.full((1, *leaf.shape), np.nan), params)
            self.sink.write_snapshots(lane.point, record // self.snapshot_every, lost)

    def _checkpoint_is_due(self) -> bool:
        """Whether the last checkpoint was quick, or is long enough ago.

        The device waits while a large state is written: 0.2 to 0.4 s for that of VGG-11 after
        each chunk of 2 s. A kill may then cost the work of a quarter of a minute, which is made
        again.
        """
        if self._saving < _QUICK_CHECKPOINT:
            return True
        return time.monotonic() - self._saved_at >= self._saving / _CHECKPOINT_SHARE

    def _checkpoint(self) -> None:
        """Keep where the points are that have begun, in a lane or before one is free."""
        if not self.sink.keeps_checkpoints:
            return
        began = time.monotonic()
        positions: dict[int, int] = {}
        states: list[list[np.ndarray]] = []
        for group in (group for group in self.groups if group.occupied):
            leaves = jax.tree.leaves(group.fetch())
            for index, lane in group.occupied:
                positions[lane.point] = lane.position
                states.append([leaf[index] for leaf in leaves])
        for point in self.waiting:
            if point in self.resumed.states:
                positions[point] = self.resumed.positions[point]
                states.append(self.resumed.states[point])
        columns = [np.stack(column) for column in zip(*states, strict=True)]
        self.sink.checkpoint(self.number, positions, columns)
        self._saved_at = time.monotonic()
        self._saving = self._saved_at - began

    def _note(self) -> str:
        flying = sum(len(group.occupied) for group in self.groups)
        return f", {flying} points in flight, {len(self.waiting)} waiting"

"""The host's side of the loop: trajectories enter lanes, run chunk by chunk, and leave when done.

A single trajectory is one lane; a grid has as many as its devices take at once.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from sharpflow.models import Problem
from sharpflow.models.precision import compiled
from sharpflow.models.stored_tree import with_leaves
from sharpflow.simulator.chunk import Chunk, stacked
from sharpflow.simulator.interrupt import Interrupted, Stop
from sharpflow.simulator.observables import RUNNING
from sharpflow.simulator.program import LoopState, Program, SnapshotParts
from sharpflow.simulator.schedule import Schedule
from sharpflow.simulator.store.checkpoint import Checkpoint
from sharpflow.theory import Status

# A checkpoint that takes less than this many seconds is made after every chunk. A chunk takes
# about two, so that such a checkpoint costs at most a twentieth of the run.
_QUICK_CHECKPOINT = 0.1
# A slower one takes at most this share of the time. The device waits while a large state is
# written: 0.2 to 0.4 s for that of VGG-11. A kill may then cost the work of a quarter of a minute,
# which is made again; with a tenth of this share it would be minutes.
_CHECKPOINT_SHARE = 0.02


Lanes = Literal["side_by_side", "in_turn"]


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the points of a grid are computed; stored with a run, and used when it resumes.

    Attributes:
      width: points that one compiled step updates together, by ``vmap``.
      groups: of that many points on each device, one after the other.
      devices: over which the lanes are spread.
      rows: of a chunk; a row is a record and the updates up to the next.
      capacity: rows that the chunk is compiled for.
      pieces: number of rows into which the updates between two records are split.
      lanes: ``"in_turn"`` or ``"side_by_side"``, how the points of a device go on; None in runs
        that were begun before it was kept, where the kind of device says it.
    """

    width: int
    groups: int
    devices: int
    rows: int
    capacity: int
    pieces: int
    lanes: Lanes | None = None

    def gives_same_bits_as(self, other: "Layout") -> bool:
        """Whether a point has the same bits and the same rows under another layout."""
        mine, others = (
            (layout.width, layout.pieces, layout.lanes or other.lanes or self.lanes)
            for layout in (self, other)
        )
        return mine == others

    def conflicts_with(self, lanes: Lanes | None) -> bool:
        """Whether a launch that asks for these lanes cannot keep this layout.

        Runs that were begun before lanes were kept go on as they are.
        """
        return lanes is not None and self.lanes is not None and self.lanes != lanes


_watches: list[Callable[[str, "Host"], None]] = []


@contextlib.contextmanager
def watched(watch: Callable[[str, "Host"], None]) -> Iterator[None]:
    """Have every host tell a function what it does; for tests that count, delay or break it.

    Args:
      watch: takes the host and ``"chunk"`` before a chunk of a group runs, ``"computed"`` after
        it, ``"written"`` once the records of all groups are written, ``"checkpoint"`` before one
        is made and ``"saved"`` after it. What it raises ends the run there, as a fault would.
    """
    _watches.append(watch)
    try:
        yield
    finally:
        _watches.remove(watch)


class Starts(NamedTuple):
    """How the trajectories of a batch start, each by the number of its point.

    Attributes:
      state: before the first update.
      hyperparameters: of the update rule, each of shape ().
      problem: what is trained.
      step: updates made before; 0 but of what goes on from elsewhere.
    """

    state: Callable[[int], LoopState]
    hyperparameters: Callable[[int], dict[str, np.ndarray]]
    problem: Callable[[int], Problem]
    step: Callable[[int], int] = lambda _: 0


class Recorder(Protocol):
    """Where records go."""

    def keeps(self, name: str) -> bool:
        """Whether a column of this name is wanted."""

    def write(self, name: str, point: int, first: int, values: np.ndarray) -> None:
        """Records of a column, from the ``first`` on."""

    def write_snapshots(self, point: int, first: int, parts: SnapshotParts) -> None:
        """Snapshots from the ``first`` on, leaves with leading axis (snapshots,)."""

    def finish(self, lane: "Lane", state: Callable[[], LoopState]) -> None:
        """A trajectory that ended, whose records have been written; ``state`` fetches its last."""

    def checkpoint(
        self, batch: int, positions: Mapping[int, int], states: Callable[[], list[list]]
    ) -> None:
        """Keep where the trajectories in flight are; ``states`` fetches the leaves of each."""


@dataclasses.dataclass
class Lane:
    """A trajectory in flight.

    Attributes:
      point: its number.
      gaps: updates of each of its rows.
      starts: step at which each row begins.
      position: rows done.
      step, status: after the last chunk.
    """

    point: int
    gaps: np.ndarray
    starts: np.ndarray
    position: int
    step: int = 0
    status: Status = Status.SUCCESS

    @property
    def rows_left(self) -> int:
        """Rows that are not done."""
        return len(self.gaps) - self.position

    @property
    def is_done(self) -> bool:
        """Whether it made all its updates, or cannot go on."""
        return not self.rows_left or self.status != Status.SUCCESS

    def num_reached(self, steps: np.ndarray) -> int:
        """Rows of a chunk that began at their step; not so once the trajectory is frozen.

        Args:
          steps: at which the rows of the chunk began.
        """
        count = min(self.rows_left, len(steps))
        planned = self.starts[self.position : self.position + count]
        late = np.flatnonzero(steps[:count] != planned)
        return int(late[0]) if late.size else count


@dataclasses.dataclass(eq=False)
class Group:
    """Lanes that are updated together.

    Attributes:
      lanes: the trajectories in them.
      state, hyperparameters: of the lanes, with a leading axis for them; None before any entered.
      device: index of the one that holds ``placed``, or None.
      placed: state and hyperparameters on that device; newer than ``state`` after a chunk.
      program: with the data of the lanes, on that device, or None.
      fetched: what was placed when ``state`` was copied from it.
      columns, snapshots: of the last chunk.
      observe, snapshot: which rows of it recorded, and kept a snapshot in which lane.
    """

    lanes: list[Lane | None]
    state: LoopState | None = None
    hyperparameters: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    device: int | None = None
    placed: tuple[Any, Any] | None = None
    program: Program | None = None
    fetched: tuple[Any, Any] | None = None
    columns: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    snapshots: Any = None
    observe: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, bool))
    snapshot: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0), bool))

    @property
    def occupied(self) -> list[tuple[int, Lane]]:
        """The lanes that hold a trajectory, each with its index."""
        return [(index, lane) for index, lane in enumerate(self.lanes) if lane is not None]

    def enter(
        self, index: int, lane: Lane, state: LoopState, hyperparameters: dict[str, np.ndarray]
    ) -> None:
        """Put a trajectory into a lane that is empty."""
        self.lanes[index] = lane
        if len(self.lanes) == 1:  # leaves of any kind: numbers of Python, keys of random numbers
            self.state, self.hyperparameters = as_lane((state, hyperparameters))
        elif self.state is None:  # the other lanes do nothing, so they get the same numbers
            width = len(self.lanes)
            self.state, self.hyperparameters = stacked([(state, hyperparameters)] * width)
        else:
            # Into arrays on the host and not on the device: there every new point would be an
            # operation for each array, compiled for each index.
            kept = jax.tree.leaves((self.fetch(), self.hyperparameters))
            for leaf, value in zip(kept, jax.tree.leaves((state, hyperparameters)), strict=True):
                leaf[index] = value
        self.device = self.placed = self.fetched = self.program = None

    def fetch(self) -> LoopState:
        """The state, as numpy arrays: copies, for the next chunk reuses its buffers."""
        if self.placed is not None and self.fetched is not self.placed:
            self.state = jax.tree.map(np.array, jax.device_get(self.placed[0]))
            self.fetched = self.placed
        assert self.state is not None
        return self.state

    def state_of(self, index: int) -> LoopState:
        """The state of one lane, without the axis for lanes; of a lane alone it stays placed."""
        if len(self.lanes) == 1 and self.placed is not None:
            return _of_lane(self.placed[0])
        return jax.tree.map(lambda leaf: leaf[index], self.fetch())


def as_lane(tree: Any) -> Any:
    """Arrays with an axis for one lane; of those on a device a copy, which the loop may overwrite.

    Args:
      tree: a state of a trajectory, and hyperparameters.
    """
    if all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(tree)):
        return jax.tree.map(lambda leaf: leaf[None], tree)  # a grid's: placed, and copied, later
    return _as_placed_lane(tree)


# Compiled, because an operation by itself for every array would take longer than a short run.
@compiled
def _as_placed_lane(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[None], tree)


@compiled
def _of_lane(lane: LoopState) -> LoopState:
    return jax.tree.map(lambda leaf: leaf[0], lane)


def _nothing_like(leaf: Any) -> np.ndarray:
    """One array of NaN, or of 0 where the numbers are whole."""
    dtype = jnp.result_type(leaf)
    nothing = np.nan if jnp.issubdtype(dtype, jnp.inexact) else 0
    return np.full((1, *jnp.shape(leaf)), nothing, dtype)


class Host:
    """Runs the trajectories of a batch to their ends.

    Args:
      chunk: compiled for ``layout``.
      layout: how many trajectories are in flight, and how far a chunk goes.
      starts: of the trajectories.
      schedule: how far they run.
      recorder: where records go.
      snapshot_every: records from a snapshot to the next, or None.
      batch: its number, by which checkpoints know it.
    """

    def __init__(
        self,
        chunk: Chunk,
        layout: Layout,
        starts: Starts,
        schedule: Schedule,
        recorder: Recorder,
        *,
        snapshot_every: int | None,
        batch: int = 0,
    ) -> None:
        self.chunk, self.layout, self.batch = chunk, layout, batch
        self.starts, self.schedule, self.recorder = starts, schedule, recorder
        self.snapshot_every = snapshot_every
        num_groups = layout.groups * chunk.num_devices
        self.groups = [Group([None] * layout.width) for _ in range(num_groups)]
        self.waiting: list[int] = []
        self.resumed = Checkpoint({}, {})
        self.made = 0
        self._example: LoopState | None = None  # any starting state, read for its dtypes
        self._saved_at, self._saving = -math.inf, 0.0  # the last checkpoint's end, and its seconds

    def run(
        self,
        pending: Sequence[int],
        resumed: Checkpoint,
        stop: Stop,
        advance: Callable[[int, str], None],
    ) -> None:
        """Run trajectories until all have ended.

        Args:
          pending: their points, in the order in which they enter.
          resumed: where those are that had begun.
          stop: looked at between chunks.
          advance: called with the updates of every chunk, and a note about the points.

        Raises:
          Interrupted: a signal came; a checkpoint has been written.
          StorageError: the disk did not take what had to be written.
        """
        begun = [point for point in pending if point in resumed.positions]
        self.waiting = begun + [point for point in pending if point not in resumed.positions]
        self.resumed = resumed
        while True:
            # Filled first, so that a checkpoint holds those that have just entered: of a run that
            # ends here every point is then either done, in a checkpoint, or not begun.
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
            self._tell("written")
            advance(self.made, self._note())

    def _fill(self, group: Group) -> None:
        """Put waiting points into empty lanes; a group is at one piece of a record."""
        for index, lane in enumerate(group.lanes):
            if lane is not None or not self.waiting:
                continue
            phases = [other.position % self.layout.pieces for _, other in group.occupied]
            position = self.resumed.positions.get
            fitting = (
                turn
                for turn, point in enumerate(self.waiting)
                if not phases or position(point, 0) % self.layout.pieces == phases[0]
            )
            turn = next(fitting, None)
            if turn is None:
                return
            point = self.waiting.pop(turn)
            gaps = self.schedule.gaps(point, self.layout.pieces)
            starts = self.starts.step(point) + np.cumsum(gaps) - gaps
            entering = Lane(point, gaps, starts, position(point, 0))
            group.enter(index, entering, self._state(point), self.starts.hyperparameters(point))

    def _state(self, point: int) -> LoopState:
        """Where a point goes on, or starts."""
        leaves = self.resumed.states.get(point)
        if leaves is None:
            return self.starts.state(point)
        if self._example is None:
            self._example = self.starts.state(point)
        return with_leaves(self._example, leaves)

    def _run_chunk(self, group: Group, device: int) -> None:
        """One chunk of a group, on a device; called by a thread of its own."""
        self._tell("chunk")
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
            state = group.state if group.placed is None else group.fetch()
            group.placed = self.chunk.place((state, group.hyperparameters), device)
            group.program = None
        if group.program is None:
            # an empty lane does nothing, so it is given the data of another
            some = occupied[0][1].point
            points = [some if lane is None else lane.point for lane in group.lanes]
            problems = [self.starts.problem(point) for point in points]
            group.program = self.chunk.program(device, problems)
        state, hyperparameters = group.placed
        state, columns, snapshots = self.chunk.run(
            device, group.program, state, hyperparameters, rows
        )
        # Fetched here, in the thread of the device, so that several devices copy at once and the
        # harvest after them waits for none. All arrays in one call, and once for all lanes: a
        # single number from a device takes as long as an array.
        group.columns, group.snapshots, steps, statuses = jax.device_get(
            (columns, snapshots, state.step, state.status)
        )
        for index, lane in occupied:
            lane.step, lane.status = int(steps[index]), Status(int(statuses[index]))
        group.device, group.placed = device, (state, hyperparameters)
        self._tell("computed")

    def _harvest(self, group: Group) -> None:
        """Write what a chunk recorded; trajectories that are done leave."""
        count = len(group.observe)
        for index, lane in group.occupied:
            columns = {name: values[:count, index] for name, values in group.columns.items()}
            reached = lane.num_reached(columns["step"])
            self._write(lane, columns, group.observe[:reached])
            if group.snapshots is not None:
                taken = jax.tree.map(lambda leaf, i=index: leaf[:, i], group.snapshots)
                self._write_snapshots(lane, taken, group.snapshot[:reached, index])
            self.made += lane.step - int(columns["step"][0])
            lane.position += min(count, lane.rows_left)
            if lane.status != Status.SUCCESS:
                self._write_nan_record(lane, group, index)
            if lane.is_done:
                self.recorder.finish(lane, partial(group.state_of, index))
                group.lanes[index] = None

    def _write(self, lane: Lane, columns: dict[str, np.ndarray], observe: np.ndarray) -> None:
        """Write rows, of which ``observe`` says whether they recorded."""
        if not observe.size:
            return
        rows = np.flatnonzero(observe)
        records = (lane.position + np.arange(observe.size)) // self.layout.pieces
        for name, values in columns.items():
            if not self.recorder.keeps(name):
                continue
            if name in RUNNING:
                # of each record the last row: means over all updates since it
                last = np.append(np.flatnonzero(np.diff(records)), observe.size - 1)
                self.recorder.write(name, lane.point, int(records[0]), values[last])
            elif rows.size:
                self.recorder.write(name, lane.point, int(records[rows[0]]), values[rows])

    def _write_snapshots(self, lane: Lane, taken: Any, snapshot: np.ndarray) -> None:
        assert self.snapshot_every is not None
        rows = np.flatnonzero(snapshot)
        if rows.size:
            record = (lane.position + int(rows[0])) // self.layout.pieces
            kept = jax.tree.map(lambda leaf: leaf[: rows.size], taken)
            self.recorder.write_snapshots(lane.point, record // self.snapshot_every, kept)

    def _write_nan_record(self, lane: Lane, group: Group, index: int) -> None:
        """NaN for the record that was due when a point turns out not finite at the end of a chunk.

        The arrays hold it already. But so the folder of a run holds a record of every step that a
        point reached, and one that is missing was lost.
        """
        record = -(-lane.position // self.layout.pieces)
        row = record * self.layout.pieces
        if row >= len(lane.starts) or lane.starts[row] != lane.step:
            return
        for name, values in group.columns.items():
            if self.recorder.keeps(name):
                one = np.full((1, *values.shape[2:]), np.nan)
                self.recorder.write(name, lane.point, record, one)
        if self.snapshot_every is not None and record % self.snapshot_every == 0:
            parts = SnapshotParts.of(group.state_of(index))
            lost = jax.tree.map(_nothing_like, parts)
            self.recorder.write_snapshots(lane.point, record // self.snapshot_every, lost)

    def _checkpoint_is_due(self) -> bool:
        """Whether the last checkpoint was quick, or is long enough ago."""
        if self._saving < _QUICK_CHECKPOINT:
            return True
        return time.monotonic() - self._saved_at >= self._saving / _CHECKPOINT_SHARE

    def _checkpoint(self) -> None:
        """Keep where the points are that have begun, whether in a lane or waiting for one."""
        began = time.monotonic()
        self._tell("checkpoint")
        flying = [(group, *occupied) for group in self.groups for occupied in group.occupied]
        # Points that an earlier launch had begun and that no lane has taken yet. The new checkpoint
        # takes the place of the old one, which alone knew them.
        halted = [point for point in self.waiting if point in self.resumed.states]
        positions = {lane.point: lane.position for _, _, lane in flying}
        positions |= {point: self.resumed.positions[point] for point in halted}

        def states() -> list[list[np.ndarray]]:
            begun = [
                [leaf[index] for leaf in jax.tree.leaves(group.fetch())]
                for group, index, _ in flying
            ]
            return begun + [self.resumed.states[point] for point in halted]

        self.recorder.checkpoint(self.batch, positions, states)
        self._saved_at = time.monotonic()
        self._saving = self._saved_at - began
        self._tell("saved")

    def _tell(self, event: str) -> None:
        for watch in _watches:
            watch(event, self)

    def _note(self) -> str:
        flying = sum(len(group.occupied) for group in self.groups)
        return f", {flying} points in flight, {len(self.waiting)} waiting"

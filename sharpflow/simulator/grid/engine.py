"""Chooses how a batch of points is laid out over devices, and compiles it."""

import dataclasses
import heapq
from collections.abc import Sequence

import jax
import numpy as np

from sharpflow.simulator.grid import layout as laid
from sharpflow.simulator.grid.compiled import CompiledChunk, stacked
from sharpflow.simulator.grid.layout import Lanes, Layout
from sharpflow.simulator.grid.points import Points
from sharpflow.simulator.program import Program
from sharpflow.simulator.schedule import Schedule


@dataclasses.dataclass(frozen=True)
class Timing:
    """What a group of points costs on all devices at once.

    Attributes:
      update: seconds for an update of a group on each device.
      record: seconds for a record of a group on each device.
      points: in all these groups.
    """

    update: float
    record: float
    points: int

    def seconds(self, updates: Sequence[int], records: Sequence[int]) -> float:
        """For points with so many updates and records, longest first.

        A lane whose point is done takes the next one; those that find none rest while the
        others of their group go on.
        """
        longest = longest_lane(updates, self.points), longest_lane(records, self.points)
        return longest[0] * self.update + longest[1] * self.record


@dataclasses.dataclass(frozen=True)
class Engine:
    """A compiled chunk and how the points of a batch go through it.

    Attributes:
      chunk: compiled.
      layout: how many points go side by side and one after the other, and how far.
      timing: what it costs, or None where a stored layout made timing needless.
    """

    chunk: CompiledChunk
    layout: Layout
    timing: Timing | None


def build_engine(
    program: Program,
    points: Points,
    pending: Sequence[int],
    schedule: Schedule,
    devices: Sequence[jax.Device],
    *,
    snapshot_every: int | None,
    width: int | None = None,
    lanes: Lanes | None = None,
    stored: Layout | None = None,
    pieces: int | None = None,
) -> Engine:
    """Compile a batch for these devices.

    On a CPU points run one after the other on each device unless a wider group turns out to
    be faster; on an accelerator as many side by side as fill it. Where the run is long
    enough to be worth it, other widths are timed.

    Args:
      program: what the points do.
      points: how they start.
      pending: points to run, the longest first.
      schedule: how far they run.
      devices: of this process.
      snapshot_every: records from a snapshot to the next, or None.
      width: points side by side, or None to choose.
      lanes: whether they go on side by side or in turn, or None for what suits the devices.
      stored: the layout that the run was begun with, or None; it decides both.
      pieces: of the layout, where checkpoints count rows of so many; or None to choose.
    """
    devices = tuple(devices)
    kept_lanes = None if stored is None else stored.lanes
    lanes = kept_lanes or (lanes if stored is None else None) or laid.usual_lanes(devices)
    in_turn = lanes == "in_turn"
    num_rows = min(schedule.num_records, laid.MOST_ROWS)

    def compiled(width: int, num_rows: int) -> CompiledChunk:
        kept = 0 if snapshot_every is None else -(-num_rows // snapshot_every)
        return CompiledChunk(
            dataclasses.replace(
                program,
                num_snapshots=kept,
                in_turn=in_turn,
                own_data=width > 1 and len(points.batch.problems) > 1,
            ),
            devices,
            num_rows,
            stacked([points.state(pending[0])] * width),
            stacked([points.hyperparameters(pending[0])] * width),
        )

    if stored is not None:
        chunk = compiled(stored.width, stored.capacity)
        return Engine(chunk, dataclasses.replace(stored, devices=len(devices)), None)

    def attempt(width: int) -> tuple[CompiledChunk, Timing]:
        room = laid.SHARE_OF_MEMORY * laid.device_memory(devices[0], len(devices))
        try:
            chunk = compiled(width, num_rows)
            while chunk.memory_bytes > room and chunk.width > 1:
                chunk = compiled(max(int(chunk.width * room / chunk.memory_bytes), 1), num_rows)
            return chunk, time_chunk(chunk, points, pending)
        except jax.errors.JaxRuntimeError as error:
            # what the compiler foresees is not all: others may use the device too
            if width == 1 or not laid.is_out_of_memory(error):
                raise
        laid.warn_of_narrowing(width, width // 2)
        return attempt(width // 2)

    updates, records = lengths(schedule, pending)

    def cost(found: tuple[CompiledChunk, Timing]) -> float:
        return found[1].seconds(updates, records)

    if width is not None:
        best = attempt(width)
    else:
        first, *others = laid.candidate_widths(len(pending), devices, in_turn=in_turn)
        best = attempt(first)
        if cost(best) > laid.WORTH_TRYING:
            best = min([best, *(attempt(other) for other in others)], key=cost)
    chunk, timing = best
    groups = laid.num_groups(len(pending), len(devices), chunk.width, in_turn=in_turn)
    gap = int(schedule.gaps(pending[0], 1).max())
    if pieces is None:
        pieces = laid.num_pieces(gap, groups * timing.update)
    row = groups * (timing.record + timing.update * gap) / pieces
    layout = Layout(
        width=chunk.width,
        groups=groups,
        devices=len(devices),
        rows=laid.chunk_rows(num_rows, row, pieces),
        capacity=num_rows,
        pieces=pieces,
        lanes=lanes,
    )
    return Engine(chunk, layout, timing)


def lengths(schedule: Schedule, points: Sequence[int]) -> tuple[list[int], list[int]]:
    """Updates and records of points."""
    counts: dict[int, int] = {}
    updates = [int(schedule.num_steps[point]) for point in points]
    for point, steps in zip(points, updates, strict=True):
        if steps not in counts:
            counts[steps] = len(schedule.steps(point))
    return updates, [counts[steps] for steps in updates]


def longest_lane(lengths: Sequence[int], lanes: int) -> int:
    """Largest sum of lengths in a lane, where each goes to the lane that is free first."""
    ends = [0] * lanes
    for length in lengths:
        heapq.heapreplace(ends, ends[0] + length)
    return max(ends)


class _Trial:
    """A group whose chunks are timed."""

    def __init__(self, chunk: CompiledChunk, points: Points, few: Sequence[int]) -> None:
        self.device: int | None = None
        self._chunk = chunk
        self._program: Program | None = None
        self._problems = [points.problem(point) for point in few]
        self._state = stacked([points.state(point) for point in few])
        self._keywords = stacked([points.hyperparameters(point) for point in few])

    def run(self, device: int, gap: int, observe: bool) -> None:
        if self.device is None:
            self._state, self._keywords = self._chunk.place((self._state, self._keywords), device)
            self._program = self._chunk.program(device, self._problems)
            self.device = device
        assert self._program is not None
        gaps = np.full((1, self._chunk.width), gap, np.int32)
        rows = self._chunk.rows(gaps, observe)
        made = self._chunk.run(self.device, self._program, self._state, self._keywords, rows)
        self._state, *_ = jax.block_until_ready(made)


def time_chunk(chunk: CompiledChunk, points: Points, pending: Sequence[int]) -> Timing:
    """Time updates and records of the first points, a group on every device."""
    count = chunk.num_devices * chunk.width
    several = [pending[index % min(len(pending), 16)] for index in range(count)]
    trials = [
        _Trial(chunk, points, several[start : start + chunk.width])
        for start in range(0, count, chunk.width)
    ]

    def seconds(gap: int, observe: bool) -> float:
        def work(trial: _Trial, device: int) -> None:
            trial.run(device, gap, observe)

        return laid.best_seconds(lambda: chunk.spread(trials, work), 2)

    seconds(1, True)  # the first record starts from nothing
    with_record = seconds(1, True)
    gap = 2
    while (taken := seconds(gap, False)) < laid.RELIABLE and gap < laid.MOST_TIMED:
        gap *= 4
    update = taken / gap
    return Timing(update=update, record=max(with_record - update, 0.0), points=count)

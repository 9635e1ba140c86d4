"""Chooses how a batch of points is laid out over devices, and compiles it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from sharpflow.simulator.grid import layout as laid
from sharpflow.simulator.grid.lanes import CompiledChunk, Lanes, stacked
from sharpflow.simulator.grid.layout import Layout
from sharpflow.simulator.grid.points import Points
from sharpflow.simulator.loop import Program
from sharpflow.simulator.schedule import Schedule


@dataclasses.dataclass(frozen=True)
class Timing:
    """What a chunk costs.

    Attributes:
      update: seconds for an update of all lanes.
      record: seconds for a record of all lanes.
      lanes: how many they are.
    """

    update: float
    record: float
    lanes: int

    def seconds(self, updates: float, records: float) -> float:
        """For so many updates and records of single points, lanes never idle."""
        return (updates * self.update + records * self.record) / self.lanes


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
    stored: Layout | None = None,
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
      stored: the layout that the run was begun with, or None.
    """
    devices = tuple(devices)
    in_turn = laid.runs_in_turn(devices)
    num_rows = min(schedule.num_records, laid.MOST_ROWS)

    def compiled(width: int, groups: int, num_rows: int) -> CompiledChunk:
        lanes = Lanes(devices, groups, width)
        kept = 0 if snapshot_every is None else -(-num_rows // snapshot_every)
        return CompiledChunk(
            dataclasses.replace(program, num_snapshots=kept, in_turn=in_turn),
            lanes,
            num_rows,
            _repeated([points.state(pending[0])], lanes.count),
            _repeated([points.hyperparameters(pending[0])], lanes.count),
        )

    if stored is not None:
        chunk = compiled(stored.width, stored.groups, stored.capacity)
        return Engine(chunk, dataclasses.replace(stored, devices=len(devices)), None)

    def groups(width: int) -> int:
        return laid.num_groups(len(pending), len(devices), width, in_turn=in_turn)

    def attempt(width: int) -> tuple[CompiledChunk, Timing]:
        chunk = compiled(width, groups(width), num_rows)
        room = laid.device_memory(devices[0], len(devices))
        while chunk.memory_bytes > laid.SHARE_OF_MEMORY * room and chunk.lanes.count > len(devices):
            width = max(int(width * laid.SHARE_OF_MEMORY * room / chunk.memory_bytes), 1)
            chunk = compiled(width, 1, num_rows)
        return chunk, time_chunk(chunk, points, pending)

    updates = float(sum(schedule.num_steps[point] for point in pending))
    records = float(sum(len(schedule.steps(point)) for point in pending[:64]))
    records *= len(pending) / min(len(pending), 64)

    def cost(found: tuple[CompiledChunk, Timing]) -> float:
        return found[1].seconds(updates, records)

    if width is not None:
        best = attempt(width)
    else:
        first, *others = laid.candidate_widths(len(pending), len(devices), in_turn=in_turn)
        best = attempt(first)
        if cost(best) > laid.WORTH_TRYING:
            best = min([best, *(attempt(other) for other in others)], key=cost)
    chunk, timing = best
    gap = int(max(schedule.gaps(point, 1).max() for point in pending[:1]))
    pieces = laid.num_pieces(gap, timing.update)
    row = timing.record / pieces + timing.update * gap / pieces
    layout = Layout(
        width=chunk.lanes.width,
        groups=chunk.lanes.groups,
        devices=len(devices),
        rows=laid.chunk_rows(num_rows, row, pieces),
        capacity=num_rows,
        pieces=pieces,
    )
    return Engine(chunk, layout, timing)


def time_chunk(chunk: CompiledChunk, points: Points, pending: Sequence[int]) -> Timing:
    """Time updates and records of the first points, repeated over the lanes."""
    few = pending[: min(chunk.lanes.count, 16)]
    count = chunk.lanes.count
    state = chunk.lanes.place(_repeated([points.state(point) for point in few], count))
    keywords = chunk.lanes.place(_repeated([points.hyperparameters(p) for p in few], count))

    def seconds(gap: int, observe: bool) -> float:
        def call() -> None:
            nonlocal state
            rows = chunk.rows(np.full((1, count), gap, np.int32), observe)
            state, *_ = jax.block_until_ready(chunk(state, keywords, rows))

        return laid.best_seconds(call, 2)

    seconds(1, True)  # the first record starts from nothing
    with_record = seconds(1, True)
    gap = 2
    while (taken := seconds(gap, False)) < laid.RELIABLE and gap < laid.MOST_TIMED:
        gap *= 4
    update = taken / gap
    return Timing(update=update, record=max(with_record - update, 0.0), lanes=count)


def _repeated(trees: Sequence[Any], count: int) -> Any:
    return stacked([trees[index % len(trees)] for index in range(count)])

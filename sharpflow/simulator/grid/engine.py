"""How a batch of points is laid out over devices, and its compiled chunk."""

import dataclasses
import heapq
import math
import os
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from sharpflow.models.arguments import Kind, shown
from sharpflow.models.caller import warn_caller
from sharpflow.models.progress import UNSEEN, Display
from sharpflow.simulator.chunk import CompiledChunk, stacked
from sharpflow.simulator.grid.points import Points
from sharpflow.simulator.grid.spec import Grid
from sharpflow.simulator.host import Lanes, Layout
from sharpflow.simulator.program import Program
from sharpflow.simulator.schedule import Schedule

LANES: tuple[Lanes, ...] = ("side_by_side", "in_turn")

DEVICES = Kind(
    "a sequence of jax devices, at least one, or None",
    lambda value: (
        value is None
        or (
            isinstance(value, Sequence)
            and len(value) > 0
            and all(isinstance(device, jax.Device) for device in value)
        )
    ),
)

# Seconds. Another width costs a compilation, which takes seconds, and a timing. A run that is
# shorter than this would end before the choice has paid for itself; one of ten times as many
# seconds that nobody tuned may take twice as long as it must.
_WORTH_TRYING = 60.0
# Of a device. The compiler foresees its own buffers; the data that are placed, what other programs
# hold, and the pieces that an allocator cannot join take the rest.
_SHARE_OF_MEMORY = 0.8
# Of a chunk, whose columns wait on the device until it ends. More rows would only matter where a
# record and its updates take less than a thirtieth of a second; with ten times as many, the columns
# of an observable that is a vector would take memory that points need.
_MOST_ROWS = 64
# Seconds that a timed call should take, so that what the host does around it does not count. A fast
# problem reaches it only with many updates, and 4096 are where the trial stops.
_RELIABLE = 0.02
_MOST_TIMED = 4096

# Of a CPU device, one after the other: enough that a chunk outweighs what the host does after it.
# All of them are in flight at once, and their states are what a checkpoint holds.
_SERIAL_LANES = 8
_SERIAL_WIDTHS = (1, 8)
# Points side by side on a core: what more of them hold does not fit into its cache. Beside points
# in turn they take 1.2 times as long in groups of 8, 1.6 in a group of 64 and 2 in one of 256, as
# benchmarks/lanes.py measures it.
_WIDEST_OF_A_CORE = 8
# Seconds of a chunk, and of the updates of one row. Signals, progress and checkpoints wait for its
# end: ten times as long would let Ctrl-C seem to do nothing. With a tenth, what the host does after
# every chunk would show.
_CHUNK_SECONDS = 2.0


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
      compile_seconds: that compiling took, of every width that was tried.
    """

    chunk: CompiledChunk
    layout: Layout
    timing: Timing | None
    compile_seconds: float


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where a grid is computed and how, with None where the caller left it open.

    Attributes:
      devices: of this process.
      width: points side by side, or None to choose.
      lanes: whether points go on side by side or in turn, or None for what suits the devices.
    """

    devices: tuple[jax.Device, ...]
    width: int | None = None
    lanes: Lanes | None = None

    @classmethod
    def of(
        cls, devices: Sequence[jax.Device] | None, width: int | None, lanes: Lanes | None
    ) -> "Placement":
        """From the arguments of ``simulate_grid``.

        Raises:
          ValueError: lanes that are neither way.
        """
        if lanes is not None and not (isinstance(lanes, str) and lanes in LANES):
            raise ValueError(f"lanes must be None or one of {LANES}, got {shown(lanes)}")
        used = jax.local_devices() if devices is None else devices
        return cls(tuple(used), None if width is None else int(width), lanes)


def build_engine(
    grid: Grid,
    points: Points,
    pending: Sequence[int],
    placement: Placement,
    *,
    stored: Layout | None = None,
    pieces: int | None = None,
    before_more: Callable[[], None] = lambda: None,
    display: Display = UNSEEN,
) -> Engine:
    """Compile a batch for these devices.

    On a CPU points run one after the other on each device unless a wider group turns out to
    be faster; on an accelerator as many side by side as fill it. Where the run is long
    enough to be worth it, other widths are timed.

    Args:
      grid: whose batch it is.
      points: of the batch.
      pending: those to run, the longest first.
      placement: devices, and what the caller says of the layout.
      stored: the layout that the run was begun with, or None; it decides instead.
      pieces: of the layout, where checkpoints count rows of so many; or None to choose.
      before_more: called before other widths are compiled, and in a timing that takes longer than a
        chunk, when nothing of the batch has begun.
      display: told when something is compiled and timed.
    """
    devices, schedule = placement.devices, grid.schedule
    if stored is None:
        lanes = placement.lanes or usual_lanes(devices)
    else:
        lanes = stored.lanes or usual_lanes(devices)
    in_turn = lanes == "in_turn"
    num_rows = min(schedule.num_records, _MOST_ROWS)
    compile_seconds = 0.0

    def compiled(width: int, num_rows: int) -> CompiledChunk:
        nonlocal compile_seconds
        display.say("compiling")
        every, began = grid.snapshot_every, time.perf_counter()
        chunk = CompiledChunk(
            dataclasses.replace(
                points.batch.program,
                num_snapshots=0 if every is None else -(-num_rows // every),
                in_turn=in_turn,
                own_data=width > 1 and len(points.batch.problems) > 1,
            ),
            devices,
            num_rows,
            stacked([points.state(pending[0])] * width),
            stacked([points.hyperparameters(pending[0])] * width),
        )
        compile_seconds += time.perf_counter() - began
        return chunk

    if stored is not None:
        chunk = compiled(stored.width, stored.capacity)
        layout = dataclasses.replace(stored, devices=len(devices))
        return Engine(chunk, layout, None, compile_seconds)

    def attempt(width: int) -> tuple[CompiledChunk, Timing]:
        room = _SHARE_OF_MEMORY * device_memory(devices[0], len(devices))
        try:
            chunk = compiled(width, num_rows)
            while chunk.memory_bytes > room and chunk.width > 1:
                chunk = compiled(max(int(chunk.width * room / chunk.memory_bytes), 1), num_rows)
            display.say("timing the first updates")
            return chunk, time_chunk(chunk, points, pending, before_more)
        except jax.errors.JaxRuntimeError as error:
            # What the compiler foresees is not all: others may use the device too.
            if width == 1 or not is_out_of_memory(error):
                raise
        warn_of_narrowing(width, width // 2)
        return attempt(width // 2)

    updates, records = lengths(schedule, pending)

    def cost(attempted: tuple[CompiledChunk, Timing]) -> float:
        return attempted[1].seconds(updates, records)

    if placement.width is not None:
        best = attempt(placement.width)
    else:
        first, *others = candidate_widths(len(pending), devices, in_turn=in_turn)
        best = attempt(first)
        if cost(best) > _WORTH_TRYING:
            before_more()
            best = min([best, *(attempt(other) for other in others)], key=cost)
    chunk, timing = best
    groups = num_groups(len(pending), len(devices), chunk.width, in_turn=in_turn)
    gap = int(schedule.gaps(pending[0], 1).max())
    if pieces is None:
        pieces = num_pieces(gap, groups * timing.update)
    row = groups * (timing.record + timing.update * gap) / pieces
    layout = Layout(
        width=chunk.width,
        groups=groups,
        devices=len(devices),
        rows=chunk_rows(num_rows, row, pieces),
        capacity=num_rows,
        pieces=pieces,
        lanes=lanes,
    )
    return Engine(chunk, layout, timing, compile_seconds)


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
    # A heap of equal numbers is one already.
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


def time_chunk(
    chunk: CompiledChunk,
    points: Points,
    pending: Sequence[int],
    before_more: Callable[[], None] = lambda: None,
) -> Timing:
    """Time updates and records of the first points, a group on every device.

    Args:
      chunk: of the points.
      points, pending: as of ``build_engine``.
      before_more: called after whatever takes longer than a chunk.
    """
    count = chunk.num_devices * chunk.width
    # A few points that take turns, because each is drawn and copied to a device, and what a step
    # takes does not depend on where it starts.
    several = [pending[index % min(len(pending), 16)] for index in range(count)]
    # On all devices at once, as the grid will run: on a CPU the devices share memory and caches,
    # and one of them alone would be too fast.
    trials = [
        _Trial(chunk, points, several[start : start + chunk.width])
        for start in range(0, count, chunk.width)
    ]

    def seconds(gap: int, observe: bool) -> float:
        def work(trial: _Trial, device: int) -> None:
            trial.run(device, gap, observe)

        def once() -> None:
            began = time.perf_counter()
            chunk.spread(trials, work)
            if time.perf_counter() - began > _CHUNK_SECONDS:
                before_more()

        return best_seconds(once, 2)

    seconds(1, True)  # the first record starts from nothing
    with_record = seconds(1, True)
    gap = 2
    while (taken := seconds(gap, False)) < _RELIABLE and gap < _MOST_TIMED:
        gap *= 4
    update = taken / gap
    # Of two measured times; where a record costs next to nothing the difference may come out below
    # zero.
    return Timing(update=update, record=max(with_record - update, 0.0), points=count)


def usual_lanes(devices: Sequence[jax.Device]) -> Lanes:
    """How points go on where nobody says: in turn on a CPU, side by side on an accelerator.

    A core gains little from points side by side, and a point then waits for the slowest
    record; an accelerator is filled by nothing else.
    """
    return "in_turn" if devices[0].platform == "cpu" else "side_by_side"


def num_groups(num_points: int, devices: int, width: int, *, in_turn: bool) -> int:
    """Groups of ``width`` points on each device."""
    most = max(_SERIAL_LANES // width, 1) if in_turn else 1
    return max(min(-(-num_points // (devices * width)), most), 1)


def candidate_widths(num_points: int, devices: Sequence[jax.Device], *, in_turn: bool) -> list[int]:
    """Widths worth timing, first of them the one to take where time does not matter."""
    share = max(-(-num_points // len(devices)), 1)
    if in_turn:
        return [width for width in _SERIAL_WIDTHS if width <= share]
    if devices[0].platform == "cpu":
        share = min(share, _WIDEST_OF_A_CORE)
    return sorted({share, *(max(share // part, 1) for part in (4, 16))}, reverse=True)


def device_memory(device: jax.Device, devices: int) -> float:
    """Bytes of memory that one of ``devices`` devices can use."""
    statistics = device.memory_stats() if device.platform != "cpu" else None
    if statistics and "bytes_limit" in statistics:
        return float(statistics["bytes_limit"])
    # What is free now, and not what is installed: other programs hold the rest.
    return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) / devices


def peak_memory(devices: Sequence[jax.Device]) -> int | None:
    """Most bytes that one of these devices has held in this process; None where it does not tell.

    A CPU does not: its memory is that of the process.
    """
    known = [device.memory_stats() or {} for device in devices if device.platform != "cpu"]
    peaks = [
        statistics["peak_bytes_in_use"] for statistics in known if "peak_bytes_in_use" in statistics
    ]
    return max(peaks, default=None)


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device had no room for what it was asked for."""
    return isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def warn_of_narrowing(width: int, narrower: int) -> None:
    """Say that a device ran out of memory, and what is done about it."""
    warn_caller(
        f"a device ran out of memory with {width} points side by side: going on with {narrower}; "
        f"group_width={narrower} begins with them",
    )


def chunk_rows(num_rows: int, seconds_per_row: float, aligned: int) -> int:
    """Rows of a chunk that takes about two seconds, a multiple of ``aligned`` if it can."""
    # The least keeps a division from failing where a clock did not advance; no row takes a
    # nanosecond.
    rows = int(max(min(_CHUNK_SECONDS / max(seconds_per_row, 1e-9), num_rows), 1))
    return rows - rows % aligned if rows >= aligned else rows


def num_pieces(largest_gap: int, seconds_per_update: float) -> int:
    """Rows for the updates from a record to the next, so that a row ends in a few seconds."""
    wanted = math.ceil(largest_gap * seconds_per_update / _CHUNK_SECONDS)
    return max(min(wanted, largest_gap), 1)


def best_seconds(call: Callable[[], None], repetitions: int = 3) -> float:
    """Least seconds of a few calls."""
    seconds = []
    for _ in range(repetitions):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return min(seconds)

"""How a grid is laid out over devices, and how far a chunk goes."""

import dataclasses
import math
import os
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax

from sharpflow.models.arguments import Kind, shown

Lanes = Literal["side_by_side", "in_turn"]
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

WORTH_TRYING = 60.0  # seconds: a shorter run ends before other widths are compiled and timed
SHARE_OF_MEMORY = 0.8
MOST_ROWS = 64  # of a chunk
RELIABLE = 0.02  # seconds that a timed call should take
MOST_TIMED = 4096  # updates of a timed call

_SERIAL_LANES = 8  # of a CPU device: enough that a chunk outweighs what the host does after it
_SERIAL_WIDTHS = (1, 8)
# Points side by side on a core: what more of them hold does not fit into its cache. Beside points
# in turn they take 1.2 times as long in groups of 8, 1.6 in a group of 64 and 2 in one of 256, as
# benchmarks/lanes.py measures it.
_WIDEST_OF_A_CORE = 8
_CHUNK_SECONDS = 2.0


@dataclasses.dataclass(frozen=True)
class Layout:
    """How the points of a grid are computed; stored with a run, and used when it resumes.

    Attributes:
      width: points that one compiled step updates together, by ``vmap``.
      groups: of that many points on each device, one after the other.
      devices: over which the lanes are spread.
      rows: of a chunk; a row is a record and the updates up to the next.
      capacity: rows that the chunk is compiled for.
      pieces: rows that the updates from a record to the next are spread over.
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

    def rounds_as(self, other: "Layout") -> bool:
        """Whether a point has the same bits and the same rows under another layout."""
        mine, others = (
            (layout.width, layout.pieces, layout.lanes or other.lanes or self.lanes)
            for layout in (self, other)
        )
        return mine == others

    def relaid(self, lanes: Lanes | None) -> bool:
        """Whether a launch that asks for these lanes cannot keep this layout.

        Runs that were begun before lanes were kept go on as they are.
        """
        return lanes is not None and self.lanes is not None and self.lanes != lanes


def usual_lanes(devices: Sequence[jax.Device]) -> Lanes:
    """How points go on where nobody says: in turn on a CPU, side by side on an accelerator.

    A core gains little from points side by side, and a point then waits for the slowest
    record; an accelerator is filled by nothing else.
    """
    return "in_turn" if devices[0].platform == "cpu" else "side_by_side"


def validated_lanes(lanes: Any) -> Lanes | None:
    """Refuse what is no way for points to go on.

    Raises:
      ValueError: naming the argument, its value and what is allowed.
    """
    if lanes is not None and not (isinstance(lanes, str) and lanes in LANES):
        raise ValueError(f"lanes must be None or one of {LANES}, got {shown(lanes)}")
    return lanes


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
    warnings.warn(
        f"a device ran out of memory with {width} points side by side: going on with {narrower}; "
        f"group_width={narrower} begins with them",
        stacklevel=2,
    )


def chunk_rows(num_rows: int, seconds_per_row: float, aligned: int) -> int:
    """Rows of a chunk that takes about two seconds, a multiple of ``aligned`` if it can."""
    rows = int(max(min(_CHUNK_SECONDS / max(seconds_per_row, 1e-9), num_rows), 1))
    return rows - rows % aligned if rows >= aligned else rows


def num_pieces(largest_gap: int, seconds_per_update: float) -> int:
    """Rows for the updates from a record to the next, so that a row ends in a few seconds."""
    wanted = math.ceil(largest_gap * seconds_per_update / _CHUNK_SECONDS)
    return max(min(wanted, largest_gap), 1)


def best_seconds(call: Callable[[], None], repetitions: int = 3) -> float:
    """Least seconds of a few calls."""
    found = []
    for _ in range(repetitions):
        began = time.perf_counter()
        call()
        found.append(time.perf_counter() - began)
    return min(found)

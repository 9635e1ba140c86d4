"""Points in flight: lanes, and the groups of them that are updated together."""

import dataclasses
from typing import Any

import jax
import numpy as np

from sharpflow.simulator.program import LoopState, Program


@dataclasses.dataclass
class Lane:
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
        """Rows that are not done."""
        return len(self.gaps) - self.position

    def valid_rows(self, steps: np.ndarray) -> int:
        """Rows at whose start it was where its schedule has it; not so once it is frozen."""
        count = min(self.rows_left, len(steps))
        planned = self.starts[self.position : self.position + count]
        late = np.flatnonzero(steps[:count] != planned)
        return int(late[0]) if late.size else count


@dataclasses.dataclass(eq=False)
class Group:
    """Lanes that are updated together.

    Attributes:
      lanes: the points in them.
      state, keywords: of the lanes, as numpy arrays.
      device: index of the one that holds ``placed``, or None.
      placed: state and keywords on that device; newer than ``state`` after a chunk.
      program: with the data of the lanes, on that device, or None.
      fetched: what was placed when ``state`` was copied from it.
      step, status: of the lanes, after the last chunk.
      columns, snapshots: of the last chunk.
      observe, snapshot: which rows of it recorded, and kept the params in which lane.
    """

    lanes: list[Lane | None]
    state: LoopState
    keywords: dict[str, np.ndarray]
    device: int | None = None
    placed: tuple[Any, Any] | None = None
    program: Program | None = None
    step: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int32))
    status: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int32))
    fetched: tuple[Any, Any] | None = None
    columns: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    snapshots: Any = None
    observe: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, bool))
    snapshot: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0), bool))

    @property
    def occupied(self) -> list[tuple[int, Lane]]:
        """The lanes that hold a point, each with its index."""
        return [(index, lane) for index, lane in enumerate(self.lanes) if lane is not None]

    def fetch(self) -> LoopState:
        """The state, as numpy arrays: copies, for the next chunk reuses its buffers."""
        if self.placed is not None and self.fetched is not self.placed:
            self.state = jax.tree.map(np.array, self.placed[0])
            self.fetched = self.placed
        return self.state

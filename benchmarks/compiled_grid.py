"""The grid that the benchmarks run: what it simulates, compiled once."""

import dataclasses
import time
from functools import cache
from typing import Any

import jax
import numpy as np

import sharpflow as sf
from sharpflow.models import Problem
from sharpflow.simulator.grid.engine import Placement, build_engine
from sharpflow.simulator.grid.spec import Grid, prepare
from sharpflow.simulator.host import Host, Lanes, Layout
from sharpflow.simulator.interrupt import Stop
from sharpflow.simulator.store.arrays import in_memory
from sharpflow.simulator.store.checkpoint import Checkpoint
from sharpflow.simulator.store.folder import RunFolder
from sharpflow.simulator.store.sink import Sink, summary

NETWORK = "64-64-64-10, 128 digits"
NUM_IMAGES, WIDTHS = 128, (64, 64)
NUM_SEEDS, NUM_STEPS = 8, 2000
# The least rate keeps its first point below the edge for the records that are compared.
LEARNING_RATES, WEIGHT_DECAYS = (0.02, 0.05, 0.1, 0.2), (1e-3, 3e-3)
RECORD_EVERY = 100


@dataclasses.dataclass(frozen=True)
class Task:
    """A grid to simulate.

    Attributes:
      num_seeds: of each pair of rates.
      num_steps: of each point.
      tolerance: of λ₁; None records no λ₁.
      matmul_precision: of the products in training steps.
    """

    num_seeds: int = NUM_SEEDS
    num_steps: int = NUM_STEPS
    tolerance: float | None = None
    matmul_precision: str = "highest"

    @property
    def num_points(self) -> int:
        """Of the grid."""
        return self.num_seeds * len(LEARNING_RATES) * len(WEIGHT_DECAYS)

    @property
    def updates(self) -> int:
        """Of all points."""
        return self.num_points * self.num_steps

    def __str__(self) -> str:
        points = f"grid of {self.num_points} × {self.num_steps} steps, {NETWORK}"
        if self.tolerance is None:
            return f"{points}, without λ₁"
        return f"{points}, λ₁ to {self.tolerance:g} every {RECORD_EVERY}"

    def prepared(self) -> Grid:
        """The grid, as ``simulate_grid`` prepares it."""
        observables: list = ["loss"]
        if self.tolerance is not None:
            observables.append(sf.simulator.hessian_sharpness(tolerance=self.tolerance))
        spec = sf.simulator.GridSpec(
            network(),
            seeds=range(self.num_seeds),
            learning_rates=LEARNING_RATES,
            weight_decays=WEIGHT_DECAYS,
            num_steps=self.num_steps,
            record_every=RECORD_EVERY,
            observables=observables,
            matmul_precision=self.matmul_precision,
        )
        return prepare(spec)


class CompiledGrid:
    """A grid on all devices of this process, compiled once and run as often as one likes.

    Args:
      task: the grid.
      lanes, width: as ``lanes`` and ``group_width`` of ``simulate_grid``.
    """

    def __init__(self, task: Task, lanes: Lanes | None = None, width: int | None = None) -> None:
        self.grid = task.prepared()
        (self.points,) = self.grid.batches
        self._pending = self.points.batch.points
        placement = Placement(tuple(jax.local_devices()), width, lanes)
        self._engine = build_engine(self.grid, self.points, self._pending, placement)

    @property
    def layout(self) -> Layout:
        """How the points are laid out."""
        return self._engine.layout

    @property
    def update_seconds(self) -> float:
        """Of an update of a point, as the engine timed it on all devices at once."""
        timing = self._engine.timing
        return timing.update / timing.points

    def run(self, folder: RunFolder | None = None) -> tuple[float, dict[str, Any]]:
        """Seconds and arrays of a run in memory or into an empty folder, as ``simulate_grid``.

        Raises:
          RuntimeError: a point diverged.
        """
        began = time.perf_counter()
        if folder is None:
            arrays = in_memory(self.grid.variables)
        else:
            folder.create(self.grid.description, self.grid.variables, {})
            arrays = folder.open_arrays()
        sink = Sink(self.grid.axes, arrays, folder)
        host = Host(
            self._engine.chunk,
            self._engine.layout,
            self.points.starts,
            self.grid.schedule,
            sink,
            snapshot_every=None,
        )
        host.run(self._pending, Checkpoint({}, {}), Stop(), lambda count, note="": None)
        if folder is not None:
            folder.finish()
        seconds = time.perf_counter() - began
        if np.any(sink.statuses() != sf.Status.SUCCESS):
            raise RuntimeError(f"a grid that is timed must not diverge: {summary(sink.statuses())}")
        return seconds, arrays


@cache
def network() -> Problem:
    """Batch-norm network on digits, in float32."""
    return sf.models.mlp(*sf.models.digits(NUM_IMAGES), widths=WIDTHS, dtype=np.float32)

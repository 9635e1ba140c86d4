"""What a grid will take, before it runs."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from sharpflow.models import Problem
from sharpflow.models.arguments import COUNT, checked, optional
from sharpflow.simulator import observables as recorded
from sharpflow.simulator.grid.engine import lengths
from sharpflow.simulator.grid.execute import engine_of
from sharpflow.simulator.grid.layout import (
    DEVICES,
    Lanes,
    Layout,
    peak_memory,
    validated_lanes,
)
from sharpflow.simulator.grid.points import MakeOptimizer, MakeProblem
from sharpflow.simulator.grid.prepare import prepare
from sharpflow.simulator.rules import gdwd


@dataclasses.dataclass(frozen=True)
class GridPlan:
    """What a grid will take.

    Attributes:
      shape: points along each axis.
      updates: of all points.
      layouts: of each batch of points that share a problem.
      memory_bytes: that a device holds while it runs, as the compiler foresees it.
      peak_bytes: the most that a device held while the plan was timed; None where it does not
        tell, as a CPU.
      stored_bytes: of the result, before compression.
      seconds: of all updates and records, compiling and writing aside.
    """

    shape: dict[str, int]
    updates: int
    layouts: tuple[Layout, ...]
    memory_bytes: int
    peak_bytes: int | None
    stored_bytes: int
    seconds: float


@checked(devices=DEVICES, group_width=optional(COUNT))
def plan_grid(
    problem: Problem | MakeProblem,
    *,
    devices: Sequence[jax.Device] | None = None,
    group_width: int | None = None,
    lanes: Lanes | None = None,
    observables: Sequence[str | recorded.Observable] = recorded.DEFAULT,
    optimizer: MakeOptimizer = gdwd,
    **arguments: Any,
) -> GridPlan:
    """What ``simulate_grid`` with these arguments will take, from compiling and timing it.

    Args:
      problem, devices, group_width, lanes, observables, optimizer, arguments: of ``simulate_grid``,
        as far as they say what is simulated.

    Returns:
      The plan.

    Raises:
      ValueError: as ``simulate_grid``.
    """
    lanes = validated_lanes(lanes)
    group_width = None if group_width is None else int(group_width)
    optional: dict[str, Any] = dict.fromkeys(
        ("axes", "num_steps", "tau", "record_every", "record_at", "num_records", "snapshot_every")
    ) | {"start": None, "effective_learning_rate": None, "final_params": False}
    grid = prepare(problem, observables=observables, optimizer=optimizer, **(optional | arguments))
    used = tuple(jax.local_devices() if devices is None else devices)
    seconds, memory, layouts = 0.0, 0, []
    for points in grid.batches:
        pending = grid.longest_first(points.batch.points)
        engine = engine_of(grid, points, pending, used, group_width, lanes, None)
        assert engine.timing is not None
        seconds += engine.timing.seconds(*lengths(grid.schedule, pending))
        memory = max(memory, engine.chunk.memory_bytes)
        layouts.append(engine.layout)
    return GridPlan(
        shape=dict(zip(grid.axes.names, grid.axes.shape, strict=True)),
        updates=int(grid.schedule.num_steps.sum()),
        layouts=tuple(layouts),
        memory_bytes=memory,
        peak_bytes=peak_memory(used),
        stored_bytes=sum(
            int(np.prod(variable.shape)) * variable.dtype.itemsize
            for variable in grid.variables.values()
        ),
        seconds=seconds,
    )

"""Simulate a grid of trajectories, and plan it."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

import jax
import numpy as np

from sharpflow.models import Problem
from sharpflow.models.arguments import COUNT, FLAG, PATH, any_of, checked, instance, optional
from sharpflow.models.caller import warn_caller
from sharpflow.models.compiled_function import special_values_allowed
from sharpflow.models.representation import Summary, duration_in_words, size_in_words, summarized
from sharpflow.simulator.grid.engine import (
    DEVICES,
    Placement,
    build_engine,
    lengths,
    peak_memory,
)
from sharpflow.simulator.grid.execute import run_in_folder, run_in_memory
from sharpflow.simulator.grid.point_prediction import validated_options
from sharpflow.simulator.grid.points import MakeProblem
from sharpflow.simulator.grid.predictions import predict_grid
from sharpflow.simulator.grid.spec import (
    GridArguments,
    GridSpec,
    prepare,
    require_gdwd,
    with_signature,
)
from sharpflow.simulator.host import Lanes, Layout
from sharpflow.simulator.processes import PROCESSES, Processes
from sharpflow.simulator.store.folder import RunFolder
from sharpflow.simulator.store.reading import open_run

if TYPE_CHECKING:
    import xarray


@special_values_allowed()
@with_signature
@checked(
    devices=DEVICES,
    group_width=optional(COUNT),
    out=optional(PATH),
    resume=FLAG,
    predict=any_of(FLAG, instance(Mapping, "a dictionary of options of predict_grid")),
    processes=PROCESSES,
    progress=optional(FLAG),
)
def simulate_grid(
    problem: Problem | MakeProblem | GridSpec,
    *,
    devices: Sequence[jax.Device] | None = None,
    group_width: int | None = None,
    lanes: Lanes | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    predict: bool | Mapping[str, Any] = False,
    processes: Processes | None = None,
    progress: bool | None = None,
    **arguments: Unpack[GridArguments],
) -> "xarray.Dataset":
    """Simulate every point of a grid of seeds, learning rates and weight decays.

    The points are compiled together, with their hyperparameters as arguments, spread over
    all devices and run chunk by chunk. One that diverges is frozen and changes no bit of the
    others; one that is done makes room for the next.

    Args:
      problem: what to train; or a function of some of ``axes`` that makes it; or a whole
        ``GridSpec``; then pass none of its fields as keywords.
      **arguments: what is simulated: the fields of ``GridSpec`` but for the problem.
      devices: all of this process by default.
      group_width: points that an update takes together by ``vmap``; chosen from memory and
        a short timing by default.
      lanes: ``"side_by_side"`` fills an accelerator with points that go on together,
        ``"in_turn"`` is how a core runs them one after the other; by default chosen by the
        kind of device. Both give the same numbers up to rounding. A run that is resumed keeps those
        that it was begun with unless others are given here, which it warns of and notes.
      out: folder for the run; by default the result is kept in memory only.
      resume: go on with the run in ``out``; begin it where there is none.
      predict: predict every point as well, as ``predict_grid`` does; True, or its options. Where
        ``snapshot_every`` is not given, up to 32 snapshots of each point are kept for it. Several
        processes that share a grid keep the snapshots alone.
      processes: what ``join_processes`` returned, where several share the grid.
      progress: a bar on a terminal, lines elsewhere; by default on a terminal only.

    Returns:
      A dataset with dimensions (seed, learning_rate, weight_decay, any others, step), NaN
      after a point has ended. ``status`` says how each ended, ``final_step`` when, ``tau`` is
      the flow time. With ``out``, values are read from the folder when they are used.

    Raises:
      ValueError: an argument that cannot be used.
      RunError: a ValueError: the folder holds another run, or cannot be used.
      RunLockedError: another process is writing to ``out``.
      StorageError: the disk did not take what had to be written; resume later.
      Interrupted: a signal asked to stop a run with a folder; it can be resumed.
    """
    placement = Placement.of(devices, group_width, lanes)
    run = None if out is None else RunFolder.at(out)
    spec = GridSpec.of(problem, arguments)
    options = validated_options(predict if isinstance(predict, Mapping) else {})
    predicting = isinstance(predict, Mapping) or bool(predict)
    grid = prepare(spec, to_predict=predicting)
    if options.get("kind") == "central_flow":
        require_gdwd(grid)
    if run is None:
        if resume or processes is not None:
            raise ValueError("resume and processes need a folder: give out as well")
        if spec.final_state:
            raise ValueError("final_state must be False without a folder: give out as well")
        simulated = run_in_memory(grid, placement, progress)
    else:
        together = Processes() if processes is None else processes
        run_in_folder(grid, run, together, placement, resume=resume, progress=progress)
        simulated = open_run(run)
    if not predicting:
        return simulated
    if processes is not None and processes.count > 1:
        warn_caller(
            "predict is left to whoever calls predict_grid, or sharpflow predict, once the run has "
            "ended: no process of several has all points"
        )
        return simulated
    return predict_grid(
        spec.problem, simulated, optimizer=spec.optimizer, out=run, progress=progress, **options
    )


@summarized
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
      stored_bytes: of the result, before compression, and of the last states that a folder keeps
        with ``final_state``.
      seconds: of all updates and records, compiling and writing aside.
      compile_seconds: that compiling took for the plan. A run compiles first, and takes as long
        again unless jax keeps on the disk what it has compiled.
    """

    shape: dict[str, int]
    updates: int
    layouts: tuple[Layout, ...]
    memory_bytes: int
    peak_bytes: int | None
    stored_bytes: int
    seconds: float
    compile_seconds: float = 0.0

    def _summary(self) -> Summary:
        points = int(np.prod(list(self.shape.values())))
        widths = sorted({layout.width for layout in self.layouts})
        measured = "" if self.peak_bytes is None else f"; {size_in_words(self.peak_bytes)} measured"
        return Summary(
            f"GridPlan: {points:,} points",
            [
                ("shape", ", ".join(f"{count} {name}" for name, count in self.shape.items())),
                ("updates", f"{self.updates:,} in all"),
                ("time", f"about {duration_in_words(self.seconds)}, compiling aside"),
                ("memory", f"{size_in_words(self.memory_bytes)} of a device{measured}"),
                ("on disk", f"at most {size_in_words(self.stored_bytes)}"),
                ("programs", f"{len(self.layouts)}, groups of {', '.join(map(str, widths))}"),
            ],
        )


@with_signature
@checked(devices=DEVICES, group_width=optional(COUNT))
def plan_grid(
    problem: Problem | MakeProblem | GridSpec,
    *,
    devices: Sequence[jax.Device] | None = None,
    group_width: int | None = None,
    lanes: Lanes | None = None,
    **arguments: Unpack[GridArguments],
) -> GridPlan:
    """What ``simulate_grid`` with these arguments will take, from compiling and timing it.

    Args:
      problem: as of ``simulate_grid``.
      **arguments: what is simulated: the fields of ``GridSpec`` but for the problem.
      devices, group_width, lanes: as of ``simulate_grid``.

    Returns:
      The plan.

    Raises:
      ValueError: as ``simulate_grid``.
    """
    placement = Placement.of(devices, group_width, lanes)
    grid = prepare(GridSpec.of(problem, arguments))
    seconds, compile_seconds, memory, states, layouts = 0.0, 0.0, 0, 0, []
    for points in grid.batches:
        pending = grid.longest_first(points.batch.points)
        engine = build_engine(grid, points, pending, placement)
        assert engine.timing is not None
        seconds += engine.timing.seconds(*lengths(grid.schedule, pending))
        compile_seconds += engine.compile_seconds
        memory = max(memory, engine.chunk.memory_bytes)
        layouts.append(engine.layout)
        if grid.final_state:
            of_one = jax.tree.leaves(points.state(pending[0]))
            states += len(pending) * sum(np.asarray(leaf).nbytes for leaf in of_one)
    return GridPlan(
        shape=dict(zip(grid.axes.names, grid.axes.shape, strict=True)),
        updates=int(grid.schedule.num_steps.sum()),
        layouts=tuple(layouts),
        memory_bytes=memory,
        peak_bytes=peak_memory(placement.devices),
        stored_bytes=states
        + sum(
            int(np.prod(variable.shape)) * variable.dtype.itemsize
            for variable in grid.variables.values()
        ),
        seconds=seconds,
        compile_seconds=compile_seconds,
    )

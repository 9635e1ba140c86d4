"""Simulate a grid of trajectories, plan it, and take a point of it."""

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

import jax
import numpy as np

from sharpflow.models import Params, Problem
from sharpflow.models.arguments import (
    COUNT,
    FLAG,
    PATH,
    Kind,
    checked,
    optional,
    real,
    shown,
)
from sharpflow.models.compiled_function import special_values_allowed
from sharpflow.models.parameter_names import parameter_names
from sharpflow.models.problem import PROBLEM
from sharpflow.models.representation import Summary, duration_in_words, size_in_words, summarized
from sharpflow.simulator.axes import BASE, BY_POSITION, keywords_of
from sharpflow.simulator.grid.engine import (
    DEVICES,
    Placement,
    build_engine,
    lengths,
    peak_memory,
)
from sharpflow.simulator.grid.execute import run_in_folder, run_in_memory
from sharpflow.simulator.grid.points import MakeProblem
from sharpflow.simulator.grid.spec import GridArguments, GridSpec, prepare, with_signature
from sharpflow.simulator.host import Lanes, Layout
from sharpflow.simulator.processes import PROCESSES, Processes
from sharpflow.simulator.program import MakeOptimizer, rule_at
from sharpflow.simulator.quantities import quantity_of
from sharpflow.simulator.rules import gdwd
from sharpflow.simulator.rules.edge_rule import MAKE_OPTIMIZER
from sharpflow.simulator.store.arrays import PENDING
from sharpflow.simulator.store.folder import RunFolder
from sharpflow.simulator.store.reading import open_run
from sharpflow.simulator.trajectory import Trajectory, rule_fields
from sharpflow.theory import Status

if TYPE_CHECKING:
    import xarray


@special_values_allowed()
@with_signature
@checked(
    devices=DEVICES,
    group_width=optional(COUNT),
    out=optional(PATH),
    resume=FLAG,
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
    grid = prepare(GridSpec.of(problem, arguments))
    if run is None:
        if resume or processes is not None:
            raise ValueError("resume and processes need a folder: give out as well")
        return run_in_memory(grid, placement, progress)
    together = Processes() if processes is None else processes
    run_in_folder(grid, run, together, placement, resume=resume, progress=progress)
    return open_run(run)


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
      stored_bytes: of the result, before compression.
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
    seconds, compile_seconds, memory, layouts = 0.0, 0.0, 0, []
    for points in grid.batches:
        pending = grid.longest_first(points.batch.points)
        engine = build_engine(grid, points, pending, placement)
        assert engine.timing is not None
        seconds += engine.timing.seconds(*lengths(grid.schedule, pending))
        compile_seconds += engine.compile_seconds
        memory = max(memory, engine.chunk.memory_bytes)
        layouts.append(engine.layout)
    return GridPlan(
        shape=dict(zip(grid.axes.names, grid.axes.shape, strict=True)),
        updates=int(grid.schedule.num_steps.sum()),
        layouts=tuple(layouts),
        memory_bytes=memory,
        peak_bytes=peak_memory(placement.devices),
        stored_bytes=sum(
            int(np.prod(variable.shape)) * variable.dtype.itemsize
            for variable in grid.variables.values()
        ),
        seconds=seconds,
        compile_seconds=compile_seconds,
    )


_NOT_COLUMNS = ("status", "final_step", "num_steps", "intrinsic_rate", "step", "tau")


GRID = Kind(
    "a dataset of a grid, as simulate_grid and open_run return it",
    lambda value: all(
        name in getattr(value, "variables", ()) for name in ("status", "step", "final_step")
    ),
)


@checked(grid=GRID, problem=PROBLEM, optimizer=MAKE_OPTIMIZER)
def grid_point(
    grid: "xarray.Dataset", problem: Problem, *, optimizer: MakeOptimizer = gdwd, **point: Any
) -> Trajectory:
    """One point of a grid, for ``predict``, ``compare`` and ``measure_oscillation``.

    Args:
      grid: what ``simulate_grid`` or ``open_run`` returned.
      problem: what was trained at this point.
      optimizer: of the grid.
      **point: the label of every axis with more than one value, as ``seed=0``; rates to six
        digits.

    Returns:
      The trajectory as far as the grid recorded it; it cannot be gone on with.

    Raises:
      ValueError: an unknown or missing axis, a label that is not there, or a point that has
        not run.
    """
    axes = [str(name) for name in grid["status"].dims]
    at = grid.isel({name: _place(grid, name, point) for name in axes})
    unknown = sorted(set(point) - set(axes))
    if unknown:
        raise ValueError(f"point names {unknown}; the axes of this grid are {axes}")
    if int(at["status"]) == PENDING:
        raise ValueError(f"the point {point} has not run yet")
    labels = {name: at[name].item() for name in axes}
    final_step = int(at["final_step"])
    step = np.atleast_1d(at["step"].values)
    diverged = int(at["status"]) == Status.DIVERGED
    rows = np.flatnonzero(step <= final_step if diverged else step < final_step)
    time = at["step"].dims[0]
    example = jax.eval_shape(problem.init, jax.random.key(0))
    columns = {
        str(name): at[name].values[rows]
        for name in at.data_vars
        if name not in _NOT_COLUMNS and at[name].dims[:1] == (time,)
    }
    # of a grid with further axes the start may choose the shapes by one of them
    others = [name for name in axes if name not in BASE]
    params, snapshot_row = None, np.zeros(0, int)
    if "snapshot" in at.dims:
        # labelled by steps or by records
        kept = at["snapshot"].values
        snapshot_row = np.searchsorted(step, kept) if time == "step" else kept
        existing = np.isin(snapshot_row, rows)
        snapshot_row = snapshot_row[existing]
        params = _params(at, example, "params", existing, as_drawn=not others)
    has_last = all(name in at for name in parameter_names(example, "final_params"))
    taken = (*BASE[1:], *keywords_of(optimizer, others, BY_POSITION["optimizer"]))
    rates = {name: labels[name] for name in taken}
    state = rule_at(optimizer, rates).init(jax.tree.map(_ones, example))
    return Trajectory(
        step=step[rows],
        columns=columns,
        params=params,
        snapshot_row=snapshot_row,
        final_step=final_step,
        final_params=_params(at, example, "final_params", ..., as_drawn=not others)
        if has_last
        else None,
        final_state=None,
        status=Status(int(at["status"])),
        **rule_fields(problem, state),
        attributes=dict(grid.attrs) | labels,
        quantities={name: quantity_of(name, grid[name].attrs) for name in columns},
    )


def _place(grid: "xarray.Dataset", axis: str, point: dict[str, Any]) -> int:
    """Index of the label of an axis."""
    labels = grid[axis].values
    if axis not in point:
        if len(labels) > 1:
            raise ValueError(f"point must say which {axis}: one of {labels.tolist()}")
        return 0
    wanted = point[axis]
    if not np.issubdtype(labels.dtype, np.number):
        places = np.flatnonzero(labels == str(wanted))
    else:
        places = _same_number(labels, real(wanted))
    if not places.size:
        raise ValueError(f"{axis} must be one of {labels.tolist()}, got {shown(wanted)}")
    return int(places[0])


def _same_number(labels: np.ndarray, wanted: float | None) -> np.ndarray:
    """Where a label is a number: the very same or, of floats, the one that rounds to it.

    A rate of a grid in float32 may be asked for as 0.1, and one that was computed as it prints.
    """
    if wanted is None:
        return np.zeros(0, int)
    same = np.flatnonzero(labels == wanted)
    if same.size or not np.issubdtype(labels.dtype, np.floating):
        return same
    close = np.flatnonzero(np.isclose(labels.astype(float), wanted, rtol=1e-6, atol=0.0))
    return close if close.size == 1 else np.zeros(0, int)


def _params(
    at: "xarray.Dataset", example: Params, prefix: str, kept: Any, *, as_drawn: bool
) -> Params:
    """The arrays of params at a point, of the shapes of the example where ``as_drawn``."""
    names = parameter_names(example, prefix)
    missing = [name for name in names if name not in at]
    if missing:
        raise ValueError(f"problem is not the one of this grid, which has no arrays {missing}")
    leaves = [at[name].values for name in names]
    for name, leaf, like in zip(names, leaves, jax.tree.leaves(example), strict=True):
        shape = leaf.shape[leaf.ndim - len(like.shape) :]  # snapshots come first
        if as_drawn and shape != like.shape:
            raise ValueError(
                f"problem is not the one of this grid: {name} has the shape {shape} there, and "
                f"{like.shape} by its init"
            )
    return jax.tree.unflatten(jax.tree.structure(example), [leaf[kept] for leaf in leaves])


def _ones(like: jax.ShapeDtypeStruct) -> np.ndarray:
    return np.ones(like.shape, like.dtype)

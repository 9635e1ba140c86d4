"""Simulate a grid of trajectories, in memory or in a folder that survives interruptions."""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from sharpflow.models.problem import Problem
from sharpflow.simulator import observables as recorded
from sharpflow.simulator.grid.engine import Engine, build_engine, lengths
from sharpflow.simulator.grid.layout import Layout
from sharpflow.simulator.grid.points import MakeOptimizer, MakeProblem, Points, Start
from sharpflow.simulator.grid.prepare import Grid, prepare
from sharpflow.simulator.grid.run import BatchRun
from sharpflow.simulator.grid.sink import Sink
from sharpflow.simulator.grid.variables import PENDING, seeds_per_chunk
from sharpflow.simulator.interrupt import Stop, stop_between_chunks
from sharpflow.simulator.loop import EffectiveRate
from sharpflow.simulator.processes import Processes
from sharpflow.simulator.progress import progress_bar
from sharpflow.simulator.provenance import git_revision, provenance
from sharpflow.simulator.store.arrays import dataset, in_memory
from sharpflow.simulator.store.checkpoint import Checkpoint
from sharpflow.simulator.store.errors import storage_errors
from sharpflow.simulator.store.folder import RunFolder, open_run
from sharpflow.simulator.store.lock import announce, announced, launch_lock
from sharpflow.simulator.updates import gdwd

if TYPE_CHECKING:
    import xarray


def simulate_grid(
    problem: Problem | MakeProblem,
    *,
    seeds: int | Sequence[int],
    learning_rates: float | Sequence[float],
    weight_decays: float | Sequence[float],
    num_steps: int | None = None,
    tau: float | None = None,
    record_every: int | None = None,
    record_at: Sequence[int] | None = None,
    num_records: int | None = None,
    observables: Sequence[str | recorded.Observable] = recorded.DEFAULT,
    snapshot_every: int | None = None,
    final_params: bool = False,
    optimizer: MakeOptimizer = gdwd,
    start: Start | None = None,
    axes: Mapping[str, Sequence] | None = None,
    effective_learning_rate: EffectiveRate | None = None,
    devices: Sequence[jax.Device] | None = None,
    group_width: int | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    processes: Processes | None = None,
    progress: bool | None = None,
) -> "xarray.Dataset":
    """Simulate every point of a grid of seeds, learning rates and weight decays.

    The points are compiled together, with their hyperparameters as arguments, spread over
    all devices and run chunk by chunk. One that diverges is frozen and changes no bit of the
    others; one that is done makes room for the next.

    Args:
      problem: what to train; or a function of some of ``axes`` that makes it, each of whose
        problems is compiled by itself.
      seeds: integers; a point starts from ``problem.init(jax.random.key(seed))``.
      learning_rates, weight_decays: η and λ; one value or several, as ``seeds``.
      num_steps, tau: updates of every point; or their flow time, for which a point makes
        tau/(ηλ) of them. One of the two.
      record_every, record_at, num_records: steps from a record to the next, by default 1;
        or the steps to record; or how many records each point makes, evenly spaced. The
        last gives a dimension ``record`` in place of ``step``, which is then a coordinate.
      observables: as in ``simulate``.
      snapshot_every: records from a snapshot of the params to the next; none by default.
      final_params: whether the last params are kept.
      optimizer: (learning_rate, weight_decay, **others) -> optax transformation; called with
        traced values.
      start: (key, learning_rate, weight_decay, **others) -> params, in place of
        ``problem.init``; called with numbers.
      axes: further axes by name. A value reaches those of ``problem``, ``start`` and
        ``optimizer`` that take a keyword of this name.
      effective_learning_rate: as in ``simulate``.
      devices: all of this process by default.
      group_width: points that an update takes together by ``vmap``; chosen from memory and
        a short timing by default.
      out: folder for the run; by default the result is kept in memory only.
      resume: go on with the run in ``out``; begin it where there is none.
      processes: what ``join_processes`` returned, where several share the grid.
      progress: a bar on a terminal, lines elsewhere; by default on a terminal only.

    Returns:
      A dataset with dimensions (seed, learning_rate, weight_decay, any others, step), NaN
      after a point has ended. ``status`` says how each ended, ``final_step`` when, ``tau`` is
      the flow time. With ``out``, values are read from the folder when they are used.

    Raises:
      ValueError: an argument that cannot be used, or a folder that holds another run.
      RunLockedError: another process is writing to ``out``.
      StorageError: the disk did not take what had to be written; resume later.
      Interrupted: a signal asked to stop a run with a folder; it can be resumed.
    """
    run = None if out is None else RunFolder(out)
    grid = prepare(
        problem,
        seeds=seeds,
        learning_rates=learning_rates,
        weight_decays=weight_decays,
        axes=axes,
        num_steps=num_steps,
        tau=tau,
        record_every=record_every,
        record_at=record_at,
        num_records=num_records,
        observables=observables,
        snapshot_every=snapshot_every,
        final_params=final_params,
        optimizer=optimizer,
        start=start,
        effective_learning_rate=effective_learning_rate,
    )
    used = tuple(jax.local_devices() if devices is None else devices)
    if run is None:
        if resume or processes is not None:
            raise ValueError("resume and processes need a folder: give out as well")
        return _in_memory(grid, used, group_width, progress)
    together = Processes() if processes is None else processes
    _in_folder(grid, run, together, used, group_width, resume, progress)
    return open_run(run.path)


@dataclasses.dataclass(frozen=True)
class GridPlan:
    """What a grid will take.

    Attributes:
      shape: points along each axis.
      updates: of all points.
      layouts: of each batch of points that share a problem.
      memory_bytes: that a device holds while it runs.
      stored_bytes: of the result, before compression.
      seconds: of all updates and records, compiling and writing aside.
    """

    shape: dict[str, int]
    updates: int
    layouts: tuple[Layout, ...]
    memory_bytes: int
    stored_bytes: int
    seconds: float


def plan_grid(
    problem: Problem | MakeProblem,
    *,
    devices: Sequence[jax.Device] | None = None,
    group_width: int | None = None,
    observables: Sequence[str | recorded.Observable] = recorded.DEFAULT,
    optimizer: MakeOptimizer = gdwd,
    **arguments: Any,
) -> GridPlan:
    """What ``simulate_grid`` with these arguments will take, from compiling and timing it.

    Args:
      problem, devices, group_width, observables, optimizer, arguments: of ``simulate_grid``,
        as far as they say what is simulated.

    Raises:
      ValueError: as ``simulate_grid``.
    """
    optional: dict[str, Any] = dict.fromkeys(
        ("axes", "num_steps", "tau", "record_every", "record_at", "num_records", "snapshot_every")
    ) | {"start": None, "effective_learning_rate": None, "final_params": False}
    grid = prepare(problem, observables=observables, optimizer=optimizer, **(optional | arguments))
    used = tuple(jax.local_devices() if devices is None else devices)
    seconds, memory, layouts = 0.0, 0, []
    for points in grid.batches:
        pending = _longest_first(grid, points.batch.points)
        engine = _engine(grid, points, pending, used, group_width, None)
        assert engine.timing is not None
        seconds += engine.timing.seconds(*lengths(grid.schedule, pending))
        memory = max(memory, engine.chunk.memory_bytes)
        layouts.append(engine.layout)
    return GridPlan(
        shape=dict(zip(grid.axes.names, grid.axes.shape, strict=True)),
        updates=int(grid.schedule.num_steps.sum()),
        layouts=tuple(layouts),
        memory_bytes=memory,
        stored_bytes=sum(
            int(np.prod(variable.shape)) * variable.dtype.itemsize
            for variable in grid.variables.values()
        ),
        seconds=seconds,
    )


def _in_memory(
    grid: Grid, devices: tuple[jax.Device, ...], width: int | None, progress: bool | None
) -> "xarray.Dataset":
    arrays = in_memory(grid.variables)
    sink = Sink(grid.axes, arrays)
    with progress_bar(int(grid.schedule.num_steps.sum()), progress, _title(grid)) as advance:
        for number, points in enumerate(grid.batches):
            pending = _longest_first(grid, points.batch.points)
            engine = _engine(grid, points, pending, devices, width, None)
            _run(grid, number, points, engine, sink).run(
                pending, Checkpoint({}, {}), Stop(), advance
            )
    return dataset(arrays, grid.variables, _attributes(grid))


def _in_folder(
    grid: Grid,
    run: RunFolder,
    processes: Processes,
    devices: tuple[jax.Device, ...],
    width: int | None,
    resume: bool,
    progress: bool | None,
) -> None:
    first = processes.index == 0
    if first:
        if not (resume and run.exists):
            run.require_unused()
        with storage_errors(run.path):
            run.path.mkdir(parents=True, exist_ok=True)
    with launch_lock(run.path, processes.index, processes.token), stop_between_chunks() as stop:
        if first:
            _open(grid, run, processes, resume)
        unfinished = announced(run.path, processes.token)
        sink = Sink(grid.axes, run.open_arrays(), run, processes.index)
        mine = [_shared(grid, points, unfinished, processes) for points in grid.batches]
        layouts = [_stored_layout(run, number) for number in range(len(grid.batches))]
        begun = [_begun(run, number, layout) for number, layout in enumerate(layouts)]
        total, done = _updates(grid, unfinished, mine, layouts, begun)
        with progress_bar(total, progress, _title(grid), done=done) as advance:
            for number, (points, pending) in enumerate(zip(grid.batches, mine, strict=True)):
                if not pending:
                    continue
                engine = _engine(grid, points, pending, devices, width, layouts[number])
                if layouts[number] is None:
                    layout = Layout(**run.settle_layout(number, dataclasses.asdict(engine.layout)))
                    if not layout.rounds_as(engine.layout):
                        engine = _engine(grid, points, pending, devices, width, layout)
                _run(grid, number, points, engine, sink).run(pending, begun[number], stop, advance)
        if PENDING not in sink.statuses():
            run.finish()


def _open(grid: Grid, run: RunFolder, processes: Processes, resume: bool) -> None:
    """Begin or take up a run, and tell the other processes what is left to do."""
    if resume and run.exists:
        run.require_same(grid.description)
    else:
        run.require_unused()
        run.create(grid.description, grid.variables, _attributes(grid))
    run.clean()
    run.add_launch(_attributes(grid) | {"processes": processes.count})
    statuses = Sink(grid.axes, run.open_arrays()).statuses()
    unfinished = [int(point) for point in np.flatnonzero(statuses == PENDING)]
    announce(run.path, processes.token, unfinished)


def _engine(
    grid: Grid,
    points: Points,
    pending: Sequence[int],
    devices: Sequence[jax.Device],
    width: int | None,
    stored: Layout | None,
) -> Engine:
    return build_engine(
        points.batch.program,
        points,
        pending,
        grid.schedule,
        devices,
        snapshot_every=grid.snapshot_every,
        width=width,
        stored=stored,
    )


def _run(grid: Grid, number: int, points: Points, engine: Engine, sink: Sink) -> BatchRun:
    return BatchRun(
        number,
        engine.chunk,
        engine.layout,
        points,
        grid.schedule,
        sink,
        snapshot_every=grid.snapshot_every,
        final_params=grid.final_params,
    )


def _shared(
    grid: Grid, points: Points, unfinished: Sequence[int], processes: Processes
) -> list[int]:
    """The points that this process takes; those that share a chunk of the store together."""
    left = set(unfinished)
    together: dict[tuple, list[int]] = {}
    for point in _longest_first(grid, [p for p in points.batch.points if p in left]):
        seed, *cell = grid.axes.index(point)
        together.setdefault((seed // seeds_per_chunk(grid.axes), *cell), []).append(point)
    return [point for block in processes.share(list(together.values())) for point in block]


def _longest_first(grid: Grid, points: Sequence[int]) -> list[int]:
    return sorted(points, key=lambda point: (-int(grid.schedule.num_steps[point]), point))


def _stored_layout(run: RunFolder, number: int) -> Layout | None:
    stored = run.layout(number)
    return None if stored is None else Layout(**stored)


def _begun(run: RunFolder, number: int, layout: Layout | None) -> Checkpoint:
    """Where the points in flight were; without a layout nobody knows what a row was."""
    if layout is None:
        return Checkpoint({}, {})
    checkpoint, damaged = run.read_checkpoints(number)
    for what in damaged:
        warnings.warn(f"skipped a damaged checkpoint: {what}", stacklevel=4)
    return checkpoint


def _updates(
    grid: Grid,
    unfinished: Sequence[int],
    mine: Sequence[Sequence[int]],
    layouts: Sequence[Layout | None],
    begun: Sequence[Checkpoint],
) -> tuple[int, int]:
    """Updates of finished points and of those this process takes; how many are made."""
    steps = grid.schedule.num_steps
    finished = int(steps.sum() - steps[list(unfinished)].sum())
    total, done = finished, finished
    for pending, layout, checkpoint in zip(mine, layouts, begun, strict=True):
        total += int(steps[list(pending)].sum())
        for point in checkpoint.positions.keys() & set(pending):
            assert layout is not None
            rows = grid.schedule.gaps(point, layout.pieces)
            done += int(rows[: checkpoint.positions[point]].sum())
    return total, done


def _title(grid: Grid) -> str:
    return f"grid of {grid.axes.num_points}"


def _attributes(grid: Grid) -> dict[str, Any]:
    made = provenance(grid.batches[0].example)
    revision = git_revision()
    return made if revision is None else made | {"git_revision": revision}

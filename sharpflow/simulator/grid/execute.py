"""Run a grid that is prepared: in memory, or in a folder with other processes."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from sharpflow.simulator.grid.engine import Engine, build_engine
from sharpflow.simulator.grid.layout import (
    Lanes,
    Layout,
    is_out_of_memory,
    warn_of_narrowing,
)
from sharpflow.simulator.grid.memory import Memory
from sharpflow.simulator.grid.points import Points
from sharpflow.simulator.grid.prepare import Grid
from sharpflow.simulator.grid.run import BatchRun
from sharpflow.simulator.grid.sink import Sink
from sharpflow.simulator.grid.variables import seeds_per_chunk
from sharpflow.simulator.interrupt import Stop, stop_between_chunks
from sharpflow.simulator.processes import Processes
from sharpflow.simulator.progress import Advance, progress_bar
from sharpflow.simulator.provenance import launch_provenance
from sharpflow.simulator.store.arrays import PENDING, dataset, in_memory
from sharpflow.simulator.store.checkpoint import Checkpoint
from sharpflow.simulator.store.errors import storage_errors
from sharpflow.simulator.store.folder import RunFolder
from sharpflow.simulator.store.lock import announce, announced, launch_lock
from sharpflow.simulator.store.reading import require_values, verified_digest

if TYPE_CHECKING:
    import xarray


def run_in_memory(
    grid: Grid,
    devices: Sequence[jax.Device],
    width: int | None,
    lanes: Lanes | None,
    progress: bool | None,
) -> "xarray.Dataset":
    """Run a grid and keep its result in memory only; arguments as of ``simulate_grid``."""
    arrays = in_memory(grid.variables)
    sink, memory = Sink(grid.axes, arrays), Memory(devices)
    with progress_bar(int(grid.schedule.num_steps.sum()), progress, grid.title) as advance:
        for number, points in enumerate(grid.batches):
            pending = grid.longest_first(points.batch.points)
            engine = engine_of(grid, points, pending, devices, width, lanes, None)
            memory.predict(engine.chunk)
            _run_batch(grid, number, points, engine, sink, devices, pending, Stop(), advance)
    attributes = _launch(grid) | memory.facts
    return dataset(arrays, grid.variables, attributes)


def run_in_folder(
    grid: Grid,
    run: RunFolder,
    processes: Processes,
    devices: Sequence[jax.Device],
    width: int | None,
    lanes: Lanes | None,
    resume: bool,
    progress: bool | None,
) -> None:
    """Run this process's share of a grid into a folder, from where it stands.

    Args:
      grid: all of it.
      run: the folder.
      processes: that share the grid.
      devices, width, lanes, resume, progress: as of ``simulate_grid``.

    Raises:
      RunError, RunLockedError, StorageError, Interrupted: as of ``simulate_grid``.
    """
    first = processes.index == 0
    if first:
        if not (resume and run.exists):
            run.require_unused()
        with storage_errors(run.path):
            run.path.mkdir(parents=True, exist_ok=True)
    with launch_lock(run.path, processes.index, processes.token), stop_between_chunks() as stop:
        if first:
            _open(grid, run, processes, resume, lanes)
        if _begun_by_problem(run, grid):
            grid = dataclasses.replace(grid, batches=grid.by_problem)
        unfinished = announced(run.path, processes.token)
        sink = Sink(grid.axes, run.open_arrays(), run, processes.index, unfinished)
        mine = [_shared(grid, points, unfinished, processes) for points in grid.batches]
        layouts = [_stored_layout(run, number) for number in range(len(grid.batches))]
        begun = [_begun(run, number, layout) for number, layout in enumerate(layouts)]
        total, done = _updates(grid, unfinished, mine, layouts, begun)
        memory = Memory(devices, run if first else None)
        with memory, progress_bar(total, progress, grid.title, done=done) as advance:
            for number, (points, pending) in enumerate(zip(grid.batches, mine, strict=True)):
                if not pending:
                    continue
                engine = _settled_engine(
                    grid, run, number, points, pending, devices, width, lanes, layouts[number]
                )
                memory.predict(engine.chunk)
                _run_batch(
                    grid,
                    number,
                    points,
                    engine,
                    sink,
                    devices,
                    pending,
                    stop,
                    advance,
                    begun[number],
                )
        if PENDING not in sink.statuses():
            run.finish()


def _open(
    grid: Grid, run: RunFolder, processes: Processes, resume: bool, lanes: Lanes | None
) -> None:
    """Begin or take up a run, and tell the other processes what is left to do."""
    launch = _launch(grid)
    if resume and run.exists:
        run.require_same(grid.description)
        run.restore_config()
        verified_digest(run)
        require_values(run, grid.variables)
    else:
        run.require_unused()
        run.create(grid.description, grid.variables, launch)
    run.clean()
    statuses = Sink(grid.axes, run.open_arrays()).statuses()
    unfinished = [int(point) for point in np.flatnonzero(statuses == PENDING)]
    before = _other_lanes(grid, run, lanes, unfinished)
    if before:
        warnings.warn(
            f"the points of {run.path} went on {before} before, and go on {lanes} from here: "
            "what they compute from now on may round otherwise; provenance.json keeps it",
            stacklevel=5,
        )
        launch |= {"lanes": lanes, "lanes_before": before}
    run.add_launch(launch | {"processes": processes.count})
    announce(run.path, processes.token, unfinished)


def _begun_by_problem(run: RunFolder, grid: Grid) -> bool:
    """Whether an earlier version began a run, which made a batch for every problem.

    It did not keep the lanes in a layout.
    """
    layouts = (run.layout(number) for number in range(len(grid.by_problem)))
    return any(layout is not None and layout.get("lanes") is None for layout in layouts)


def _other_lanes(grid: Grid, run: RunFolder, lanes: Lanes | None, unfinished: Sequence[int]) -> str:
    """How points went on before, where this launch asks for another way; nothing otherwise."""
    left, found = set(unfinished), set()
    for number, points in enumerate(grid.batches):
        layout = _stored_layout(run, number)
        if layout is not None and layout.relaid(lanes) and not left.isdisjoint(points.batch.points):
            found.add(str(layout.lanes))
    return ", ".join(sorted(found))


def _settled_engine(
    grid: Grid,
    run: RunFolder,
    number: int,
    points: Points,
    pending: Sequence[int],
    devices: Sequence[jax.Device],
    width: int | None,
    lanes: Lanes | None,
    stored: Layout | None,
) -> Engine:
    """The engine of a batch with the layout that counts for all processes.

    A batch that was begun keeps its layout, unless other lanes are asked for: then it is laid out
    anew but for its pieces, of which the checkpoints count rows.
    """
    if stored is not None and not stored.relaid(lanes):
        return engine_of(grid, points, pending, devices, width, lanes, stored)
    pieces = None if stored is None else stored.pieces
    engine = engine_of(grid, points, pending, devices, width, lanes, None, pieces)
    before = None if stored is None else dataclasses.asdict(stored)
    mine = dataclasses.asdict(engine.layout)
    layout = Layout(**run.settle_layout(number, mine, before))
    if layout.rounds_as(engine.layout):
        return engine
    return engine_of(grid, points, pending, devices, width, lanes, layout)


def engine_of(
    grid: Grid,
    points: Points,
    pending: Sequence[int],
    devices: Sequence[jax.Device],
    width: int | None,
    lanes: Lanes | None,
    stored: Layout | None,
    pieces: int | None = None,
) -> Engine:
    """The compiled engine of a batch; arguments as of ``build_engine``."""
    return build_engine(
        points.batch.program,
        points,
        pending,
        grid.schedule,
        devices,
        snapshot_every=grid.snapshot_every,
        width=width,
        lanes=lanes,
        stored=stored,
        pieces=pieces,
    )


def _run_batch(
    grid: Grid,
    number: int,
    points: Points,
    engine: Engine,
    sink: Sink,
    devices: Sequence[jax.Device],
    pending: Sequence[int],
    stop: Stop,
    advance: Advance,
    begun: Checkpoint | None = None,
) -> None:
    """Run the points of a batch to their ends; fewer side by side where memory runs out."""
    begun = Checkpoint({}, {}) if begun is None else begun
    while True:
        run = BatchRun(
            number,
            engine.chunk,
            engine.layout,
            points,
            grid.schedule,
            sink,
            snapshot_every=grid.snapshot_every,
            final_params=grid.final_params,
        )
        try:
            return run.run(pending, begun, stop, advance)
        except jax.errors.JaxRuntimeError as error:
            if engine.layout.width == 1 or not is_out_of_memory(error):
                raise
        width = engine.layout.width // 2
        warn_of_narrowing(engine.layout.width, width)
        narrower = dataclasses.replace(engine.layout, width=width)
        # those that have ended stay; the others go on from the last checkpoint, or begin again
        statuses = sink.statuses()
        pending = [point for point in pending if statuses[point] == PENDING]
        if sink.run is not None:
            sink.run.replace_layout(number, dataclasses.asdict(narrower))
            begun = _begun(sink.run, number, narrower)
        del run
        engine = engine_of(grid, points, pending, devices, None, None, narrower)


def _launch(grid: Grid) -> dict[str, Any]:
    """How this launch is made."""
    first = grid.batches[0]
    precision = first.batch.program.matmul_precision
    return launch_provenance(first.example) | {"matmul_precision": precision}


def _shared(
    grid: Grid, points: Points, unfinished: Sequence[int], processes: Processes
) -> list[int]:
    """The points that this process takes; those that share a chunk of the store together."""
    left = set(unfinished)
    together: dict[tuple, list[int]] = {}
    for point in grid.longest_first([p for p in points.batch.points if p in left]):
        seed, *cell = grid.axes.index(point)
        together.setdefault((seed // seeds_per_chunk(grid.axes), *cell), []).append(point)
    return [point for block in processes.share(list(together.values())) for point in block]


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

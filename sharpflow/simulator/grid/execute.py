"""Run a grid that is prepared: in memory, or in a folder with other processes."""

import dataclasses
import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from sharpflow.models.caller import warn_caller
from sharpflow.models.progress import Display, progress_bar
from sharpflow.simulator.chunk import CompiledChunk, stacked
from sharpflow.simulator.grid.engine import (
    Engine,
    Placement,
    build_engine,
    is_out_of_memory,
    peak_memory,
    warn_of_narrowing,
)
from sharpflow.simulator.grid.points import Points
from sharpflow.simulator.grid.spec import Grid
from sharpflow.simulator.host import Host, Lanes, Layout
from sharpflow.simulator.interrupt import Interrupted, Stop, stop_between_chunks
from sharpflow.simulator.premises import warn_of_scale
from sharpflow.simulator.processes import Processes
from sharpflow.simulator.provenance import launch_provenance
from sharpflow.simulator.store.arrays import PENDING, dataset, in_memory
from sharpflow.simulator.store.checkpoint import Checkpoint
from sharpflow.simulator.store.errors import storage_errors
from sharpflow.simulator.store.folder import RunFolder
from sharpflow.simulator.store.lock import announce, announced, launch_lock
from sharpflow.simulator.store.reading import require_values, verified_digest
from sharpflow.simulator.store.sink import Sink
from sharpflow.simulator.store.variables import seeds_per_chunk

if TYPE_CHECKING:
    import xarray


def run_in_memory(grid: Grid, placement: Placement, progress: bool | None) -> "xarray.Dataset":
    """Run a grid and keep its result in memory only; arguments as of ``simulate_grid``."""
    arrays = in_memory(grid.variables)
    sink = Sink(grid.axes, arrays, final_params=grid.final_params)
    costs = Costs(placement.devices)
    with progress_bar(int(grid.schedule.num_steps.sum()), progress, grid.title) as display:
        for number, points in enumerate(grid.batches):
            pending = grid.longest_first(points.batch.points)
            engine = build_engine(grid, points, pending, placement, display=display)
            costs.predict(engine.chunk)
            _run_batch(grid, number, engine, sink, placement, pending, Stop(), display)
    attributes = _launch(grid) | costs.memory | costs.time
    return dataset(arrays, grid.variables, attributes)


def run_in_folder(
    grid: Grid,
    run: RunFolder,
    processes: Processes,
    placement: Placement,
    *,
    resume: bool,
    progress: bool | None,
) -> None:
    """Run this process's share of a grid into a folder, from where it stands.

    Args:
      grid: all of it.
      run: the folder.
      processes: that share the grid.
      placement: devices, and what the caller says of the layout.
      resume, progress: as of ``simulate_grid``.

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
            _open(grid, run, processes, resume, placement.lanes)
        if _begun_by_problem(run, grid):
            grid = dataclasses.replace(grid, batches=grid.by_problem)
        unfinished = announced(run.path, processes.token)
        sink = Sink(
            grid.axes,
            run.open_arrays(),
            run,
            processes.index,
            unfinished,
            final_params=grid.final_params,
            final_state=grid.final_state,
            end_taus=grid.end_taus,
        )
        mine = [_shared(grid, points, unfinished, processes) for points in grid.batches]
        layouts = [_stored_layout(run, number) for number in range(len(grid.batches))]
        begun = [_begun(run, number, layout) for number, layout in enumerate(layouts)]
        total, done = _updates(grid, unfinished, mine, layouts, begun)
        costs = Costs(placement.devices, run if first else None)
        with costs, progress_bar(total, progress, grid.title, done=done) as display:
            for number, pending in enumerate(mine):
                if pending:
                    engine = _settled_engine(
                        grid, run, number, pending, placement, layouts[number], stop, display
                    )
                    costs.predict(engine.chunk)
                    _run_batch(
                        grid, number, engine, sink, placement, pending, stop, display, begun[number]
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
        warn_caller(
            f"the points of {run.path} went on {before} before, and go on {lanes} from here: "
            "what they compute from now on may round otherwise; provenance.json keeps it",
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
    left, before = set(unfinished), set()
    for number, points in enumerate(grid.batches):
        layout = _stored_layout(run, number)
        if (
            layout is not None
            and layout.conflicts_with(lanes)
            and not left.isdisjoint(points.batch.points)
        ):
            before.add(str(layout.lanes))
    return ", ".join(sorted(before))


def _settled_engine(
    grid: Grid,
    run: RunFolder,
    number: int,
    pending: Sequence[int],
    placement: Placement,
    stored: Layout | None,
    stop: Stop,
    display: Display,
) -> Engine:
    """The engine of a batch with the layout that counts for all processes.

    A batch that was begun keeps its layout, unless other lanes are asked for: then it is laid out
    anew but for its pieces, of which the checkpoints count rows.
    """
    points = grid.batches[number]

    def before_more() -> None:
        """To time and compile more may take minutes, and whoever asks to stop need not wait."""
        if stop.signal_number is not None:
            raise Interrupted("stopped before anything was simulated", stop.signal_number)

    build = partial(
        build_engine,
        grid,
        points,
        pending,
        placement,
        before_more=before_more,
        display=display,
    )
    if stored is not None and not stored.conflicts_with(placement.lanes):
        return build(stored=stored)
    pieces = None if stored is None else stored.pieces
    engine = build(pieces=pieces)
    before = None if stored is None else dataclasses.asdict(stored)
    mine = dataclasses.asdict(engine.layout)
    layout = Layout(**run.settle_layout(number, mine, before))
    if layout.gives_same_bits_as(engine.layout):
        return engine
    return build(stored=layout)


def _run_batch(
    grid: Grid,
    number: int,
    engine: Engine,
    sink: Sink,
    placement: Placement,
    pending: Sequence[int],
    stop: Stop,
    display: Display,
    begun: Checkpoint | None = None,
) -> None:
    """Run the points of a batch to their ends; fewer side by side where memory runs out."""
    begun = Checkpoint({}, {}) if begun is None else begun
    while True:
        points = grid.batches[number]
        host = Host(
            engine.chunk,
            engine.layout,
            points.starts,
            grid.schedule,
            sink,
            snapshot_every=grid.snapshot_every,
            batch=number,
        )
        try:
            _warn_of_scale(engine, points, pending[0])
            return host.run(pending, begun, stop, display.advance)
        except jax.errors.JaxRuntimeError as error:
            # The next attempt is made outside of this clause: within it the traceback would keep
            # the arrays of the failed one alive.
            if engine.layout.width == 1 or not is_out_of_memory(error):
                raise
        # Half, since nobody knows how much too much it was. Each halving costs a compilation, of
        # which there are at most ten or so.
        width = engine.layout.width // 2
        warn_of_narrowing(engine.layout.width, width)
        narrower = dataclasses.replace(engine.layout, width=width)
        # those that have ended stay; the others go on from the last checkpoint, or begin again
        statuses = sink.statuses()
        pending = [point for point in pending if statuses[point] == PENDING]
        if sink.run is not None:
            sink.run.replace_layout(number, dataclasses.asdict(narrower))
            begun = _begun(sink.run, number, narrower)
        del host  # and with it what its groups hold on the devices
        engine = build_engine(grid, points, pending, placement, stored=narrower, display=display)


def _warn_of_scale(engine: Engine, points: Points, point: int) -> None:
    """As of one trajectory; the problems of a batch have the same functions, and one is asked."""
    state, hyperparameters = points.state(point), points.hyperparameters(point)

    def as_lanes(tree: Any) -> Any:
        return stacked([tree] * engine.layout.width)

    program, problem = points.batch.program, points.problem(point)
    warn_of_scale(engine.chunk, program, problem, state, hyperparameters, as_lanes)


def _launch(grid: Grid) -> dict[str, Any]:
    """How this launch is made."""
    first = grid.batches[0]
    precision = first.batch.program.matmul_precision
    problems = [problem for points in grid.batches for problem in points.batch.problems]
    made = launch_provenance(first.example, problems) | {"matmul_precision": precision}
    return made if grid.origin is None else made | grid.origin.attributes


def _shared(
    grid: Grid, points: Points, unfinished: Sequence[int], processes: Processes
) -> list[int]:
    """The points that this process takes; those that share a chunk of the store together."""
    left = set(unfinished)
    together: dict[tuple, list[int]] = {}
    for point in grid.longest_first([p for p in points.batch.points if p in left]):
        # A chunk of the store is a file that one process replaces as a whole: two processes that
        # wrote to one would undo each other's points.
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
        warn_caller(f"skipped a damaged checkpoint: {what}")
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


class Costs:
    """The time that a launch takes, what the compiler foresees that a device holds, and the most.

    In a folder they are noted beside how the launch was made: what was predicted once a batch is
    compiled, so that a launch that is killed leaves it, and all of them when the launch ends, in
    whatever other way.

    Args:
      devices: of this process.
      run: where it is noted; None keeps it here.

    Attributes:
      predicted: bytes of the largest batch, as of ``CompiledChunk.memory_bytes``.
    """

    def __init__(self, devices: Sequence[jax.Device], run: RunFolder | None = None) -> None:
        self.predicted = 0
        self._devices, self._run = devices, run
        self._began = time.perf_counter()

    def predict(self, chunk: CompiledChunk) -> None:
        """Count a batch that is about to run."""
        self.predicted = max(self.predicted, chunk.memory_bytes)
        self._note(self.memory)

    @property
    def memory(self) -> dict[str, int]:
        """Both by their names; nothing measured where the devices do not tell it, as a CPU."""
        peak = peak_memory(self._devices)
        measured = {} if peak is None else {"peak_memory_bytes": peak}
        return {"predicted_memory_bytes": self.predicted} | measured

    @property
    def time(self) -> dict[str, float]:
        """Seconds by the clock since the launch began, compiling among them."""
        return {"seconds": round(time.perf_counter() - self._began, 3)}

    def __enter__(self) -> None:
        """Nothing is known before a batch is compiled."""

    def __exit__(self, *error: object) -> None:
        if self.predicted:  # a launch that found nothing to do measured nothing
            self._note(self.memory | self.time)

    def _note(self, facts: dict[str, Any]) -> None:
        if self._run is not None:
            self._run.add_to_launch(facts)

"""The prediction of every point of a grid, beside what was measured."""

import ast
import concurrent.futures
import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from sharpflow.models import Problem
from sharpflow.models.arguments import COUNT, FLAG, PATH, checked, optional, shown
from sharpflow.models.compiled_function import special_values_allowed
from sharpflow.models.leaves import x64_enabled
from sharpflow.models.progress import progress_bar
from sharpflow.simulator.axes import keywords_of
from sharpflow.simulator.grid.kept_predictions import KeptPredictions, predictions_dataset
from sharpflow.simulator.grid.point import GRID
from sharpflow.simulator.grid.point_prediction import (
    OPTIONS,
    PointPrediction,
    PredictionOptions,
    predict_point,
)
from sharpflow.simulator.grid.points import MakeProblem
from sharpflow.simulator.grid.prediction_quantities import NONE
from sharpflow.simulator.interrupt import Interrupted, Stop, stop_between_chunks
from sharpflow.simulator.prediction import PredictionKind
from sharpflow.simulator.program import MakeOptimizer
from sharpflow.simulator.rules import gdwd
from sharpflow.simulator.rules.edge_rule import MAKE_OPTIMIZER
from sharpflow.simulator.store.arrays import PENDING
from sharpflow.simulator.store.folder import RunFolder
from sharpflow.simulator.store.predictions import with_predictions
from sharpflow.theory.linearization import Method

if TYPE_CHECKING:
    import xarray

# Between two writings of the file, which holds all points: with a tenth of it a grid of thousands
# of quick points would do little else, and a kill costs no more than these seconds of work.
_WRITE_SECONDS = 5.0
# From a look at the signals to the next.
_GLANCE_SECONDS = 0.2


@special_values_allowed()
@checked(
    grid=GRID,
    optimizer=MAKE_OPTIMIZER,
    out=optional(PATH),
    workers=optional(COUNT),
    progress=optional(FLAG),
    **OPTIONS,
)
def predict_grid(
    problem: Problem | MakeProblem,
    grid: "xarray.Dataset",
    *,
    optimizer: MakeOptimizer = gdwd,
    out: str | os.PathLike[str] | None = None,
    kind: PredictionKind | None = None,
    arrival_distance: float = 1e-3,
    num_outputs: int = 64,
    max_edge: int = 8,
    rtol: float = 1e-3,
    max_steps: int = 10_000,
    max_seconds: float | None = None,
    method: Method = "auto",
    workers: int | None = None,
    progress: bool | None = None,
) -> "xarray.Dataset":
    """Predict every point of a grid, each as ``predict`` does, and set it beside what was measured.

    Points are independent: one that cannot be predicted says why, and costs the others nothing.
    They share their compiled programs, because a problem is an argument of those.

    Args:
      problem: as of ``simulate_grid``: what was trained, or the function of axes that makes it.
      grid: what ``simulate_grid`` or ``open_run`` returned, with snapshots and the column
        ``threshold``.
      optimizer: of the grid.
      out: folder of the run, to keep the predictions beside it; ``open_run`` reads them with the
        run. Points that are predicted there already, as far as the run goes, are not predicted
        again; those of a run that has gone on meanwhile are.
      kind, arrival_distance, num_outputs, max_edge, rtol, max_steps, method: of every prediction,
        as in ``predict``.
      max_seconds: of every prediction; None, no limit, by default.
      workers: points that are predicted at the same time, each by a thread; by default one for
        each core that the process may use, on a CPU, and one for each device elsewhere.
      progress: a bar on a terminal, lines elsewhere; by default on a terminal only.

    Returns:
      The grid with the columns of its predictions, over its axes and, along each prediction, the
      dimension ``output``, NaN where there is none: ``tracking_error``, ``predicted_threshold``,
      ``predicted_sharpness``, ``predicted_loss``, ``predicted_`` and the name of each metric, and
      so on, at ``prediction_tau`` and ``prediction_step``; ``final_relative_error``,
      ``entry_step`` and other numbers of ``compare``; ``prediction_kind``, ``prediction_status``
      and ``prediction_reason``. docs/quantities.md defines each.

    Raises:
      ValueError: an argument that cannot be used, a grid without snapshots or thresholds, or a
        folder with predictions that were made with other options.
      Interrupted: a signal asked to stop; with ``out`` it goes on when it is called again.
    """
    problem_of = _problem_of(problem, grid)
    _require_snapshots(grid)
    axes = [str(name) for name in grid["status"].dims]
    shape = grid["status"].shape
    options = PredictionOptions(
        kind=kind,
        arrival_distance=arrival_distance,
        num_outputs=num_outputs,
        max_edge=max_edge,
        rtol=rtol,
        max_steps=max_steps,
        max_seconds=max_seconds,
        method=method,
    )
    store = None if out is None else KeptPredictions(RunFolder.at(out), grid, options)
    known = {} if store is None else store.known
    statuses = grid["status"].values.reshape(-1)
    points = [
        int(point) for point in np.flatnonzero(statuses != PENDING) if int(point) not in known
    ]
    made: dict[int, PointPrediction] = dict(known)

    def predicted(point: int) -> PointPrediction:
        places = dict(zip(axes, np.unravel_index(point, shape), strict=True))
        # a text from a folder is no scalar of numpy and has no item()
        labels = {name: grid[name].values.tolist()[place] for name, place in places.items()}
        one = predict_point(problem_of(labels), grid, optimizer, labels, options)
        # the points of all flows together would take more memory than a large network leaves
        return dataclasses.replace(one, trajectory=None, flow=None, comparison=None)

    def keep() -> None:
        if store is not None:
            store.write(predictions_dataset(made, grid))

    with (
        stop_between_chunks() as stop,
        progress_bar(len(points), progress, "predicting", whole=f"{len(points)} points") as display,
    ):
        written = time.monotonic()
        for point, result in _in_threads(predicted, points, _num_workers(workers), stop):
            made[point] = result
            display.advance(1, f", {result.kind.replace('_', ' ')}")
            if time.monotonic() - written > _WRITE_SECONDS:
                keep()
                written = time.monotonic()
    if points:
        keep()
    if stop.signal_number is not None:
        raise Interrupted("stopped between two points", stop.signal_number)
    return with_predictions(grid, predictions_dataset(made, grid))


def _problem_of(
    problem: Problem | MakeProblem, grid: "xarray.Dataset"
) -> Callable[[Mapping[str, Any]], Problem]:
    """The problem of a point from its labels; made once for the values that it takes."""
    if isinstance(problem, Problem):
        return lambda labels: problem
    if not callable(problem):
        raise ValueError(
            "problem must be a Problem or the function of axes that makes it, as of simulate_grid, "
            f"got {type(problem).__name__}"
        )
    names = keywords_of(problem, [str(name) for name in grid["status"].dims])
    made: dict[tuple, Problem] = {}

    def of(labels: Mapping[str, Any]) -> Problem:
        values = tuple(_value(labels[name]) for name in names)
        if values not in made:
            one = problem(**dict(zip(names, values, strict=True)))
            if not isinstance(one, Problem):
                raise ValueError(f"problem(...) returned {type(one).__name__}, not a Problem")
            made[values] = one
        return made[values]

    first = {str(name): grid[name].values.tolist()[0] for name in grid["status"].dims}
    try:
        of(first)
    except TypeError as error:
        raise ValueError(
            f"problem must be a function of the axes {names or 'of the grid'} that needs nothing "
            f"else, got {shown(problem)}: {error}"
        ) from error
    return of


def _value(label: Any) -> Any:
    """What an axis holds at a point: labels of tuples are their texts."""
    if isinstance(label, str) and label.startswith("("):
        with contextlib.suppress(ValueError, SyntaxError):
            return ast.literal_eval(label)
    return label


def _require_snapshots(grid: "xarray.Dataset") -> None:
    if "snapshot" not in grid.dims:
        raise ValueError(
            "grid has no snapshots to compare a prediction with: simulate it with predict=True or "
            "snapshot_every=..."
        )
    if "threshold" not in grid:
        raise ValueError("grid has no column 'threshold': record it")


def _num_workers(asked: int | None) -> int:
    if asked is not None:
        return asked
    if jax.default_backend() != "cpu":
        return len(jax.local_devices())
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_threads(
    work: Callable[[int], PointPrediction], points: Sequence[int], workers: int, stop: Stop
) -> Iterator[tuple[int, PointPrediction]]:
    """Results as they come; after a signal those of the points that had begun.

    A point waits mostly for compiled code, in which Python's lock is free, so threads keep all
    cores busy, and unlike processes they share what is compiled.
    """
    enabled, devices = x64_enabled(), jax.local_devices()

    def on_device(turn: int, point: int) -> PointPrediction:
        # jax's settings of a context hold in one thread only
        placed: Any = contextlib.nullcontext()
        if len(devices) > 1 and jax.default_backend() != "cpu":
            placed = jax.default_device(devices[turn % len(devices)])
        with jax.enable_x64(enabled), placed:
            return work(point)

    waiting = list(enumerate(points))[::-1]
    # One alone until a point has a prediction: threads that begin together would all compile the
    # same programs.
    at_once = 1
    running: dict[concurrent.futures.Future, int] = {}
    pool = concurrent.futures.ThreadPoolExecutor(workers)
    try:
        while running or (waiting and stop.signal_number is None):
            while waiting and len(running) < at_once and stop.signal_number is None:
                turn, point = waiting.pop()
                running[pool.submit(on_device, turn, point)] = point
            done, _ = concurrent.futures.wait(
                running, _GLANCE_SECONDS, concurrent.futures.FIRST_COMPLETED
            )
            for future in done:
                point, result = running.pop(future), future.result()
                at_once = workers if result.kind != NONE else at_once
                yield point, result
    finally:
        pool.shutdown(wait=False, cancel_futures=True)

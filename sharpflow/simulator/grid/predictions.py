"""The prediction of every point of a grid, beside what was measured."""

import ast
import concurrent.futures
import contextlib
import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import jax
import numpy as np
from jaxtyping import Array

from sharpflow.models import Params, Problem
from sharpflow.models.arguments import (
    COUNT,
    FLAG,
    PATH,
    POSITIVE,
    Kind,
    checked,
    choice,
    nearest,
    optional,
    shown,
)
from sharpflow.models.compiled_function import special_values_allowed
from sharpflow.models.leaves import x64_enabled
from sharpflow.models.precision import compiled
from sharpflow.models.progress import progress_bar, told
from sharpflow.simulator.axes import keywords_of
from sharpflow.simulator.comparison import compare
from sharpflow.simulator.comparison_quantities import COMPARISON_NUMBERS
from sharpflow.simulator.grid.point import GRID, grid_point
from sharpflow.simulator.grid.points import MakeProblem
from sharpflow.simulator.interrupt import Interrupted, Stop, stop_between_chunks
from sharpflow.simulator.prediction import KINDS, PredictionKind, predict_telling
from sharpflow.simulator.program import MakeOptimizer
from sharpflow.simulator.quantities import described
from sharpflow.simulator.quantity import Quantity, by_name
from sharpflow.simulator.rules import gdwd
from sharpflow.simulator.rules.edge_rule import MAKE_OPTIMIZER
from sharpflow.simulator.store.arrays import PENDING
from sharpflow.simulator.store.folder import RunFolder
from sharpflow.simulator.store.predictions import (
    predictions_path,
    read_predictions,
    with_predictions,
    write_predictions,
)
from sharpflow.simulator.trajectory import Trajectory
from sharpflow.theory import CentralFlowSolution, FlowSolution, Status
from sharpflow.theory.linearization import METHODS, Method
from sharpflow.theory.pieces import LIMIT
from sharpflow.theory.status import outcome_in_words

if TYPE_CHECKING:
    import xarray

OUTPUT = "output"  # the dimension of the output times of a prediction
NONE = "none"  # the kind of prediction of a point that has none
# Of a comparison, columns that a grid has itself.
_MEASURED = ("threshold", "loss_mean", "eigenvalues", "predicted_eigenvalues", "tau", "step")
_NUMBERS = (
    "entry_step",
    "predicted_entry_step",
    "final_relative_error",
    "mean_edge_ratio",
    "mean_loss_ratio",
    "mean_angle_ratio",
)
# Of the largest trace of M along a prediction: an eigenvalue of M below this share of it holds
# nothing. Before the entry M is rounding alone, all of whose eigenvalues are alike.
_HOLDING = 1e-4
# Between two writings of the file, which holds all points: with a tenth of it a grid of thousands
# of quick points would do little else, and a kill costs no more than these seconds of work.
_WRITE_SECONDS = 5.0
# From a look at the signals to the next.
_GLANCE_SECONDS = 0.2

PREDICTION = by_name(
    Quantity(
        "prediction_kind",
        "kind of prediction",
        'What predicts a point: "sharpness_flow", the flow on Γ from its arrival there, '
        '"central_flow", that of the average from its first snapshot near the edge or below it, '
        'or "none".',
        unit="1",
    ),
    Quantity(
        "prediction_status",
        "status of the prediction",
        "How the integration ended, as the number of a Status: 0 is SUCCESS; −1 where there is no "
        "prediction.",
        unit="1",
    ),
    Quantity(
        "prediction_reason",
        "why there is no prediction, or no flow on Γ",
        "Why a point has no prediction, why its prediction ends early, or why it is a central flow "
        "that nobody asked for, and what would help; empty where there is nothing to say.",
        unit="1",
    ),
    Quantity(
        "prediction_steps",
        "steps that are predicted",
        "The updates that the point had made when it was predicted.",
        unit="step",
    ),
    Quantity(
        "prediction_tau",
        "flow time τ of a prediction",
        "Flow time of each output of a prediction; NaN after its last.",
        unit="1",
        dims=(OUTPUT,),
    ),
    Quantity(
        "prediction_step",
        "step of a prediction",
        "The step of the snapshot beside which each output of a prediction stands.",
        unit="step",
        dims=(OUTPUT,),
    ),
    Quantity(
        "predicted_norm_squared",
        "predicted ‖w‖²",
        "‖w‖² of the prediction; of a flow on Γ it follows from the threshold, "
        "and is known of GD+WD alone.",
        unit="1",
        dims=(OUTPUT,),
        scale="log",
    ),
    Quantity(
        "predicted_edge_trace",
        "predicted trace of the oscillation, tr M",
        "The trace of M, the covariance of the predicted oscillation over ηλ; of a central flow "
        "tr C/(ηλ), of the directions where the loss is scale-invariant.",
        unit="1",
        dims=(OUTPUT,),
    ),
    Quantity(
        "predicted_edge_dimension",
        "predicted number of eigenvalues at the edge",
        "How many eigenvalues the predicted oscillation holds at the edge.",
        unit="1",
        dims=(OUTPUT,),
    ),
)


class PredictionOptions(TypedDict, total=False):
    """Keywords of ``predict`` that hold for every point of a grid."""

    kind: PredictionKind | None
    arrival_distance: float
    num_outputs: int
    max_edge: int
    rtol: float
    max_steps: int
    max_seconds: float | None
    method: Method


_OPTIONS: dict[str, Kind] = {
    "kind": optional(choice(KINDS)),
    "arrival_distance": POSITIVE,
    "num_outputs": COUNT,
    "max_edge": COUNT,
    "rtol": POSITIVE,
    "max_steps": COUNT,
    "max_seconds": LIMIT,
    "method": choice(METHODS),
}


def validated_options(options: Mapping[str, Any]) -> PredictionOptions:
    """Refuse options that ``predict_grid`` would refuse, before the grid is simulated.

    Raises:
      ValueError: an option that is none, or a value of one that is not allowed.
    """
    for name, value in options.items():
        if name not in _OPTIONS:
            raise ValueError(
                f"predict has no option {name!r}; it has {', '.join(_OPTIONS)}"
                f"{nearest(name, tuple(_OPTIONS))}"
            )
        try:
            _OPTIONS[name].require(name, value)
        except ValueError as error:
            raise ValueError(f"predict: {error}") from error
    return PredictionOptions(**options)  # type: ignore[typeddict-item]


@dataclasses.dataclass(frozen=True)
class PointPrediction:
    """A point beside its prediction.

    Attributes:
      kind: one of ``KINDS``, or ``NONE``.
      status: of the integration; −1 where there is none.
      reason: why there is no prediction, or none to the end, or why it is a central flow; empty
        where there is nothing to say.
      steps: updates that the point had made.
      columns: by name, shapes (T,).
      numbers: by name.
      quantities: attributes of the columns, by name.
      trajectory, flow, comparison: what they come from; None where there is no prediction.
    """

    kind: str
    status: int
    reason: str
    steps: int
    columns: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    numbers: Mapping[str, float] = dataclasses.field(default_factory=dict)
    quantities: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    trajectory: Trajectory | None = None
    flow: FlowSolution | CentralFlowSolution | None = None
    comparison: "xarray.Dataset | None" = None


@special_values_allowed()
@checked(
    grid=GRID,
    optimizer=MAKE_OPTIMIZER,
    out=optional(PATH),
    workers=optional(COUNT),
    progress=optional(FLAG),
    **_OPTIONS,
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
    store = None if out is None else _Store(RunFolder.at(out), grid, options)
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
            store.write(_dataset(made, grid))

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
    return with_predictions(grid, _dataset(made, grid))


def predict_point(
    problem: Problem,
    grid: "xarray.Dataset",
    optimizer: MakeOptimizer,
    labels: Mapping[str, Any],
    options: PredictionOptions,
    *,
    progress: bool | None = False,
) -> PointPrediction:
    """The prediction of a point, or why there is none.

    Args:
      problem: what was trained at this point.
      grid, optimizer, options: as of ``predict_grid``.
      labels: of the point along every axis.
      progress: as of ``predict``; where none is shown, nothing is told before the end.
    """
    steps = 0

    def tell(reason: str) -> None:
        # of the many points of a grid the column of reasons tells, and no warnings
        told(f"the central flow is taken, because {reason}", progress, "prediction")

    try:
        trajectory = grid_point(grid, problem, optimizer=optimizer, **labels)
        steps = trajectory.final_step
        flow = predict_telling(problem, trajectory, tell, throw=False, progress=progress, **options)
        comparison = compare(trajectory, flow, problem, progress=progress)
    except (ValueError, RuntimeError) as error:
        return PointPrediction(NONE, -1, " ".join(str(error).split()), steps)
    kept = {
        str(name): values
        for name, values in comparison.data_vars.items()
        if name not in _MEASURED and values.dims == ("tau",)
    }
    columns = {name: values.values for name, values in kept.items()}
    columns |= {
        "prediction_tau": comparison["tau"].values,
        "prediction_step": comparison["step"].values,
    }
    compared = np.isin(np.asarray(flow.tau), comparison["tau"].values)
    columns |= {
        name: values[compared] for name, values in _along(problem, trajectory, flow).items()
    }
    numbers = {name: float(comparison.attrs[name]) for name in _NUMBERS if name in comparison.attrs}
    status = Status(int(flow.status))
    if isinstance(flow, CentralFlowSolution):
        kind, known, why = KINDS[1], flow.loss, str(flow.reason)
    else:
        kind, known, why = KINDS[0], flow.threshold, ""
    early = "" if status == Status.SUCCESS else outcome_in_words(status, flow.tau, known)
    return PointPrediction(
        kind=kind,
        status=int(status),
        reason="; ".join(filter(None, (early, why))),
        steps=steps,
        columns=columns,
        numbers=numbers,
        quantities={name: dict(values.attrs) for name, values in kept.items()}
        | {
            f"predicted_{name}": {
                "long_name": f"predicted {name.replace('_', ' ')}",
                "units": "1",
                "definition": f"The metric {name!r} of the problem along the prediction: of a flow "
                "on Γ at ζ(τ), where the oscillation changes its mean by less than the flow is "
                "off; of a central flow its mean over the oscillation.",
            }
            for name in problem.metrics
        },
        trajectory=trajectory,
        flow=flow,
        comparison=comparison,
    )


def _along(
    problem: Problem, trajectory: Trajectory, flow: FlowSolution | CentralFlowSolution
) -> dict[str, np.ndarray]:
    """Norm, oscillation and metrics at every output, shapes (T,)."""
    rate = trajectory.intrinsic_rate
    if isinstance(flow, CentralFlowSolution):
        norm_squared = np.asarray(flow.norm_squared)
        covariance = np.asarray(flow.covariance) / rate
        if trajectory.on_sphere:
            covariance = covariance / norm_squared[:, None, None]
        metrics = {name: flow.mean_of(metric) for name, metric in problem.metrics.items()}
    else:
        covariance = np.asarray(flow.edge_covariance)
        eta = trajectory.attributes.get("learning_rate", np.nan)
        norm_squared = np.full(len(covariance), np.nan)
        if trajectory.on_sphere and trajectory.response == 2.0 and rate < 1.0:
            # η̃ = 2/λ* of GD+WD
            norm_squared = 0.5 * float(eta) * np.asarray(flow.threshold) / (1.0 - rate)
        metrics = {name: metric_along(problem, flow.theta, name=name) for name in problem.metrics}
    held = np.linalg.eigvalsh(np.where(np.isfinite(covariance), covariance, 0.0))
    trace = np.trace(covariance, axis1=1, axis2=2)
    at_edge = held > _HOLDING * max(float(np.nanmax(trace, initial=0.0)), 1e-300)
    return {
        "predicted_norm_squared": norm_squared,
        "predicted_edge_trace": trace,
        "predicted_edge_dimension": np.where(np.isfinite(trace), at_edge.sum(axis=1), np.nan),
    } | {f"predicted_{name}": np.asarray(values) for name, values in metrics.items()}


@compiled(static_argnames=("name",))
def metric_along(problem: Problem, theta: Params, *, name: str) -> Array:
    """A metric at every output of a flow, one after the other: test sets may be large.

    Args:
      problem: whose metric it is.
      theta: params with a leading axis (T, ...).
      name: of the metric.

    Returns:
      Shape (T,).
    """
    return jax.lax.map(problem.metrics[name], theta)


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


def _dataset(made: Mapping[int, PointPrediction], grid: "xarray.Dataset") -> "xarray.Dataset":
    """The predictions of points as arrays over the axes of their grid."""
    import xarray

    axes = [str(name) for name in grid["status"].dims]
    shape = grid["status"].shape
    count = int(np.prod(shape))
    length = max((len(one.columns["prediction_tau"]) for one in made.values() if one.columns),
                 default=0)  # fmt: skip
    names = sorted({name for one in made.values() for name in one.columns})
    columns = {name: np.full((count, length), np.nan) for name in names}
    numbers = {name: np.full(count, np.nan) for name in _NUMBERS}
    kinds = np.full(count, NONE, dtype=object)
    reasons = np.full(count, "", dtype=object)
    status, steps = np.full(count, -1, np.int64), np.zeros(count, np.int64)
    quantities: dict[str, Mapping[str, Any]] = {}
    for point, one in made.items():
        kinds[point], reasons[point] = one.kind, one.reason
        status[point], steps[point] = one.status, one.steps
        for name, values in one.columns.items():
            columns[name][point, : len(values)] = values
        for name, value in one.numbers.items():
            numbers[name][point] = value
        quantities = {**one.quantities, **quantities}
    over = {
        "prediction_kind": kinds.astype(str),
        "prediction_reason": reasons.astype(str),
        "prediction_status": status,
        "prediction_steps": steps,
    } | numbers
    variables: dict[str, Any] = {
        name: (axes, values.reshape(shape)) for name, values in over.items()
    }
    variables |= {
        name: ((*axes, OUTPUT), values.reshape(*shape, length)) for name, values in columns.items()
    }
    dataset = xarray.Dataset(variables, {name: grid[name] for name in axes})
    for name, attributes in quantities.items():
        dataset[name].attrs = dict(attributes)
    own = {name: PREDICTION[name] for name in PREDICTION if name in dataset.variables}
    return described(dataset, own | {name: COMPARISON_NUMBERS[name] for name in _NUMBERS})


class _Store:
    """The predictions in the folder of a run.

    Args:
      run: the folder.
      grid: its dataset.
      asked: the options that are asked for.

    Attributes:
      known: the points that are predicted there as far as the run goes now.
    """

    def __init__(self, run: RunFolder, grid: "xarray.Dataset", asked: PredictionOptions) -> None:
        self._run, self._asked = run, json.dumps(asked, sort_keys=True)
        self.known: dict[int, PointPrediction] = {}
        stored = read_predictions(run)
        if stored is None:
            return
        before = str(stored.attrs.get("options", "{}"))
        if before != self._asked:
            raise ValueError(
                f"the options differ from those of the predictions in {run.path}: those have "
                f"{before}, asked for is {self._asked}; give the same, or remove "
                f"{predictions_path(run).name} there"
            )
        self.known = _points(stored, grid)

    def write(self, dataset: "xarray.Dataset") -> None:
        """Replace the file by all that is known now."""
        write_predictions(self._run, dataset.assign_attrs(options=self._asked))


def _points(stored: "xarray.Dataset", grid: "xarray.Dataset") -> dict[int, PointPrediction]:
    """The points of a file that are predicted as far as the run goes now.

    Raises:
      ValueError: the file is of another grid.
    """
    axes = grid["status"].dims
    if stored["prediction_steps"].shape != grid["status"].shape:
        raise ValueError(
            f"the predictions are of a grid of {stored['prediction_steps'].shape} points, the run "
            f"has {grid['status'].shape}: remove them"
        )
    final = grid["final_step"].values.reshape(-1)
    flat = {
        str(name): values.values.reshape(len(final), *values.shape[len(axes) :])
        for name, values in stored.data_vars.items()
    }
    lengths = np.isfinite(flat.get("prediction_tau", np.full((len(final), 0), np.nan))).sum(axis=1)
    columns = [str(name) for name in stored.data_vars if OUTPUT in stored[name].dims]
    # 0 where a point was not predicted, or could not: then it is tried again, which is quick
    done = np.flatnonzero((flat["prediction_steps"] > 0) & (flat["prediction_steps"] == final))
    return {
        int(point): PointPrediction(
            kind=str(flat["prediction_kind"][point]),
            status=int(flat["prediction_status"][point]),
            reason=str(flat["prediction_reason"][point]),
            steps=int(flat["prediction_steps"][point]),
            columns={name: flat[name][point, : lengths[point]] for name in columns}
            if lengths[point]
            else {},
            numbers={name: float(flat[name][point]) for name in _NUMBERS if name in flat},
            quantities={
                name: dict(stored[name].attrs) for name in columns if name not in PREDICTION
            },
        )
        for point in done
    }

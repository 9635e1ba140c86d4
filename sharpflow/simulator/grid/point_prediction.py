"""A point of a grid beside its prediction."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

import jax
import numpy as np
from jaxtyping import Array

from sharpflow.models import Params, Problem
from sharpflow.models.arguments import COUNT, POSITIVE, Kind, choice, nearest, optional
from sharpflow.models.precision import compiled
from sharpflow.models.progress import told
from sharpflow.simulator.comparison import compare
from sharpflow.simulator.grid.point import grid_point
from sharpflow.simulator.grid.prediction_quantities import NONE, NUMBERS
from sharpflow.simulator.prediction import KINDS, PredictionKind, predict_telling
from sharpflow.simulator.program import MakeOptimizer
from sharpflow.simulator.trajectory import Trajectory
from sharpflow.theory import CentralFlowSolution, FlowSolution, Status
from sharpflow.theory.linearization import METHODS, Method
from sharpflow.theory.pieces import LIMIT
from sharpflow.theory.status import outcome_in_words

if TYPE_CHECKING:
    import xarray

# Of a comparison, columns that a grid has itself.
_MEASURED = ("threshold", "loss_mean", "eigenvalues", "predicted_eigenvalues", "tau", "step")
# Of the largest trace of M along a prediction: an eigenvalue of M below this share of it holds
# nothing. Before the entry M is rounding alone, all of whose eigenvalues are alike.
_HOLDING = 1e-4


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


OPTIONS: dict[str, Kind] = {
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
        if name not in OPTIONS:
            raise ValueError(
                f"predict has no option {name!r}; it has {', '.join(OPTIONS)}"
                f"{nearest(name, tuple(OPTIONS))}"
            )
        try:
            OPTIONS[name].require(name, value)
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
    numbers = {name: float(comparison.attrs[name]) for name in NUMBERS if name in comparison.attrs}
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

"""The flow of some points of a run, from the snapshots that it kept."""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from sharpflow.experiments.remade import Remade
from sharpflow.models.problem import Params
from sharpflow.models.progress import told
from sharpflow.simulator import Trajectory
from sharpflow.simulator.grid.point_prediction import predict_point
from sharpflow.theory import CentralFlowSolution, FlowSolution, Status

if TYPE_CHECKING:
    import xarray

MOST = 12  # points that are predicted where nobody says how many
RTOL = 3e-3  # of the flow, far below its distance from gradient descent; as in the demo


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A point set against its flow.

    Attributes:
      kind: of the flow, one of ``KINDS``.
      reason: why it ends early, or why it is a central flow; empty where there is nothing to say.
      reaches_end: whether it was integrated to the end of the point.
      comparison: of the point and the flow, with the columns and numbers that are known.
      metrics: of the problem, along the flow at the times of the comparison, shapes (T,).
      trajectory, flow: of the point; None where the folder of the run keeps their comparison alone.
    """

    kind: str
    reason: str
    reaches_end: bool
    comparison: "xarray.Dataset"
    metrics: dict[str, np.ndarray]
    trajectory: Trajectory | None = None
    flow: FlowSolution | CentralFlowSolution | None = None

    @property
    def points(self) -> Params | None:
        """The points of the flow, with a leading axis for its outputs."""
        if self.flow is None:
            return None
        return self.flow.theta if isinstance(self.flow, FlowSolution) else self.flow.params


def chosen(usable: np.ndarray, most: int | None) -> list[int]:
    """The points to predict: of each combination of the axes but the seed the first seed first.

    Args:
      usable: which points can be predicted, shape (seeds, ...).
      most: how many; by default one of each combination, ``MOST`` at most.

    Returns:
      Numbers of points, in the order of the flattened ``usable``.
    """
    usable = usable.reshape(len(usable), -1)
    rank = np.where(usable, np.cumsum(usable, axis=0) - 1, -1)  # among the usable seeds
    limit = min(MOST, int((rank == 0).sum())) if most is None else most
    ordered = [
        int(point)
        for turn in range(int(rank.max(initial=-1)) + 1)
        for point in np.flatnonzero(rank.reshape(-1) == turn)
    ]
    return sorted(ordered[:limit])


def predict_points(
    remade: Remade,
    dataset: "xarray.Dataset",
    points: Mapping[int, str],
    progress: bool | None,
) -> tuple[dict[int, Prediction], dict[int, str]]:
    """Integrate the flow of points, and set each beside it.

    Args:
      remade: what was simulated.
      dataset: of the run, with snapshots.
      points: their numbers, with what each is called.
      progress: whether a line tells of each point and a bar, or lines, of its flow; by default on a
        terminal.

    Returns:
      The predictions, and of the points that have none the reason.
    """
    predictions: dict[int, Prediction] = {}
    reasons: dict[int, str] = {}
    for count, (point, title) in enumerate(points.items(), start=1):
        told(f"{count} of {len(points)} points, {title}", progress, "predicting")
        try:
            predictions[point] = _prediction(remade, dataset, point, progress)
        except (ValueError, RuntimeError) as error:
            reasons[point] = " ".join(str(error).split())
    return predictions, reasons


def _prediction(
    remade: Remade, dataset: "xarray.Dataset", point: int, progress: bool | None
) -> Prediction:
    at = remade.axes.at(point)
    problem = remade.make(at)
    places = dict(zip(remade.axes.names, remade.axes.index(point), strict=True))
    labels = {name: dataset[name].values[place].item() for name, place in places.items()}
    made = predict_point(
        problem, dataset, remade.optimizer, labels, {"rtol": RTOL}, progress=progress
    )
    if made.comparison is None:
        raise ValueError(made.reason)
    metrics = {name: made.columns[f"predicted_{name}"] for name in problem.metrics}
    return Prediction(
        kind=made.kind,
        reason=made.reason,
        reaches_end=made.status == Status.SUCCESS,
        comparison=made.comparison,
        metrics=metrics,
        trajectory=made.trajectory,
        flow=made.flow,
    )

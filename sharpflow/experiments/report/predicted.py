"""The flow of some points of a run, from the snapshots that it kept."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sharpflow.experiments.remade import Remade
from sharpflow.models.problem import Params
from sharpflow.simulator import Trajectory
from sharpflow.simulator.grid.predictions import predict_point
from sharpflow.theory import CentralFlowSolution, FlowSolution

if TYPE_CHECKING:
    import xarray

MOST = 12  # points that are predicted where nobody says how many
RTOL = 3e-3  # of the flow, far below its distance from gradient descent; as in the demo


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A point set against its flow.

    Attributes:
      trajectory: of the point.
      flow: its prediction.
      comparison: of the two.
      metrics: of the problem, along the flow at the times of the comparison, shapes (T,).
    """

    trajectory: Trajectory
    flow: FlowSolution | CentralFlowSolution
    comparison: "xarray.Dataset"
    metrics: dict[str, np.ndarray]

    @property
    def points(self) -> Params:
        """The points of the flow, with a leading axis for its outputs."""
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
    remade: Remade, dataset: "xarray.Dataset", points: Sequence[int], progress: bool | None
) -> tuple[dict[int, Prediction], dict[int, str]]:
    """Integrate the flow of points, and set each beside it.

    Args:
      remade: what was simulated.
      dataset: of the run, with snapshots.
      points: their numbers.
      progress: whether to show a bar; by default on a terminal.

    Returns:
      The predictions, and of the points that have none the reason.
    """
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    shown = console.is_terminal if progress is None else progress
    predictions: dict[int, Prediction] = {}
    reasons: dict[int, str] = {}
    bar = track(points, "predicting", console=console, transient=True, disable=not shown)
    for point in bar:
        try:
            predictions[point] = _prediction(remade, dataset, point)
        except (ValueError, RuntimeError) as error:
            reasons[point] = " ".join(str(error).split())
    return predictions, reasons


def _prediction(remade: Remade, dataset: "xarray.Dataset", point: int) -> Prediction:
    at = remade.axes.at(point)
    problem = remade.make(at)
    places = dict(zip(remade.axes.names, remade.axes.index(point), strict=True))
    labels = {name: dataset[name].values[place].item() for name, place in places.items()}
    # Twelve points may take as long as one of the grid: the bar over the points is what is shown.
    made = predict_point(problem, dataset, remade.optimizer, labels, {"rtol": RTOL})
    if made.trajectory is None or made.flow is None or made.comparison is None:
        raise ValueError(made.reason)
    metrics = {name: made.columns[f"predicted_{name}"] for name in problem.metrics}
    return Prediction(made.trajectory, made.flow, made.comparison, metrics)

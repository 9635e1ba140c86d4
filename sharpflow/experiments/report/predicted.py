"""The flow of some points of a run, from the snapshots that it kept."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Array

from sharpflow.experiments.config import load
from sharpflow.experiments.config.trust import beyond_presets
from sharpflow.experiments.run import own_config
from sharpflow.models.problem import Params, Problem
from sharpflow.simulator import Trajectory, compare, grid_point, predict
from sharpflow.simulator.axes import Axes, keywords_of
from sharpflow.simulator.rules import gdwd
from sharpflow.simulator.store.folder import CONFIG_FILE, RunFolder
from sharpflow.theory.flow import FlowSolution

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
    flow: FlowSolution
    comparison: "xarray.Dataset"
    metrics: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Remade:
    """What a run simulated, made again from its config.

    Attributes:
      axes: with the values of the config, tuples among them.
      make: the problem of a point, from the values of the axes.
      optimizer: as ``simulate_grid`` takes it.
    """

    axes: Axes
    make: Callable[[dict[str, Any]], Problem]
    optimizer: Callable[..., Any]


def remake(run: RunFolder, *, trust: bool) -> Remade:
    """The problem and the optimizer of a run.

    The config names functions, and a folder may come from anybody. Those of our presets are
    called; others are not even imported, unless the reader says so. Then they are looked for in
    the working directory and among what is installed, not beside the run.

    Args:
      run: whose config is read.
      trust: whether functions that are not of our presets may be imported and called.

    Raises:
      ValueError: the run has no config of its own, a function is not trusted or missing, or one
        fails.
    """
    if own_config(run) is None:
        raise ValueError(
            f"the run has no {CONFIG_FILE}, which only the command line writes: its problem is "
            "not known"
        )
    config = load(str(run.path / CONFIG_FILE), check_functions=False)
    strange = beyond_presets(config)
    if strange and not trust:
        raise ValueError(
            f"the config has {', '.join(strange)}, which is not of a preset of sharpflow. It was "
            "left alone, since a folder may come from anybody; --trust (trust=True) imports and "
            "calls what the config names"
        )
    config = dataclasses.replace(config, folder=None)
    arguments = config.build()
    given = arguments["problem"]
    axes = Axes(
        {
            "seed": config.seed,
            "learning_rate": config.learning_rate,
            "weight_decay": config.weight_decay,
            **config.axes,
        }
    )
    made: dict[tuple, Problem] = {}

    def make(point: dict[str, Any]) -> Problem:
        if isinstance(given, Problem):
            return given
        names = keywords_of(given, list(config.axes))
        values = tuple(point[name] for name in names)
        if values not in made:
            made[values] = given(**dict(zip(names, values, strict=True)))
        return made[values]

    return Remade(axes, make, arguments.get("optimizer", gdwd))


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
    trajectory = grid_point(dataset, problem, optimizer=remade.optimizer, **labels)
    # the bar over the points is the one that is shown
    flow = predict(problem, trajectory, rtol=RTOL, progress=False)
    comparison = compare(trajectory, flow, problem, progress=False)
    compared = np.isin(np.asarray(flow.tau), comparison["tau"].values)
    metrics = {
        name: np.asarray(_along(metric, flow.theta))[compared]
        for name, metric in problem.metrics.items()
    }
    return Prediction(trajectory, flow, comparison, metrics)


@partial(jax.jit, static_argnums=0)
def _along(metric: Callable[[Params], Array], theta: Params) -> Array:
    """A metric at every output of a flow, one after the other: test sets may be large."""
    return jax.lax.map(metric, theta)

"""What a run simulated, made again from the config in its folder."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from sharpflow.experiments.config import load
from sharpflow.experiments.config.trust import beyond_presets
from sharpflow.experiments.run import own_config
from sharpflow.models.problem import Problem
from sharpflow.simulator import open_run
from sharpflow.simulator.axes import Axes, keywords_of
from sharpflow.simulator.rules import gdwd
from sharpflow.simulator.store.folder import CONFIG_FILE, RunFolder


@dataclasses.dataclass(frozen=True)
class Remade:
    """What a run simulated, made again from its config.

    Attributes:
      axes: with the values of the config, tuples among them.
      make: the problem of a point, from the values of the axes.
      problem, optimizer: as ``simulate_grid`` takes them.
      prediction: options of ``predict_grid`` that the config gives.
    """

    axes: Axes
    make: Callable[[dict[str, Any]], Problem]
    problem: Problem | Callable[..., Problem]
    optimizer: Callable[..., Any]
    prediction: Mapping[str, Any]


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
    # The step at which a fork began stands in the run itself, so that the run before may be gone.
    arguments = config.build(begin=int(open_run(run)["step"].min()))
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

    return Remade(axes, make, given, arguments.get("optimizer", gdwd), arguments.get("predict", {}))

"""Predict the points of a run that is in a folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sharpflow.experiments.remade import remake
from sharpflow.experiments.run import predictions_in_words
from sharpflow.simulator import open_run, predict_grid
from sharpflow.simulator.store.folder import RunFolder


def predict_run(folder: Path, options: Mapping[str, Any], *, trust: bool, progress: bool) -> str:
    """Predict every point of a run, and keep the predictions in its folder.

    Args:
      folder: of the run.
      options: of ``predict_grid``, over those of the run's config.
      trust: whether functions that are not of our presets may be imported and called.
      progress: whether it is shown.

    Returns:
      How many points are predicted, and by what, in words.

    Raises:
      ValueError: the run has no config or no snapshots, a function is not trusted, or the folder
        has predictions that were made with other options.
    """
    run = RunFolder(folder)
    grid = open_run(run)
    remade = remake(run, trust=trust)
    predicted = predict_grid(
        remade.problem,
        grid,
        optimizer=remade.optimizer,
        out=run,
        progress=progress,
        **{**remade.prediction, **options},
    )
    return ", ".join(predictions_in_words(predicted))

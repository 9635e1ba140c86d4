"""All figures of a run in a folder, kept beside it."""

from pathlib import Path

from sharpflow.experiments.grid_summary import time_dimension
from sharpflow.experiments.kept_figures import drawn_from, keep
from sharpflow.experiments.plots.before import grid_before
from sharpflow.experiments.plots.folder import plot_grid
from sharpflow.experiments.report.before import records_before
from sharpflow.experiments.report.points import records
from sharpflow.models.caller import warn_caller
from sharpflow.simulator import open_run
from sharpflow.simulator.store.folder import RunFolder


def plot_run(folder: Path, out: Path | None = None, *, suffix: str = ".png") -> list[Path]:
    """Draw and save every figure of a run, once all its files are known to be whole.

    The bands of a fork begin with what the runs before it recorded; a warning says why where
    these are not at hand.

    Args:
      folder: of the run, finished or not.
      out: folder of the figures; by default ``figures`` in that of the run, where a report of the
        same arrays takes them from.
      suffix: as in ``plot_grid``.

    Returns:
      The paths.

    Raises:
      ValueError: as ``plot_grid``. A RunError, which is one: no run, or a damaged one.
    """
    run = RunFolder(folder)
    data = drawn_from(run)
    place = folder / "figures" if out is None else out
    dataset = open_run(run)
    points = records(dataset, time_dimension(dataset), run.description.get("axes", {}))
    before, notes = records_before(run, points)
    for note in notes:
        warn_caller(note)
    paths = plot_grid(dataset, place, suffix=suffix, before=grid_before(before, dataset))
    if out is None:
        keep(place, data, paths)
    return paths

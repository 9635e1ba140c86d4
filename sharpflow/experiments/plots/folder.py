"""All figures of a grid of trajectories, in a folder."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sharpflow.experiments.grid_summary import (
    EDGE_RATIOS,
    SHARPNESSES,
    combinations,
    has_predictions,
    is_of_prediction,
    loss_name,
    time_dimension,
)
from sharpflow.experiments.late_generalization import tells_of_generalization
from sharpflow.experiments.plots import drawing, quantities
from sharpflow.experiments.plots.arguments import DATASET
from sharpflow.experiments.plots.bands import seed_band_panels
from sharpflow.experiments.plots.before import require_same_axes
from sharpflow.experiments.plots.cells import MOST_PANELS
from sharpflow.experiments.plots.generalization import generalization_panel
from sharpflow.experiments.plots.grid import heat_maps
from sharpflow.experiments.plots.late_curves import panel_parts
from sharpflow.experiments.plots.outcomes import outcome_maps
from sharpflow.experiments.plots.sharpness_error import can_be_scattered, sharpness_against_error
from sharpflow.models.arguments import PATH, TEXT, checked, optional
from sharpflow.models.paths import user_path
from sharpflow.models.stored_names import stored_names

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

# What figures of other columns need.
_BESIDE = ("status", "loss", "gradient_norm", "norm_squared", "threshold", "stability_line",
           "prediction_status")  # fmt: skip
# Of predictions: how far from the trajectory they end, and how far off their thresholds are.
_WHERE_THEY_HOLD = ("final_relative_error", "threshold_ratio")


@checked(dataset=DATASET, folder=PATH, before=optional(DATASET))
def plot_grid(
    dataset: "xarray.Dataset",
    folder: str | Path,
    *,
    suffix: str = ".png",
    before: "xarray.Dataset | None" = None,
) -> list[Path]:
    """Draw and save every figure that a grid of trajectories supports.

    Where the training accuracy comes to 1, test metrics were recorded, and a weight decay of 0 is
    beside another one or the grid has the axis ``normalization``, ``generalization`` shows what
    test accuracy and test error do beyond it; the first six combinations of several learning rates
    and further axes have one each. ``sharpness-against-error`` has the test error at the end of
    each trajectory against its sharpness there, where five points or more have both.

    ``outcomes`` shows how the trajectories ended, ``final-<column>`` the last values of
    a column as a heat map and ``bands-<column>`` the column against time, for each
    sharpness, edge ratio and metric that was recorded and for the mean loss, or the loss
    where there is no mean. Of a grid with further axes the bands are drawn for each
    combination, whose number and values end the name, the first six at most.

    Where points have predictions, ``prediction-final-relative-error`` and
    ``prediction-threshold-ratio`` are heat maps of where these hold, and the bands have the
    predicted lines.

    Args:
      dataset: what ``sharpflow.simulate_grid`` returns.
      folder: made where it is missing; figures of the same names are replaced.
      suffix: ``.png``, ``.pdf`` or ``.svg``.
      before: of a fork, what its points recorded before it, as for ``seed_bands``; the bands show
        it, pale.

    Returns:
      The paths.

    Raises:
      ValueError: a dataset that is no grid of trajectories or has nothing to draw, or another
        suffix.
    """
    from matplotlib import pyplot

    TEXT.require("suffix", suffix)
    if suffix not in drawing.SUFFIXES:
        raise ValueError(f"suffix must be one of {', '.join(drawing.SUFFIXES)}, got {suffix!r}")
    time = time_dimension(dataset)
    losses = [name] if (name := loss_name(dataset)) else []
    recorded = [name for name in (*SHARPNESSES, *EDGE_RATIOS) if name in dataset]
    columns = losses + recorded + quantities.metric_names(dataset, time)
    if not columns:
        raise ValueError("dataset has no loss, sharpness, edge ratio or metric to draw")
    beside = [name for name in _BESIDE if name in dataset and name not in columns]
    if has_predictions(dataset):
        predicted = [str(name) for name in dataset if is_of_prediction(dataset, str(name))]
        beside += [name for name in predicted if name not in (*columns, *beside)]
    dataset = dataset[columns + beside].load()  # each is used several times
    parts = combinations(dataset)[:MOST_PANELS]
    if before is not None:
        require_same_axes(before, dataset)
    former = [None] * len(parts) if before is None else [part for _, part in combinations(before)]
    drawn: dict[str, Callable[[], Figure]] = {}
    if tells_of_generalization(dataset):
        for index, (values, part) in enumerate(panel_parts(dataset)[:MOST_PANELS]):
            more = f"-{index}-{_file_name(values)}" if values else ""
            drawn[f"generalization{more}"] = partial(_panel_figure, part)
    if can_be_scattered(dataset):
        drawn["sharpness-against-error"] = partial(_scatter_figure, dataset)
    if losses:
        drawn["outcomes"] = partial(outcome_maps, dataset)
    for column in _WHERE_THEY_HOLD if has_predictions(dataset) else ():
        if column in dataset:
            name = f"prediction-{column.replace('_', '-')}"
            drawn[name] = partial(heat_maps, dataset, column)
    for column, words in _file_stems(columns).items():
        drawn[f"final-{words}"] = partial(heat_maps, dataset, column)
        for index, (values, part) in enumerate(parts):
            more = f"-{index}-{_file_name(values)}" if values else ""
            drawn[f"bands-{words}{more}"] = partial(
                seed_band_panels, part, column, title=values, before=former[index]
            )
    paths = []
    for name, draw in drawn.items():
        figure = draw()
        paths.append(drawing.save(figure, user_path(folder) / f"{name}{suffix}"))
        pyplot.close(figure)
    return paths


def _panel_figure(dataset: "xarray.Dataset") -> "Figure":
    return drawing.figure_of(generalization_panel(dataset)[0])


def _scatter_figure(dataset: "xarray.Dataset") -> "Figure":
    return drawing.figure_of(sharpness_against_error(dataset))


def _file_stems(columns: list[str]) -> dict[str, str]:
    """How the file of each column is called: no two alike, whatever metrics are called."""
    dashed = {column: column.replace("_", "-") for column in columns}
    own = [stem if list(dashed.values()).count(stem) == 1 else c for c, stem in dashed.items()]
    return dict(zip(columns, stored_names(own).values(), strict=True))


def _file_name(values: str) -> str:
    """What any file system takes, such as ``init_scale=0.1-activation=relu``."""
    return re.sub(r"[^\w.=+-]+", "-", values.replace(" = ", "="), flags=re.ASCII).strip("-")[:80]

"""What became of each point of a grid: converged, at the edge, diverged."""

from typing import TYPE_CHECKING, Any

import numpy as np

from sharpflow.experiments.grid_summary import Outcome, combinations, outcomes
from sharpflow.experiments.plots import cells, drawing
from sharpflow.experiments.plots.arguments import AX, DATASET
from sharpflow.models.arguments import checked

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Apart for readers with any colour vision, and in greyscale as well.
COLOURS = {
    Outcome.CONVERGED: "#005a8d",
    Outcome.AT_EDGE: "#e69f00",
    Outcome.ABOVE_EDGE: "#d55e00",
    Outcome.TRAINING: "#c9d3db",
    Outcome.DIVERGED: "#1b1b1b",
    Outcome.PENDING: "#ffffff",
}
_HATCH: dict[str, Any] = {"hatch": "/////", "edgecolor": "#b8b8b8", "linewidth": 0.0}


@checked(dataset=DATASET, ax=AX)
def outcome_map(dataset: "xarray.Dataset", ax: "Axes | None" = None) -> "Axes":
    """Draw how the trajectories ended, over learning rate and weight decay.

    A cell has a strip for each seed, coloured by its outcome, in the order of
    ``Outcome`` and not of the seeds: widths are shares. ``grid_summary.outcomes`` says
    what the outcomes mean.

    Args:
      dataset: what ``sharpflow.simulate_grid`` returns, with one value of any further
        axis.
      ax: where to draw; by default on a new figure.

    Returns:
      The axes.

    Raises:
      ValueError: no column of the loss, or a grid with further axes.
    """
    grid, alone = cells.single_grid(dataset), ax is None
    with drawing.styled(ax, size=cells.panel_size(grid)) as ax:
        drawn = _draw(ax, grid)
        cells.put_legend(ax, _legend([drawn]) | {"ncols": 3}, alone)
        cells.frame(ax, grid)
    return ax


@checked(dataset=DATASET)
def outcome_maps(dataset: "xarray.Dataset") -> "Figure":
    """Draw ``outcome_map`` for each combination of the further axes of a grid.

    Args:
      dataset: what ``sharpflow.simulate_grid`` returns.

    Returns:
      A figure with panels, the first six combinations at most.

    Raises:
      ValueError: no column of the loss.
    """

    parts = combinations(dataset)
    if len(parts) == 1:
        return drawing.figure_of(outcome_map(dataset))
    shown = [(words, cells.sorted_grid(part)) for words, part in parts[: cells.MOST_PANELS]]
    with drawing.in_force():
        figure, axes = cells.panel_figure(shown)
        drawn = [_draw(ax, part) for ax, (_, part) in zip(axes, shown, strict=True)]
        words = _legend(drawn, cells.omitted(len(shown), len(parts)))
        figure.legend(**words, loc="outside upper left", ncols=6)
        cells.frame_panels(axes, shown)
    return figure


def _draw(ax: "Axes", grid: "xarray.Dataset") -> "xarray.DataArray":
    """The strips; the outcomes of all trajectories are returned."""
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.patches import Rectangle

    kinds = outcomes(grid).transpose("weight_decay", "learning_rate", "seed")
    rows, columns, seeds = kinds.shape
    ax.pcolormesh(
        np.linspace(0.0, columns, columns * seeds + 1),
        np.arange(rows + 1.0),
        np.sort(kinds.values, axis=-1).reshape(rows, -1),
        cmap=ListedColormap([COLOURS[outcome] for outcome in Outcome]),
        norm=BoundaryNorm(np.arange(len(Outcome) + 1) - 0.5, len(Outcome)),
        linewidth=0.0,
        antialiased=False,
    )
    pending = (kinds == Outcome.PENDING).sum("seed").values
    for row, column in np.argwhere(pending):
        share = pending[row, column] / seeds
        corner = (column + 1.0 - share, row)
        ax.add_patch(Rectangle(corner, share, 1.0, facecolor="white", **_HATCH))
    for lines, count in ((ax.axvline, columns), (ax.axhline, rows)):
        for place in range(count + 1):
            lines(place, color="white", linewidth=2.4, zorder=2.0)
    return kinds


def _legend(drawn: "list[xarray.DataArray]", more: str = "") -> dict[str, Any]:
    """A legend of the outcomes that there are, under a title."""
    from matplotlib.patches import Patch

    present = np.unique(np.concatenate([each.values.ravel() for each in drawn]))
    handles = [
        Patch(
            facecolor=COLOURS[outcome],
            label=outcome.label,
            **(_HATCH if outcome == Outcome.PENDING else {}),
        )
        for outcome in map(Outcome, present)
    ]
    seeds = drawn[0].sizes["seed"]
    title = f"share of {seeds} seeds" if seeds > 1 else "outcome"
    title += "" if drawn[0].attrs["edge_ratio"] else "; the edge ratio was not recorded"
    return {
        "handles": handles,
        "title": title + more,
        "title_fontsize": drawing.RC["legend.fontsize"],
        "alignment": "left",
        "columnspacing": 1.2,
        "handlelength": 1.4,
    }

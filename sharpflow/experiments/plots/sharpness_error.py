"""Whether flatter means better: the last test error against the last sharpness of all points."""

from typing import TYPE_CHECKING, Any

import numpy as np

from sharpflow.experiments.grid_summary import (
    is_diverged,
    is_pending,
    last_values,
    require_column,
    with_point_axes,
)
from sharpflow.experiments.late_generalization import (
    NORMALIZATION,
    NOT_NORMALIZED,
    metrics_of_test_data,
)
from sharpflow.experiments.plots import cells, drawing, quantities
from sharpflow.experiments.plots.arguments import AX, DATASET
from sharpflow.experiments.seed_statistics import FEWEST_POINTS, RankCorrelation, rank_correlation
from sharpflow.models.arguments import TEXT, checked, optional
from sharpflow.simulator.quantities import axis_quantity

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes

# Of the direction of the weights. The Hessian at the weights themselves grows as their norm
# shrinks, and says of a network with normalization nothing about its outputs.
_SPHERICAL = ("sharpness_manifold", "sharpness_midpoint", "sharpness_iterate", "threshold")
_DOT: dict[str, Any] = {
    "marker": "o",
    "linestyle": "none",
    "markersize": 4.5,
    "markeredgecolor": "white",
    "markeredgewidth": 0.5,
}
_MOST_COLOURS = 8


@checked(dataset=DATASET, name=optional(TEXT), sharpness=optional(TEXT), ax=AX)
def sharpness_against_error(
    dataset: "xarray.Dataset",
    name: str | None = None,
    ax: "Axes | None" = None,
    *,
    sharpness: str | None = None,
) -> "Axes":
    """Draw the test error at the end of all points of a grid against their sharpness there.

    Both are means over the last tenth of the records. Each dot is a trajectory, coloured by its
    learning rate, or by its weight decay where there is one learning rate. The legend has
    Spearman's rank correlation over all dots, and a 95 % interval from draws of whole seeds: a
    positive one says that flatter points have smaller errors. There is no correlation of fewer than
    five dots, and no interval of fewer than five seeds.

    Trajectories that diverged or are not finished are left out, and so are networks without
    normalization, whose directions alone do not say what they compute. The legend counts them.

    Args:
      dataset: what ``sharpflow.simulate_grid`` returns, with any further axes.
      name: of the metric; by default ``test_error``, else ``test_loss``, else what was recorded of
        those that begin with ``test_``. Of an accuracy a negative correlation says that flatter is
        better.
      ax: where to draw; by default on a new figure.
      sharpness: the column of the sharpness; by default the one on the sphere that is nearest to
        theory, else the threshold, which it meets at the edge.

    Returns:
      The axes.

    Raises:
      ValueError: a column that was not recorded, or neither a metric of test data nor a sharpness.
    """
    dataset = with_point_axes(dataset)
    name, sharpness = columns_of_scatter(dataset, name, sharpness)
    x, y, left_out = _ends(dataset, sharpness, name)
    correlation = rank_correlation(*(v.values.reshape(len(v["seed"]), -1) for v in (x, y)))
    over = "learning_rate" if dataset.sizes["learning_rate"] > 1 else "weight_decay"
    alone = ax is None
    with drawing.styled(ax) as ax:
        labels = _dots(ax, x, y, over)
        for which, column in {"x": sharpness, "y": name}.items():
            quantity = quantities.shown_quantity(dataset, column)
            values = (x if which == "x" else y).values
            getattr(ax, f"set_{which}label")(quantities.label(quantity))
            if quantities.is_logarithmic(quantity, values):
                drawing.log_axis(ax, which)
        _legend(ax, labels, _note(correlation, left_out), alone)
    return ax


def can_be_scattered(dataset: "xarray.Dataset") -> bool:
    """Whether there are enough points with a test metric and a sharpness for a rank correlation.

    Args:
      dataset: of a grid.
    """
    dataset = with_point_axes(dataset)
    try:
        name, sharpness = columns_of_scatter(dataset)
    except ValueError:
        return False
    x, _, _ = _ends(dataset, sharpness, name)
    return int(np.isfinite(x).sum()) >= FEWEST_POINTS


def _ends(
    dataset: "xarray.Dataset", sharpness: str, name: str
) -> "tuple[xarray.DataArray, xarray.DataArray, dict[str, xarray.DataArray]]":
    """Sharpness and metric at the end of each point, both NaN or none; and the points without."""
    x, y = (last_values(dataset, column) for column in (sharpness, name))
    left_out = {"diverged": is_diverged(dataset), "unfinished": is_pending(dataset)}
    if NORMALIZATION in dataset.dims:
        plain = (dataset[NORMALIZATION] == NOT_NORMALIZED).broadcast_like(x)
        plain = plain.transpose(*x.dims) & ~left_out["diverged"] & ~left_out["unfinished"]
        left_out["without normalization"] = plain
    counts = ~np.logical_or.reduce([which.values for which in left_out.values()])
    known = np.isfinite(x) & np.isfinite(y)
    left_out["without both values"] = counts & ~known
    return x.where(known & counts), y.where(known & counts), left_out


def columns_of_scatter(
    dataset: "xarray.Dataset", name: str | None = None, sharpness: str | None = None
) -> tuple[str, str]:
    """The metric and the sharpness that are drawn against each other.

    Args:
      dataset: of a grid with all axes of a point.
      name, sharpness: as of ``sharpness_against_error``.

    Raises:
      ValueError: a column that was not recorded, or neither a metric of test data nor a sharpness.
    """
    for given in filter(None, (name, sharpness)):
        require_column(dataset, given)
    if name is None:
        metrics = metrics_of_test_data(dataset)
        first = [each for each in ("test_error", "test_loss") if each in metrics]
        name = next(iter([*first, *metrics]), None)
    if sharpness is None:
        sharpness = next((each for each in _SPHERICAL if each in dataset), None)
    if name is None or sharpness is None:
        raise ValueError(
            "dataset must have a metric whose name begins with 'test_' and a sharpness on the "
            f"sphere or the threshold, got {sorted(map(str, dataset))}"
        )
    return name, sharpness


def _dots(
    ax: "Axes", x: "xarray.DataArray", y: "xarray.DataArray", over: str
) -> dict[str, dict[str, Any]]:
    """A dot for each point; what the legend says of their colours."""
    import matplotlib

    values = np.unique(x[over].values)
    shares = np.linspace(0.0, 0.85, len(values)) if len(values) > 1 else [0.3]
    colours = [tuple(colour) for colour in matplotlib.colormaps["viridis"](shares)]
    symbol = quantities.symbol(axis_quantity(over))
    looks = {}
    for value, words, colour in zip(values, cells.category_labels(values), colours, strict=True):
        look = _DOT | {"markerfacecolor": colour}
        at = x[over].values == value
        chosen = (v.isel({over: at}).values.ravel() for v in (x, y))
        ax.plot(*chosen, **look, clip_on=False)
        looks[f"{symbol} = {words}"] = look
    if len(looks) > _MOST_COLOURS:  # the colours go with the values, so that some are enough
        kept = np.unique(np.linspace(0, len(looks) - 1, _MOST_COLOURS).round().astype(int))
        looks = dict(item for place, item in enumerate(looks.items()) if place in kept)
    return looks


def _note(correlation: RankCorrelation, left_out: "dict[str, xarray.DataArray]") -> list[str]:
    """The correlation in words, and what is not in it."""
    value, low, high, count = correlation
    if count < FEWEST_POINTS:
        said = f"{count} points: too few for a rank correlation"
    elif not np.isfinite(value):
        said = f"{count} points, one value: no rank correlation"
    elif not np.isfinite(low):
        said = f"rank correlation {value:.2f} of {count} points; fewer than five seeds, no interval"
    else:
        said = f"rank correlation {value:.2f} [{low:.2f}, {high:.2f}] of {count} points"
    missing = [f"{int(which.sum())} {words}" for words, which in left_out.items() if which.any()]
    return [
        said.replace("-", "\N{MINUS SIGN}"),
        *([f"left out: {', '.join(missing)}"] * bool(missing)),
    ]


def _legend(ax: "Axes", looks: dict[str, dict[str, Any]], notes: list[str], alone: bool) -> None:
    from matplotlib.lines import Line2D

    size = drawing.RC["legend.fontsize"]
    width = 72.0 * (drawing.COLUMN[0] if alone else drawing.width_inches(ax)) - 2.0 * size
    words: dict[str, Any] = {
        "handles": [Line2D([], [], **look, label=label) for label, look in looks.items()],
        "title": "\n".join(drawing.wrapped(note, width, size) for note in notes),
        "title_fontsize": size,
        "alignment": "left",
        "ncols": drawing.legend_columns(list(looks), width),
        "columnspacing": 1.2,
        "handletextpad": 0.2,
    }
    cells.put_legend(ax, words, alone)

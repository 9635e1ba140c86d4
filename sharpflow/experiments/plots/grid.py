"""Heat maps over learning rate and weight decay."""

from typing import TYPE_CHECKING, Any

import numpy as np

from sharpflow.experiments.grid_summary import (
    combinations,
    is_diverged,
    is_of_prediction,
    is_pending,
    is_unpredicted,
    last_values,
    median_over_seeds,
    require_column,
)
from sharpflow.experiments.plots import cells, drawing, quantities
from sharpflow.experiments.plots.arguments import AX, DATASET
from sharpflow.models.arguments import TEXT, checked
from sharpflow.simulator.grid.prediction_quantities import OUTPUT
from sharpflow.simulator.quantity import Quantity

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

SEQUENTIAL, DIVERGING = "cividis", "PuOr_r"

# Errors of a prediction, and what was measured over what was predicted: their maps show where the
# prediction holds.
_ERRORS = ("final_relative_error", "relative_error", "tracking_error")
_AGREEMENTS = (*_ERRORS, "threshold_ratio", "loss_ratio", "mean_loss_ratio", "mean_edge_ratio")

_NO_VALUE = "#ececec"
_MARK = "#4a4a4a"
_MOST_NUMBERS = 150  # in a panel; more cannot be taken in
_NUMBER_SIZES = (8.5, 7.5, 6.5, 6.0)
_LUMINANCE = np.array([0.299, 0.587, 0.114])  # of red, green and blue
_TITLE: dict[str, Any] = {
    "fontsize": drawing.RC["legend.fontsize"],
    "linespacing": 1.4,
    "x": 0.01,
    "ha": "left",
}


@checked(dataset=DATASET, name=TEXT, ax=AX)
def heat_map(dataset: "xarray.Dataset", name: str, ax: "Axes | None" = None) -> "Axes":
    """Draw what a column says of the end of the points, over learning rate and weight decay.

    A cell shows the median over the seeds that have ended without divergence. Of a column along
    the records it is that of the mean over the last tenth of each trajectory. Of a column along
    the predictions that ``sharpflow.predict_grid`` adds, such as ``threshold_ratio``, it is that
    of the last value, and of a number of each point, such as ``final_relative_error``, that of
    the number itself. A prediction that ends early has no last value.

    In the corners of a cell, 2× says that two seeds have diverged, 2… that two are not
    finished, 2– that two have no prediction to the end, or that theirs has no such value, as a
    flow that has not moved has no relative error. A cell without any value has × where all have
    diverged, … where any is not finished, else –.

    Args:
      dataset: what ``sharpflow.simulate_grid`` returns, with one value of any further
        axis.
      name: of a column or of a number of each point. An edge ratio has colours around 1, as
        any column whose ``Quantity`` says that it is to be compared with a number. Errors of a
        prediction have a logarithmic scale. Others have it where their ``Quantity`` does not say
        linear, and they are positive and span a factor of 30.
      ax: where to draw; by default on a new figure.

    Returns:
      The axes; the colour bar is in axes of its own beside them.

    Raises:
      ValueError: a column that was not recorded or holds no numbers, or a grid with further axes.
    """
    require_column(dataset, name)
    grid, alone = cells.single_grid(dataset), ax is None
    with drawing.styled(ax, size=cells.panel_size(grid)) as ax:
        quantity = quantities.shown_quantity(grid, name)
        mesh = _draw(ax, grid, quantity, _norm(quantity, _median(grid, name)))
        _colour_bar([mesh], quantity, [ax])
        title = _title(grid, quantity)
        if alone:
            width = 72.0 * drawing.figure_of(ax).get_size_inches()[0] - 8.0
            drawing.figure_of(ax).suptitle(_wrapped(title, width), **_TITLE)
        else:
            words = _wrapped(title, 72.0 * drawing.width_inches(ax))
            ax.set_title(words, fontsize=_TITLE["fontsize"], loc="left", **drawing.FONT)
        cells.frame(ax, grid)
        cells.lay_out(ax)
        _write_numbers(ax, grid, quantity, mesh)
    return ax


@checked(dataset=DATASET, name=TEXT)
def heat_maps(dataset: "xarray.Dataset", name: str) -> "Figure":
    """Draw ``heat_map`` for each combination of the further axes of a grid.

    Args:
      dataset: what ``sharpflow.simulate_grid`` returns.
      name: of a column.

    Returns:
      A figure with panels that share their colours, the first six combinations at most.

    Raises:
      ValueError: a column that was not recorded.
    """
    require_column(dataset, name)
    parts = combinations(dataset)
    if len(parts) == 1:
        return drawing.figure_of(heat_map(dataset, name))
    shown = [(words, cells.sorted_grid(part)) for words, part in parts[: cells.MOST_PANELS]]
    quantity = quantities.shown_quantity(dataset, name)
    norm = _norm(quantity, np.stack([_median(part, name) for _, part in shown]))
    with drawing.in_force():
        figure, axes = cells.panel_figure(shown)
        drawn = zip(axes, shown, strict=True)
        meshes = [_draw(ax, part, quantity, norm) for ax, (_, part) in drawn]
        _colour_bar(meshes, quantity, axes)
        title = _title(dataset, quantity, cells.omitted(len(shown), len(parts)))
        figure.suptitle(title, **_TITLE)
        cells.frame_panels(axes, shown)
        cells.lay_out(axes[0])
        for ax, (_, part), mesh in zip(axes, shown, meshes, strict=True):
            _write_numbers(ax, part, quantity, mesh)
    return figure


def _median(grid: "xarray.Dataset", name: str) -> np.ndarray:
    """Over the seeds, shape (weight_decay, learning_rate)."""
    median = median_over_seeds(last_values(grid, name))
    return median.transpose("weight_decay", "learning_rate").values


def _draw(ax: "Axes", grid: "xarray.Dataset", quantity: Quantity, norm: "Normalize") -> "QuadMesh":
    import matplotlib

    colours = matplotlib.colormaps[SEQUENTIAL if _middle(quantity) is None else DIVERGING]
    return ax.pcolormesh(
        np.ma.masked_invalid(_median(grid, quantity.name)),
        norm=norm,
        cmap=colours.with_extremes(bad=_NO_VALUE),
        edgecolors="white",
        linewidth=0.8,
    )


def _middle(quantity: Quantity) -> float | None:
    """The value around which the colours lie; None where they go from the least to the largest.

    An error is compared with 0 as well, but it is not below it, and 0.01 and 0.001 would look
    alike on a scale around 0.
    """
    return None if quantity.name in _ERRORS else quantities.line_of(quantity)


def _norm(quantity: Quantity, values: np.ndarray) -> "Normalize":
    """A scale for all finite values; that of an edge ratio is 1 ± 0.1 at least, 1 ± 1 at most.

    So it is for whatever is to be compared with another value than 1, in units of that.
    """
    from matplotlib.colors import LogNorm, Normalize

    finite = values[np.isfinite(values)]
    if (middle := _middle(quantity)) is not None:
        unit = abs(middle) or 1.0
        reach = np.abs(finite - middle).max(initial=0.1 * unit) / unit
        reach = unit * min(np.ceil(10.0 * reach - 1e-6) / 10.0, 1.0)
        return Normalize(middle - reach, middle + reach)
    if not finite.size:
        return Normalize(0.0, 1.0)
    low, high = finite.min(), finite.max()
    is_error = quantity.name in _ERRORS and 0.0 < low < high
    if is_error or quantities.is_logarithmic(quantity, finite):
        return LogNorm(finite[finite > 0].min(), high, clip=True)  # a zero has the lowest colour
    if low == high:
        return Normalize(low - 0.1 * abs(low) - 1e-12, low + 0.1 * abs(low) + 1e-12)
    return Normalize(low, high)


def _colour_bar(meshes: "list[QuadMesh]", quantity: Quantity, axes: "list[Axes]") -> None:
    """The scale that the meshes share, where there is any value on it."""
    from matplotlib.colors import LogNorm

    mesh = meshes[0]
    values = np.concatenate([_values(each).compressed() for each in meshes])
    if not values.size:
        return
    beyond = "max" if np.any(values > mesh.norm.vmax) else "neither"
    bar = drawing.figure_of(axes[0]).colorbar(
        mesh, ax=axes, label=quantities.label(quantity), extend=beyond, pad=0.02, aspect=25
    )
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=2.0)
    if isinstance(mesh.norm, LogNorm):
        drawing.log_axis(bar.ax, "y")
    elif np.ptp(values) == 0.0 and _middle(quantity) is None:
        # about a single value the scale is made up: an accuracy of 1 has none up to 1.1
        bar.set_ticks([float(values[0])])
    drawing.keep_tick_fonts(bar.ax)


def _write_numbers(
    ax: "Axes", grid: "xarray.Dataset", quantity: Quantity, mesh: "QuadMesh"
) -> None:
    """Values and marks in the cells, in the largest type that fits."""
    width, height = cells.cell_size(ax, grid)
    values = _values(mesh).filled(np.nan)
    digits = cells.num_digits(values)
    texts = np.vectorize(lambda value: _number(quantity, value, digits), otypes=[object])(values)
    widest = max(drawing.text_width(text, 1.0) for text in set(texts.flat))
    fitting = [
        size for size in _NUMBER_SIZES if size * widest < width - 5.0 and size + 2.0 < height
    ]
    readable = bool(fitting) and values.size <= _MOST_NUMBERS
    light = mesh.to_rgba(_values(mesh))[..., :3] @ _LUMINANCE > 0.55
    lost, waiting = _count(is_diverged(grid)), _count(is_pending(grid))
    missing = np.zeros_like(waiting)
    for points in _without_value(grid, quantity.name).values():
        missing += _count(points)
    small = min(6.5, 0.45 * height, 0.45 * width)
    for (row, column), text in np.ndenumerate(texts):
        middle = (column + 0.5, row + 0.5)
        if not text:
            alone = "…" if waiting[row, column] else "×" if lost[row, column] else "–"
            size = min(11.0, 0.7 * height)
            ax.text(*middle, alone, ha="center", va="center", color=_MARK, fontsize=size)
            continue
        look: dict[str, Any] = {"color": "black" if light[row, column] else "white"}
        left = {"…": waiting[row, column], "–": missing[row, column]}
        marked = lost[row, column] or any(left.values())
        if readable:
            middle = (column + 0.5, row + (0.43 if marked and height < 24.0 else 0.5))
            ax.text(*middle, text, ha="center", va="center_baseline", fontsize=fitting[0], **look)
        if lost[row, column]:
            corner, mark = (column + 0.95, row + 0.95), f"{lost[row, column]}×"
            ax.text(*corner, mark, ha="right", va="top", fontsize=small, **look)
        if mark := " ".join(f"{count}{sign}" for sign, count in left.items() if count):
            corner = (column + 0.05, row + 0.95)
            ax.text(*corner, mark, ha="left", va="top", fontsize=small, **look)


def _values(mesh: "QuadMesh") -> np.ma.MaskedArray:
    return np.ma.asarray(mesh.get_array())


def _number(quantity: Quantity, value: float, digits: int) -> str:
    # two decimals on both sides of 1, where two digits would be one decimal above it
    if quantities.line_of(quantity) == 1.0 and 0.1 <= value < 10.0:
        return f"{value:.2f}"
    return cells.number(value, digits)


def _wrapped(title: str, width: float) -> str:
    """A title in lines of at most ``width`` points."""
    size = _TITLE["fontsize"]
    return "\n".join(drawing.wrapped(line, width, size) for line in title.split("\n"))


def _without_value(grid: "xarray.Dataset", name: str) -> "dict[str, xarray.DataArray]":
    """Why points that have ended well have no value of a column of their predictions: which, each.

    Of a column along the records there are none: what lacks a value there was not measured.
    """
    if not is_of_prediction(grid, name):
        return {}
    ended = ~is_diverged(grid) & ~is_pending(grid)
    unpredicted = is_unpredicted(grid)
    no_value = "no value, as of a flow that has not moved" if name in _ERRORS else "no value"
    return {
        "no prediction to the end": ended & unpredicted,
        no_value: ended & ~unpredicted & last_values(grid, name).isnull(),
    }


def _said_of_values(grid: "xarray.Dataset", quantity: Quantity) -> str:
    """What the value of a trajectory is."""
    if is_of_prediction(grid, quantity.name) and quantity.name in _AGREEMENTS:
        when = "" if quantity.name.startswith("mean_") else " at the end"
        return f"where the prediction holds:\n{quantities.label(quantity)}{when}"
    dims = grid[quantity.name].dims
    if OUTPUT in dims:
        return "last value of each prediction"
    if set(dims) == set(grid["status"].dims):
        return "one number of each trajectory"
    return "mean over the last tenth of the records"


def _title(grid: "xarray.Dataset", quantity: Quantity, more: str = "") -> str:
    """What a cell shows, and below it what its marks mean."""
    seeds = grid.sizes["seed"]
    lost, waiting = is_diverged(grid), is_pending(grid)
    words = []
    if (lost.any("seed") & ~lost.all("seed")).any():
        words.append("2×: two seeds diverged")
    if lost.all("seed").any():
        words.append("×: all" if words else "×: all seeds diverged" if seeds > 1 else "×: diverged")
    if waiting.any():
        words.append("…: unfinished")
    without = _without_value(grid, quantity.name)
    if reasons := [reason for reason, points in without.items() if points.any()]:
        words.append(f"–: {' or '.join(reasons)}")
    title = _said_of_values(grid, quantity)
    title += f", median over {seeds} seeds" if seeds > 1 else ""
    title += more
    return "\n".join([title, ";  ".join(words)] if words else [title])


def _count(points: "xarray.DataArray") -> np.ndarray:
    """Seeds in each cell, shape (weight_decay, learning_rate)."""
    return points.sum("seed").transpose("weight_decay", "learning_rate").values

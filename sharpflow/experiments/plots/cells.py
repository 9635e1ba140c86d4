"""Axes whose cells are the pairs of a learning rate and a weight decay."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from sharpflow.experiments.grid_summary import combinations, extra_axes
from sharpflow.experiments.plots import drawing, quantities
from sharpflow.simulator.quantities import axis_quantity

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_PANELS = 6

_TICK = 8.5  # size of the labels in points, and of many labels
_SMALL_TICK = 7.0


def single_grid(dataset: "xarray.Dataset") -> "xarray.Dataset":
    """The grid with rising learning rates and weight decays, for one panel.

    Raises:
      ValueError: a grid with further axes.
    """
    parts = combinations(dataset)
    if len(parts) > 1:
        raise ValueError(
            f"dataset has the further axes {extra_axes(dataset)}: select one value of each with "
            ".isel or .sel, or draw a figure with a panel for each"
        )
    return sorted_grid(parts[0][1])


def sorted_grid(dataset: "xarray.Dataset") -> "xarray.Dataset":
    """The grid with rising learning rates and weight decays."""
    return dataset.sortby(["learning_rate", "weight_decay"])


def panel_size(dataset: "xarray.Dataset") -> tuple[float, float]:
    """Inches of a figure of one panel: a column of a page where the cells allow it."""
    columns, rows = dataset.sizes["learning_rate"], dataset.sizes["weight_decay"]
    width = min(max(drawing.COLUMN[0], 1.3 + 0.36 * columns), drawing.PAGE[0])
    return width, min(max(drawing.COLUMN[1], 1.2 + 0.24 * rows), 6.0)


def panel_figure(parts: "list[tuple[str, xarray.Dataset]]") -> "tuple[Figure, list[Axes]]":
    """A page-wide figure with a named panel for each of several grids, under ``drawing.RC``."""
    from matplotlib import pyplot

    columns = _panel_columns(parts)
    rows = -(-len(parts) // columns)
    height = min(max(1.6, 0.6 + 0.15 * parts[0][1].sizes["weight_decay"]), 2.8)
    size = (drawing.PAGE[0], 1.1 + rows * height)
    figure, axes = pyplot.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for ax in axes.flat[len(parts) :]:
        ax.remove()
    shown = list(axes.flat[: len(parts)])
    _name_panels(shown, [words for words, _ in parts], 72.0 * size[0] / columns - 60.0)
    return figure, shown


def frame_panels(axes: "list[Axes]", parts: "list[tuple[str, xarray.Dataset]]") -> None:
    """``frame`` for the panels of a figure; what they share is written at its border."""
    columns = _panel_columns(parts)
    below = [place + columns >= len(axes) for place in range(len(axes))]
    left = [place % columns == 0 for place in range(len(axes))]
    for ax, (_, part), at_bottom, at_left in zip(axes, parts, below, left, strict=True):
        _clear(ax, part)
        if at_bottom:
            ax.set_xlabel(axis_label("learning_rate"))
        else:
            ax.set_xticks([])
        if at_left:
            ax.set_ylabel(axis_label("weight_decay"))
        else:
            ax.set_yticks([])
    lay_out(axes[0])
    for ax, (_, part), at_bottom, at_left in zip(axes, parts, below, left, strict=True):
        width, height = cell_size(ax, part)
        if at_bottom:
            _name_columns(ax, part, width)
        if at_left:
            _name_rows(ax, part, height)
        drawing.keep_tick_fonts(ax)


def _panel_columns(parts: "list[tuple[str, xarray.Dataset]]") -> int:
    wide = parts[0][1].sizes["learning_rate"] > 8
    return 2 if wide or len(parts) in (2, 4) else 3


def frame(ax: "Axes", dataset: "xarray.Dataset") -> None:
    """Name the cells of axes in which each is a unit square, the first at the lower left."""
    _clear(ax, dataset)
    ax.set_xlabel(axis_label("learning_rate"))
    ax.set_ylabel(axis_label("weight_decay"))
    lay_out(ax)
    width, height = cell_size(ax, dataset)
    _name_columns(ax, dataset, width)
    _name_rows(ax, dataset, height)


def axis_label(name: str) -> str:
    """The label of an axis of a grid."""
    return quantities.label(axis_quantity(name))


def _clear(ax: "Axes", dataset: "xarray.Dataset") -> None:
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.tick_params(length=0.0, pad=2.5)
    ax.set_xlim(0.0, dataset.sizes["learning_rate"])
    ax.set_ylim(0.0, dataset.sizes["weight_decay"])


def _name_columns(ax: "Axes", dataset: "xarray.Dataset", width: float) -> None:
    labels = category_labels(dataset["learning_rate"].values)
    turned = max(drawing.text_width(label, _TICK) for label in labels) > width - 3.0
    size = _SMALL_TICK if turned and width < _TICK + 3.0 else _TICK
    step = math.ceil((size + 1.0) / width) if turned else 1
    places = np.arange(0, len(labels), step)
    ax.set_xticks(places + 0.5, labels[::step], rotation=90.0 * turned, fontsize=size)


def _name_rows(ax: "Axes", dataset: "xarray.Dataset", height: float) -> None:
    labels = category_labels(dataset["weight_decay"].values)
    size = _TICK if height > _TICK + 3.0 else _SMALL_TICK
    step = math.ceil((size + 1.0) / height)
    places = np.arange(0, len(labels), step)
    ax.set_yticks(places + 0.5, labels[::step], fontsize=size)


def lay_out(ax: "Axes") -> None:
    """Make room in the figure for all that is written so far; as slow as drawing it."""
    drawing.figure_of(ax).draw_without_rendering()


def cell_size(ax: "Axes", dataset: "xarray.Dataset") -> tuple[float, float]:
    """Width and height of a cell in points, as the figure was laid out last."""
    box = ax.get_position()
    width, height = 72.0 * drawing.figure_of(ax).get_size_inches() * (box.width, box.height)
    return width / dataset.sizes["learning_rate"], height / dataset.sizes["weight_decay"]


def number(value: float, digits: int = 2) -> str:
    """A number with so many significant digits, short enough for a cell; "" for NaN."""
    if not np.isfinite(value):
        return ""
    size = abs(value)
    if value == 0 or 1e-3 <= size < 1e4:
        places = 1 if value == 0 else digits - 1 - math.floor(math.log10(size))
        return f"{value:.{max(places, 0)}f}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return f"{mantissa}e{int(exponent)}".replace("-", "\N{MINUS SIGN}")


def num_digits(values: np.ndarray) -> int:
    """Significant digits in which numbers that are close together differ; 2 to 4.

    Args:
      values: of all cells, any shape; NaN where a cell has none.
    """
    known = np.abs(values[np.isfinite(values)])
    spread = np.ptp(values[np.isfinite(values)]) if known.size else 0.0
    if spread == 0.0:
        return 2
    # a fifth of the spread is seen in the last digit of the largest number
    needed = math.floor(math.log10(known.max())) - math.floor(math.log10(spread / 5.0)) + 1
    return min(max(needed, 2), 4)


def category_labels(values: np.ndarray) -> list[str]:
    """Numbers with as few digits as keep them apart, but 2 of them or more."""
    labels: list[str] = []
    for digits in range(2, 18):
        labels = [_category(float(value), digits) for value in values]
        if len(set(labels)) == len(labels):
            break
    return labels


def _category(value: float, digits: int) -> str:
    if value == 0 or 1e-3 <= abs(value) < 1e4:
        return f"{value:.{max(digits, 4) if abs(value) >= 100 else digits}g}"
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".")
    power = f"10^{{{int(exponent)}}}"
    return f"${power}$" if mantissa == "1" else rf"${mantissa}\!\times\!{power}$"


def put_legend(ax: "Axes", words: dict[str, Any], alone: bool) -> None:
    """A legend above axes; above the whole figure where they are ``alone`` on it."""
    if alone:
        drawing.figure_of(ax).legend(**words, loc="outside upper left")
    else:
        legend = ax.legend(**words, loc="lower left", bbox_to_anchor=(0.0, 1.0), borderaxespad=0.2)
        drawing.keep_titles_above(ax, legend)


def omitted(shown: int, of: int) -> str:
    """What to add to a title where not all combinations are shown."""
    return "" if shown == of else f"; the first {shown} of {of} combinations"


def _name_panels(axes: "list[Axes]", names: list[str], width: float) -> None:
    """Titles of at most ``width`` points, broken at their commas where one has to be."""
    size = drawing.RC["legend.fontsize"]
    names = [name.replace("_", " ") for name in names]
    long = any(drawing.text_width(name, size) > width for name in names)
    for ax, name in zip(axes, names, strict=True):
        words = name.replace(", ", ",\n") if long else name
        ax.set_title(words, fontsize=size, linespacing=1.1)

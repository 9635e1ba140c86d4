"""How the figures look, and how they are saved."""

import contextlib
import dataclasses
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sharpflow.experiments.plots import quantities
from sharpflow.experiments.plots.arguments import DRAWN, flat_axes
from sharpflow.models.arguments import PATH, TEXT, checked, optional
from sharpflow.models.paths import user_path
from sharpflow.simulator.quantities import RESULT

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend
    from matplotlib.lines import Line2D
    from matplotlib.transforms import Bbox

# Of the palette of Okabe and Ito, which readers with any colour vision can tell apart.
MEASURED = "#1b2a41"
PREDICTED = "#d55e00"
SINGLE_EDGE = "#cc79a7"
OTHER = "#0072b2"
THRESHOLD = "#9a9a9a"
FAINT = "#d5d5d5"
BEHIND = "#a9b4c6"  # what is measured, behind its mean

# Of lines that are several of a kind, such as the layers of a network, in their order.
SEVERAL = (MEASURED, OTHER, PREDICTED, SINGLE_EDGE, "#009e73")

# Width and height in inches of a figure: in one column of a page, and over the whole page.
COLUMN = (3.5, 2.5)
PAGE = (7.0, 2.7)

RC: dict[str, Any] = {
    "font.family": "STIXGeneral",
    "mathtext.fontset": "stix",
    "font.size": 9.0,
    "axes.labelsize": 10.0,
    "axes.titlesize": 10.0,
    "legend.fontsize": 8.5,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.prop_cycle": f"cycler('color', {list(SEVERAL)})",
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.minor.width": 0.5,
    "ytick.minor.width": 0.5,
    "legend.frameon": False,
    "legend.handlelength": 1.8,
    "legend.labelspacing": 0.35,
    "lines.linewidth": 1.4,
    "lines.solid_capstyle": "round",
    "figure.dpi": 120.0,
    "figure.figsize": COLUMN,
    "figure.constrained_layout.use": True,
    "pdf.fonttype": 42,
    "svg.hashsalt": "sharpflow",
}

# What has to be told to a text that was made under other settings.
FONT: dict[str, Any] = {
    "fontfamily": RC["font.family"],
    "math_fontfamily": RC["mathtext.fontset"],
}

SOLID: dict[str, Any] = {"color": MEASURED, "linewidth": 1.3}
FINE: dict[str, Any] = {"color": MEASURED, "linewidth": 1.1}
DASHED: dict[str, Any] = {"color": PREDICTED, "linewidth": 1.3, "linestyle": (0, (4, 2))}
# Of several on the same axes; DASHED is the first.
PREDICTIONS: tuple[dict[str, Any], ...] = (
    DASHED,
    DASHED | {"color": "#e69f00", "linestyle": (0, (1, 1.2))},
    DASHED | {"color": "#009e73", "linestyle": (0, (5, 1.5, 1, 1.5))},
)
DOTTED: dict[str, Any] = {"color": SINGLE_EDGE, "linewidth": 1.5, "linestyle": (0, (1, 1.2))}
LINE: dict[str, Any] = {"color": THRESHOLD, "linewidth": 1.2}
# Of a column that another is to be compared with. A threshold lies under the sharpness that follows
# it, and is still seen beside it.
BESIDE: dict[str, Any] = LINE | {"linewidth": 2.4}
ABOVE: dict[str, Any] = {  # a legend clear of lines that may run anywhere
    "loc": "lower left",
    "bbox_to_anchor": (0.0, 1.0),
    "borderaxespad": 0.2,
    "ncols": 2,
    "columnspacing": 1.4,
}

# Of a logarithmic axis, below which powers of ten and their multiples are too few for its labels.
_FEW_DECADES = 0.6

_GAP = 1.2  # between the columns of a legend, in its font's size

# What tells of the day or the machine is left out: the same figure, the same bytes.
_METADATA: dict[str, dict[str, None]] = {
    ".png": {"Software": None},
    ".pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    ".svg": {"Creator": None, "Date": None},
}


SUFFIXES = tuple(_METADATA)


@contextlib.contextmanager
def in_force() -> Iterator[None]:
    """``RC`` until the block ends, which leaves no figure of its own behind where it fails."""
    from matplotlib import pyplot

    before = set(pyplot.get_fignums())
    with _settings():
        try:
            yield
        except BaseException:
            for number in set(pyplot.get_fignums()) - before:
                pyplot.close(number)
            raise


@contextlib.contextmanager
def _settings() -> Iterator[None]:
    """``RC`` until the block ends, and no other setting touched.

    A backend that is loaded meanwhile keeps its own, as the one of a notebook that shows
    every figure: ``matplotlib.rc_context`` would undo them.
    """
    import matplotlib

    before = {name: matplotlib.rcParams[name] for name in RC}
    matplotlib.rcParams.update(RC)
    try:
        yield
    finally:
        matplotlib.rcParams.update(before)


@contextlib.contextmanager
def style() -> Iterator[None]:
    """The look of sharpflow's own figures, for axes of one's own: fonts, lines and frames.

    A figure that is made inside the block ``with sharpflow.plots.style():``, or inside a function
    under ``@sharpflow.plots.style()``, has it, and is as wide as a column of a page and laid out
    so that nothing overlaps. ``sharpflow.plots.COLUMN`` and ``PAGE`` are sizes for ``figsize``.
    After the block the settings of matplotlib are what they were.

    Yields:
      None.
    """
    from matplotlib import pyplot

    before = set(pyplot.get_fignums())
    with _settings():
        yield
        for number in set(pyplot.get_fignums()) - before:
            for ax in pyplot.figure(number).axes:
                keep_tick_fonts(ax)


@contextlib.contextmanager
def styled(
    ax: "Axes | None" = None, *, size: tuple[float, float] = COLUMN, projection: str | None = None
) -> "Iterator[Axes]":
    """Axes to draw on, with ``RC`` in force until the block ends.

    Args:
      ax: the axes; by default those of a new figure. Those of the user keep their frame and
        size, and get our fonts, as everything that we write on them has these.
      size: of that figure, width and height in inches.
      projection: of its axes.
    """
    with in_force():
        if ax is None:
            from matplotlib import pyplot

            _, ax = pyplot.subplots(
                figsize=size, layout="constrained", subplot_kw={"projection": projection}
            )
        else:
            set_fonts(ax)
        before = list(ax.lines)
        yield ax
        show_sparse(ax, [line for line in ax.lines if line not in before])
        keep_tick_fonts(ax)


def show_sparse(ax: "Axes", lines: "Iterable[Line2D]") -> None:
    """A line of a single value as a point, and words on axes of which no line has any value.

    A line through one point is nothing that is seen, and empty axes look like a mistake.

    Args:
      ax: where they are; nothing is done to a sphere.
      lines: that were drawn; those that cross the axes at a height or a time do not count.
    """
    if ax.name == "3d":
        return
    sizes = {}
    for line in lines:
        if all(line.get_transform().contains_branch_seperately(ax.transData)):
            places = np.asarray([line.get_xdata(), line.get_ydata()], dtype=np.float64)
            sizes[line] = int(np.isfinite(places).all(axis=0).sum())
            if sizes[line] == 1 and line.get_marker() == "None":
                line.set(marker="o", markersize=3.5)
    if sizes and not any(sizes.values()):
        ax.set_xticks([])
        ax.set_yticks([])
        ax.text(0.5, 0.5, "no values", transform=ax.transAxes, ha="center", color=THRESHOLD, **FONT)


def set_fonts(ax: "Axes") -> None:
    """Our fonts for the labels of axes that were made under other settings."""
    for name, axis in {"x": ax.xaxis, "y": ax.yaxis}.items():
        size = RC[f"{name}tick.labelsize"]
        axis.label.set(**FONT, fontsize=RC["axes.labelsize"])
        axis.set_tick_params(which="both", labelsize=size, labelfontfamily=FONT["fontfamily"])
        # ticks that are made later take the font of formulas from those that there are
        for text in (*axis.get_ticklabels(which="both"), axis.get_offset_text()):
            text.set(**FONT, fontsize=size)


def keep_tick_fonts(ax: "Axes") -> None:
    """Make the tick labels now: matplotlib would make them later, in another style."""
    ax.get_xticklabels(which="both")
    ax.get_yticklabels(which="both")


@checked(figure=DRAWN, path=PATH, title=optional(TEXT))
def save(
    figure: "Figure | Axes | Sequence[Axes]", path: str | Path, *, title: str | None = None
) -> Path:
    """Write a figure to a file that is the same, byte by byte, whenever it is made.

    Args:
      figure: to write, or what a function of this module returns: axes, or several, whose
        figure is meant.
      path: ends in ``.png`` (200 dots per inch), ``.pdf`` or ``.svg``; its folder is
        made where it is missing.
      title: kept in the file's metadata; by default its name.

    Returns:
      The path.

    Raises:
      ValueError: a path of another kind.
    """
    path = user_path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"path must end in one of {', '.join(SUFFIXES)}, got {path.name!r}")
    part: Any = figure if hasattr(figure, "get_figure") else flat_axes(figure)[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.stem.replace("_", " ") if title is None else title
    with in_force():
        if path.suffix == ".svg":
            # A second layout moves axes by a last bit, of which the names of clip paths are made;
            # a third one moves nothing.
            figure_of(part).savefig(io.BytesIO(), format="svg")
        figure_of(part).savefig(path, dpi=200, metadata={"Title": name} | _METADATA[path.suffix])
    return path


def legend_above(ax: "Axes") -> None:
    """A legend above the axes, where no line can run under it; none for one line alone.

    Args:
      ax: with all lines that the legend is to tell of.
    """
    handles, labels = ax.get_legend_handles_labels()
    if len(handles) < 2:
        return
    columns = legend_columns(labels, 72.0 * width_inches(ax))
    ax.get_yticklabels()  # makes the power of ten that stands above a linear axis, if there is one
    lifted = bool(ax.yaxis.get_major_formatter().get_offset())
    legend = ax.legend(
        handles,
        labels,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        borderaxespad=1.6 if lifted else 0.2,
        borderpad=0.0,
        ncols=columns,
        columnspacing=_GAP,
    )
    keep_titles_above(ax, legend)


def keep_titles_above(ax: "Axes", legend: "Legend") -> None:
    """Keep the titles of axes clear of a legend above them, whenever a title is given.

    Matplotlib puts titles above all axes within the axes, and knows nothing of legends: axes
    without anything in them, as large as the legend, tell it of this one.

    Args:
      ax: with the legend.
      legend: above them.
    """
    room = ax.inset_axes((0.0, 1.0, 1.0, 0.0))
    room.set_axis_off()
    room.set_in_layout(False)
    room.set_axes_locator(_PlaceOf(legend))


@dataclasses.dataclass(frozen=True)
class _PlaceOf:
    """Where a legend lies in its figure; a class, because figures may be pickled."""

    legend: "Legend"

    def __call__(self, ax: Any, renderer: Any) -> "Bbox":
        figure = figure_of(ax)
        box = self.legend.get_window_extent(renderer)
        return box.transformed(figure.transSubfigure.inverted())


def legend_over(figure: "Figure", entries: "Mapping[str, Artist]") -> None:
    """One legend above all axes of a figure, in as many columns as fit its width.

    Args:
      figure: laid out by matplotlib's constrained layout, which makes room for it.
      entries: handles by their labels.
    """
    frame = 2.0 * RC["legend.fontsize"]  # the border of the legend and the gap around it
    columns = legend_columns(list(entries), 72.0 * figure.get_size_inches()[0] - frame)
    figure.legend(
        entries.values(),
        entries,
        loc="outside upper left",
        ncols=columns,
        columnspacing=_GAP,
    )


def legend_columns(labels: Sequence[str], width: float) -> int:
    """As many columns of a legend as ``width`` points take, at least one.

    Args:
      labels: of its entries, which fill one column after the other.
      width: in points.
    """
    size = RC["legend.fontsize"]
    handle = (RC["legend.handlelength"] + 0.8) * size  # with the gap before the text
    widths = [text_width(label, size) + handle for label in labels]
    for count in range(len(labels), 1, -1):
        columns = np.array_split(widths, count)
        if sum(map(max, columns)) + (count - 1) * _GAP * size <= width:
            return count
    return 1


def figure_of(ax: "Axes | Figure") -> "Figure":
    """The whole figure that axes, or a part of a figure, belong to."""
    figure = ax.get_figure(root=True)
    assert figure is not None
    return figure


def width_inches(ax: "Axes") -> float:
    """How wide axes are, as they were laid out last."""
    return float(ax.get_position().width * figure_of(ax).get_size_inches()[0])


def height_inches(ax: "Axes") -> float:
    """How high axes are, as they were laid out last."""
    return float(ax.get_position().height * figure_of(ax).get_size_inches()[1])


def wrapped(text: str, width: float, size: float) -> str:
    """A text in lines of at most ``width`` points, unless a word is longer.

    Args:
      text: with spaces where it may be broken.
      width: in points.
      size: of the font in points.
    """
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".lstrip()
        if text_width(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(filter(None, lines))


def text_width(text: str, size: float) -> float:
    """Points that a text takes."""
    from matplotlib.textpath import TextPath

    return float(TextPath((0, 0), text, size=size).get_extents().width) if text else 0.0


def shade(color: str, index: int, count: int) -> tuple[float, ...]:
    """The colour for the first of ``count`` lines, paler for each of the next."""
    from matplotlib.colors import to_rgb

    share = 0.6 * index / max(count - 1, 1)
    return tuple((1.0 - share) * part + share for part in to_rgb(color))


def log_axis(ax: "Axes", which: str) -> None:
    """A logarithmic axis that has readable labels over a few decades or less, too."""
    from matplotlib import ticker

    getattr(ax, f"set_{which}scale")("log")
    low, high = getattr(ax, f"get_{which}lim")()
    decades = np.log10(high / low)
    if decades >= 2.5:
        return
    axis = ax.xaxis if which == "x" else ax.yaxis
    if decades > _FEW_DECADES:
        few = (1, 2, 5) if which == "y" or decades < 1.6 else (1, 3)
        axis.set_major_locator(ticker.LogLocator(subs=few))
        axis.set_minor_locator(ticker.LogLocator(subs=range(1, 10)))
    else:
        # Of a power of ten and its multiples hardly one lies there, and an axis with two labels is
        # taken for a linear one. Even values that draw together show both: where they lie, and that
        # the axis is logarithmic.
        axis.set_major_locator(ticker.MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]))
        axis.set_minor_locator(ticker.MaxNLocator(25, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: _readable(value)))
    axis.set_minor_formatter(ticker.NullFormatter())


def _readable(value: float) -> str:
    if 1e-2 <= value < 1e4:
        return f"{value:g}"
    digits, exponent = f"{value:.0e}".split("e")
    power = f"10^{{{int(exponent)}}}"
    return f"${power}$" if digits == "1" else rf"${digits}\times{power}$"


def label_height(ax: "Axes", words: str) -> None:
    """The label of the vertical axis, in lines where it is longer than the axes are high.

    Args:
      ax: where it is.
      words: with commas where it may be broken.
    """
    if text_width(words, RC["axes.labelsize"]) > 72.0 * height_inches(ax):
        words = words.replace(", ", ",\n")
    ax.set_ylabel(words)


def time_axis(ax: "Axes", label: str | None = None) -> None:
    """A time axis without margins, which ends at a tick where one is near.

    Args:
      ax: where it is.
      label: of the axis; by default that of the flow time.
    """
    ax.set_xlabel(quantities.label(RESULT["tau"]) if label is None else label)
    ax.margins(x=0.0)
    low, high = ax.get_xlim()
    ticks = ax.get_xticks()
    near = ticks[(ticks >= high) & (ticks <= high + 0.03 * (high - low))]
    ax.set_xlim(low, near[0] if near.size else high)


def mark(ax: "Axes", at: float, text: str, color: str = THRESHOLD) -> None:
    """A vertical line with a name in the legend; none where ``at`` is NaN or at the border.

    A name beside the line itself would lie on the lines that it is to explain.
    """
    low, high = ax.get_xlim()
    if low + 1e-3 * (high - low) < at < high:
        ax.axvline(at, color=color, linewidth=0.8, alpha=0.6, zorder=0.5, label=text)

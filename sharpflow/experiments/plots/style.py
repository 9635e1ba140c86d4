"""How the figures look, and how they are saved."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sharpflow.experiments.plots import quantities
from sharpflow.experiments.plots.arguments import FIGURE
from sharpflow.models.arguments import PATH, TEXT, checked, optional
from sharpflow.models.paths import user_path
from sharpflow.simulator.quantities import RESULT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of the palette of Okabe and Ito, which readers with any colour vision can tell apart.
MEASURED = "#1b2a41"
PREDICTED = "#d55e00"
SINGLE_EDGE = "#cc79a7"
OTHER = "#0072b2"
THRESHOLD = "#9a9a9a"
FAINT = "#d5d5d5"

COLUMN = (3.5, 2.5)  # inches: a column of a page, and the whole width of it
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
    "pdf.fonttype": 42,
    "svg.hashsalt": "sharpflow",
}

SOLID: dict[str, Any] = {"color": MEASURED, "linewidth": 1.8}
FINE: dict[str, Any] = {"color": MEASURED, "linewidth": 1.1}
DASHED: dict[str, Any] = {"color": PREDICTED, "linewidth": 1.3, "linestyle": (0, (4, 2))}
DOTTED: dict[str, Any] = {"color": SINGLE_EDGE, "linewidth": 1.5, "linestyle": (0, (1, 1.2))}
LINE: dict[str, Any] = {"color": THRESHOLD, "linewidth": 1.2}
ABOVE: dict[str, Any] = {  # a legend clear of lines that may run anywhere
    "loc": "lower left",
    "bbox_to_anchor": (0.0, 1.0),
    "borderaxespad": 0.2,
    "ncols": 2,
    "columnspacing": 1.4,
}

# What tells of the day or the machine is left out: the same figure, the same bytes.
_METADATA: dict[str, dict[str, None]] = {
    ".png": {"Software": None},
    ".pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    ".svg": {"Creator": None, "Date": None},
}


SUFFIXES = tuple(_METADATA)


@contextlib.contextmanager
def in_force() -> Iterator[None]:
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
def styled(
    ax: "Axes | None" = None, *, size: tuple[float, float] = COLUMN, projection: str | None = None
) -> "Iterator[Axes]":
    """Axes to draw on, with ``RC`` in force until the block ends.

    Args:
      ax: the axes; by default those of a new figure.
      size: of that figure, width and height in inches.
      projection: of its axes.
    """
    with in_force():
        if ax is not None:
            yield ax
            return
        from matplotlib import pyplot

        _, new = pyplot.subplots(
            figsize=size, layout="constrained", subplot_kw={"projection": projection}
        )
        yield new
        keep_tick_fonts(new)


def keep_tick_fonts(ax: "Axes") -> None:
    """Make the tick labels now: matplotlib would make them later, in another style."""
    ax.get_xticklabels(which="both")
    ax.get_yticklabels(which="both")


@checked(figure=FIGURE, path=PATH, title=optional(TEXT))
def save(figure: "Figure", path: str | Path, *, title: str | None = None) -> Path:
    """Write a figure to a file that is the same, byte by byte, whenever it is made.

    Args:
      figure: to write.
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
    path.parent.mkdir(parents=True, exist_ok=True)
    name = path.stem.replace("_", " ") if title is None else title
    with in_force():
        figure.savefig(path, dpi=200, metadata={"Title": name} | _METADATA[path.suffix])
    return path


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
    few = (1, 2, 5) if which == "y" or decades < 1.6 else (1, 3)
    axis.set_major_locator(ticker.LogLocator(subs=few if decades > 0.6 else range(1, 10)))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: _readable(value)))
    axis.set_minor_formatter(ticker.NullFormatter())


def _readable(value: float) -> str:
    if 1e-2 <= value < 1e4:
        return f"{value:g}"
    digits, exponent = f"{value:.0e}".split("e")
    power = f"10^{{{int(exponent)}}}"
    return f"${power}$" if digits == "1" else rf"${digits}\times{power}$"


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


def mark(ax: "Axes", at: float, text: str, color: str = THRESHOLD, *, top: bool = False) -> None:
    """A vertical line with a text at its end; none where ``at`` is NaN or at the border."""
    low, high = ax.get_xlim()
    if not low + 1e-3 * (high - low) < at < high:
        return
    ax.axvline(at, color=color, linewidth=0.8, alpha=0.6, zorder=0.5)
    ax.annotate(
        text,
        (at, float(top)),
        xycoords=("data", "axes fraction"),
        xytext=(3.0, -3.0 if top else 3.0),
        textcoords="offset points",
        va="top" if top else "baseline",
        color=color,
        fontsize=8.0,
    )

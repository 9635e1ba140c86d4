"""What trajectories do, over learning rate and weight decay."""

import enum
from typing import TYPE_CHECKING

import numpy as np

from sharpflow.experiments.plots import drawing
from sharpflow.experiments.plots.cells import axis_label

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes

# Apart for readers with any colour vision, and in greyscale as well.
COLORS = ("#c9d3db", "#005a8d", "#e69f00", "#d55e00", "#8c2d04", "#1b1b1b")


def phase_diagram(
    phases: "xarray.Dataset", kinds: type[enum.IntEnum], ax: "Axes | None" = None
) -> "Axes":
    """Draw phases as cells over η and λ, with lines of constant ηλ.

    Args:
      phases: ``phase`` over (weight_decay, learning_rate), both evenly spaced on log axes.
      kinds: their names, each with a ``label``; at most six.
      ax: where to draw; by default on a new figure.

    Returns:
      The axes.
    """
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.patches import Patch

    x, y = phases["learning_rate"].values, phases["weight_decay"].values
    phase = phases["phase"].transpose("weight_decay", "learning_rate").values
    with drawing.styled(ax, size=(6.2, 3.4)) as ax:
        ax.pcolormesh(
            _edges(x),
            _edges(y),
            phase,
            cmap=ListedColormap(COLORS[: len(kinds)]),
            norm=BoundaryNorm(np.arange(len(kinds) + 1) - 0.5, len(kinds)),
            edgecolor="white",
            linewidth=0.4,
        )
        ax.set_xscale("log")
        ax.set_yscale("log")
        low, high = np.log10(x[0] * y[0]), np.log10(x[-1] * y[-1])
        for power in range(int(np.ceil(low)) + 1, int(np.floor(high)) + 1):
            ax.plot(_edges(x), 10.0**power / _edges(x), color="white", linewidth=0.9, alpha=0.9)
            _label(ax, power, x, y)
        ax.set_xlim(*_edges(x)[[0, -1]])
        ax.set_ylim(*_edges(y)[[0, -1]])
        ax.set_xlabel(axis_label("learning_rate"))
        ax.set_ylabel(axis_label("weight_decay"))
        present = [kind for kind in kinds if np.any(phase == kind)]
        handles = [Patch(facecolor=COLORS[kind], label=kind.label) for kind in present]  # type: ignore[attr-defined]
        ax.legend(handles=handles, loc="center left", bbox_to_anchor=(1.12, 0.5), handlelength=1.2)
    return ax


def _label(ax: "Axes", power: int, x: np.ndarray, y: np.ndarray) -> None:
    """At the lower end of a line of constant ηλ, beyond the right border or beside the bottom."""
    right, bottom = _edges(x)[-1], _edges(y)[0]
    leaves = 10.0**power / right >= bottom
    ax.annotate(
        rf"$\eta\lambda=10^{{{power}}}$",
        (right, 10.0**power / right) if leaves else (10.0**power / bottom, bottom),
        xytext=(3.0, 0.0) if leaves else (2.0, 3.0),
        textcoords="offset points",
        ha="left",
        va="center" if leaves else "bottom",
        fontsize=7.5,
        color=drawing.MEASURED if leaves else "white",
    )


def _edges(centres: np.ndarray) -> np.ndarray:
    """Borders of cells that are evenly spaced on a log axis."""
    ratio = np.sqrt(centres[1:] / centres[:-1])
    inner = centres[:-1] * ratio
    return np.concatenate([[centres[0] / ratio[0]], inner, [centres[-1] * ratio[-1]]])

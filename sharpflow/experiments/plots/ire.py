"""What more motion along flat directions brings, and where."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sharpflow.experiments.plots import drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MARKERS = ("o", "s", "^", "D", "v")


def speed_up(
    descent_squared: np.ndarray,
    measured: np.ndarray,
    kappas: Sequence[float],
    names: Sequence[str],
    ax: "Axes | None" = None,
    *,
    b: float = 2.0,
) -> "Axes":
    """Draw how many times sooner the sharpness has halved, against G², for each κ.

    The lines are the derived ratio of the rates with κ and without,
    (1+κ)(2b + G²)/(2b + (1+κ)G²).

    Args:
      descent_squared: G² of each problem, its harmonic mean over log λ_1, shape (P,).
      measured: halving time without κ over that with it, shape (P, K).
      kappas: K of them.
      names: of the problems.
      ax: where to draw; by default on a new figure.
      b: response of the threshold.

    Returns:
      The axes.
    """
    from matplotlib.lines import Line2D

    squares = np.geomspace(0.5, 1e3, 200)
    with drawing.styled(ax) as ax:
        for index, kappa in enumerate(kappas):
            color = _color(index, len(kappas))
            faster = 1.0 + kappa
            line = faster * (2.0 * b + squares) / (2.0 * b + faster * squares)
            ax.plot(squares, line, color=color, linewidth=1.2, label=rf"$\kappa={kappa:g}$")
            for place, ratio, marker in zip(
                descent_squared, measured[:, index], _MARKERS, strict=False
            ):
                ax.plot(
                    place,
                    ratio,
                    linestyle="none",
                    marker=marker,
                    markersize=5.0,
                    markerfacecolor=color,
                    markeredgecolor="white",
                    markeredgewidth=0.5,
                )
        lines, _ = ax.get_legend_handles_labels()
        points = [
            Line2D([], [], linestyle="none", marker=marker, color=drawing.THRESHOLD, label=name)
            for marker, name in zip(_MARKERS, names, strict=False)
        ]
        ax.set_xlim(squares[0], squares[-1])
        drawing.mark(ax, 2.0 * b, f"$G^2={2.0 * b:g}$")
        beside = ax.get_legend_handles_labels()[0][len(lines) :]
        ax.legend(handles=[*lines[::-1], *points, *beside], handlelength=1.2, fontsize=7.5)
        ax.set_ylim(0.95, None)
        drawing.log_axis(ax, "x")
        ax.set_xlabel(r"squared slope $G^2=\Vert\nabla_\Gamma\log\lambda_1\Vert^2$")
        ax.set_ylabel(r"speed-up by $\kappa$")
    return ax


def sharpness_fall(
    tau: np.ndarray,
    measured: Mapping[float, np.ndarray],
    predicted: Mapping[float, np.ndarray],
    ax: "Axes | None" = None,
    *,
    explained: bool = True,
) -> "Axes":
    """Draw the sharpness on Γ over that at the start, with its prediction, for each κ.

    Args:
      tau: flow time, shape (T,).
      measured: λ_1(Φ(θ_t)) by κ, each of shape (T,); κ = 0 is drawn in black.
      predicted: λ_1(ζ(τ)) by κ, likewise.
      ax: where to draw; by default on a new figure.
      explained: whether a legend tells points and lines apart.

    Returns:
      The axes.
    """
    with drawing.styled(ax) as ax:
        count = sum(kappa > 0 for kappa in measured)
        for index, kappa in enumerate(measured):
            color = drawing.MEASURED if kappa == 0 else _color(index - 1, count)
            values, line = measured[kappa], predicted[kappa]
            every = max(1, len(tau) // 12)
            ax.plot(tau, line / line[0], color=color, linewidth=1.1)
            ax.plot(
                tau[::every],
                values[::every] / values[0],
                linestyle="none",
                marker="o",
                markersize=3.2,
                color=color,
                label=rf"$\kappa={kappa:g}$",
            )
        ax.axhline(0.5, color=drawing.FAINT, linewidth=0.8, zorder=0.5)
        drawing.time_axis(ax)
        ax.set_ylabel(r"sharpness $\lambda_1/\lambda_1(0)$")
        by_color = ax.legend(handlelength=0.8)
        if explained:
            from matplotlib.lines import Line2D

            ax.add_artist(by_color)
            flow = Line2D([], [], color=drawing.THRESHOLD, linewidth=1.1, label="flow")
            points = Line2D(
                [],
                [],
                linestyle="none",
                marker="o",
                markersize=3.2,
                color=drawing.THRESHOLD,
                label="gradient descent",
            )
            ax.legend(handles=[flow, points], loc="lower left", handlelength=1.2)
    return ax


def _color(index: int, count: int) -> tuple[float, ...]:
    from matplotlib.colors import to_rgb

    known = (drawing.OTHER, drawing.SINGLE_EDGE, drawing.PREDICTED)
    if count <= len(known):
        return to_rgb(known[index])
    return drawing.shade(drawing.OTHER, count - 1 - index, count)

"""Errors of the theory over a ladder of ηλ."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sharpflow.experiments.plots import drawing
from sharpflow.experiments.plots.cells import axis_label
from sharpflow.experiments.plots.quantities import label, shown_quantity
from sharpflow.experiments.power_law import PowerLaw

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_DOTS: dict[str, Any] = {
    "linestyle": "none",
    "marker": "o",
    "markersize": 3.5,
    "color": drawing.MEASURED,
    "markeredgecolor": "white",
    "markeredgewidth": 0.4,
}


class ErrorPanel(NamedTuple):
    """What a panel of a ladder shows.

    Attributes:
      name: variable of the errors, over (seed, intrinsic_rate).
      title: what it is an error of.
      fit: a power law through it, or None.
      tolerance: drawn as a line, or None.
    """

    name: str
    title: str
    fit: PowerLaw | None = None
    tolerance: float | None = None


def error_ladder(ladder: "xarray.Dataset", panels: Sequence[ErrorPanel]) -> "Figure":
    """Draw errors against ηλ on log axes, a panel for each, a dot for each seed.

    Args:
      ladder: variables over (seed, intrinsic_rate).
      panels: which of them.

    Returns:
      A figure with three panels in a row.
    """
    from matplotlib import pyplot

    rows = -(-len(panels) // 3)
    with drawing.in_force():
        figure, axes = pyplot.subplots(
            rows, 3, figsize=(7.0, 2.0 * rows + 0.2), layout="constrained", sharex=True
        )
        for ax, panel in zip(axes.flat, panels, strict=False):
            _errors(ax, ladder[panel.name], panel)
        for ax in axes.flat[len(panels) :]:
            ax.set_visible(False)
        for ax in axes.flat[max(len(panels) - 3, 0) : len(panels)]:
            ax.set_xlabel(axis_label("intrinsic_rate"))
    return figure


def _errors(ax: "Axes", errors: "xarray.DataArray", panel: ErrorPanel) -> None:
    rates = errors["intrinsic_rate"].values
    if panel.tolerance is not None:
        ax.axhline(panel.tolerance, **drawing.LINE | {"linewidth": 0.8})
        ax.annotate(
            "tolerance",
            (0.02, panel.tolerance),
            xycoords=("axes fraction", "data"),
            xytext=(0.0, 2.0),
            textcoords="offset points",
            color=drawing.THRESHOLD,
            fontsize=7.5,
        )
    ax.plot(rates, errors.transpose("intrinsic_rate", ...).values, **_DOTS)
    if panel.fit is not None:
        ends = np.array([rates.min(), rates.max()])
        low, high = panel.fit.interval
        ax.plot(ends, panel.fit.prefactor * ends**panel.fit.exponent, **drawing.DASHED)
        ax.annotate(
            f"exponent {panel.fit.exponent:.2f}\n[{low:.2f}, {high:.2f}]",
            (0.97, 0.05),
            xycoords="axes fraction",
            ha="right",
            va="bottom",
            color=drawing.PREDICTED,
            fontsize=7.5,
        )
    drawing.log_axis(ax, "x")
    drawing.log_axis(ax, "y")
    ax.set_title(panel.title, fontsize=9.0)


def entry_ladder(entries: "xarray.Dataset") -> "Figure":
    """Draw delay and overshoot of the entry against ηλ, measured and predicted.

    Args:
      entries: ``delay``, ``overshoot`` and ``predicted_`` both, over (seed, intrinsic_rate).

    Returns:
      A figure with two panels.
    """
    from matplotlib import pyplot

    rates = entries["intrinsic_rate"].values
    with drawing.in_force():
        figure, axes = pyplot.subplots(1, 2, figsize=drawing.PAGE, layout="constrained")
        for ax, name in zip(axes, ("delay", "overshoot"), strict=True):
            measured = entries[name].transpose("intrinsic_rate", ...).values
            ax.plot(rates, measured, **_DOTS, label=["measured"] + ["_"] * (len(measured[0]) - 1))
            predicted = entries[f"predicted_{name}"].mean("seed").values
            ax.plot(rates, predicted, **drawing.DASHED, label="predicted")
            ax.set_xlabel(axis_label("intrinsic_rate"))
            ax.set_ylabel(label(shown_quantity(entries, name)))
            drawing.log_axis(ax, "x")
            drawing.log_axis(ax, "y")
        drawing.legend_above(axes[0])
    return figure


def covariance_eigenvalues(oscillation: "xarray.Dataset", ax: "Axes | None" = None) -> "Axes":
    """Draw the eigenvalues of the oscillation's covariance beside those of ηλ M.

    Args:
      oscillation: ``measured`` and ``predicted`` over (seed, window, eigenvalue), and
        ``tau`` over the window.
      ax: where to draw; by default on a new figure.

    Returns:
      The axes.
    """
    with drawing.styled(ax) as ax:
        measured, predicted = oscillation["measured"], oscillation["predicted"]
        high = float(max(measured.max(), predicted.max()))
        shown = predicted.values > 1e-2 * high
        low = float(min(measured.values[shown].min(), predicted.values[shown].min()))
        ends = np.array([0.8 * low, 1.25 * high])
        ax.plot(ends, ends, **drawing.LINE)
        ax.fill_between(ends, 0.9 * ends, 1.1 * ends, color=drawing.FAINT, alpha=0.6, linewidth=0)
        markers = ("o", "s", "^", "D", "v")
        for index, marker in zip(range(measured.sizes["eigenvalue"]), markers, strict=False):
            kept = shown[..., index]
            if kept.any():
                ax.plot(
                    predicted.isel(eigenvalue=index).values[kept],
                    measured.isel(eigenvalue=index).values[kept],
                    linestyle="none",
                    marker=marker,
                    markersize=4.0,
                    color=drawing.shade(drawing.MEASURED, index, 4),
                    label=f"eigenvalue {index + 1}",
                )
        labels = [shown_quantity(oscillation, name) for name in ("predicted", "measured")]
        ax.set_xlabel(label(labels[0]))
        ax.set_ylabel(label(labels[1]))
        drawing.log_axis(ax, "x")
        drawing.log_axis(ax, "y")
        ax.set_xlim(*ends)
        drawing.legend_above(ax)
    return ax

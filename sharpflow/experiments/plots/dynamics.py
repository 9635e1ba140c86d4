"""Normalised dynamics of several kinds beside each other."""

from typing import TYPE_CHECKING

import numpy as np

from sharpflow.experiments.plots import drawing
from sharpflow.experiments.plots.quantities import label, mathtext, shown_quantity
from sharpflow.simulator.quantities import RESULT

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

_COLORS = (drawing.MEASURED, drawing.OTHER, "#009e73", drawing.SINGLE_EDGE)


def compared(runs: "xarray.Dataset") -> "Figure":
    """Draw sharpness, edge ratio, loss and test error of several rules against step.

    Args:
      runs: ``sharpness``, ``threshold``, ``loss_mean`` and ``test_error`` over
        (rule, step), and ``flow_sharpness``, ``flow_threshold`` and
        ``flow_test_error`` of the first rule over ``flow_step``.

    Returns:
      A figure of four panels.
    """
    from matplotlib import pyplot

    with drawing.in_force():
        figure, axes = pyplot.subplots(2, 2, figsize=(7.0, 5.0), layout="constrained", sharex=True)
        step = np.maximum(runs["step"].values, 1)
        for color, rule in zip(_COLORS, runs["rule"].values, strict=False):
            one = runs.sel(rule=rule)
            line = {"color": color, "linewidth": 1.5, "label": str(rule)}
            axes[0, 0].plot(step, one["sharpness"], **line)
            axes[0, 1].plot(step, one["sharpness"] / one["threshold"], **line)
            axes[1, 0].plot(step, np.maximum(one["loss_mean"], 1e-17), **line)
            axes[1, 1].plot(step, one["test_error"], **line)
        time = runs["flow_step"].values
        dashed = drawing.DASHED | {"label": "flow of GD+WD"}
        axes[0, 0].plot(time, runs["flow_sharpness"], **dashed)
        axes[0, 1].plot(time, runs["flow_sharpness"] / runs["flow_threshold"], **dashed)
        axes[1, 1].plot(time, runs["flow_test_error"], **dashed)
        axes[0, 1].axhline(1.0, **drawing.LINE, zorder=0.5)
        axes[0, 0].set_ylabel(label(shown_quantity(runs, "sharpness")))
        axes[0, 1].set_ylabel(mathtext("edge ratio λ₁/λ*"))
        axes[1, 0].set_ylabel(label(shown_quantity(runs, "loss_mean")))
        axes[1, 1].set_ylabel(label(shown_quantity(runs, "test_error")))
        axes[0, 1].set_ylim(0.0, 2.0)
        axes[1, 0].set_ylim(1e-15, 10.0)
        for ax in (axes[0, 0], axes[1, 0], axes[1, 1]):
            drawing.log_axis(ax, "y")
        for ax in axes.flat:
            ax.set_xscale("log")
            ax.set_xlim(1, step[-1])
            drawing.keep_tick_fonts(ax)
        for ax in axes[1]:
            ax.set_xlabel(label(RESULT["step"]))
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=5)
    return figure

"""Adaptive steps: flows for several responses, and the preconditioned sharpness."""

from typing import TYPE_CHECKING

import numpy as np

from sharpflow.experiments.plots import drawing
from sharpflow.experiments.plots.quantities import label, line_of, mathtext, shown_quantity
from sharpflow.simulator.quantities import RESULT

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure


def flows(sphere: "xarray.Dataset", plain: "xarray.Dataset") -> "Figure":
    """Draw thresholds and tracking errors of scalar RMSprop against τ.

    Args:
      sphere: ``sphere_threshold``, ``sphere_predicted_threshold`` and
        ``sphere_relative_error`` over (b, tau).
      plain: ``plain_relative_error`` over (run, tau), for losses that are not
        scale-invariant.

    Returns:
      A figure of three panels.
    """
    from matplotlib import pyplot, ticker

    with drawing.in_force():
        figure, axes = pyplot.subplots(1, 3, figsize=(7.4, 3.4), layout="constrained")
        tau, responses = sphere["tau"].values, sphere["b"].values
        for index, b in enumerate(responses):
            color = drawing.shade(drawing.MEASURED, index, len(responses))
            one = sphere.sel(b=b)
            start = float(one["sphere_predicted_threshold"][0])
            line = {"color": color, "linewidth": 2.0}
            axes[0].plot(tau, one["sphere_threshold"] / start, **line, label=f"$b = {b:g}$")
            axes[0].plot(tau, one["sphere_predicted_threshold"] / start, **drawing.DASHED)
            axes[1].plot(tau[1:], one["sphere_relative_error"][1:], **line, label=f"$b = {b:g}$")
        axes[0].plot([], [], **drawing.DASHED, label="predicted flow")
        axes[0].set_ylabel(r"threshold $\lambda^{\ast}/\lambda^{\ast}(0)$, on the sphere")
        axes[1].set_ylabel("error / distance moved, on the sphere")
        axes[2].set_ylabel("the same, no scale invariance")
        shown: set[str] = set()
        for name in plain["run"].values:
            kind = "factorisation" if "factorisation" in name else "tanh network"
            off = "from 1e-4" in name
            label = kind + (" from $10^{-4}$" if off else "")
            axes[2].plot(
                tau[1:],
                plain["plain_relative_error"].sel(run=name)[1:],
                color=drawing.OTHER if kind == "factorisation" else drawing.MEASURED,
                linewidth=1.2,
                linestyle=(0, (1, 1.2)) if off else "-",
                label=label if label not in shown else None,
            )
            shown.add(label)
        axes[2].axhline(0.02, **drawing.LINE)
        axes[2].annotate(
            "2 %", (tau[-1], 0.02), xytext=(-2, 2), textcoords="offset points", ha="right",
            fontsize=8.0, color=drawing.THRESHOLD,
        )  # fmt: skip
        for ax in axes:
            drawing.time_axis(ax)
            drawing.log_axis(ax, "y")
        for ax in axes[1:]:
            ax.yaxis.set_major_locator(ticker.LogLocator())
        axes[0].legend(**drawing.ABOVE, fontsize=7.5)
        axes[1].legend(**drawing.ABOVE, fontsize=7.5)
        axes[2].legend(**drawing.ABOVE | {"ncols": 1}, fontsize=7.5)
        for ax in axes:
            drawing.keep_tick_fonts(ax)
    return figure


def preconditioned(record: "xarray.Dataset") -> "Figure":
    """Draw λ_1(P^{-1/2} ∇²L P^{-1/2}) of RMSprop over 2/η against step.

    Args:
      record: ``preconditioned_ratio`` over (setting, step).

    Returns:
      A figure of one panel.
    """
    from matplotlib import pyplot

    colors = (drawing.MEASURED, drawing.OTHER, drawing.PREDICTED)
    quantity = shown_quantity(record, "preconditioned_ratio")
    line = line_of(quantity)
    with drawing.in_force():
        figure, ax = pyplot.subplots(figsize=(4.4, 2.9), layout="constrained")
        if line is not None:
            ax.axhline(line, **drawing.LINE)
        for index, name in enumerate(record["setting"].values):
            values = np.asarray(record["preconditioned_ratio"].sel(setting=name))
            look = {"color": colors[index % 3], "linewidth": 1.1, "label": mathtext(str(name))}
            ax.plot(record["step"], values, **look)
        drawing.time_axis(ax, label(RESULT["step"]))
        ax.set_ylim(0.0, 1.6)
        ax.set_ylabel(label(quantity))
        drawing.legend_above(ax)
        drawing.keep_tick_fonts(ax)
    return figure

"""Momentum: its threshold, and its flow with weight decay."""

from typing import TYPE_CHECKING

from sharpflow.experiments.plots import drawing
from sharpflow.experiments.plots.quantities import label as label_of
from sharpflow.experiments.plots.quantities import shown_quantity

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure


def momentum(ramp: "xarray.Dataset", flow: "xarray.Dataset") -> "Figure":
    """Draw sharpness under a falling threshold, and the flow, for several β.

    Args:
      ramp: ``ramp_sharpness`` and ``ramp_threshold`` over (beta, share of the run).
      flow: ``flow_threshold``, ``flow_predicted_threshold`` and ``flow_relative_error``
        over (beta, tau).

    Returns:
      A figure of three panels.
    """
    from matplotlib import pyplot

    colors = (drawing.MEASURED, drawing.OTHER, drawing.SINGLE_EDGE)
    with drawing.in_force():
        figure, axes = pyplot.subplots(1, 3, figsize=(7.4, 3.0), layout="constrained")
        for color, beta in zip(colors, ramp["beta"].values, strict=True):
            one, other = ramp.sel(beta=beta), flow.sel(beta=beta)
            label = rf"$\beta = {beta:g}$"
            line = {"color": color, "linewidth": 1.2}
            axes[0].plot(one["share"], one["ramp_sharpness"], **line, label=label)
            start = float(other["flow_predicted_threshold"][0])
            wide = {"color": color, "linewidth": 2.0}
            axes[1].plot(other["tau"], other["flow_threshold"] / start, **wide, label=label)
            axes[2].plot(other["tau"][1:], other["flow_relative_error"][1:], **wide, label=label)
        axes[0].plot(
            one["share"],
            one["ramp_threshold"],
            **drawing.DASHED,
            label=r"$\frac{2(1+\beta)}{(1-\beta)\eta}$",
        )
        axes[1].plot(
            other["tau"],
            other["flow_predicted_threshold"] / start,
            **drawing.DASHED,
            label="predicted flow",
        )
        axes[0].set_ylabel(label_of(shown_quantity(ramp, "ramp_sharpness")))
        axes[1].set_ylabel(r"threshold $\lambda^{\ast}/\lambda^{\ast}(0)$")
        axes[2].set_ylabel(label_of(shown_quantity(flow, "flow_relative_error")))
        drawing.time_axis(axes[0], label_of(shown_quantity(ramp, "share")))
        for ax in axes[1:]:
            drawing.time_axis(ax)
            drawing.log_axis(ax, "y")
        for ax in axes:
            drawing.legend_above(ax)
            drawing.keep_tick_fonts(ax)
    return figure

"""The mean training loss at the Edge of Stability."""

from typing import TYPE_CHECKING

import numpy as np

from sharpflow.experiments.plots import drawing
from sharpflow.experiments.plots.arguments import AX, DATASET, require_columns
from sharpflow.experiments.plots.edge import mark_predicted_entry, require_entry
from sharpflow.experiments.plots.quantities import label, symbol
from sharpflow.models.arguments import checked
from sharpflow.simulator.comparison_quantities import COMPARISON

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes


@checked(comparison=DATASET, ax=AX)
def mean_loss(comparison: "xarray.Dataset", ax: "Axes | None" = None) -> "Axes":
    """Draw the mean training loss of each window and its prediction ½ ηλ λ* tr M against τ.

    Args:
      comparison: what ``sharpflow.compare`` returns; its means are over windows that
        end at the times at which they are drawn.
      ax: where to draw; by default on a new figure.

    Returns:
      The axes.

    Raises:
      ValueError: a comparison without what is drawn.
    """
    require_columns("comparison", comparison, "tau", "loss_mean", "predicted_loss")
    require_entry(comparison)
    tau = np.asarray(comparison["tau"])
    with drawing.styled(ax) as ax:
        ax.plot(
            tau,
            np.asarray(comparison["loss_mean"]),
            **drawing.FINE,
            label="measured",
        )
        ax.plot(
            tau,
            np.asarray(comparison["predicted_loss"]),
            **drawing.DASHED,
            label=symbol(COMPARISON["predicted_loss"]),
        )
        ax.set_xlim(tau[0], tau[-1])
        drawing.time_axis(ax)
        mark_predicted_entry(ax, comparison)
        ax.set_ylabel(label(COMPARISON["loss_mean"]))
        ax.set_ylim(bottom=0.0)
        ax.ticklabel_format(axis="y", scilimits=(-2, 3), useMathText=True)
        drawing.legend_above(ax)
    return ax

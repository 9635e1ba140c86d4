"""Batch-norm linear regression, where the flow is known exactly."""

from typing import TYPE_CHECKING

import numpy as np

from sharpflow.experiments.plots import drawing
from sharpflow.experiments.plots.arguments import AX, VECTOR
from sharpflow.models.arguments import checked, require_alike

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@checked(tau=VECTOR, exact=VECTOR, flow=VECTOR, measured=VECTOR, ax=AX)
def angle(
    tau: np.ndarray,
    exact: np.ndarray,
    flow: np.ndarray,
    measured: np.ndarray,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw the angle to the minimum-norm solution: exact, integrated and simulated.

    Args:
      tau: flow time, shape (T,).
      exact: α(τ) in closed form, radians, shape (T,).
      flow: along the integrated flow, shape (T,).
      measured: along gradient descent, shape (T,).
      ax: where to draw; by default on a new figure.

    Returns:
      The axes.

    Raises:
      ValueError: arrays of different lengths, or that hold no numbers.
    """
    for name, values in {"exact": exact, "flow": flow, "measured": measured}.items():
        require_alike(name, np.asarray(values), "tau", np.asarray(tau))
    with drawing.styled(ax) as ax:
        ax.plot(tau, exact, **drawing.LINE | {"linewidth": 4.0}, label="exact")
        ax.plot(tau, flow, **drawing.DASHED, label="predicted flow")
        ax.plot(tau, measured, "o", color=drawing.MEASURED, markersize=3.0, label="GD+WD")
        drawing.time_axis(ax)
        ax.set_ylabel(r"angle $\alpha$ to minimum norm (rad)")
        ax.set_ylim(bottom=0.0)
        drawing.legend_above(ax)
    return ax

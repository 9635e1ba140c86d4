"""A metric of the problem, such as the test error, along a trajectory."""

from typing import TYPE_CHECKING

import numpy as np

from sharpflow.experiments.plots import drawing, quantities
from sharpflow.experiments.plots.arguments import AX, RECORD, TWO_VECTORS, require_columns
from sharpflow.models.arguments import FLAG, POSITIVE, TEXT, checked, optional
from sharpflow.simulator.trajectory import Trajectory

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes


@checked(
    trajectory=RECORD,
    name=TEXT,
    predicted=optional(TWO_VECTORS),
    ax=AX,
    other=optional(RECORD),
    clock=optional(POSITIVE),
    log=FLAG,
    label=TEXT,
    other_label=TEXT,
)
def metric(
    trajectory: "Trajectory | xarray.Dataset",
    name: str,
    predicted: tuple[np.ndarray, np.ndarray] | None = None,
    ax: "Axes | None" = None,
    *,
    other: "Trajectory | xarray.Dataset | None" = None,
    clock: float | None = None,
    log: bool = False,
    label: str = "with weight decay",
    other_label: str = "without weight decay",
) -> "Axes":
    """Draw a metric against τ, with its prediction and a second trajectory beside it.

    Args:
      trajectory: with the column ``name``, shape (T,).
      name: of the metric.
      predicted: τ and values of the metric along the flow, shapes (P,) and (P,).
      ax: where to draw; by default on a new figure.
      other: a second trajectory with that column.
      clock: flow time per step of both; by default each has its own, and one that has
        none, as without weight decay, that of ``trajectory``.
      log: whether the metric has a logarithmic axis.
      label, other_label: of the two in the legend.

    Returns:
      The axes.

    Raises:
      ValueError: a trajectory without a flow time, and no ``clock``.
    """
    require_columns("trajectory", trajectory, name)
    if other is not None:
        require_columns("other", other, name)
    tau = _times(trajectory, clock)
    if not tau[-1] > 0:
        raise ValueError(
            f"trajectory has no flow time of its own, τ = {tau[-1]:g} at its end: give clock, "
            "the τ of a step"
        )
    with drawing.styled(ax) as ax:
        if other is not None:
            times = _times(other, clock)
            if not times[-1] > 0:
                times = _times(other, tau[-1] / int(trajectory.step[-1]))
            look = drawing.SOLID | {"color": drawing.OTHER}
            ax.plot(times, np.asarray(other[name]), **look, label=other_label)
        ax.plot(tau, np.asarray(trajectory[name]), **drawing.SOLID, label=label)
        if predicted is not None:
            ax.plot(*map(np.asarray, predicted), **drawing.DASHED, label="predicted flow")
        drawing.time_axis(ax)
        ax.set_ylabel(quantities.label(quantities.shown_quantity(trajectory, name)))
        if log:
            drawing.log_axis(ax, "y")
        drawing.legend_above(ax)
    return ax


def _times(record: "Trajectory | xarray.Dataset", clock: float | None) -> np.ndarray:
    """τ of every record, or steps times ``clock``; NaN where there is neither."""
    step = np.asarray(record.step)
    if clock is not None:
        return clock * step
    return np.broadcast_to(np.asarray(getattr(record, "tau", np.nan)), step.shape)

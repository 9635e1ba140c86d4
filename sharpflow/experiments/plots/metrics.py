"""A metric of the problem, such as the test error, along a trajectory."""

from typing import TYPE_CHECKING

import numpy as np

from sharpflow.experiments.plots import drawing, quantities
from sharpflow.experiments.plots.arguments import AX, RECORD, TWO_VECTORS, require_columns
from sharpflow.experiments.plots.record import Record, record_of
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
    """Draw a metric or another column against τ, with its prediction and a second trajectory.

    What the ``Quantity`` of the column says that it is to be compared with is drawn in grey: a
    column that was recorded too, as the threshold of a sharpness, or a number. Of several
    eigenvalues the largest is drawn. Records without a value are passed over.

    Args:
      trajectory: with the column ``name``, shape (T,) or (T, k); also a grid of one point.
      name: of the column.
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
    record = record_of("trajectory", trajectory)
    tau = _times(record, clock)
    if not tau[-1] > 0:
        raise ValueError(
            f"trajectory has no flow time of its own, τ = {tau[-1]:g} at its end: give clock, "
            "the τ of a step"
        )
    quantity = record.quantity(name)
    beside = quantities.edge_of(record.dataset, name)
    with drawing.styled(ax) as ax:
        if other is not None:
            require_columns("other", other, name)
            second = record_of("other", other)
            times = _times(second, clock)
            if not times[-1] > 0:
                times = _times(second, tau[-1] / float(record.dataset["step"][-1]))
            look = drawing.SOLID | {"color": drawing.OTHER}
            ax.plot(*second.curve(name, times), **look, label=other_label)
        ax.plot(*record.curve(name, tau), **drawing.SOLID, label=label)
        if beside is not None:
            words = quantities.symbol(record.quantity(beside))
            ax.plot(*record.curve(beside, tau), **drawing.LINE, zorder=1.5, label=words)
        elif (line := quantities.line_of(quantity)) is not None:
            ax.axhline(line, **drawing.LINE, zorder=0.5)
        if predicted is not None:
            ax.plot(*map(np.asarray, predicted), **drawing.DASHED, label="predicted flow")
        drawing.time_axis(ax)
        ax.set_ylabel(quantities.label(quantity))
        if log:
            drawing.log_axis(ax, "y")
        drawing.legend_above(ax)
    return ax


def _times(record: Record, clock: float | None) -> np.ndarray:
    """τ of every record, or steps times ``clock``; NaN where there is neither."""
    step = np.asarray(record.dataset["step"])
    if clock is not None:
        return clock * step
    if "tau" not in record.dataset.coords:
        return np.full(step.shape, np.nan)
    return np.asarray(record.dataset["tau"])

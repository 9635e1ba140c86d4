"""A metric of the problem, such as the test error, along a trajectory."""

from typing import TYPE_CHECKING

import numpy as np

from sharpflow.experiments.plots import drawing, quantities
from sharpflow.experiments.plots.arguments import AX, RECORD, TWO_VECTORS, require_columns
from sharpflow.experiments.plots.record import Record, has_flow_time, record_of
from sharpflow.models.arguments import FLAG, POSITIVE, TEXT, checked, optional
from sharpflow.simulator.quantities import RESULT
from sharpflow.simulator.trajectory import Trajectory

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes

# Width of the second trajectory, in points: it lies under the first, and is seen on both sides of
# it where the two coincide.
_UNDER = 3.0


@checked(
    trajectory=RECORD,
    name=TEXT,
    predicted=optional(TWO_VECTORS),
    ax=AX,
    other=optional(RECORD),
    clock=optional(POSITIVE),
    log=FLAG,
    label=optional(TEXT),
    other_label=optional(TEXT),
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
    label: str | None = None,
    other_label: str | None = None,
) -> "Axes":
    """Draw a metric or another column against τ, with its prediction and a second trajectory.

    Without a flow time, as without weight decay, it is drawn against steps.

    What the ``Quantity`` of the column says that it is to be compared with is drawn in grey: a
    column that was recorded too, as the threshold of a sharpness, or a number. That of a second
    trajectory is drawn beside it in pale blue. Of several eigenvalues the largest is drawn. Records
    without a value are passed over.

    Args:
      trajectory: with the column ``name``, shape (T,) or (T, k); also a grid of one point.
      name: of the column.
      predicted: τ and values of the metric along the flow, shapes (P,) and (P,).
      ax: where to draw; by default on a new figure.
      other: a second trajectory with that column.
      clock: flow time per step of both; by default each has its own, and ``other`` that of
        ``trajectory`` where it has none. Where ``trajectory`` has none, both are drawn against
        steps.
      log: whether the metric has a logarithmic axis.
      label, other_label: of the two in the legend. By default one alone is "measured"; of two
        they tell which has a flow time, as with weight decay, where only one of them has.

    Returns:
      The axes.

    Raises:
      ValueError: ``predicted`` beside a trajectory without a flow time, and no ``clock``.
    """
    require_columns("trajectory", trajectory, name)
    record = record_of("trajectory", trajectory)
    per_step = _flow_time_per_step(record) if clock is None else clock
    if per_step is None and predicted is not None:
        raise ValueError(
            "trajectory has no flow time tau, so that predicted has no place beside it: give "
            "clock, the flow time of a step"
        )
    times = _times(record, clock, per_step)
    quantity = record.quantity(name)
    beside = quantities.edge_of(record.dataset, name)
    second = None
    if other is not None:
        require_columns("other", other, name)
        second = record_of("other", other)
        own, others = _labels(record, second)
        label, other_label = own if label is None else label, other_label or others
    label = "measured" if label is None else label
    with drawing.styled(ax) as ax:
        # the first lies above the second, and stands before it in the legend
        ax.plot(*record.curve(name, times), **drawing.SOLID, zorder=2.2, label=label)
        if second is not None:
            other_times = _times(second, clock, per_step)
            look = drawing.SOLID | {"color": drawing.OTHER, "linewidth": _UNDER}
            ax.plot(*second.curve(name, other_times), **look, label=other_label)
        if beside is not None:
            words = quantities.symbol(record.quantity(beside))
            shared = second is None or beside not in second
            named = words if shared else f"{words}, {label}"
            ax.plot(*record.curve(beside, times), **drawing.BESIDE, zorder=1.5, label=named)
            if second is not None and beside in second:
                # each run has its own: beside that of the other it would seem to pass its edge
                look = drawing.BESIDE | {"color": drawing.shade(drawing.OTHER, 1, 2)}
                curve = second.curve(beside, other_times)
                ax.plot(*curve, **look, zorder=1.4, label=f"{words}, {other_label}")
        elif (line := quantities.line_of(quantity)) is not None:
            ax.axhline(line, **drawing.LINE, zorder=0.5)
        if predicted is not None:
            ax.plot(*map(np.asarray, predicted), **drawing.DASHED, label="predicted flow")
        drawing.time_axis(ax, quantities.label(RESULT["step" if per_step is None else "tau"]))
        ax.set_ylabel(quantities.label(quantity))
        if log:
            drawing.log_axis(ax, "y")
        drawing.legend_above(ax)
    return ax


def _labels(record: Record, other: Record) -> tuple[str, str]:
    """Of two trajectories, as far as their clocks tell them apart."""
    with_decay, without_decay = "with weight decay", "without weight decay"
    match has_flow_time(record.dataset), has_flow_time(other.dataset):
        case True, False:
            return with_decay, without_decay
        case False, True:
            return without_decay, with_decay
    return "trajectory", "other"


def _flow_time_per_step(record: Record) -> float | None:
    """τ of a step, or None of a trajectory without flow time."""
    if not has_flow_time(record.dataset):
        return None
    step, tau = (np.asarray(record.dataset[name], dtype=np.float64) for name in ("step", "tau"))
    last = np.nanargmax(tau)  # a point of a grid may end before its records do
    return float(tau[last] / step[last])


def _times(record: Record, clock: float | None, per_step: float | None) -> np.ndarray:
    """Where the records lie on the axis.

    Args:
      record: of one of the trajectories.
      clock: flow time per step, as the caller gave it.
      per_step: flow time per step of a record without its own; None where the axis has steps.
    """
    step = np.asarray(record.dataset["step"], dtype=np.float64)
    if per_step is None:
        return step
    if clock is None and has_flow_time(record.dataset):
        return np.asarray(record.dataset["tau"])
    return per_step * step

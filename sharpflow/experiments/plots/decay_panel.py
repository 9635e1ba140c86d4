"""A trajectory with weight decay beside one without: sharpness, test error and prediction."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from sharpflow.experiments.plots import drawing
from sharpflow.experiments.plots.arguments import AX, DATASET, RECORD, TWO_VECTORS, require_columns
from sharpflow.experiments.plots.edge import mark_predicted_entry, sharpness_and_threshold
from sharpflow.experiments.plots.metrics import metric
from sharpflow.models.arguments import FLAG, TEXT, Kind, checked, optional
from sharpflow.simulator.trajectory import Trajectory
from sharpflow.theory.flow import FLOW, FlowSolution

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes


AXES = Kind(
    "two matplotlib axes, or None",
    lambda value: (
        value is None
        or (
            hasattr(value, "__len__")
            and len(value) == 2
            and all(ax is not None and AX.fits(ax) for ax in value)
        )
    ),
)


@checked(
    comparison=DATASET,
    flow=optional(FLOW),
    trajectory=RECORD,
    without_decay=RECORD,
    predicted=TWO_VECTORS,
    name=TEXT,
    log=FLAG,
    axes=AXES,
)
def prediction_panel(
    comparison: "xarray.Dataset",
    flow: FlowSolution | None,
    trajectory: "Trajectory | xarray.Dataset",
    without_decay: "Trajectory | xarray.Dataset",
    predicted: tuple[np.ndarray, np.ndarray],
    *,
    name: str = "test_error",
    log: bool = True,
    axes: "Sequence[Axes] | None" = None,
) -> "tuple[Axes, Axes]":
    """Draw sharpness and threshold beside a metric with and without weight decay.

    Args:
      comparison: what ``sharpflow.compare`` returns for ``trajectory``.
      flow: its prediction; None takes that inside ``comparison``.
      trajectory: with weight decay, with the columns ``threshold`` and ``name``.
      without_decay: with the column ``name``; drawn on the clock of ``trajectory``.
      predicted: τ and values of the metric along the flow, shapes (P,) and (P,).
      name: of the metric.
      log: whether the metric has a logarithmic axis.
      axes: two to draw on; by default on a new figure, seven inches wide.

    Returns:
      The two axes.

    Raises:
      ValueError: as ``metric``, a trajectory without a flow time.
    """

    for argument, record in {"trajectory": trajectory, "without_decay": without_decay}.items():
        require_columns(argument, record, name)
    with drawing.in_force():
        if axes is None:
            from matplotlib import pyplot

            _, axes = pyplot.subplots(1, 2, figsize=drawing.PAGE, layout="constrained", sharex=True)
        left, right = axes
        sharpness_and_threshold(comparison, flow, left, trajectory=trajectory)
        metric(trajectory, name, predicted, right, other=without_decay, log=log)
        mark_predicted_entry(right, comparison)
        drawing.keep_tick_fonts(left)
        drawing.keep_tick_fonts(right)
    return left, right

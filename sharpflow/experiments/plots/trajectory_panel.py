"""One trajectory in one figure: its loss, its metrics and its sharpness, beside the prediction."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Array

from sharpflow.experiments.grid_summary import EDGE_RATIOS, SHARPNESSES
from sharpflow.experiments.plots import drawing, quantities, series
from sharpflow.experiments.plots.arguments import (
    DATASET,
    RECORD,
    SEVERAL_AXES,
    flat_axes,
    require_columns,
)
from sharpflow.experiments.plots.edge import mark_predicted_entry, require_entry
from sharpflow.experiments.plots.record import Curve, Record, has_flow_time, record_of
from sharpflow.models import Problem
from sharpflow.models.arguments import TEXT, Kind, checked, optional
from sharpflow.models.fitting import require_fitting
from sharpflow.models.precision import compiled
from sharpflow.models.problem import PROBLEM, Params
from sharpflow.simulator.average import edge_of_average
from sharpflow.simulator.comparison import PREDICTION
from sharpflow.simulator.gdwd_rates import is_gdwd
from sharpflow.simulator.quantity import Quantity
from sharpflow.simulator.trajectory import Trajectory
from sharpflow.theory import CentralFlowSolution, FlowSolution, predicted_loss

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes

MOST_PANELS = 6

_Names = tuple[str, ...]
_AT_MANIFOLD = "sharpness"  # what a comparison calls λ_1 at Φ(θ_t)
_IN_W = ("hessian_sharpness", "preconditioned_sharpness")  # at w_t, beside 2/η
_SPHERICAL = tuple(name for name in SHARPNESSES if name not in _IN_W)
_LOSSES = ("loss", "loss_mean")
# Of lines that share axes, from the first.
_COLOURS = (drawing.MEASURED, drawing.OTHER, drawing.SINGLE_EDGE)
# Share of the records of a metric that its axis may leave out. With half of them, as for the bands
# of a grid, it could leave out the entry into the edge, which is what one trajectory is looked at
# for.
_TRANSIENT = 0.1
# Times from an output of a prediction to the next at its beginning. By less a mean loss at the edge
# may change between two outputs; at ten times as much the fall of most losses would be drawn.
_LEAP = 3.0
# Of the range of a metric: one that moves less after its transient, as an accuracy that stays 1,
# has nothing to show there. At a hundred times as much a measured and a predicted error would lie
# on each other.
_AT_REST = 1e-4
# Losses of single steps differ by decades at the edge, and would hide their mean.
_BEHIND: dict[str, Any] = {"color": drawing.BEHIND, "linewidth": 0.8, "zorder": 1.6}

_COLUMNS = Kind(
    "a sequence of names of columns, or of groups of names that share axes",
    lambda value: (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and len(value) > 0
        and all(
            isinstance(names, str)
            or (
                isinstance(names, Sequence)
                and len(names) > 0
                and all(isinstance(name, str) for name in names)
            )
            for names in value
        )
    ),
)


@checked(
    trajectory=RECORD,
    flow=optional(PREDICTION),
    axes=optional(SEVERAL_AXES),
    comparison=optional(DATASET),
    problem=optional(PROBLEM),
    columns=optional(_COLUMNS),
    against=optional(TEXT),
)
def panel(
    trajectory: "Trajectory | xarray.Dataset",
    flow: FlowSolution | CentralFlowSolution | None = None,
    axes: "Sequence[Axes] | np.ndarray | None" = None,
    *,
    comparison: "xarray.Dataset | None" = None,
    problem: Problem | None = None,
    columns: Sequence[str | Sequence[str]] | None = None,
    against: str | None = None,
) -> "tuple[Axes, ...]":
    """Draw one trajectory: loss, metrics, and sharpness with λ* or 2/η, each on axes of its own.

    A column is drawn together with what its ``Quantity`` says that it is to be compared with: a
    sharpness with the threshold λ* or the line 2/η, an edge ratio with 1. Records without a value
    are passed over. By default there are axes for the loss, at single steps and as the mean
    between records; for the metrics, those of training data beside those of test data; for the
    sharpness that is nearest to Γ; and for ``hessian_sharpness``. The axis of a metric leaves out
    the first tenth of its records where they would make it more than twice as long.

    Args:
      trajectory: what ``sharpflow.simulate`` returns, its dataset, or a grid of one point.
      flow: what ``sharpflow.predict`` returns for it: its λ_1 and λ* are drawn, dashed. Those of a
        central flow are drawn beside a ``Trajectory`` alone, which tells its rates.
      axes: as many as there are panels; by default those of a new figure, as wide as a column of
        a page for one panel and as the page for more.
      comparison: what ``sharpflow.compare`` returns for it: the sharpness is the one at Φ(θ_t)
        then, and the predicted entry is marked.
      problem: what was trained: its metrics and its mean loss are drawn along ``flow``.
      columns: what to draw, one panel for each name or group of names; by default what was
        recorded, six panels at most. With a comparison ``"sharpness"`` is its own.
      against: ``"tau"`` or ``"step"``; by default the flow time where the trajectory has one.

    Returns:
      The axes, one for each panel; ``sharpflow.plots.save`` takes them.

    Raises:
      ValueError: a column that was not recorded, nothing to draw, a number of axes that is not
        that of the panels, a grid of several points, or no flow time for a prediction.
    """
    record = record_of("trajectory", trajectory, against)
    compared = None
    # a comparison with a central flow has no sharpness on Γ and no entry
    if comparison is not None and not isinstance(flow, CentralFlowSolution):
        require_columns("comparison", comparison, "tau", "sharpness")
        require_entry(comparison)
        compared = Record(comparison, record.clock)
    if flow is not None and not has_flow_time(record.dataset):
        raise ValueError("trajectory has no flow time tau, so that flow has no place beside it")
    groups = (
        _recorded(record, flow, compared) if columns is None else _given(columns, record, compared)
    )
    predicted = {} if flow is None else _predictions(record, flow, problem, trajectory)
    if axes is not None and len(flat_axes(axes)) != len(groups):
        raise ValueError(
            f"axes must be {len(groups)}, one for each of {groups}, got {len(flat_axes(axes))}; "
            "columns= chooses what is drawn"
        )
    with drawing.in_force():
        placed = _new_axes(len(groups)) if axes is None else flat_axes(axes)
        for ax, names in zip(placed, groups, strict=True):
            with drawing.styled(ax):
                _draw(ax, record, names, compared, predicted)
                if axes is not None:
                    drawing.legend_above(ax)
        if axes is None:
            _common_legend(placed)
    return tuple(placed)


def _given(
    columns: Sequence[str | Sequence[str]], record: Record, compared: Record | None
) -> list[_Names]:
    groups = [(names,) if isinstance(names, str) else tuple(names) for names in columns]
    wanted = {name for names in groups for name in names}
    if compared is not None:
        wanted.discard(_AT_MANIFOLD)
    elif _AT_MANIFOLD in wanted and _AT_MANIFOLD not in record:
        recorded = [name for name in SHARPNESSES if name in record]
        raise ValueError(
            f"columns has {_AT_MANIFOLD!r}, which compare makes: give what it returns as "
            f"comparison=, or draw a recorded sharpness; there are {recorded}"
        )
    require_columns("trajectory", record.dataset, *sorted(wanted))
    return groups


def _recorded(
    record: Record, flow: FlowSolution | CentralFlowSolution | None, compared: Record | None
) -> list[_Names]:
    """What there is to draw: losses, metrics by their kind, the sharpness next to Γ, and λ_1(w)."""
    groups: list[_Names] = []
    if losses := tuple(name for name in ("loss", "loss_mean") if name in record):
        groups.append(losses)
    metrics: dict[str, list[str]] = {}
    for name in quantities.metric_names(record.dataset, record.time_dimension):
        metrics.setdefault(name.removeprefix("train_").removeprefix("test_"), []).append(name)
    groups += [tuple(names) for names in metrics.values()]
    spherical = [name for name in _SPHERICAL if name in record]
    if compared is not None:
        groups.append((_AT_MANIFOLD,))
    elif spherical:
        groups.append((spherical[0],))
    elif flow is not None and "threshold" in record:
        groups.append(("threshold",))
    groups += [(name,) for name in _IN_W if name in record]
    if not groups:
        raise ValueError("trajectory has no loss, metric or sharpness to draw: name columns")
    return groups[:MOST_PANELS]


def _predictions(
    record: Record,
    flow: FlowSolution | CentralFlowSolution,
    problem: Problem | None,
    trajectory: "Trajectory | xarray.Dataset",
) -> dict[str, Curve]:
    """What the flow says of columns, by their names."""
    time = record.on_clock(np.asarray(flow.tau))
    if isinstance(flow, CentralFlowSolution):
        averages = _averages(record, flow, problem, trajectory)
        curves = {name: Curve(time, each) for name, each in averages.items()}
        steep = {"loss_mean", *quantities.metric_names(record.dataset, record.time_dimension)}
        return {
            name: _without_leaps(curve) if name in steep else curve
            for name, curve in curves.items()
        }
    sharpness, threshold = np.asarray(flow.eigenvalues)[:, 0], np.asarray(flow.threshold)
    values = dict.fromkeys((_AT_MANIFOLD, *_SPHERICAL), sharpness) | {"threshold": threshold}
    values |= dict.fromkeys(EDGE_RATIOS, sharpness / threshold)
    if problem is not None:
        require_fitting(problem, _point(flow, 0), "points of flow")
        names = [name for name in problem.metrics if name in record]
        along = [_metrics(problem, _point(flow, place)) for place in range(len(time))]
        values |= {name: np.asarray([each[name] for each in along]) for name in names}
        if isinstance(trajectory, Trajectory):
            oscillation = np.asarray(predicted_loss(flow, trajectory.intrinsic_rate))
            loss = float(problem.loss_infimum) + trajectory.oscillation_share * oscillation
            # before the edge tr M is 0 but for rounding, also of a flow that never comes there
            trace = np.trace(np.asarray(flow.edge_covariance), axis1=1, axis2=2)
            at_edge = trace > max(1e-3 * np.fmax.reduce(trace), 1e-6)
            values["loss_mean"] = np.where(at_edge, loss, np.nan)
    return {name: Curve(time, each) for name, each in values.items()}


def _averages(
    record: Record,
    flow: CentralFlowSolution,
    problem: Problem | None,
    trajectory: "Trajectory | xarray.Dataset",
) -> dict[str, np.ndarray]:
    """What a central flow says of columns, by their names."""
    values = {"loss_mean": np.asarray(flow.mean_loss)}
    values |= dict.fromkeys(_IN_W[:1], np.asarray(flow.eigenvalues)[:, 0])
    if isinstance(trajectory, Trajectory) and is_gdwd(trajectory):
        sharpness, threshold = edge_of_average(flow, trajectory)
        values |= dict.fromkeys(_SPHERICAL, sharpness) | {"threshold": threshold}
        values |= dict.fromkeys(EDGE_RATIOS, sharpness / threshold)
    if problem is not None:
        metrics = {name: each for name, each in problem.metrics.items() if name in record}
        values |= {name: np.asarray(flow.mean_of(metric)) for name, metric in metrics.items()}
    return values


def _without_leaps(curve: Curve) -> Curve:
    """A prediction from where it no longer leaps from each output to the next.

    The average of a trajectory may be predicted from its first step on, where a loss falls by
    decades before the next output. A straight line between the two would say what nobody computed.

    Args:
      curve: of a loss or a metric along a central flow.
    """
    small, large = np.sort([curve.values[:-1], curve.values[1:]], axis=0)
    with np.errstate(invalid="ignore"):
        leaps = large > _LEAP * small
    begin = int(np.argmin(leaps)) if leaps.size and not leaps.all() else 0
    return Curve(curve.time[begin:], curve.values[begin:])


def _point(flow: FlowSolution, place: int) -> Params:
    """One point of the flow: all at once may be more than the memory takes of a network."""
    return jax.tree.map(lambda leaf: leaf[place], flow.theta)


@compiled
def _metrics(problem: Problem, params: Params) -> dict[str, Array]:
    """All metrics of a problem at one point, by name."""
    return {name: metric(params) for name, metric in problem.metrics.items()}


def _new_axes(count: int) -> "list[Axes]":
    """Of a new figure: up to three beside each other, in rows that are filled evenly."""
    from matplotlib import pyplot

    columns = 2 if count in (2, 4) else min(count, 3)
    rows = math.ceil(count / columns)
    size = drawing.COLUMN if count == 1 else (drawing.PAGE[0], rows * drawing.PAGE[1])
    _, axes = pyplot.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for ax in axes.flat[count:]:
        ax.remove()
    return list(axes.flat[:count])


def _common_legend(axes: "list[Axes]") -> None:
    """One legend for all panels of a figure, in which each name stands once."""
    entries = {
        label: handle
        for ax in axes
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    if len(entries) < 2:
        return
    figure = drawing.figure_of(axes[0])
    drawing.legend_over(figure, entries)


def _draw(
    ax: "Axes",
    record: Record,
    names: _Names,
    compared: Record | None,
    predicted: Mapping[str, Curve],
) -> None:
    """Columns, what they are compared with and what is predicted of them, on one pair of axes."""
    holders = {name: compared if compared and name == _AT_MANIFOLD else record for name in names}
    drawn = {name: holder.quantity(name) for name, holder in holders.items()}
    curves = {name: holder.curve(name) for name, holder in holders.items()}
    lines = filter(None, (quantities.edge_of(record.dataset, name) for name in names))
    beside = {line: record.quantity(line) for line in lines}
    for value in set(map(quantities.line_of, drawn.values())):
        if value is not None:
            ax.axhline(value, **drawing.LINE, zorder=0.5)
    named = {"loss_mean": drawn["loss_mean"]} if names == _LOSSES else drawn
    for (name, quantity), colour in zip(named.items(), itertools.cycle(_COLOURS), strict=False):
        words = "measured" if len(named) == 1 else quantities.symbol(quantity)
        ax.plot(*curves[name], **drawing.SOLID | {"color": colour}, label=words)
    if names == _LOSSES:
        ax.plot(*curves["loss"], **_BEHIND, label="at single steps")
    for name, quantity in beside.items():
        curves[name] = record.curve(name)
        ax.plot(*curves[name], **drawing.BESIDE, zorder=1.5, label=quantities.label(quantity))
    _draw_predictions(ax, drawn, beside, predicted)
    drawing.time_axis(ax, record.time_label)
    if compared is not None:
        mark_predicted_entry(ax, compared.dataset, record.clock)
    first = next(iter(drawn.values()))
    shared = [first] if names == _LOSSES else [*drawn.values()]
    words = quantities.joint_label(shared)
    drawing.label_height(ax, words)
    everything = np.concatenate([curve.values for curve in curves.values()])
    if quantities.is_logarithmic(first, everything) or "threshold" in beside:
        drawing.log_axis(ax, "y")
    elif {*names} <= {*quantities.metric_names(record.dataset, record.time_dimension)}:
        _leave_transient_out(ax, record, names, predicted)


def _draw_predictions(
    ax: "Axes",
    drawn: Mapping[str, Quantity],
    beside: Mapping[str, Quantity],
    predicted: Mapping[str, Curve],
) -> None:
    """What is predicted of the columns, in a look of its own for each that is another curve.

    Args:
      ax: where.
      drawn: columns, by their names.
      beside: what they are compared with. A prediction of it lies on its line and needs no name.
      predicted: curves by the names of columns; sharpnesses have the same.
    """
    curves: dict[str, Curve] = {}
    for name in filter(predicted.__contains__, drawn):
        if not any(other.values is predicted[name].values for other in curves.values()):
            curves[name] = predicted[name]
    looks = itertools.cycle(drawing.PREDICTIONS)
    for (name, curve), look in zip(curves.items(), looks, strict=False):
        words = "flow" if len(curves) == 1 else quantities.symbol(drawn[name])
        ax.plot(*curve, **look, label=f"predicted {words}")
    for name in beside:
        if name in predicted:
            label = "_" if curves else "predicted flow"
            ax.plot(*predicted[name], **drawing.DASHED, label=label)


def _leave_transient_out(
    ax: "Axes", record: Record, names: _Names, predicted: Mapping[str, Curve]
) -> None:
    """The axis of metrics without their first records, where these dwarf all that follows.

    Args:
      ax: with a linear axis.
      record: of the trajectory.
      names: of the metrics.
      predicted: which the axis holds from there on.
    """
    values = np.stack([record.values(name) for name in names])
    begin = int(_TRANSIENT * values.shape[1])
    since = float(np.asarray(record.dataset[record.clock])[begin])
    curves = [predicted[name] for name in names if name in predicted]
    flows = [curve.values[curve.time >= since] for curve in curves]
    late = np.concatenate([values[:, begin:].ravel(), *flows])
    low, high = np.fmin.reduce(late), np.fmax.reduce(late)
    reach = max(np.fmax.reduce(values, None), high) - min(np.fmin.reduce(values, None), low)
    if _AT_REST * reach < high - low < reach / series.WHOLE:
        margin = max(0.04 * (high - low), 0.02 * reach)
        ax.set_ylim(low - margin, high + margin)

"""A column along the trajectories of a grid, its seeds as bands."""

from typing import TYPE_CHECKING, Any

import numpy as np

from sharpflow.experiments.grid_summary import (
    column,
    is_diverged,
    is_pending,
    require_column,
)
from sharpflow.experiments.plots import cells, drawing, quantities, series
from sharpflow.experiments.plots.arguments import AX, DATASET
from sharpflow.experiments.plots.before import require_same_axes
from sharpflow.models.arguments import COUNT, TEXT, checked, optional
from sharpflow.simulator.quantities import RESULT, axis_quantity

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_LINES = 6

_PALE = 0.4  # opacity of what came before a fork, as in reports
_EDGE: dict[str, Any] = {"linewidth": 0.9, "linestyle": (0, (4, 2))}
_MARK: dict[str, Any] = {"marker": "x", "linestyle": "none", "markersize": 5.0}


@checked(
    dataset=DATASET,
    name=TEXT,
    ax=AX,
    over=TEXT,
    against=optional(TEXT),
    title=TEXT,
    most_lines=COUNT,
    before=optional(DATASET),
)
def seed_bands(
    dataset: "xarray.Dataset",
    name: str,
    ax: "Axes | None" = None,
    *,
    over: str = "learning_rate",
    against: str | None = None,
    title: str = "",
    most_lines: int = MOST_LINES,
    before: "xarray.Dataset | None" = None,
) -> "Axes":
    """Draw a column against time: a colour for each learning rate, its seeds as a band.

    What is seen of each colour:

    * The line is the median over the seeds. The band reaches from the 10th to the 90th percentile;
      of fewer than five seeds it reaches from the smallest value to the largest.
    * A seed that diverges is in the band until its last record. A × marks this record.
    * Records without any value, as between measurements of the sharpness, are passed over.
    * A column is drawn with what its ``Quantity`` says that it is to be compared with. With a
      sharpness this is a dashed line, the median of λ* or 2/η; with an edge ratio it is a grey
      line at 1.
    * Of a grid with predictions, a threshold, a sharpness on the sphere, ‖w‖² or a metric is drawn
      with what is predicted of it: a dashed orange line for each colour, which it has at its end.
      It is the median over the seeds that have a prediction, from where the last of these begins.
    * Of a fork, what its points recorded before it is pale.

    The vertical axis shows all values, with two exceptions. Where a seed diverges, the last tenth
    of its records may lie outside. And a metric may fall so far at first that nothing can be told
    apart later. If its later records fill less than half of the axis, the axis is cut to them. The
    later records are those after the entry into the edge, where an edge ratio was recorded, and
    else the second half. The axis then shows their 1st to 99th percentile, and the last value of
    every seed.

    Args:
      dataset: what ``sharpflow.simulate_grid`` returns, with one value of any further
        axis, and of the learning rate or of the weight decay.
      name: of a column; of several eigenvalues the largest is drawn.
      ax: where to draw; by default on a new figure.
      over: ``"learning_rate"``, or ``"weight_decay"`` for a colour for each of these; of the
        other there must be one value.
      against: ``"step"`` or ``"tau"``; by default ``"step"`` where all points are to
        make equally many steps, or some have no flow time.
      title: put before what the legend says.
      most_lines: of more learning rates or weight decays, so many are drawn, evenly chosen.
      before: of a fork, what its points recorded before it: a grid with the same axes, as that of
        the run before where no rate was changed. It is not drawn where it lacks the column or the
        clock.

    Returns:
      The axes.

    Raises:
      ValueError: a column that was not recorded, several values of what ``over`` does not name,
        an unknown ``over`` or clock, a clock that the dataset does not have, or ``before`` with
        other axes.
    """
    require_column(dataset, name)
    grid, alone = cells.single_grid(dataset), ax is None
    other = _other(over)
    if grid.sizes[other] > 1:
        raise ValueError(
            f"dataset has {grid.sizes[other]} values of {other}: select one, as in "
            f".isel({other}=[0]), draw a panel for each with seed_band_panels, or give "
            f"over={other!r} where it is the one to compare"
        )
    clock = series.clock(grid, against)
    former = _former(before, grid, name, clock)
    chosen, note = series.thinned(grid, over, most_lines)
    earlier = None if former is None else series.thinned(former, over, most_lines)[0]
    with drawing.styled(ax) as ax:
        _draw(ax, chosen, name, clock, over, earlier)
        _set_scale(ax, series.bounds(chosen, name, earlier))
        notes = [title.replace("_", " "), note]
        width = 230.0 if alone else 200.0
        cells.put_legend(ax, _legend(chosen, name, notes, width, over, earlier), alone)
    return ax


@checked(
    dataset=DATASET,
    name=TEXT,
    over=TEXT,
    against=optional(TEXT),
    title=TEXT,
    most_lines=COUNT,
    most_panels=COUNT,
    before=optional(DATASET),
)
def seed_band_panels(
    dataset: "xarray.Dataset",
    name: str,
    *,
    over: str = "learning_rate",
    against: str | None = None,
    title: str = "",
    most_lines: int = MOST_LINES,
    most_panels: int = cells.MOST_PANELS,
    before: "xarray.Dataset | None" = None,
) -> "Figure":
    """Draw ``seed_bands`` in a panel for each weight decay, with one scale and one legend.

    Args:
      dataset: what ``sharpflow.simulate_grid`` returns, with one value of any further
        axis.
      name, against, title, most_lines, before: as for ``seed_bands``.
      over: as for ``seed_bands``; with ``"weight_decay"`` there is a panel for each learning rate.
      most_panels: of more panels, so many are drawn, evenly chosen.

    Returns:
      The figure.

    Raises:
      ValueError: as ``seed_bands``.
    """
    require_column(dataset, name)
    grid, each = cells.single_grid(dataset), _other(over)
    count = min(grid.sizes[each], most_panels)
    if grid.sizes[each] == 1:
        ax = seed_bands(
            dataset, name, over=over, against=against, title=title, most_lines=most_lines,
            before=before,
        )  # fmt: skip
        return drawing.figure_of(ax)
    clock = series.clock(grid, against)
    former = _former(before, grid, name, clock)
    chosen, note = series.thinned(grid, over, most_lines)
    chosen, other_note = series.thinned(chosen, each, most_panels)
    earlier = None
    if former is not None:
        earlier = series.thinned(series.thinned(former, over, most_lines)[0], each, most_panels)[0]
    limits = series.bounds(chosen, name, earlier)
    columns = 2 if count in (2, 4) else min(count, 3)
    rows = -(-count // columns)
    with drawing.in_force():
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(
            rows,
            columns,
            figsize=(drawing.PAGE[0], 0.9 + 1.8 * rows),
            layout="constrained",
            sharey=True,
            squeeze=False,
        )
        for ax in axes.flat[count:]:
            ax.remove()
        names = cells.category_labels(chosen[each].values)
        for place, ax in enumerate(axes.flat[:count]):
            here = None if earlier is None else earlier.isel({each: [place]})
            _draw(ax, chosen.isel({each: [place]}), name, clock, over, here)
            _set_scale(ax, limits)
            drawing.show_sparse(ax, ax.lines)
            ax.set_title(f"{_sign(each)} = {names[place]}", fontsize=drawing.RC["legend.fontsize"])
            if place % columns:
                ax.set_ylabel("")
            if place + columns < count:
                ax.set_xlabel("")
            drawing.keep_tick_fonts(ax)
        notes = [title.replace("_", " "), note, other_note]
        figure.legend(
            **_legend(chosen, name, notes, 460.0, over, earlier), loc="outside upper left"
        )
    return figure


def _other(over: str) -> str:
    """The axis of the grid of which axes show one value."""
    others = {"learning_rate": "weight_decay", "weight_decay": "learning_rate"}
    if over not in others:
        raise ValueError(f"over must be one of {tuple(others)}, got {over!r}")
    return others[over]


def _sign(name: str) -> str:
    """The symbol of an axis of the grid."""
    return quantities.symbol(axis_quantity(name))


def _former(
    before: "xarray.Dataset | None", grid: "xarray.Dataset", name: str, clock: str
) -> "xarray.Dataset | None":
    """What came before a fork, as it is drawn; None where there is nothing to draw."""
    if before is None:
        return None
    require_same_axes(before, grid)
    former = cells.single_grid(before)
    return former if name in former and clock in former.coords else None


def _draw(
    ax: "Axes",
    grid: "xarray.Dataset",
    name: str,
    clock: str,
    over: str,
    before: "xarray.Dataset | None" = None,
) -> None:
    """The lines, bands and marks of the values along ``over``; of the other axis there is one."""
    if before is not None:
        _draw_seeds(ax, before, name, clock, over, opacity=_PALE, onto=grid)
    _draw_seeds(ax, grid, name, clock, over)
    other = _other(over)
    values = column(grid, name).squeeze(other)
    expected = series.predicted(grid, name)
    expected = None if expected is None else expected.squeeze(other)
    lost = is_diverged(grid).squeeze(other)
    clocks = series.times(grid, clock).reshape(grid.sizes[over], -1)
    for place, colour in enumerate(_colours(grid.sizes[over])):
        time = clocks[place]
        rows = values.isel({over: place}).values
        if expected is not None:
            predicted = series.once_all_begin(expected.isel({over: place}).values)
            line = series.band(time, predicted)
            if line.time.size:
                ax.plot(line.time, line.median, **drawing.DASHED, **_end(colour), zorder=2.5)
        ended = lost.isel({over: place}).values & np.isfinite(rows).any(axis=1)
        for row in rows[ended]:
            last = np.flatnonzero(np.isfinite(row))[-1:]
            ax.plot(time[last], row[last], **_MARK, color=colour, clip_on=False, zorder=5.0)
    drawing.time_axis(ax, quantities.label(RESULT[clock]))
    quantity = quantities.shown_quantity(grid, name)
    ax.set_ylabel(quantities.label(quantity))
    if (reference := quantities.line_of(quantity)) is not None:
        ax.axhline(reference, **drawing.LINE, zorder=0.5)


def _draw_seeds(
    ax: "Axes",
    grid: "xarray.Dataset",
    name: str,
    clock: str,
    over: str,
    opacity: float = 1.0,
    onto: "xarray.Dataset | None" = None,
) -> None:
    """A line and a band for each value along ``over``, with the line of the edge.

    Those of what came before a fork reach the first record of the fork, ``onto``.
    """
    other = _other(over)
    values = column(grid, name).squeeze(other)
    edge = quantities.edge_of(grid, name)
    edges = None if edge is None else column(grid, edge).squeeze(other)
    clocks = series.times(grid, clock).reshape(grid.sizes[over], -1)
    next_clocks = None if onto is None else series.times(onto, clock).reshape(len(clocks), -1)

    def band_of(place: int, column_name: str, rows: np.ndarray) -> series.Band:
        time = clocks[place]
        if onto is not None and next_clocks is not None and column_name in onto:
            first = next_clocks[place, :1]
            if not np.any(time >= first):
                later = column(onto, column_name).squeeze(other).isel({over: place}).values
                time, rows = np.append(time, first), np.append(rows, later[:, :1], axis=1)
        return series.band(time, rows)

    for place, colour in enumerate(_colours(grid.sizes[over])):
        band = band_of(place, name, values.isel({over: place}).values)
        if edge is not None and edges is not None:
            line = band_of(place, edge, edges.isel({over: place}).values)
            ax.plot(line.time, line.median, color=colour, **_EDGE, alpha=opacity, zorder=1.8)
        ax.fill_between(
            band.time, band.low, band.high, color=colour, alpha=0.22 * opacity, linewidth=0.0
        )
        ax.plot(band.time, band.median, color=colour, linewidth=1.3, alpha=opacity)


def _end(colour: Any) -> dict[str, Any]:
    """A dot in the colour of the measured line at the end of the predicted one.

    Predicted lines are of one colour, which no learning rate has, and lie on the measured ones only
    where the prediction holds.
    """
    return {"marker": "o", "markevery": [-1], "markersize": 3.5, "markerfacecolor": colour}


def _set_scale(ax: "Axes", limits: tuple[float, float, bool] | None) -> None:
    """Bounds of the axis; the marks beyond them move to its border."""
    if limits is None:
        ax.set_yticks([])
        return
    bottom, top, logarithmic = limits
    ax.set_ylim(bottom, top)
    if logarithmic:
        drawing.log_axis(ax, "y")
    for line in ax.lines:
        if line.get_marker() == _MARK["marker"]:
            line.set_ydata(np.clip(line.get_ydata(), bottom, top))


def _colours(count: int) -> "list[tuple[float, ...]] | list[str]":
    """From dark to light with the rate; never as light as the paper."""
    import matplotlib

    if count == 1:
        return [drawing.MEASURED]
    return list(matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, count)))


def _legend(
    grid: "xarray.Dataset",
    name: str,
    notes: list[str],
    width: float,
    over: str,
    before: "xarray.Dataset | None",
) -> dict[str, Any]:
    """A legend of at most ``width`` points, under what the band means and the notes."""
    from matplotlib.lines import Line2D

    rates = cells.category_labels(grid[over].values)
    labels = [f"{_sign(over)} = {rate}" for rate in rates]
    looks: list[dict[str, Any]] = [
        {"color": colour, "linewidth": 1.3} for colour in _colours(len(rates))
    ]
    if (edge := quantities.edge_of(grid, name)) is not None:
        labels.append(quantities.symbol(quantities.shown_quantity(grid, edge)))
        looks.append(_EDGE | {"color": drawing.THRESHOLD})
    if (expected := series.predicted(grid, name)) is not None and np.isfinite(expected).any():
        labels.append("predicted flow")
        looks.append(drawing.DASHED)
    if before is not None:
        labels.append("before the fork")
        looks.append({"color": drawing.THRESHOLD, "linewidth": 1.3, "alpha": _PALE})
    if is_diverged(grid).any():
        labels.append("diverges")
        looks.append(_MARK | {"color": drawing.THRESHOLD})
    seeds, size = grid.sizes["seed"], drawing.RC["legend.fontsize"]
    if seeds > 1:
        few = seeds < series.ENOUGH_FOR_PERCENTILES
        reach = "range" if few else "10th to 90th percentile"
        notes = [*notes[:1], f"median and {reach} of {seeds} seeds", *notes[1:]]
    if unfinished := int(is_pending(grid).sum()):
        notes = [*notes, f"{unfinished} of {grid['status'].size} trajectories unfinished"]
    widest = max(drawing.text_width(label, size) for label in labels)
    return {
        "handles": [
            Line2D([], [], **look, label=label) for look, label in zip(looks, labels, strict=True)
        ],
        "title": _lines(notes, width),
        "title_fontsize": size,
        "alignment": "left",
        "ncols": max(1, int(width / (widest + 27.0))),
        "columnspacing": 1.2,
        "handlelength": 1.4,
        "handletextpad": 0.5,
    }


def _lines(notes: list[str], width: float) -> str:
    """Notes in lines of at most ``width`` points, unless one of them is longer."""
    lines: list[str] = []
    for note in filter(None, notes):
        joined = f"{lines[-1]};  {note}" if lines else note
        if lines and drawing.text_width(joined, drawing.RC["legend.fontsize"]) <= width:
            lines[-1] = joined
        else:
            lines.append(note)
    return "\n".join(lines)

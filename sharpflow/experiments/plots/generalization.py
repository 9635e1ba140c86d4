"""Test accuracy, test error and sharpness beyond the fit, with and without what is compared."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sharpflow.experiments.grid_summary import (
    column,
    extra_axes,
    with_point_axes,
)
from sharpflow.experiments.late_generalization import (
    LEVEL,
    NORMALIZATION,
    TRAIN_ACCURACY,
    generalization,
    left_out_in_words,
    sharpness_name,
)
from sharpflow.experiments.plots import cells, drawing, quantities, series
from sharpflow.experiments.plots.arguments import DATASET, SEVERAL_AXES, flat_axes
from sharpflow.experiments.plots.late_curves import (
    DrawnCurve,
    axis_values,
    drawn_curves,
    has_early_fit,
    over_seeds,
    panel_columns,
    predicted_mean,
)
from sharpflow.models.arguments import ArgumentError, checked, optional
from sharpflow.simulator.quantities import RESULT

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

_MEAN: dict[str, Any] = {"linewidth": 1.5}
_THIN: dict[str, Any] = {"linewidth": 0.8}
_LEFT_OUT: dict[str, Any] = {"linewidth": 0.6, "alpha": 0.6}
_EDGE: dict[str, Any] = {"linewidth": 1.0, "linestyle": (0, (4, 2))}
# With a white border, because it lies on the lines of the seeds that go on.
_CROSS: dict[str, Any] = {
    "marker": "X",
    "linestyle": "none",
    "markersize": 6.5,
    "markeredgecolor": "white",
    "markeredgewidth": 0.7,
}
_FIT: dict[str, Any] = {
    "marker": "o",
    "linestyle": "none",
    "markersize": 5.0,
    "markerfacecolor": "white",
    "markeredgewidth": 1.3,
}
_END: dict[str, Any] = {"marker": "o", "markevery": [-1], "markersize": 3.5, "zorder": 2.6}
# The interval of two seeds is thirteen times as wide as they are apart, and hides the other curves.
_FEWEST_OF_BAND = 3
# Height of the training accuracy over the test accuracy, in heights of that, and of the gap between
# them: they are apart because test accuracies that differ by two hundredths would lie on each other
# beside one that rises to 1.
_STRIP, _GAP = 0.3, 0.1


@checked(dataset=DATASET, axes=optional(SEVERAL_AXES), level=LEVEL)
def generalization_panel(
    dataset: "xarray.Dataset",
    *,
    axes: "Sequence[Axes] | np.ndarray | None" = None,
    level: float = 1.0,
) -> "list[Axes]":
    """Draw test accuracy, test error and sharpness against steps, with and without weight decay.

    There is a curve for each weight decay, and where the grid has the axis ``normalization`` for
    each pair of both. What is seen:

    * A line is the mean over the seeds that count in ``generalization``, and its band Student's
      95 % interval for the mean. A logarithmic axis has those of the logarithm. Each trajectory
      that does not count, as it diverged or never fitted, is a thin line, with a × at its last
      record where it diverged. The legend says how many there are.
    * A circle marks where the training accuracy reaches the level, at the median step over the
      seeds that count. The training accuracy itself is the narrow panel over
      the first one.
    * Where the grid has predictions, a dashed orange line is the mean of what they say of the
      metric or the sharpness, where all of them have a value. A dot at its end has the colour of
      its curve.
    * The sharpness is drawn of networks with normalization alone: it is that of the direction of
      the weights, which others do not have. The dashed lines are the thresholds.

    The axes of test accuracy and test error hold what follows the fit, and what comes before may
    lie outside: it is larger by far. The axis of steps is logarithmic where the fit comes within
    the first hundredth of them.

    Args:
      dataset: what ``sharpflow.simulate_grid`` returns, with ``train_accuracy``, and metrics whose
        names begin with ``test_``; of the learning rate and of each axis beside ``normalization``
        there is one value.
      axes: as many as there are panels: of the test accuracy, of the test error or else the test
        loss, and of the sharpness or else the threshold, as far as these were recorded. By default
        on a new figure.
      level: of the training accuracy.

    Returns:
      The axes of the panels.

    Raises:
      ValueError: a column that is missing, several learning rates or values of another axis, more
        curves than six, or another number of axes.
    """
    dataset = with_point_axes(dataset)
    changes = generalization(dataset, level=level)
    _require_one_value(dataset)
    columns = panel_columns(dataset)
    if axes is not None and len(flat_axes(axes)) != len(columns):
        raise ArgumentError(
            "axes", f"{len(columns)} axes, for {', '.join(columns)}", str(len(flat_axes(axes)))
        )
    drawn = drawn_curves(dataset, changes)
    with drawing.in_force():
        from matplotlib import pyplot

        if alone := axes is None:
            size = (drawing.PAGE[0], drawing.PAGE[1] + 0.2)
            _, axes = pyplot.subplots(
                1, len(columns), figsize=size, layout="constrained", squeeze=False
            )
        panels = flat_axes(axes)
        logarithmic = has_early_fit(drawn)
        looks: dict[str, Any] = {}
        for ax, name in zip(panels, columns, strict=True):
            drawing.set_fonts(ax)
            looks |= _panel(ax, drawn, name, f"training accuracy {level:g}", logarithmic)
        _training_strip(panels[0], drawn)
        _legend(panels[0], drawn, looks, _note(drawn, changes), alone=alone)
        for ax in panels:
            drawing.keep_tick_fonts(ax)
    return panels


def _require_one_value(dataset: "xarray.Dataset") -> None:
    for name in ("learning_rate", *extra_axes(dataset)):
        if name != NORMALIZATION and dataset.sizes[name] > 1:
            raise ValueError(
                f"dataset has {dataset.sizes[name]} values of {name}: select one, as in "
                f".isel({name}=[0])"
            )


def _panel(
    ax: "Axes", drawn: Sequence[DrawnCurve], name: str, fit: str, logarithmic_time: bool
) -> dict[str, Any]:
    """Draw a column of every curve; what the legend has to say beside the curves is returned."""
    of_edge = name in (sharpness_name(drawn[0].part), "threshold")
    shown = [each for each in drawn if each.curve.is_normalized] if of_edge else list(drawn)
    quantity = quantities.shown_quantity(drawn[0].part, name)
    edge = quantities.edge_of(drawn[0].part, name)
    every = np.concatenate([column(each.part, name).values.ravel() for each in drawn])
    is_log = of_edge and quantities.is_logarithmic(quantity, every)
    looks: dict[str, Any] = {}
    heights = []
    for each in shown:
        seeds = over_seeds(each, name, is_log)
        if len(seeds.values) >= _FEWEST_OF_BAND:
            ax.fill_between(
                seeds.time, seeds.low, seeds.high, color=each.colour, alpha=0.2, linewidth=0.0
            )
        ax.plot(seeds.time, seeds.mean, color=each.colour, **_MEAN)
        heights.append(axis_values(seeds, each.fit_step, whole=of_edge))
        for time, values in seeds.others:
            ax.plot(time, values, color=each.colour, **_LEFT_OUT)
        for end in seeds.crosses:
            ax.plot(*end, color=each.colour, **_CROSS, clip_on=False, zorder=5.0)
            looks["diverges"] = _CROSS | {"color": drawing.THRESHOLD}
        if edge is not None:
            line = over_seeds(each, edge, is_log)
            ax.plot(line.time, line.mean, color=each.colour, **_EDGE, zorder=1.8)
            heights.append(axis_values(line, each.fit_step, whole=True))
            words = quantities.label(quantities.shown_quantity(each.part, edge))
            looks[words] = _EDGE | {"color": drawing.THRESHOLD}
        if (expected := predicted_mean(each, name, is_log)) is not None:
            ax.plot(*expected, **drawing.DASHED, **_END, markerfacecolor=each.colour)
            heights.append(expected[1])
            looks["predicted flow"] = drawing.DASHED
        if np.isfinite(each.fit_step) and seeds.time.size and not of_edge:
            at = int(np.abs(seeds.time - each.fit_step).argmin())
            ax.plot(
                seeds.time[at], seeds.mean[at], color=each.colour, **_FIT, clip_on=False, zorder=4.0
            )
            looks[fit] = _FIT | {"color": drawing.THRESHOLD}
    _scale(ax, np.concatenate([*heights, np.empty(0)]), is_log)
    _steps(ax, logarithmic_time, drawn)
    ax.set_ylabel(quantities.label(quantity))
    return looks


def _scale(ax: "Axes", heights: np.ndarray, is_log: bool) -> None:
    """Bounds of the axis; the crosses beyond them move to its border."""
    heights = heights[np.isfinite(heights) & ((heights > 0) | (not is_log))]
    if not heights.size:
        drawing.show_sparse(ax, ax.lines)
        return
    low, high = float(heights.min()), float(heights.max())
    if is_log:
        room = max(high / low, 1.01) ** 0.06
        low, high = low / room, high * room
    else:
        margin = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
        low, high = low - margin, high + margin
    ax.set_ylim(low, high)
    if is_log:
        drawing.log_axis(ax, "y")
    for line in ax.lines:
        if line.get_marker() == _CROSS["marker"]:
            line.set_ydata(np.clip(line.get_ydata(), low, high))


def _steps(ax: "Axes", logarithmic: bool, drawn: Sequence[DrawnCurve]) -> None:
    """The same axis of steps in all panels, also where a column was recorded less often."""
    steps = np.concatenate([series.times(each.part, "step").ravel() for each in drawn])
    steps = steps[np.isfinite(steps) & ((steps > 0) | (not logarithmic))]
    ax.set_xlim(float(steps.min()), float(steps.max()) or 1.0)
    if logarithmic:
        ax.set_xlabel(quantities.label(RESULT["step"]))
        drawing.log_axis(ax, "x")
    else:
        drawing.time_axis(ax, quantities.label(RESULT["step"]))


def _training_strip(ax: "Axes", drawn: Sequence[DrawnCurve]) -> None:
    """The training accuracy in a narrow panel over the axes, out of their own place."""
    ax.set_axes_locator(_LowerPart(1.0 / (1.0 + _GAP + _STRIP)))
    strip = ax.inset_axes((0.0, 1.0 + _GAP, 1.0, _STRIP), sharex=ax)
    for each in drawn:
        seeds = over_seeds(each, TRAIN_ACCURACY, False)
        strip.plot(seeds.time, seeds.mean, color=each.colour, **_THIN)
        for time, values in seeds.others:
            strip.plot(time, values, color=each.colour, **_LEFT_OUT)
    strip.tick_params(labelbottom=False)
    strip.set_ylim(0.0, 1.06)
    strip.set_yticks([0.0, 1.0])
    drawing.set_fonts(strip)
    # at the size of other labels it would be longer than the panel is high
    strip.set_ylabel("train", fontsize=drawing.RC["legend.fontsize"])
    drawing.keep_tick_fonts(strip)


@dataclasses.dataclass(frozen=True)
class _LowerPart:
    """Where axes lie that leave room above them; a class, because figures may be pickled.

    Attributes:
      share: of the height that the figure gives them.
    """

    share: float

    def __call__(self, ax: Any, renderer: Any) -> "Bbox":
        from matplotlib.transforms import Bbox

        x, y, width, height = ax.get_position(original=True).bounds
        return Bbox.from_bounds(x, y, width, self.share * height)


def _legend(
    ax: "Axes", drawn: Sequence[DrawnCurve], looks: Mapping[str, Any], note: str, *, alone: bool
) -> None:
    """Above the figure, or above the training accuracy on axes of the user."""
    from matplotlib.lines import Line2D
    from matplotlib.transforms import Affine2D

    entries = {
        quantities.mathtext(each.curve.words): {"color": each.colour, **_MEAN} for each in drawn
    } | dict(looks)
    handles = {label: Line2D([], [], **look, label=label) for label, look in entries.items()}
    size = drawing.RC["legend.fontsize"]
    figure = drawing.figure_of(ax)
    width = 72.0 * (figure.get_size_inches()[0] if alone else drawing.width_inches(ax))
    words: dict[str, Any] = {
        "handles": list(handles.values()),
        "title": drawing.wrapped(note, width - 2.0 * size, size),
        "title_fontsize": size,
        "alignment": "left",
        "ncols": drawing.legend_columns(list(handles), width - 2.0 * size),
        "columnspacing": 1.2,
    }
    if not alone:
        words["bbox_transform"] = Affine2D().translate(0.0, _GAP + _STRIP) + ax.transAxes
    cells.put_legend(ax, words, alone)


def _note(drawn: Sequence[DrawnCurve], changes: "xarray.Dataset") -> str:
    """What the lines are, and which trajectories are not in them."""
    seeds = drawn[0].part.sizes["seed"]
    said = f"mean and 95 % interval over {seeds} seeds" if seeds > 1 else "one seed: no interval"
    if any(1 < each.counts.sum() < _FEWEST_OF_BAND for each in drawn):
        said += f", drawn for {_FEWEST_OF_BAND} or more"
    if all(each.counts.all() for each in drawn):
        return said
    return f"{said}; thin lines, not in the mean: {left_out_in_words(changes)}"

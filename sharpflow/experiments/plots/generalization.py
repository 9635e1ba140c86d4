"""Test accuracy, test error and sharpness beyond the fit, with and without what is compared."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sharpflow.experiments.grid_summary import (
    column,
    extra_axes,
    is_diverged,
    with_point_axes,
)
from sharpflow.experiments.late_generalization import (
    LEVEL,
    NORMALIZATION,
    TRAIN_ACCURACY,
    Curve,
    curves,
    generalization,
    left_out_in_words,
    metrics_of_test_data,
    sharpness_name,
)
from sharpflow.experiments.plots import cells, drawing, quantities, series
from sharpflow.experiments.plots.arguments import DATASET, SEVERAL_AXES, flat_axes
from sharpflow.experiments.seed_statistics import mean_interval
from sharpflow.models.arguments import ArgumentError, checked, optional
from sharpflow.simulator.quantities import RESULT

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

MOST_CURVES = 6

# By whether there is normalization and weight decay. Orange is left to what is predicted.
_COLOURS = {
    (True, True): drawing.OTHER,
    (True, False): drawing.MEASURED,
    (False, False): drawing.SINGLE_EDGE,
    (False, True): "#009e73",
}
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
# Of the steps: a fit before it lies so near the left end of a linear axis that nothing can be told
# apart there, and on a logarithmic one what follows a later fit is pressed to the right.
_EARLY_FIT = 0.01
# Height of the training accuracy over the test accuracy, in heights of that, and of the gap between
# them: they are apart because test accuracies that differ by two hundredths would lie on each other
# beside one that rises to 1.
_STRIP, _GAP = 0.3, 0.1


class _Seeds(NamedTuple):
    """A column on one curve.

    Attributes:
      time: steps at which all that count have a value, shape (T,).
      mean, low, high: of those, shape (T,).
      values: of those, shape (seeds, T).
      others: pairs of steps and values of each trajectory that does not count.
      crosses: the last of these pairs where it diverged.
    """

    time: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    values: np.ndarray
    others: list[tuple[np.ndarray, np.ndarray]]
    crosses: list[tuple[float, float]]


class _Drawn(NamedTuple):
    """A curve with what is drawn of it.

    Attributes:
      curve: which one.
      part: the grid there, with the axes of a point and no other.
      colour: of its lines.
      counts: whether a seed does, shape (seeds,).
      fit_step: median over the seeds that count, or NaN.
    """

    curve: Curve
    part: "xarray.Dataset"
    colour: Any
    counts: np.ndarray
    fit_step: float


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
      metric, where all of them have a value. A dot at its end has the colour of its curve.
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
    drawn = _curves(dataset, changes)
    with drawing.in_force():
        from matplotlib import pyplot

        if alone := axes is None:
            size = (drawing.PAGE[0], drawing.PAGE[1] + 0.2)
            _, axes = pyplot.subplots(
                1, len(columns), figsize=size, layout="constrained", squeeze=False
            )
        panels = flat_axes(axes)
        logarithmic = _has_early_fit(drawn)
        looks: dict[str, Any] = {}
        for ax, name in zip(panels, columns, strict=True):
            drawing.set_fonts(ax)
            looks |= _panel(ax, drawn, name, logarithmic)
        _training_strip(panels[0], drawn)
        _legend(panels[0], drawn, looks, _note(drawn, changes), alone=alone)
        for ax in panels:
            drawing.keep_tick_fonts(ax)
    return panels


def panel_parts(dataset: "xarray.Dataset") -> "list[tuple[str, xarray.Dataset]]":
    """The parts of a grid that have a panel each, with what tells them apart in words.

    Of more weight decays than can be told apart so many are taken, evenly chosen.

    Args:
      dataset: of a grid, with any axes.

    Returns:
      ``[("", dataset)]`` where one panel holds all.
    """
    dataset = with_point_axes(dataset)
    kinds = dataset.sizes.get(NORMALIZATION, 1)
    dataset, _ = series.thinned(
        dataset.sortby("weight_decay"), "weight_decay", max(MOST_CURVES // kinds, 1)
    )
    over = [name for name in ("learning_rate", *extra_axes(dataset)) if name != NORMALIZATION]
    over = [name for name in over if dataset.sizes[name] > 1]
    parts = []
    for places in itertools.product(*(range(dataset.sizes[name]) for name in over)):
        at = dict(zip(over, places, strict=True))
        values = [f"{name} = {_plain(dataset[name].values[place])}" for name, place in at.items()]
        parts.append((", ".join(values), dataset.isel({name: [i] for name, i in at.items()})))
    return parts


def _plain(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def panel_columns(dataset: "xarray.Dataset") -> list[str]:
    """The columns that have a panel of their own.

    Args:
      dataset: of a grid.
    """
    metrics = metrics_of_test_data(dataset)
    accuracy = [name for name in metrics if name == "test_accuracy"]
    errors = [name for name in ("test_error", "test_loss") if name in metrics]
    others = [name for name in metrics if name not in (*accuracy, *errors)]
    threshold = "threshold" if "threshold" in dataset else None
    edge = sharpness_name(dataset) or threshold
    shown = [*accuracy, *errors, *others][:2]
    return [*shown, *([edge] if edge else [])]


def _require_one_value(dataset: "xarray.Dataset") -> None:
    for name in ("learning_rate", *extra_axes(dataset)):
        if name != NORMALIZATION and dataset.sizes[name] > 1:
            raise ValueError(
                f"dataset has {dataset.sizes[name]} values of {name}: select one, as in "
                f".isel({name}=[0])"
            )


def _curves(dataset: "xarray.Dataset", changes: "xarray.Dataset") -> list[_Drawn]:
    shown = curves(dataset)
    if len(shown) > MOST_CURVES:
        raise ValueError(
            f"dataset has {len(shown)} pairs of a weight decay and a normalization, and at most "
            f"{MOST_CURVES} curves can be told apart: select some, as in .isel(weight_decay=[0, 1])"
        )
    exclusion = changes["exclusion"]
    kinds = [(curve.is_normalized, curve.weight_decay > 0) for curve in shown]
    drawn = []
    for number, curve in enumerate(shown):
        counts = exclusion.isel(curve.place).values == ""
        steps = changes["fit_step"].isel(curve.place).values[counts]
        place = kinds[:number].count(kinds[number])
        point = {axis: [at] for axis, at in curve.place.items() if axis not in extra_axes(dataset)}
        other = {axis: at for axis, at in curve.place.items() if axis in extra_axes(dataset)}
        drawn.append(
            _Drawn(
                curve,
                dataset.isel(point | other).drop_vars(other),
                drawing.shade(_COLOURS[kinds[number]], place, kinds.count(kinds[number])),
                counts,
                float(np.median(steps)) if steps.size else float("nan"),
            )
        )
    return drawn


def _has_early_fit(drawn: Sequence[_Drawn]) -> bool:
    fits = [each.fit_step for each in drawn if np.isfinite(each.fit_step)]
    last = max(float(series.times(each.part, "step").max()) for each in drawn)
    return bool(fits) and 0.0 < min(fits) < _EARLY_FIT * last


def _panel(
    ax: "Axes", drawn: Sequence[_Drawn], name: str, logarithmic_time: bool
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
        seeds = _of_seeds(each, name, is_log)
        ax.fill_between(
            seeds.time, seeds.low, seeds.high, color=each.colour, alpha=0.2, linewidth=0.0
        )
        ax.plot(seeds.time, seeds.mean, color=each.colour, **_MEAN)
        heights.append(_heights(seeds, each.fit_step, whole=of_edge))
        for time, values in seeds.others:
            ax.plot(time, values, color=each.colour, **_LEFT_OUT)
        for end in seeds.crosses:
            ax.plot(*end, color=each.colour, **_CROSS, clip_on=False, zorder=5.0)
            looks["diverges"] = _CROSS | {"color": drawing.THRESHOLD}
        if edge is not None:
            line = _of_seeds(each, edge, is_log)
            ax.plot(line.time, line.mean, color=each.colour, **_EDGE, zorder=1.8)
            heights.append(_heights(line, each.fit_step, whole=True))
            words = quantities.label(quantities.shown_quantity(each.part, edge))
            looks[words] = _EDGE | {"color": drawing.THRESHOLD}
        if (expected := _predicted(each, name)) is not None and not of_edge:
            ax.plot(*expected, **drawing.DASHED, **_END, markerfacecolor=each.colour)
            heights.append(expected[1])
            looks["predicted flow"] = drawing.DASHED
        if np.isfinite(each.fit_step) and seeds.time.size and not of_edge:
            at = int(np.abs(seeds.time - each.fit_step).argmin())
            ax.plot(seeds.time[at], seeds.mean[at], color=each.colour, **_FIT, zorder=4.0)
            looks["training accuracy 1"] = _FIT | {"color": drawing.THRESHOLD}
    _scale(ax, np.concatenate([*heights, np.empty(0)]), is_log)
    _steps(ax, logarithmic_time, drawn)
    ax.set_ylabel(quantities.label(quantity))
    return looks


def _of_seeds(drawn: _Drawn, name: str, is_log: bool) -> _Seeds:
    """A column of one curve, with the mean over the seeds that count."""
    time = series.times(drawn.part, "step").reshape(-1)
    values = column(drawn.part, name).values.reshape(len(drawn.counts), -1)
    values = np.where(values > 0, values, np.nan) if is_log else values
    begun = np.isfinite(values).any(axis=1)
    rows = values[begun & drawn.counts]
    # A mean over ever fewer seeds would step where a seed ends, as no trajectory does.
    kept = np.isfinite(rows).all(axis=0) & np.isfinite(time) & bool(len(rows))
    rows = rows[:, kept]
    between = mean_interval(np.log(rows) if is_log else rows)
    mean, low, high = (np.exp(v) if is_log else v for v in between[:3])
    others, crosses = [], []
    diverged = is_diverged(drawn.part).values.reshape(-1)
    for seed in np.flatnonzero(begun & ~drawn.counts):
        known = np.isfinite(values[seed])
        others.append((time[known], values[seed][known]))
        if diverged[seed]:
            crosses.append((float(time[known][-1]), float(values[seed][known][-1])))
    return _Seeds(time[kept], mean, low, high, rows, others, crosses)


def _predicted(drawn: _Drawn, name: str) -> tuple[np.ndarray, np.ndarray] | None:
    """The mean over the seeds that count of what is predicted, where each has a value."""
    if (expected := series.predicted(drawn.part, name)) is None:
        return None
    rows = expected.values.reshape(len(drawn.counts), -1)[drawn.counts]
    rows = rows[np.isfinite(rows).any(axis=1)]
    kept = np.isfinite(rows).all(axis=0) & bool(len(rows))
    if not kept.any():
        return None
    time = series.times(drawn.part, "step").reshape(-1)
    return time[kept], rows[:, kept].mean(axis=0)


def _heights(seeds: _Seeds, fit_step: float, *, whole: bool) -> np.ndarray:
    """What the axis has to hold of a curve: from its fit on, or the second half without one.

    The interval of two seeds is thirteen times as wide as they are apart. No more of it is held
    than the seeds themselves span, above and below them.
    """
    if not seeds.time.size:
        # of one that diverges the last values are larger than all others by orders of magnitude
        parts = [values[: max(int(0.9 * len(values)), 1)] for _, values in seeds.others]
        return np.concatenate([*parts, np.empty(0)])
    begin = seeds.time[len(seeds.time) // 2] if np.isnan(fit_step) else fit_step
    late = np.ones(len(seeds.time), bool) if whole else seeds.time >= min(begin, seeds.time[-1])
    values = seeds.values[:, late]
    low, high = values.min(), values.max()
    span = high - low
    band = np.concatenate([seeds.low[late], seeds.high[late]])
    band = band[np.isfinite(band)]
    return np.concatenate([values.ravel(), np.clip(band, low - span, high + span)])


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


def _steps(ax: "Axes", logarithmic: bool, drawn: Sequence[_Drawn]) -> None:
    """The same axis of steps in all panels, also where a column was recorded less often."""
    steps = np.concatenate([series.times(each.part, "step").ravel() for each in drawn])
    steps = steps[np.isfinite(steps) & ((steps > 0) | (not logarithmic))]
    ax.set_xlim(float(steps.min()), float(steps.max()) or 1.0)
    if logarithmic:
        ax.set_xlabel(quantities.label(RESULT["step"]))
        drawing.log_axis(ax, "x")
    else:
        drawing.time_axis(ax, quantities.label(RESULT["step"]))


def _training_strip(ax: "Axes", drawn: Sequence[_Drawn]) -> None:
    """The training accuracy in a narrow panel over the axes, out of their own place."""
    ax.set_axes_locator(_LowerPart(1.0 / (1.0 + _GAP + _STRIP)))
    strip = ax.inset_axes((0.0, 1.0 + _GAP, 1.0, _STRIP), sharex=ax)
    for each in drawn:
        seeds = _of_seeds(each, TRAIN_ACCURACY, False)
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
    ax: "Axes", drawn: Sequence[_Drawn], looks: Mapping[str, Any], note: str, *, alone: bool
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


def _note(drawn: Sequence[_Drawn], changes: "xarray.Dataset") -> str:
    """What the lines are, and which trajectories are not in them."""
    seeds = drawn[0].part.sizes["seed"]
    said = f"mean and 95 % interval over {seeds} seeds" if seeds > 1 else "one seed: no interval"
    if all(each.counts.all() for each in drawn):
        return said
    return f"{said}; thin lines, not in the mean: {left_out_in_words(changes)}"

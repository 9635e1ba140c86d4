"""What is drawn beyond the fit: curves of a grid, means over seeds, what an axis holds of them."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sharpflow.experiments.grid_summary import column, extra_axes, is_diverged, with_point_axes
from sharpflow.experiments.late_generalization import (
    NORMALIZATION,
    Curve,
    curves,
    metrics_of_test_data,
    sharpness_name,
)
from sharpflow.experiments.plots import drawing, series
from sharpflow.experiments.seed_statistics import mean_interval

if TYPE_CHECKING:
    import xarray

MOST_CURVES = 6

# By whether there is normalization and weight decay. Orange is left to what is predicted. Any two
# of the five differ by 30 in CIELAB for readers with any colour vision. With the dark blue of other
# measurements beside the blue, and pink and green, it would be 17 for some readers.
_COLOURS = {
    (True, True): drawing.OTHER,
    (True, False): "#000000",
    (False, False): "#882255",
    (False, True): "#3dcc9c",
}
# Of the steps: a fit before it lies so near the left end of a linear axis that nothing can be told
# apart there, and on a logarithmic one what follows a later fit is pressed to the right.
_EARLY_FIT = 0.01


class DrawnCurve(NamedTuple):
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


class Seeds(NamedTuple):
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


def drawn_curves(dataset: "xarray.Dataset", changes: "xarray.Dataset") -> list[DrawnCurve]:
    """The curves of a panel, each with a colour of its own.

    Args:
      dataset: a grid with all axes of a point, and one value of those that are not compared.
      changes: what ``generalization`` says of it.

    Raises:
      ValueError: more curves than can be told apart.
    """
    shown = curves(dataset)
    if len(shown) > MOST_CURVES:
        raise ValueError(
            f"dataset has {len(shown)} pairs of a weight decay and a normalization, and at most "
            f"{MOST_CURVES} curves can be told apart: select some, as in .isel(weight_decay=[0, 1])"
        )
    kinds = [(curve.is_normalized, curve.weight_decay > 0) for curve in shown]
    drawn = []
    for number, curve in enumerate(shown):
        place = kinds[:number].count(kinds[number])
        colour = drawing.shade(_COLOURS[kinds[number]], place, kinds.count(kinds[number]))
        drawn.append(drawn_curve(dataset, changes, curve, colour))
    return drawn


def drawn_curve(
    dataset: "xarray.Dataset", changes: "xarray.Dataset", curve: Curve, colour: Any = None
) -> DrawnCurve:
    """One curve of a grid.

    Args:
      dataset: a grid with all axes of a point.
      changes: what ``generalization`` says of it.
      curve: which one.
      colour: of its lines, where there are any.
    """
    counts = changes["exclusion"].isel(curve.place).values == ""
    steps = changes["fit_step"].isel(curve.place).values[counts]
    others = extra_axes(dataset)
    point = {axis: [at] for axis, at in curve.place.items() if axis not in others}
    other = {axis: at for axis, at in curve.place.items() if axis in others}
    return DrawnCurve(
        curve,
        dataset.isel(point | other).drop_vars(other),
        colour,
        counts,
        float(np.median(steps)) if steps.size else float("nan"),
    )


def over_seeds(drawn: DrawnCurve, name: str, is_log: bool) -> Seeds:
    """A column of one curve, with the mean over the seeds that count.

    Args:
      drawn: the curve.
      name: of the column.
      is_log: whether mean and interval are those of the logarithm.
    """
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
    if name.endswith("accuracy"):  # a share, which no interval makes more than 1
        low, high = (np.clip(end, 0.0, 1.0) for end in (low, high))
    others, crosses = [], []
    diverged = is_diverged(drawn.part).values.reshape(-1)
    for seed in np.flatnonzero(begun & ~drawn.counts):
        known = np.isfinite(values[seed])
        others.append((time[known], values[seed][known]))
        if diverged[seed]:
            crosses.append((float(time[known][-1]), float(values[seed][known][-1])))
    return Seeds(time[kept], mean, low, high, rows, others, crosses)


def predicted_mean(
    drawn: DrawnCurve, name: str, is_log: bool
) -> tuple[np.ndarray, np.ndarray] | None:
    """The mean over the seeds that count of what is predicted, where each has a value.

    Args:
      drawn: the curve.
      name: of the column.
      is_log: whether the mean is that of the logarithm.

    Returns:
      Steps and values, shapes (T,); None where nothing is predicted.
    """
    if (expected := series.predicted(drawn.part, name)) is None:
        return None
    rows = expected.values.reshape(len(drawn.counts), -1)[drawn.counts]
    rows = rows[np.isfinite(rows).any(axis=1)]
    kept = np.isfinite(rows).all(axis=0) & bool(len(rows))
    if not kept.any():
        return None
    time = series.times(drawn.part, "step").reshape(-1)
    rows = rows[:, kept]
    return time[kept], np.exp(np.log(rows).mean(axis=0)) if is_log else rows.mean(axis=0)


def axis_values(seeds: Seeds, fit_step: float, *, whole: bool) -> np.ndarray:
    """What the axis has to hold of a curve: from its fit on, or the second half without one.

    The interval of two seeds is thirteen times as wide as they are apart. No more of it is held
    than the seeds themselves span, above and below them.

    Args:
      seeds: of the curve.
      fit_step: of the curve.
      whole: whether the axis holds what comes before the fit, too.

    Returns:
      Shape (V,).
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


def has_early_fit(drawn: Sequence[DrawnCurve]) -> bool:
    """Whether a curve fits so early that the axis of steps has to be logarithmic.

    Args:
      drawn: the curves of a panel.
    """
    fits = [each.fit_step for each in drawn if np.isfinite(each.fit_step)]
    last = max(float(series.times(each.part, "step").max()) for each in drawn)
    return bool(fits) and 0.0 < min(fits) < _EARLY_FIT * last


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

"""How test accuracy and test error go on after the training data are fitted."""

import itertools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sharpflow.experiments.generalization_quantities import GENERALIZATION
from sharpflow.experiments.grid_summary import (
    LAST_PART,
    POINT,
    SHARPNESSES,
    column,
    extra_axes,
    is_diverged,
    is_pending,
    last_values,
    require_column,
    time_dimension,
    with_point_axes,
)
from sharpflow.experiments.seed_statistics import CONFIDENCE, mean_interval
from sharpflow.models.arguments import DATASET, Kind, checked, real
from sharpflow.models.representation import MOST_LINES, Summary
from sharpflow.simulator.quantities import axis_quantity, described, quantity_of

if TYPE_CHECKING:
    import xarray

TRAIN_ACCURACY = "train_accuracy"
# The axis of a grid that tells networks with normalization from those without, and its value there.
NORMALIZATION, NOT_NORMALIZED = "normalization", "none"
# Of the level: a mean over images in single precision may miss 1 by 1e-7, and one image of 100,000
# changes it by 1e-5.
_ROUNDING = 1e-6
LEVEL = Kind("above 0 and at most 1", lambda v: (x := real(v)) is not None and 0.0 < x <= 1.0)

# Why a trajectory is left out of what is said of the seeds, in the order in which it is asked.
DIVERGED, UNFINISHED = "diverged", "not finished"
UNFITTED, TOO_LATE = "never fitted", "fitted too late"
EXCLUSIONS = (DIVERGED, UNFINISHED, UNFITTED, TOO_LATE)


class Curve(NamedTuple):
    """A combination of all axes of a grid but the seed.

    Attributes:
      words: what legends and tables call it.
      place: where it lies along each axis.
      is_normalized: False for a network without normalization.
      weight_decay: λ.
    """

    words: str
    place: dict[str, int]
    is_normalized: bool
    weight_decay: float


@checked(dataset=DATASET, level=LEVEL)
def generalization(dataset: "xarray.Dataset", *, level: float = 1.0) -> "xarray.Dataset":
    """How test metrics change from the first perfect training accuracy to the end of a grid.

    A change is the mean over the last tenth of the records minus the value at the first record
    whose training accuracy is at the level. Over the seeds, each combination of the other axes has
    the mean of its changes, and Student's 95 % interval for it. A difference counts where this
    excludes 0.

    Trajectories that diverge, are not finished, never reach the level or reach it in the last tenth
    of their records are left out, and ``exclusion`` says why. The threshold and the sharpness are
    treated as the metrics are, where they were recorded. Of columns that were recorded less often,
    such as a sharpness, the first value after the fit takes the place of that at the fit.

    Args:
      dataset: what ``sharpflow.simulate_grid`` returns, with the columns ``train_accuracy`` and one
        or more whose names begin with ``test_``.
      level: of the training accuracy.

    Returns:
      Dims (seed, learning_rate, weight_decay, ...): ``fit_step`` and ``exclusion``; with
      ``quantity`` before them ``at_fit``, ``at_end`` and ``change``; with ``quantity`` in place of
      ``seed`` ``mean_at_fit``, ``mean_at_end``, ``mean_change``, ``change_low``, ``change_high``,
      ``num_seeds`` and ``excludes_zero``. The coordinate ``quantity`` has the names of the columns.

    Raises:
      ValueError: a column that is missing, a dataset that is no grid, or a level that is not above
        0 and at most 1.
    """
    import xarray

    dataset = with_point_axes(dataset)
    names = _quantities(dataset)
    axes = (*POINT, *extra_axes(dataset))
    shape = tuple(dataset.sizes[axis] for axis in axes)
    accuracy = column(dataset, TRAIN_ACCURACY).values
    fits = accuracy >= level * (1.0 - _ROUNDING)
    row = np.where(fits.any(axis=-1), fits.argmax(axis=-1), accuracy.shape[-1])
    exclusion = _exclusion(dataset, accuracy, row)
    counts = exclusion == ""
    fit, end = np.full((2, len(names), *shape), np.nan)
    for place, name in enumerate(names):
        values = column(dataset, name).values
        known = counts & ~_is_in_last_part(values, row)
        fit[place] = np.where(known, _first_from(values, row), np.nan)
        end[place] = np.where(known, last_values(dataset, name).values, np.nan)
    by_seed = np.moveaxis(end - fit, 1, 0)
    over_seeds = mean_interval(by_seed)
    along, means = ("quantity", *axes), ("quantity", *axes[1:])
    made = xarray.Dataset(
        {
            "fit_step": (axes, _steps_at(dataset, row)),
            "exclusion": (axes, exclusion),
            "at_fit": (along, fit),
            "at_end": (along, end),
            "change": (along, end - fit),
            "mean_at_fit": (means, mean_interval(np.moveaxis(fit, 1, 0)).mean),
            "mean_at_end": (means, mean_interval(np.moveaxis(end, 1, 0)).mean),
            "mean_change": (means, over_seeds.mean),
            "change_low": (means, over_seeds.low),
            "change_high": (means, over_seeds.high),
            "num_seeds": (means, over_seeds.num_seeds),
            "excludes_zero": (means, over_seeds.excludes_zero),
        },
        {"quantity": list(names), **{axis: dataset[axis] for axis in axes}},
        {"level": level, "confidence": CONFIDENCE, "last_part": LAST_PART},
    )
    return described(made, GENERALIZATION | {axis: axis_quantity(axis) for axis in axes})


@checked(dataset=DATASET, level=LEVEL)
def generalization_summary(dataset: "xarray.Dataset", *, level: float = 1.0) -> Summary:
    """The changes of ``generalization`` in plain words, in twelve lines at most.

    Args:
      dataset, level: as of ``generalization``.

    Returns:
      What ``print`` and notebooks show: how many trajectories were left out, and for each
      combination of the axes a line for each test metric, with its means at the fit and at the end,
      and the change with its interval. Of many combinations only the first metric is told.

    Raises:
      ValueError: as ``generalization``.
    """
    dataset = with_point_axes(dataset)
    changes = generalization(dataset, level=level)
    combinations = curves(dataset)
    metrics = metrics_of_test_data(dataset)
    # a line for the combination, and below it one for each metric that there is room for
    room = (MOST_LINES - 2) // len(combinations) - 1
    lines = [("left out", left_out_in_words(changes))]
    for curve in combinations:
        lines.append(("with", curve.words))
        for name in metrics[: max(room, 1)]:
            change = changes.sel(quantity=name).isel(curve.place)
            lines.append((quantity_of(name, dataset[name].attrs).label, change_in_words(change)))
    at = f"training accuracy {level:g}"
    return Summary(f"Change from {at} to the end, mean and 95 % interval over seeds", lines)


def change_in_words(change: "xarray.Dataset") -> str:
    """What became of one quantity on one curve, such as ``0.4 to 0.42, rises by 0.02 [...]``.

    Args:
      change: what ``generalization`` returns, at one quantity and one combination of the axes.
    """
    seeds = int(change["num_seeds"])
    if not seeds:
        return "no seed counts"
    mean, low, high = (float(change[name]) for name in ("mean_change", "change_low", "change_high"))
    ends = f"{float(change['mean_at_fit']):.4g} to {float(change['mean_at_end']):.4g}"
    if seeds == 1:
        return f"{ends}, by {mean:+.2g} with one seed: no interval"
    over = f"[{low:+.2g}, {high:+.2g}], {seeds} seeds"
    if not bool(change["excludes_zero"]):
        return f"{ends}, no clear change: {mean:+.2g} {over}"
    return f"{ends}, {'rises' if mean > 0 else 'falls'}: {mean:+.2g} {over}"


def left_out_in_words(changes: "xarray.Dataset") -> str:
    """How many trajectories do not count, and why.

    Args:
      changes: what ``generalization`` returns.
    """
    reasons = changes["exclusion"].values
    counted = [(reason, int((reasons == reason).sum())) for reason in EXCLUSIONS]
    told = [f"{number} {reason}" for reason, number in counted if number]
    return f"of {reasons.size} trajectories {', '.join(told)}" if told else "no trajectory"


def curves(dataset: "xarray.Dataset") -> list[Curve]:
    """Every combination of the axes of a grid but the seed: with normalization and decay first.

    Args:
      dataset: a grid with all axes of a point.
    """
    axes = [*POINT[1:], *extra_axes(dataset)]
    labels = {axis: dataset[axis].values.tolist() for axis in axes}
    kinds = {str(kind) for kind in labels.get(NORMALIZATION, [])} - {NOT_NORMALIZED}
    several_rates = len(labels["learning_rate"]) > 1
    found = []
    for places in itertools.product(*(range(len(labels[axis])) for axis in axes)):
        place = dict(zip(axes, places, strict=True))
        at = {axis: labels[axis][place[axis]] for axis in axes}
        kind, decay = at.get(NORMALIZATION), at["weight_decay"]
        words = [_decay_in_words(None if kind is None else str(kind), decay, len(kinds) > 1)]
        words += [f"η = {at['learning_rate']:g}"] if several_rates else []
        words += [
            f"{axis.replace('_', ' ')} = {at[axis]:g}"
            if isinstance(at[axis], float)
            else f"{axis.replace('_', ' ')} = {at[axis]}"
            for axis in axes
            if axis not in (*POINT, NORMALIZATION) and len(labels[axis]) > 1
        ]
        is_normalized = str(kind) != NOT_NORMALIZED
        found.append(Curve(", ".join(words), place, is_normalized, float(decay)))
    # as the story is told: the two without normalization are an answer to the two with it
    return sorted(
        found,
        key=lambda each: (not each.is_normalized, (each.weight_decay > 0) != each.is_normalized),
    )


def _decay_in_words(kind: str | None, decay: float, names_kind: bool) -> str:
    """``normalization and weight decay λ = 0.01``; of a grid of one network only its decay."""
    if kind is None:
        return f"weight decay λ = {decay:g}" if decay else "no weight decay"
    if kind == NOT_NORMALIZED:
        return f"no normalization, weight decay λ = {decay:g}" if decay else "no normalization"
    norm = f"{kind} normalization" if names_kind else "normalization"
    return f"{norm} and weight decay λ = {decay:g}" if decay else f"{norm}, no weight decay"


def tells_of_generalization(dataset: "xarray.Dataset") -> bool:
    """Whether a grid can show what weight decay or normalization does after the fit.

    That takes a training accuracy that comes to 1, a test metric, and something to compare with:
    a weight decay of 0 beside another one, or an axis of normalizations.

    Args:
      dataset: of a grid.
    """
    dataset = with_point_axes(dataset)
    if not (_is_along_records(dataset, TRAIN_ACCURACY) and metrics_of_test_data(dataset)):
        return False
    decays = dataset["weight_decay"].values
    compared = NORMALIZATION in dataset.dims or (decays.min() == 0.0 < decays.max())
    return bool(compared and (dataset[TRAIN_ACCURACY] >= 1.0 - _ROUNDING).any())


def metrics_of_test_data(dataset: "xarray.Dataset") -> list[str]:
    """Columns along the records that hold a metric of test data, the accuracy first.

    Args:
      dataset: of a grid with all axes of a point.
    """
    names = [str(name) for name in dataset.data_vars if str(name).startswith("test_")]
    metrics = [name for name in names if _is_along_records(dataset, name)]
    return sorted(metrics, key=lambda name: name != "test_accuracy")


def _is_along_records(dataset: "xarray.Dataset", name: str) -> bool:
    """Whether a column has one number for each record; one of the user's own may have more."""
    if name not in dataset or dataset[name].dtype.kind != "f":
        return False
    return set(dataset[name].dims) == {*POINT, *extra_axes(dataset), time_dimension(dataset)}


def sharpness_name(dataset: "xarray.Dataset") -> str | None:
    """The column with the sharpness that is nearest to theory; None where there is none."""
    return next((name for name in SHARPNESSES if name in dataset), None)


def _quantities(dataset: "xarray.Dataset") -> list[str]:
    require_column(dataset, TRAIN_ACCURACY)
    metrics = metrics_of_test_data(dataset)
    if not metrics:
        raise ValueError(
            "dataset has no column whose name begins with 'test_', as test_accuracy: record the "
            f"metrics of a problem with test data; it has {sorted(map(str, dataset))}"
        )
    others = ["threshold" if "threshold" in dataset else None, sharpness_name(dataset)]
    return [*metrics, *filter(None, others)]


def _exclusion(dataset: "xarray.Dataset", accuracy: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Why each point is left out; "" where it counts."""
    conditions = (
        is_diverged(dataset).values,
        is_pending(dataset).values,
        row == accuracy.shape[-1],
        _is_in_last_part(accuracy, row),
    )
    return np.select(conditions, EXCLUSIONS, "")


def _is_in_last_part(values: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Whether the value at the fit is one of those that make the mean at the end.

    The change would then be one of a mean against a part of itself.
    """
    finite = np.isfinite(values)
    records = np.arange(values.shape[-1])
    after = (finite & (records >= row[..., None])).sum(axis=-1)
    return after <= np.maximum(np.ceil(LAST_PART * finite.sum(axis=-1) * (1.0 - 1e-9)), 1)


def _first_from(values: np.ndarray, row: np.ndarray) -> np.ndarray:
    """The first value from a row on that is not NaN along the last axis; NaN where none is."""
    usable = np.isfinite(values) & (np.arange(values.shape[-1]) >= row[..., None])
    first = np.take_along_axis(values, usable.argmax(axis=-1)[..., None], axis=-1)[..., 0]
    return np.where(usable.any(axis=-1), first, np.nan)


def _steps_at(dataset: "xarray.Dataset", row: np.ndarray) -> np.ndarray:
    """The step of a row of each point; NaN for a row after the last one."""
    time = time_dimension(dataset)
    axes = (*POINT, *extra_axes(dataset), time)
    steps = dataset["step"].broadcast_like(dataset["status"]).transpose(*axes).values
    there = row < steps.shape[-1]
    found = np.take_along_axis(steps, np.where(there, row, 0)[..., None], axis=-1)[..., 0]
    return np.where(there, found.astype(np.float64), np.nan)

"""What became of each point of a grid: its last values, and how it ended."""

import enum
import itertools
from typing import TYPE_CHECKING

import numpy as np

from sharpflow.models.arguments import nearest
from sharpflow.simulator.comparison_quantities import COMPARISON_NUMBERS
from sharpflow.simulator.grid.prediction_quantities import OUTPUT
from sharpflow.simulator.observables import how_to_get
from sharpflow.simulator.quantities import RESULT
from sharpflow.simulator.store.arrays import PENDING
from sharpflow.theory.status import Status

if TYPE_CHECKING:
    import xarray

POINT = ("seed", "learning_rate", "weight_decay")
# Of a run, over which its end is judged: long enough for many periods of the oscillation, and short
# enough that the threshold hardly drifts meanwhile.
LAST_PART = 0.1
# Mean edge ratio of a point that is at the edge. The oscillation lifts the sharpness of an iterate
# above that on the manifold, so that there is more room above 1 than below.
AT_EDGE = (0.9, 1.3)
# Of the loss at the start: at or below it a point counts as trained, and as near enough to the
# manifold for the flow. Loss falls by orders of magnitude there, so that ten times as much or a
# tenth moves the place by few records.
LOSS_TOLERANCE = 1e-3

# In this order where several were recorded: theory speaks of the sharpness on Γ.
EDGE_RATIOS = ("edge_ratio_manifold", "edge_ratio_midpoint", "edge_ratio_iterate")
SHARPNESSES = (
    "sharpness_manifold",
    "sharpness_midpoint",
    "sharpness_iterate",
    "hessian_sharpness",
    "preconditioned_sharpness",
)


class Outcome(enum.IntEnum):
    """How a trajectory ended; ``label`` says it in words."""

    CONVERGED = 0
    AT_EDGE = 1
    ABOVE_EDGE = 2
    TRAINING = 3
    DIVERGED = 4
    PENDING = 5

    @property
    def label(self) -> str:
        """What tables and legends call it, such as ``at the edge``."""
        return self.name.lower().replace("_", " the ")


def outcomes(
    dataset: "xarray.Dataset",
    *,
    edge: tuple[float, float] = AT_EDGE,
    tolerance: float = LOSS_TOLERANCE,
) -> "xarray.DataArray":
    """How each trajectory of a grid ended, as the numbers of ``Outcome``.

    ``PENDING`` and ``DIVERGED`` follow the status. Otherwise the last edge ratio decides,
    as ``last_values`` has it: within ``edge`` it is ``AT_EDGE``, over it ``ABOVE_EDGE``.
    Below, or where the ratio is unknown, a trajectory has ``CONVERGED`` if its last loss is
    at most ``tolerance`` times the first one. A loss such as the cross-entropy does not go to
    0, so it has also ``CONVERGED`` if its last gradient on the unit sphere, ‖w‖‖∇L(w)‖, is at
    most ``tolerance`` times the first one. Else it is still ``TRAINING``.

    Args:
      dataset: what ``sharpflow.simulate_grid`` returns. The ratio is that on Γ where it
        was recorded, else that at the midpoint, else at the iterate. The last loss is
        ``loss_mean`` where it was recorded, else ``loss``; the first one is ``loss``
        where it was recorded. The gradient needs ``gradient_norm`` and ``norm_squared``.
      edge: smallest and largest ratio at the edge.
      tolerance: of the loss and of the gradient.

    Returns:
      Dims (seed, learning_rate, weight_decay, ...); the attribute ``edge_ratio`` names
      the column that was used, "" where there is none.

    Raises:
      ValueError: neither ``loss_mean`` nor ``loss`` was recorded, or no status.
    """
    unfinished = is_pending(dataset)
    measured = edge_ratio_name(dataset)
    last = loss_name(dataset)
    if last is None:
        raise ValueError("dataset has neither the column 'loss_mean' nor 'loss'")
    first = "loss" if "loss" in dataset else last
    low_loss = last_values(dataset, last) <= tolerance * _first(dataset, first)
    if {"gradient_norm", "norm_squared"} <= set(dataset):
        gradient = dataset["gradient_norm"] * np.sqrt(dataset["norm_squared"])
        of_sphere = dataset.assign(gradient_norm=gradient)
        start = _first(of_sphere, "gradient_norm")
        low_loss |= last_values(of_sphere, "gradient_norm") <= tolerance * start
    # np.select takes the first that holds, so that the order is the rule: status before ratio, and
    # the ratio before the loss, which is low at the edge too.
    cases = [(unfinished, Outcome.PENDING), (is_diverged(dataset), Outcome.DIVERGED)]
    if measured is not None:
        ratio = last_values(dataset, measured)
        cases.append((ratio > edge[1], Outcome.ABOVE_EDGE))
        cases.append((ratio >= edge[0], Outcome.AT_EDGE))
    cases.append((low_loss, Outcome.CONVERGED))
    conditions, kinds = zip(*cases, strict=True)
    codes = np.select([where.values for where in conditions], kinds, Outcome.TRAINING)
    return unfinished.copy(data=codes.astype(np.int8)).assign_attrs(edge_ratio=measured or "")


def last_values(
    dataset: "xarray.Dataset", name: str, *, fraction: float = LAST_PART
) -> "xarray.DataArray":
    """What a column says of the end of each trajectory.

    Of a column along the records it is the mean over the last part of them: at the edge, single
    values oscillate. Of a column along a prediction it is the last value, which does not. A number
    of a point, such as ``final_relative_error``, is itself.

    Args:
      dataset: what ``sharpflow.simulate_grid`` returns.
      name: of a column or of a number of each point; of several eigenvalues the largest is taken.
      fraction: of the finite values of a trajectory in a column along the records, the last so
        many are averaged, rounded up.

    Returns:
      Dims (seed, learning_rate, weight_decay, ...); NaN where a trajectory diverged, is
      not finished or has no finite value. What comes from a prediction is NaN as well where this
      does not reach the end: ``is_unpredicted``.

    Raises:
      ValueError: a column or status that is missing, or a column of texts.
    """
    require_column(dataset, name)
    _require_point_axes(dataset)
    axes = (*POINT, *extra_axes(dataset))
    dims = set(dataset[name].dims)
    if dims == {*axes}:
        last = _numbers(dataset, name, axes)
    elif dims == {*axes, OUTPUT}:
        last = _last_finite(_numbers(dataset, name, (*axes, OUTPUT)))
    else:
        last = _mean_of_last(column(dataset, name).values, fraction)
    ended = ~is_diverged(dataset) & ~is_pending(dataset)
    if is_of_prediction(dataset, name):
        ended &= ~is_unpredicted(dataset)
    return ended.copy(data=last).where(ended)


def _numbers(dataset: "xarray.Dataset", name: str, dims: tuple[str, ...]) -> np.ndarray:
    """An array in float64 with these dims; infinite values become NaN."""
    if dataset[name].dtype.kind not in "biuf":
        raise ValueError(f"the column {name!r} has to hold numbers, and it holds texts")
    values = dataset[name].transpose(*dims).values.astype(np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _last_finite(values: np.ndarray) -> np.ndarray:
    """The last value that is not NaN along the last axis; NaN where there is none."""
    if not values.shape[-1]:
        return np.full(values.shape[:-1], np.nan)
    place = values.shape[-1] - 1 - np.argmax(np.isfinite(values[..., ::-1]), axis=-1)
    return np.take_along_axis(values, place[..., None], axis=-1)[..., 0]


def _mean_of_last(values: np.ndarray, fraction: float) -> np.ndarray:
    """The mean of the last values that are not NaN along the last axis."""
    finite = np.isfinite(values)
    # How many finite values a row and those after it have. Trajectories of a grid end at different
    # rows, and a column may have been recorded at some of them only, so that no slice serves all.
    from_here = np.cumsum(finite[..., ::-1], axis=-1)[..., ::-1]
    # 0.07 · 100 is 7 + 1e-15, which must not count as 8
    wanted = np.ceil(fraction * finite.sum(axis=-1, keepdims=True) * (1.0 - 1e-9))
    kept = finite & (from_here <= np.maximum(wanted, 1))
    total = np.where(kept, values, 0.0).sum(axis=-1)
    count = kept.sum(axis=-1)
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)


def median_over_seeds(values: "xarray.DataArray") -> "xarray.DataArray":
    """The median of what is not NaN along ``seed``; NaN where there is nothing."""
    axis = values.get_axis_num("seed")
    # Not np.nanmedian, which warns wherever all seeds are NaN; on a grid that is every diverged
    # point.
    ordered = np.sort(values.values, axis=axis)  # NaN last
    count = np.isfinite(ordered).sum(axis=axis, keepdims=True)
    middle = np.concatenate([np.maximum(count - 1, 0) // 2, count // 2], axis=axis)
    median = np.take_along_axis(ordered, middle, axis).mean(axis=axis)
    return values.isel(seed=0, drop=True).copy(data=median)


def column(dataset: "xarray.Dataset", name: str) -> "xarray.DataArray":
    """A column in float64, dims (seed, learning_rate, weight_decay, ..., time).

    Of several eigenvalues it is the largest; infinite values become NaN.

    Raises:
      ValueError: a column that was not recorded, or is no column of numbers in time.
    """
    require_column(dataset, name)
    time = time_dimension(dataset)
    values = dataset[name]
    dims = (*POINT, *extra_axes(dataset), time)
    for trailing in [dim for dim in values.dims if dim not in dims]:
        if trailing != f"{name}_0":
            raise ValueError(f"the column {name!r} has the dimension {trailing!r} too many")
        values = values.isel({trailing: 0}, drop=True)
    if set(values.dims) != set(dims):
        raise ValueError(f"the column {name!r} must have the dims {dims}, got {values.dims}")
    # Means over a float32 column of many records would lose digits, and the figures expect one
    # dtype.
    values = values.transpose(*dims).astype(np.float64)
    return values.where(np.isfinite(values))


def require_column(dataset: "xarray.Dataset", name: str) -> None:
    """Refuse a column that was not recorded.

    Args:
      dataset: of a grid.
      name: of the column.

    Raises:
      ValueError: names those that there are, and the one that may be meant.
    """
    if name not in dataset:
        known = sorted(map(str, dataset))
        remedy = how_to_get(name) or nearest(name, known)
        raise ValueError(f"dataset has no column {name!r}{remedy}; it has {known}")


def time_dimension(dataset: "xarray.Dataset") -> str:
    """``"step"``, or ``"record"`` where each point has steps of its own.

    Raises:
      ValueError: there is neither, or an axis of the grid is missing.
    """
    _require_point_axes(dataset)
    for name in ("record", "step"):
        if name in dataset.dims:
            return name
    raise ValueError("dataset has neither the dimension 'step' nor 'record'")


def _require_point_axes(dataset: "xarray.Dataset") -> None:
    for name in POINT:
        if name not in dataset.dims:
            raise ValueError(
                f"dataset has no dimension {name!r}; keep it when selecting one value, as in "
                f".sel({name}=[value])"
            )


def edge_ratio_name(dataset: "xarray.Dataset") -> str | None:
    """The column with the edge ratio that is nearest to theory; None where there is none."""
    return next((name for name in EDGE_RATIOS if name in dataset), None)


def loss_name(dataset: "xarray.Dataset") -> str | None:
    """The column with the loss that does not oscillate; None where no loss was recorded."""
    return next((name for name in ("loss_mean", "loss") if name in dataset), None)


def is_pending(dataset: "xarray.Dataset") -> "xarray.DataArray":
    """Which points are not finished, dims (seed, learning_rate, weight_decay, ...)."""
    return _status(dataset) == PENDING


def is_diverged(dataset: "xarray.Dataset") -> "xarray.DataArray":
    """Which points ended before their last step, dims (seed, learning_rate, weight_decay, ...)."""
    status = _status(dataset)
    return (status != PENDING) & (status != int(Status.SUCCESS))


def is_of_prediction(dataset: "xarray.Dataset", name: str) -> bool:
    """Whether a column comes from the predictions of the points, and not from their records.

    Args:
      dataset: what ``sharpflow.predict_grid`` returns.
      name: of a column that it has.
    """
    dims = dataset[name].dims
    if name in COMPARISON_NUMBERS and name not in RESULT:
        # a column of the user's own may have the name of one of these numbers
        return set(dims) == set(_require_status(dataset).dims)
    return OUTPUT in dims


def has_predictions(dataset: "xarray.Dataset") -> bool:
    """Whether any point has a prediction, be it not to its end.

    Args:
      dataset: of a grid, with predictions or without.
    """
    return "prediction_status" in dataset and bool((dataset["prediction_status"] >= 0).any())


def is_unpredicted(dataset: "xarray.Dataset") -> "xarray.DataArray":
    """Which points have no prediction that reaches their end, dims as of ``is_pending``.

    A prediction that ends early has no value at the end, and the value where it ends is mostly a
    better one: next to those of other points it would seem to hold where it failed.

    Raises:
      ValueError: the dataset has no ``prediction_status``.
    """
    require_column(dataset, "prediction_status")
    status = dataset["prediction_status"].transpose(*POINT, *extra_axes(dataset))
    return (status != int(Status.SUCCESS)).drop_attrs()


def extra_axes(dataset: "xarray.Dataset") -> tuple[str, ...]:
    """Axes of the grid beside seed, learning rate and weight decay."""
    return tuple(str(name) for name in _require_status(dataset).dims if name not in POINT)


def with_point_axes(dataset: "xarray.Dataset") -> "xarray.Dataset":
    """A grid that has all axes of a point; one of which ``.sel`` left a single value has it again.

    Args:
      dataset: what ``sharpflow.simulate_grid`` returns, or a part of it.
    """
    single = [name for name in POINT if name in dataset.coords and name not in dataset.dims]
    if not single:
        return dataset
    # Clocks are coordinates, which have no axis of seeds and would not be given the others back.
    clocks = [name for name in dataset.coords if name not in (*dataset.dims, *single)]
    rates = [name for name in single if name != "seed"]
    expanded = dataset.drop_vars(clocks).expand_dims(single)
    no_seed = dataset.drop_vars("seed" if "seed" in single else [])
    return expanded.assign_coords({name: no_seed[name].expand_dims(rates) for name in clocks})


def combinations(dataset: "xarray.Dataset") -> list[tuple[str, "xarray.Dataset"]]:
    """The parts of a grid that have no further axis, each with its values in words.

    Returns:
      ``[("", dataset)]`` where there is no further axis.
    """
    dataset = with_point_axes(dataset)
    axes = extra_axes(dataset)
    parts = []
    for places in itertools.product(*(range(dataset.sizes[name]) for name in axes)):
        chosen = dict(zip(axes, places, strict=True))
        words = ", ".join(f"{name} = {_plain(dataset[name][at])}" for name, at in chosen.items())
        parts.append((words, dataset.isel(chosen, drop=True)))
    return parts


def _plain(value: "xarray.DataArray") -> str:
    number = value.item()
    return f"{number:.6g}" if isinstance(number, float) else str(number)


def _require_status(dataset: "xarray.Dataset") -> "xarray.DataArray":
    if "status" not in dataset:
        raise ValueError("dataset has no variable 'status'; sharpflow.simulate_grid writes it")
    return dataset["status"]


def _status(dataset: "xarray.Dataset") -> "xarray.DataArray":
    return _require_status(dataset).transpose(*POINT, *extra_axes(dataset))


def _first(dataset: "xarray.Dataset", name: str) -> "xarray.DataArray":
    """The first finite value of each trajectory; NaN where there is none."""
    values = column(dataset, name)
    place = np.argmax(np.isfinite(values.values), axis=-1)[..., None]
    first = np.take_along_axis(values.values, place, axis=-1)[..., 0]
    return _status(dataset).copy(data=first).drop_attrs()

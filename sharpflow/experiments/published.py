"""Published numbers beside those of a run."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sharpflow.experiments.config.published import Published
from sharpflow.experiments.grid_summary import (
    column,
    extra_axes,
    is_diverged,
    is_pending,
    last_values,
    with_point_axes,
)
from sharpflow.simulator.quantities import axis_quantity, quantity_of

if TYPE_CHECKING:
    import xarray

HEADS = ("quantity", "where", "published", "here", "source")
_PLACES = {
    "end": "at the end",
    "start": "at the start",
    "largest": "largest",
    "smallest": "smallest",
}


@dataclasses.dataclass(frozen=True)
class Beside:
    """A published number and what a run says to it, at one combination of its axes.

    Attributes:
      published: the number.
      what: the quantity and where it was read, in words.
      place: the axes of more than one value, each with its value.
      here: of each seed, shape (S,); NaN where a trajectory diverged or has not ended.
      missing: why there are no values, or empty.
    """

    published: Published
    what: str
    place: dict[str, Any]
    here: np.ndarray
    missing: str = ""

    @property
    def where(self) -> str:
        """The place in words."""
        return ", ".join(
            f"{axis_quantity(name).symbol or name} = {_shown(value)}"
            for name, value in self.place.items()
        )

    @property
    def published_in_words(self) -> str:
        """The published number, or its interval."""
        value = self.published.value
        return f"{value[0]:.4g} to {value[1]:.4g}" if isinstance(value, tuple) else f"{value:.4g}"

    @property
    def here_in_words(self) -> str:
        """The mean over the seeds and, of several, the smallest and the largest."""
        finite = self.here[np.isfinite(self.here)]
        if not finite.size:
            return self.missing or "diverged or not ended"
        mean = f"{finite.mean():.4g}"
        if finite.size == self.here.size == 1:
            return mean
        lost = self.here.size - finite.size
        rest = f", {lost} diverged or not ended" if lost else ""
        return f"{mean} ({finite.min():.4g} to {finite.max():.4g}{rest})"

    @property
    def row(self) -> tuple[str, ...]:
        """Texts under ``HEADS``."""
        words = (self.what, self.where, self.published_in_words, self.here_in_words)
        return (*words, self.published.source)


def beside(dataset: "xarray.Dataset", numbers: Sequence[Published]) -> list[Beside]:
    """Each published number beside what a run measured, wherever it holds.

    Args:
      dataset: of the run.
      numbers: of its config.

    Returns:
      In the order of the numbers, and of the axes without the seeds. A number whose place is not
      among the points, or whose column was not recorded, has one entry that says so.
    """
    if not numbers:
        return []
    dataset = with_point_axes(dataset)
    axes = [name for name in ("learning_rate", "weight_decay") if name in dataset.dims]
    axes += extra_axes(dataset)
    return [entry for number in numbers for entry in _beside(dataset, number, axes)]


def _beside(dataset: "xarray.Dataset", number: Published, axes: Sequence[str]) -> list[Beside]:
    what = _in_words(dataset, number)
    columns = [name for name in (number.quantity, number.over) if name is not None]
    absent = [name for name in columns if name not in dataset]
    nothing = np.array([np.nan])
    if absent:
        return [Beside(number, what, dict(number.where), nothing, f"no column {absent[0]!r}")]
    values = _values(dataset, number)
    entries = []
    for labels in itertools.product(*(dataset[name].values.tolist() for name in axes)):
        point = dict(zip(axes, labels, strict=True))
        if all(_same(point.get(name), value) for name, value in number.where.items()):
            told = {name: value for name, value in point.items() if dataset.sizes[name] > 1}
            entries.append(Beside(number, what, told, values.sel(point).values))
    return entries or [Beside(number, what, dict(number.where), nothing, "no such point")]


def _values(dataset: "xarray.Dataset", number: Published) -> "xarray.DataArray":
    """The number of every point, dims (seed, learning_rate, weight_decay, ...)."""
    values = column(dataset, number.quantity)
    if number.over is not None:
        values = values / column(dataset, number.over)
    if number.at == "end":
        return last_values(dataset.assign({number.quantity: values}), number.quantity)
    time = str(values.dims[-1])
    if number.at in ("largest", "smallest"):
        found = values.max(time) if number.at == "largest" else values.min(time)
    else:
        steps = dataset["step"].broadcast_like(values).transpose(*values.dims)
        wanted = 0 if number.at == "start" else number.at
        # NaN in a row that a trajectory never reached, which is therefore not the nearest one
        distance = abs(steps - wanted).where(np.isfinite(values), np.inf)
        found = values.isel({time: distance.argmin(time)})
    return found.where(~is_diverged(dataset) & ~is_pending(dataset))


def _in_words(dataset: "xarray.Dataset", number: Published) -> str:
    label = _label(dataset, number.quantity)
    if number.over is not None:
        label += f" / {_label(dataset, number.over)}"
    place = _PLACES.get(str(number.at), f"at step {number.at}")
    return f"{label}, {place}"


def _label(dataset: "xarray.Dataset", name: str) -> str:
    attributes = dataset[name].attrs if name in dataset else {}
    return quantity_of(name, attributes).label


def _same(label: Any, value: Any) -> bool:
    if isinstance(label, int | float) and isinstance(value, int | float):
        return bool(np.isclose(label, value, rtol=1e-9, atol=0.0))
    return label == value


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

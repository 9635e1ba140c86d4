"""The one table of quantities: what every column, coordinate and array of a result is."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from sharpflow.simulator.moment import Observable
from sharpflow.simulator.observables import BUILT_IN, COLUMNS, METRICS
from sharpflow.simulator.quantity import Quantity, by_name, in_words
from sharpflow.simulator.rules.carried import STATE

if TYPE_CHECKING:
    import xarray

# Coordinates and arrays of trajectories and grids, whatever is recorded.
RESULT = by_name(
    Quantity(
        "seed",
        "seed",
        "The integer that the start of a point is drawn from, by jax.random.key.",
        unit="1",
    ),
    Quantity(
        "learning_rate",
        "learning rate η",
        "The learning rate η of a point of the grid.",
        unit="1",
        symbol="η",
        scale="log",
    ),
    Quantity(
        "weight_decay",
        "weight decay λ",
        "The weight decay λ of a point of the grid.",
        unit="1",
        symbol="λ",
        scale="log",
    ),
    Quantity(
        "step",
        "step t",
        "The number of updates made before a record, t.",
        unit="step",
        symbol="t",
        scale="linear",
    ),
    Quantity(
        "record",
        "record",
        "The number of a record, where each point of a grid records at steps of its own.",
        unit="1",
        scale="linear",
    ),
    Quantity(
        "snapshot",
        "snapshot",
        "What a snapshot of the parameters is labelled by: the number of updates made before it, "
        "or the number of its record where each point of a grid records at steps of its own.",
        unit="1",
        scale="linear",
    ),
    Quantity(
        "tau",
        "flow time τ",
        "The flow time τ, the intrinsic rate times the step: ηλt for gradient descent with weight "
        "decay, ½η²t for quasi-RMSprop. With a schedule it is the sum of the rates of the steps "
        "before, Σηₛλₛ, and after a fork it goes on from that of the run before.",
        unit="1",
        symbol="τ",
        scale="linear",
    ),
    Quantity(
        "status",
        "how the point ended",
        "The status of a point, an integer whose meanings stand in flag_meanings: −1 where it has "
        "not ended, 0 where it made all its updates.",
        unit="1",
    ),
    Quantity(
        "final_step",
        "updates made",
        "The number of updates that a point has made when it ended, 0 before; of a fork also those "
        "of the runs before it.",
        unit="step",
        scale="linear",
    ),
    Quantity(
        "num_steps",
        "updates to make",
        "The number of updates that a point is to make; of a fork also those of the runs before "
        "it.",
        unit="step",
        scale="linear",
    ),
    Quantity(
        "intrinsic_rate",
        "intrinsic rate ηλ",
        "The flow time of a step: ηλ for gradient descent with weight decay, ½η² for "
        "quasi-RMSprop.",
        unit="1/step",
        symbol="ηλ",
        scale="log",
    ),
    Quantity(
        "clock_step",
        "step of the clock",
        "The step from which the flow time of a fork is counted at its own rate; that of the run "
        "before where the rate is the same.",
        unit="step",
        scale="linear",
    ),
    Quantity(
        "clock_tau",
        "flow time of the clock",
        "The flow time at the step from which that of a fork is counted at its own rate.",
        unit="1",
        scale="linear",
    ),
)

_OF_METRICS = BUILT_IN["metrics"].name
_DESCRIBED = (BUILT_IN.keys() | COLUMNS.keys()) - {_OF_METRICS}
_PARAMS = {
    "params": "A snapshot of the parameters wₜ",
    "final_params": "The parameters after the last update",
    STATE: "What the optimizer remembers at a snapshot, for forks to go on with",
}


def quantity_of(
    name: str, attributes: Mapping[Any, Any] | None = None, observables: Iterable[str] = ()
) -> Quantity:
    """What is known of a column from its name, and from the attributes of its array.

    Args:
      name: of a column, a coordinate or an array of params.
      attributes: of the array; they override the table, because their author knew more, such as
        an observable of the user's own.
      observables: names of what was recorded, as far as that is known.
    """
    known = RESULT.get(name) or COLUMNS.get(name) or METRICS.get(name) or _params(name)
    if known is None:
        known = _undescribed(name, [each for each in observables if each not in _DESCRIBED])
    return known.described_by({} if attributes is None else attributes)


def axis_quantity(name: str) -> Quantity:
    """What an axis of a grid is.

    Args:
      name: of the axis, seed, learning rate and weight decay among them.
    """
    definition = f"The values of {name}, an axis of the grid."
    return RESULT.get(name) or Quantity(name, in_words(name), definition)


def recorded_quantities(
    names: Iterable[str], observables: Iterable[Observable]
) -> dict[str, Quantity]:
    """What the columns of a record are, as the observables that made them say.

    Args:
      names: of the columns.
      observables: all that were asked for.

    Returns:
      A quantity for every name. Where no observable brings one, it says by which it was recorded.
    """
    names = tuple(names)
    # of two that describe one column, the one that has its name is the one that makes it
    described_by_others: dict[str, Quantity] = {}
    without_quantities: list[str] = []
    for each in observables:
        own = {quantity.name: quantity for quantity in each.quantities if quantity.name in names}
        described_by_others |= {
            name: quantity
            for name, quantity in own.items()
            if name not in described_by_others or name == each.name
        }
        if not own:
            without_quantities.append(each.name)
    return {
        # our own columns are what they are, whatever an observable of somebody else says of them
        name: COLUMNS.get(name)
        or described_by_others.get(name)
        or _undescribed(name, without_quantities)
        for name in names
    }


def _undescribed(name: str, without_quantities: list[str]) -> Quantity:
    """A column of an observable that says nothing of it: a metric, or one of the user's own.

    Args:
      name: of the column.
      without_quantities: the names of all such observables, of which one made it.
    """
    if name in METRICS and _OF_METRICS in without_quantities:
        return METRICS[name]
    makers = [name] if name in without_quantities else without_quantities
    if makers == [_OF_METRICS]:
        definition = f"The metric {name!r} of the problem, at the parameters wₜ."
    elif makers:
        definition = f"Recorded by the observable {' or '.join(map(repr, makers))}."
    else:
        definition = "Recorded by an observable of which nothing else is known."
    return Quantity(name, in_words(name), definition)


def _params(name: str) -> Quantity | None:
    """An array of the params, or None where the name is that of something else."""
    prefix, _, path = name.partition(".")
    if prefix not in _PARAMS:
        return None
    words = in_words(prefix)
    if not path:
        return Quantity(name, words, f"{_PARAMS[prefix]}.", unit="1")
    array = "".join(c if c.isprintable() else " " for c in path)
    return Quantity(name, f"{words} {array}", f"{_PARAMS[prefix]}, its array {array}.", unit="1")


def described(dataset: "xarray.Dataset", quantities: Mapping[str, Quantity]) -> "xarray.Dataset":
    """A dataset of which every variable says what it holds.

    Args:
      dataset: any.
      quantities: what its variables hold, by their names. Those that say it already, as the ones
        taken from another dataset do, may be left out.

    Returns:
      The same values, with attributes. A variable of which nobody says what it holds is a mistake
      of the caller, and fails here rather than in front of a reader.
    """
    copy = dataset.copy()
    lacking = []
    for name in map(str, dataset.variables):
        if name in quantities:
            copy[name].attrs.update(quantities[name].attributes)
        elif not is_described(copy[name].attrs):
            lacking.append(name)
    assert not lacking, f"no quantity describes the variables {lacking}"
    return copy


def is_described(attributes: Mapping[Any, Any]) -> bool:
    """Whether the attributes of an array say label, unit and definition.

    Args:
      attributes: of any array.
    """
    return {"long_name", "units", "definition"} <= set(attributes)


def renamed(dataset: "xarray.Dataset", names: Mapping[str, str]) -> "xarray.Dataset":
    """A dataset with other names, also where one variable is said to be compared with another.

    Args:
      dataset: any.
      names: new ones of variables and dimensions by the old ones.
    """
    copy = dataset.rename(names)
    for name in copy.variables:
        attributes = copy[name].attrs
        if "reference" in attributes:
            beside = attributes["reference"]
            attributes["reference"] = names.get(beside, beside)
    return copy

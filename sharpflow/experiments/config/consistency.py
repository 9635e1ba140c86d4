"""What must hold between the keys of a config that are each as they should be."""

import inspect
import itertools
import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from sharpflow.experiments.config.mistakes import mistake, refusals
from sharpflow.experiments.config.optimizers import OPTIMIZERS
from sharpflow.experiments.config.schedules import schedule_mistakes
from sharpflow.models.arguments import FINITE, MOST, require_within
from sharpflow.simulator.gdwd_rates import may_be_gdwd
from sharpflow.simulator.schedule import flow_time_per_step, schedule

# A bound of configs alone: who writes a program knows how many points it asks for, and in a file
# two ranges that are longer than was meant multiply. The host looks at each point before the
# first step, so that ten times as many would keep it busy for many minutes before anything shows.
_MOST_POINTS = 10_000_000
_RATES = ("learning_rate", "weight_decay")
_WAYS_TO_RECORD = ("record_every", "record_at", "num_records")

Values = dict[str, Any]
Corner = dict[str, float]


def inconsistent(values: Values) -> list[str]:
    """What is wrong between the values of a config.

    Every bound of a rule or of a schedule is the library's: its own checks are called here, and
    what they refuse is told by the key that gave it.

    Args:
      values: by key, those alone that are as they should be, and defaults where none is given.
    """
    precision = _precision(values)
    corners = _corners(values)
    scheduled = schedule_mistakes(values)
    refused = _refused_by_rule(corners, values)
    # with a schedule the steps of a point are known once its rule is made
    clock = "tau" in values and "schedule" not in values and not (precision or refused)
    rates = [_flow_time(corner, values) for corner in corners] if clock else []
    schedule_refused = _refused_by_schedule(values, rates)
    wrong = [*_given_twice(values), *_size(values), *precision, *refused, *schedule_refused]
    told = [] if precision or refused else _without_central_flow(corners, values)
    return [*wrong, *scheduled, *_without_threshold(values), *told]


def _given_twice(values: Values) -> list[str]:
    return [
        mistake(f"axes.{name}", entries, f"once: problem_options.{name} is the same keyword")
        for name, entries in values.get("axes", {}).items()
        if name in values.get("problem_options", {})
    ]


def _size(values: Values) -> list[str]:
    lists = {key: values[key] for key in ("seed", *_RATES) if key in values}
    lists |= values.get("axes", {})
    points = math.prod(len(entries) for entries in lists.values())
    # From the lengths of the lists alone: the points themselves are not made before they are known
    # to be few enough.
    if points <= _MOST_POINTS:
        return []
    sizes = " × ".join(f"{len(entries)} {key}" for key, entries in lists.items())
    return [f"grid: got {sizes} = {points} points; allowed at most {_MOST_POINTS}"]


def _without_threshold(values: Values) -> list[str]:
    """Predictions without what they begin from: no function of the user's own records it."""
    names = values.get("observables", ("threshold",))
    if "prediction" not in values or "threshold" in names:
        return []
    return [mistake("observables", list(names), "with 'threshold' among them beside [prediction]")]


def _without_central_flow(corners: Sequence[Corner], values: Values) -> list[str]:
    """A prediction by the central flow where no point follows the rule that it is known for."""
    kind = values.get("prediction", {}).get("kind")
    if kind != "central_flow" or not corners:
        return []
    if any(may_be_gdwd(_start(corner, values)) for corner in corners):
        return []
    return [mistake("prediction.kind", kind, 'it with optimizer = "gdwd" and a weight_decay above '
                    "0 alone, for which the central flow is derived")]  # fmt: skip


def _precision(values: Values) -> list[str]:
    """The least and the greatest rate, where the dtype of the config cannot hold them."""
    lines = []
    for key in _RATES if "dtype" in values else ():
        rates = values.get(key, ())
        positive = [rate for rate in rates if rate]
        for rate in {min(positive), max(positive)} if positive else ():
            check = partial(require_within, values["dtype"], **{key: rate})
            lines += refusals(check, {key: f"{key}[{rates.index(rate)}]"})
    return sorted(lines)


def _corners(values: Values) -> list[Corner]:
    """The numbers that a rule of ours is made from, where each is at one end of its values.

    The bounds and the clock of all of them rise or fall with each number, so that what holds at
    the corners holds at every point of the grid, of which there may be millions. Of the rules of
    others nothing is known before they run.
    """
    make = OPTIMIZERS.get(values.get("optimizer", ""))
    if make is None:
        return []
    axes = values.get("axes", {})
    taken = {name: axes[name] for name in inspect.signature(make).parameters if name in axes}
    lists = {key: values.get(key, ()) for key in _RATES} | taken
    if not all(entries and all(map(FINITE.fits, entries)) for entries in lists.values()):
        return []  # it is told elsewhere what is wrong with them
    ends = [dict.fromkeys((min(entries), max(entries))) for entries in lists.values()]
    return [dict(zip(lists, corner, strict=True)) for corner in itertools.product(*ends)]


def _refused_by_rule(corners: Sequence[Corner], values: Values) -> list[str]:
    """A line for each bound of the rule that a point of the grid breaks."""
    keys = {name: f"axes.{name}" for name in values.get("axes", {})}
    checks = (partial(OPTIMIZERS[values["optimizer"]], **corner) for corner in corners)
    return _one_of_each(line for check in checks for line in refusals(check, keys))


def _flow_time(corner: Corner, values: Values) -> float:
    """Flow time per step at a point, as the grid will ask for it; NaN where nothing tells it."""
    with jax.enable_x64(True):
        return flow_time_per_step(_start(corner, values))


def _start(corner: Corner, values: Values) -> Any:
    """The state of the rule of a point at its start."""
    with jax.enable_x64(True):  # or float64 would be made float32 here, with a warning
        return OPTIMIZERS[values["optimizer"]](**corner).init(np.zeros(1, values["dtype"]))


def _refused_by_schedule(values: Values, rates: Sequence[float]) -> list[str]:
    """What is wrong with how long the grid runs and when it records.

    Args:
      values: of the config.
      rates: flow time per step at the corners; none where tau is not given, or not known to mean
        a number of steps. Then steps to record are looked at by themselves.
    """
    tau, num_steps = (values["tau"], None) if rates else (None, values.get("num_steps", MOST))
    # one at a time: a file that gives two is told so elsewhere, and each may be wrong by itself
    ways = [dict.fromkeys(_WAYS_TO_RECORD) | {way: values.get(way)} for way in _WAYS_TO_RECORD]
    check = partial(schedule, num_steps, tau, np.array(rates or [math.nan]))
    checks = (partial(check, **way) for way in ways)
    return _one_of_each(line for check in checks for line in refusals(check))


def _one_of_each(lines: Iterable[str]) -> list[str]:
    """The last line of each key, of which several points of a grid may break one bound."""
    return list({line.partition(": ")[0]: line for line in lines}.values())

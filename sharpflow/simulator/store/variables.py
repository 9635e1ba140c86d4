"""The labelled arrays of a grid."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from sharpflow.models import Params
from sharpflow.models.parameter_names import parameter_dimensions, parameter_names
from sharpflow.models.stored_tree import StoredLeaves
from sharpflow.simulator.axes import BASE, Axes
from sharpflow.simulator.clock import Clock
from sharpflow.simulator.columns import dimensions
from sharpflow.simulator.program import SnapshotParts
from sharpflow.simulator.quantities import axis_quantity, quantity_of
from sharpflow.simulator.quantity import Quantity
from sharpflow.simulator.rules.carried import STATE
from sharpflow.simulator.schedule import Schedule
from sharpflow.simulator.store.arrays import PENDING, Variable, known
from sharpflow.theory import Status

# Records in a file of the folder. A file is written anew for every chunk of records that reaches
# it, and read whole: ten times as many make a long run slow, a tenth makes ten times the files.
_MOST_ROWS = 1024
# Seeds that share a file in a grid of many points, and the points below which a file holds one. A
# grid of 10,000 points and ten columns would else have 100,000 files, which file systems dislike.
# All points of a file are run by one process, so that more seeds would share the work less evenly.
_MOST_SEEDS = 16
_FEW_POINTS = 256


def seeds_per_chunk(axes: Axes) -> int:
    """Seeds that share a chunk of the store; 1 in a small grid, for files of few bytes each."""
    return 1 if axes.num_points <= _FEW_POINTS else min(axes.shape[0], _MOST_SEEDS)


def grid_variables(
    axes: Axes,
    schedule: Schedule,
    rates: np.ndarray,
    clocks: Mapping[int, Clock],
    columns: dict[str, jax.ShapeDtypeStruct],
    snapshots: SnapshotParts | None,
    snapshot_every: int | None,
    final_params: Params | None,
    quantities: Mapping[str, Quantity],
    begun: tuple[np.ndarray, np.ndarray] | None = None,
) -> dict[str, Variable]:
    """Every array of a grid, by name.

    Args:
      axes: of the grid.
      schedule: of its points.
      rates: flow time per step of each point, shape (points,).
      clocks: of the points of the first seed whose rates follow schedules.
      columns: shape and dtype of one record of each column.
      snapshots: parts of one snapshot where some are kept.
      snapshot_every: records from a snapshot to the next.
      final_params: params of one point where the last ones are kept.
      quantities: what the columns are, by name.
      begun: of a fork the step of each point from which its flow time is counted, and τ there.

    Returns:
      Variables by name, with attributes that say what they hold. The names are all different:
      ``joined_columns`` refuses columns that are named as anything else.
    """
    points, records, time = axes.names, schedule.num_records, schedule.dimension
    chunk = (seeds_per_chunk(axes), *(1 for _ in axes.shape[1:]))

    def of_points(dtype: Any, fill: Any, trailing: tuple = (), **attributes: Any) -> Variable:
        """An array of the points with further (dimension, size, chunk)s."""
        return Variable(
            dims=(*points, *(name for name, *_ in trailing)),
            shape=(*axes.shape, *(size for _, size, _ in trailing)),
            dtype=np.dtype(dtype),
            fill=fill,
            attributes=attributes,
            chunks=(*chunk, *(part for *_, part in trailing)),
        )

    variables = {
        name: known((name,), [str(v) for v in values] if _labels(values) else np.array(values))
        for name, values in axes.values.items()
    }
    variables |= _times(axes, schedule, rates, clocks, begun)
    meanings = ["PENDING", *(status.name for status in Status)]
    variables["status"] = of_points(
        np.int8,
        PENDING,
        flag_values=[PENDING, *(int(status) for status in Status)],
        flag_meanings=" ".join(meanings),
    )
    variables["final_step"] = of_points(np.int64, 0)
    ends = schedule.num_steps if schedule.before is None else schedule.num_steps + schedule.before
    variables["num_steps"] = known(points, ends.reshape(axes.shape))
    for name, like in columns.items():
        # A column of integers or truths is kept as floats, because rows that were not reached hold
        # NaN.
        dtype = like.dtype if np.issubdtype(like.dtype, np.floating) else np.float64
        own = tuple(zip(dimensions(name, len(like.shape)), like.shape, like.shape, strict=True))
        # Records share a file, and snapshots below do not: a snapshot is as large as the params.
        rows = (time, records, min(records, _MOST_ROWS))
        variables[name] = of_points(dtype, np.nan, (rows, *own))
    of_params = [] if snapshots is None else parameter_names(snapshots.params, "params")
    if snapshots is not None:
        assert snapshot_every is not None
        kept = np.arange(0, records, snapshot_every)
        steps = _absolute(schedule, int(np.argmax(schedule.num_steps)))[kept]
        labels = steps if time == "step" else kept
        # in words, since no file holds classes: they tell whether a rule has the same buffers
        classes = (
            {}
            if snapshots.buffers is None
            else {STATE: StoredLeaves.of(snapshots.buffers).structure}
        )
        variables["snapshot"] = known(("snapshot",), labels, **classes)
        leading = (("snapshot", len(kept), 1),)
        variables |= _parameters(snapshots.params, "params", of_params, of_points, leading)
        of_buffers = parameter_names(snapshots.buffers, STATE)
        variables |= _parameters(snapshots.buffers, STATE, of_buffers, of_points, leading)
    if final_params is not None:
        variables |= _parameters(final_params, "final_params", of_params, of_points, ())
    given = {name: axis_quantity(name) for name in axes.names} | dict(quantities)
    return {
        name: dataclasses.replace(
            each,
            attributes=dict(each.attributes) | (given.get(name) or quantity_of(name)).attributes,
        )
        for name, each in variables.items()
    }


def _parameters(
    params: Params, prefix: str, variables: Sequence[str], of_points: Any, leading: tuple
) -> dict[str, Variable]:
    """Those of the leaves of params, or of a state, beside ``variables`` of them in the grid."""
    leaves = [_storable(np.asarray(leaf)) for leaf in jax.tree.leaves(params)]
    names = parameter_names(params, prefix)
    # both snapshots and the last params have the dimensions of params
    dims_of = STATE if prefix == STATE else "params"
    dims = parameter_dimensions(params, [leaf.ndim for leaf in leaves], variables, dims_of)
    return {
        name: of_points(
            leaf.dtype,
            # of whole numbers, as counts, none says that nothing is there: the params say it
            np.nan if np.issubdtype(leaf.dtype, np.inexact) else 0,
            (*leading, *zip(own, leaf.shape, leaf.shape, strict=True)),
        )
        for name, own, leaf in zip(names, dims, leaves, strict=True)
    }


def _storable(leaf: np.ndarray) -> np.ndarray:
    """In float32 where the dtype is one that Zarr does not know, as bfloat16 of averages is."""
    return leaf.astype(np.float32) if leaf.dtype.kind == "V" else leaf


def _times(
    axes: Axes,
    schedule: Schedule,
    rates: np.ndarray,
    clocks: Mapping[int, Clock],
    begun: tuple[np.ndarray, np.ndarray] | None,
) -> dict[str, Variable]:
    """Steps and flow times of the records; the seed does not enter."""
    cells, shape = axes.names[1:], axes.shape[1:]
    first = range(int(np.prod(shape)))  # the points of the first seed
    assert axes.names[0] == BASE[0]
    time, records = schedule.dimension, schedule.num_records
    steps = np.zeros((len(first), records), np.int64)
    if time == "step":
        steps[:] = _absolute(schedule, int(np.argmax(schedule.num_steps)))
        times = {"step": known(("step",), steps[0])}
    else:
        for point in first:
            steps[point] = _absolute(schedule, point)
        times = {
            "record": known(("record",), np.arange(records)),
            "step": known((*cells, "record"), steps.reshape(*shape, records)),
        }
    rate = rates[: len(first)]
    if np.any(np.isfinite(rate)):
        times["intrinsic_rate"] = known(cells, rate.reshape(shape))
    if clocks or np.any(np.isfinite(rate)):
        tau = rate[:, None] * steps
        tau_there = np.zeros(len(first))
        if begun is not None:
            step, tau_there = (each[: len(first)] for each in begun)
            tau = tau_there[:, None] + rate[:, None] * (steps - step[:, None])
            times["clock_step"] = known(cells, step.reshape(shape))
            times["clock_tau"] = known(cells, tau_there.reshape(shape))
        for point, clock in clocks.items():
            since = clock.tau_at(steps[point])
            # a record after the last step of a shorter point has no flow time
            within = steps[point] <= clock.step[-1]
            tau[point] = np.where(within, tau_there[point] + since, np.nan)
        times["tau"] = known((*cells, time), tau.reshape(*shape, records))
    return times


def _absolute(schedule: Schedule, point: int) -> np.ndarray:
    """Recorded steps of a point, those before its start counted."""
    return schedule.step_before(point) + schedule.steps(point)


def _labels(values: tuple) -> bool:
    """Whether an axis is labelled by words, as widths are."""
    return not all(isinstance(value, (int, float)) for value in values)

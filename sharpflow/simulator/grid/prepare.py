"""A grid before it runs: what the user asked for, checked as far as that is possible."""

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from sharpflow.models import Problem
from sharpflow.models.arguments import COUNT, FLAG, FUNCTION, POSITIVE, checked, instance, optional
from sharpflow.models.bound_function import BoundFunction
from sharpflow.models.precision import FULL, MatmulPrecision, validated_precision
from sharpflow.models.static_function import StaticFunction
from sharpflow.simulator import observables as recorded
from sharpflow.simulator.grid.axes import BASE, Axes, grid_axes, keywords_of
from sharpflow.simulator.grid.compiled import stacked
from sharpflow.simulator.grid.points import (
    Batch,
    GridRule,
    MakeOptimizer,
    MakeProblem,
    Points,
    Start,
    batches,
    joined_batches,
)
from sharpflow.simulator.grid.variables import grid_variables
from sharpflow.simulator.loop import column_shapes
from sharpflow.simulator.program import EffectiveRate, Program
from sharpflow.simulator.quantities import recorded_quantities
from sharpflow.simulator.schedule import Schedule, plain, schedule
from sharpflow.simulator.store.arrays import Variable


@dataclasses.dataclass(frozen=True)
class Grid:
    """A grid, ready to run.

    Attributes:
      axes: its points.
      schedule: how far they run and when they record.
      batches: points that share a compiled program.
      by_problem: the same points, those of every problem for themselves: the batches of runs
        that earlier versions began.
      variables: the labelled arrays of the result.
      description: what was asked for, in plain numbers and strings.
      snapshot_every: records from a snapshot to the next, or None.
      final_params: whether the last params are kept.
    """

    axes: Axes
    schedule: Schedule
    batches: tuple[Points, ...]
    by_problem: tuple[Points, ...]
    variables: dict[str, Variable]
    description: dict[str, Any]
    snapshot_every: int | None
    final_params: bool

    @property
    def title(self) -> str:
        """For progress."""
        return f"grid of {self.axes.num_points}"

    def longest_first(self, points: Sequence[int]) -> list[int]:
        """Points by their number of updates, those with most first."""
        return sorted(points, key=lambda point: (-int(self.schedule.num_steps[point]), point))


AXES = optional(instance(Mapping, "a dictionary of values by the name of the axis"))


@checked(
    axes=AXES,
    num_steps=optional(COUNT),
    tau=optional(POSITIVE),
    record_every=optional(COUNT),
    num_records=optional(COUNT),
    observables=recorded.OBSERVABLES,
    snapshot_every=optional(COUNT),
    final_params=FLAG,
    optimizer=FUNCTION,
    start=optional(FUNCTION),
    effective_learning_rate=optional(FUNCTION),
)
def prepare(
    problem: Problem | MakeProblem,
    *,
    seeds: int | Sequence[int],
    learning_rates: float | Sequence[float],
    weight_decays: float | Sequence[float],
    axes: Mapping[str, Sequence] | None,
    num_steps: int | None,
    tau: float | None,
    record_every: int | None,
    record_at: Sequence[int] | None,
    num_records: int | None,
    observables: str | recorded.Observable | Sequence[str | recorded.Observable],
    snapshot_every: int | None,
    final_params: bool,
    optimizer: MakeOptimizer,
    start: Start | None,
    effective_learning_rate: EffectiveRate | None,
    matmul_precision: MatmulPrecision = FULL,
) -> Grid:
    """Check the arguments of ``simulate_grid`` and work out its points.

    Raises:
      ValueError: an argument that cannot be used; nothing has been simulated.
    """
    num_steps, tau, record_every, num_records, snapshot_every = map(
        plain, (num_steps, tau, record_every, num_records, snapshot_every)
    )
    found = grid_axes(seeds, learning_rates, weight_decays, axes)
    others = [name for name in found.names if name not in BASE]
    taken = _takers(others, problem, start, optimizer)
    requested, running = recorded.resolve(observables)

    rule = BoundFunction.of(GridRule(optimizer), None, None, static=StaticFunction)
    precision = validated_precision(matmul_precision)

    def program(made: Problem) -> Program:
        return Program(made, rule, requested, effective_learning_rate, matmul_precision=precision)

    keep_previous = any(observable.needs_previous for observable in requested)

    def points_of(batch: Batch) -> Points:
        return Points(found, batch, start, optimizer, keep_previous=keep_previous)

    separate = batches(problem, found, taken, program)
    by_problem = tuple(points_of(batch) for batch in separate)
    joined = joined_batches(by_problem)
    points = by_problem if len(joined) == len(separate) else tuple(map(points_of, joined))
    rates = _rates(found, by_problem)
    timetable = schedule(
        num_steps,
        tau,
        rates,
        record_every=record_every,
        record_at=record_at,
        num_records=num_records,
    )
    columns = _columns(points, running, found.names)
    kept = _one_shape(points) if snapshot_every is not None or final_params else None
    variables = grid_variables(
        found,
        timetable,
        rates,
        columns,
        kept if snapshot_every is not None else None,
        snapshot_every,
        kept if final_params else None,
        recorded_quantities(columns, requested),
    )
    first = points[0]
    description = {
        "axes": {name: list(values) for name, values in found.values.items()},
        "num_steps": num_steps,
        "tau": tau,
        "record_every": record_every,
        "record_at": None if record_at is None else [int(step) for step in record_at],
        "num_records": num_records,
        "snapshot_every": snapshot_every,
        "final_params": final_params,
        "observables": [*(_name(observable) for observable in requested), *running],
        "columns": {name: list(like.shape) for name, like in columns.items()},
        "optimizer": _name(optimizer),
        "start": None if start is None else _name(start),
        "dtype": str(first.dtype),
        "num_parameters": sum(leaf.size for leaf in jax.tree.leaves(first.example)),
        "loss_at_start": first.loss_at_start(),
    }
    if precision != FULL:  # left out otherwise, so that runs begun before it was kept go on
        description["matmul_precision"] = precision
    description = json.loads(json.dumps(description))
    return Grid(
        found,
        timetable,
        points,
        by_problem,
        variables,
        description,
        snapshot_every,
        final_params,
    )


def _takers(
    others: Sequence[str], problem: Any, start: Start | None, optimizer: MakeOptimizer
) -> tuple[str, ...]:
    """The axes that the problem takes, once it is known that somebody takes each."""
    made = not isinstance(problem, Problem) and callable(problem)
    by_problem = keywords_of(problem, others) if made else ()
    functions = [function for function in (start, optimizer) if function is not None]
    taken = {*by_problem, *(name for f in functions for name in keywords_of(f, others))}
    unused = [name for name in others if name not in taken]
    if unused:
        raise ValueError(
            f"axes has {unused}, which neither problem, start nor optimizer takes as a keyword"
        )
    return by_problem


def _rates(axes: Axes, batches: Sequence[Points]) -> np.ndarray:
    """Flow time per step of every point; the seed does not enter."""
    cells = axes.num_points // axes.shape[0]
    rates = np.full(cells, math.nan)
    for points in batches:
        for point in points.batch.points:
            if point < cells:
                rates[point] = points.rate(point)
    return np.tile(rates, axes.shape[0])


def _columns(
    batches: Sequence[Points], running: Sequence[str], axes: Sequence[str]
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of one record of every column."""
    found: dict[str, jax.ShapeDtypeStruct] = {}
    for points in batches:
        point = points.batch.points[0]
        shapes = column_shapes(points.batch.program, stacked([points.state(point)]), axes)
        for name, one in sorted(shapes.items()):
            if name == "step" or (name in recorded.RUNNING and name not in running):
                continue
            if np.issubdtype(one.dtype, np.complexfloating):
                raise ValueError(
                    f"the column {name!r} is complex, and a grid keeps real numbers: record its "
                    "real and its imaginary part"
                )
            if found.setdefault(name, one).shape != one.shape:
                raise ValueError(
                    f"{name} has shape {one.shape} at {points.batch.values}, elsewhere "
                    f"{found[name].shape}: a grid records one shape"
                )
    return found


def _one_shape(batches: Sequence[Points]) -> Any:
    shapes = {
        (jax.tree.structure(points.example), *map(np.shape, jax.tree.leaves(points.example)))
        for points in batches
    }
    if len(shapes) > 1:
        raise ValueError(
            "snapshot_every and final_params need params of one shape at all points, got "
            f"{sorted(map(str, shapes))}"
        )
    return batches[0].example


def _name(thing: Callable | recorded.Observable) -> str:
    """What to call a function or an observable, the same in another process."""
    if isinstance(thing, recorded.Observable):
        compute = thing.compute
        text = f"{thing.name}: {compute!r}" if dataclasses.is_dataclass(compute) else thing.name
    else:
        text = f"{thing.__module__}:{getattr(thing, '__qualname__', repr(thing))}"
    return re.sub(r" at 0x[0-9a-f]+", "", text)

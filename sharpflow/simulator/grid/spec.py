"""A grid before it runs: what the user asked for, checked as far as that is possible."""

import dataclasses
import inspect
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypedDict, TypeVar

import jax
import numpy as np

from sharpflow.models import Params, Problem
from sharpflow.models.arguments import (
    COUNT,
    FLAG,
    FUNCTION,
    POSITIVE,
    ArgumentError,
    instance,
    nearest,
    optional,
    shown,
)
from sharpflow.models.precision import FULL, MatmulPrecision, validated_precision
from sharpflow.models.representation import Summary, summarized, words
from sharpflow.simulator.axes import BASE, BY_POSITION, Axes, call_mistake, grid_axes, keywords_of
from sharpflow.simulator.chunk import stacked
from sharpflow.simulator.clock import Clock
from sharpflow.simulator.grid.fork import Fork, Origin
from sharpflow.simulator.grid.points import (
    Batch,
    MakeProblem,
    Points,
    Start,
    batches,
    joined_batches,
)
from sharpflow.simulator.loop import column_shapes
from sharpflow.simulator.moment import Observable
from sharpflow.simulator.observables import DEFAULT, OBSERVABLES, RUNNING, resolve
from sharpflow.simulator.premises import warn_of_missing_columns
from sharpflow.simulator.program import (
    EffectiveRate,
    MakeOptimizer,
    Program,
    Rule,
    SnapshotParts,
)
from sharpflow.simulator.quantities import recorded_quantities
from sharpflow.simulator.rules import gdwd
from sharpflow.simulator.rules.edge_rule import MAKE_OPTIMIZER
from sharpflow.simulator.schedule import Schedule, plain, schedule
from sharpflow.simulator.store.arrays import Variable
from sharpflow.simulator.store.variables import grid_variables

_Function = TypeVar("_Function", bound=Callable[..., Any])


@dataclasses.dataclass(frozen=True)
class Grid:
    """A grid, ready to run.

    Attributes:
      axes: its points.
      schedule: how far they run and when they record.
      batches: points that share a compiled program.
      by_problem: the same points in one batch per problem, as earlier versions made them; for
        runs that those began.
      variables: the labelled arrays of the result.
      description: what was asked for, in plain numbers and strings.
      snapshot_every: records from a snapshot to the next, or None.
      final_params: whether the last params are kept.
      final_state: whether all that a point needs to go on is kept of its end, in the folder.
      origin: of a fork the run that it goes on from.
      end_taus: τ at the end of each point whose rule follows a schedule.
    """

    axes: Axes
    schedule: Schedule
    batches: tuple[Points, ...]
    by_problem: tuple[Points, ...]
    variables: dict[str, Variable]
    description: dict[str, Any]
    snapshot_every: int | None
    final_params: bool
    final_state: bool = False
    origin: Origin | None = None
    end_taus: Mapping[int, float] = dataclasses.field(default_factory=dict)

    @property
    def title(self) -> str:
        """What a progress bar calls the grid: how many points it has."""
        return f"grid of {self.axes.num_points}"

    def longest_first(self, points: Sequence[int]) -> list[int]:
        """Points by their number of updates, those with most first."""
        return sorted(points, key=lambda point: (-int(self.schedule.num_steps[point]), point))


AXES = optional(instance(Mapping, "a dictionary of values by the name of the axis"))


class GridArguments(TypedDict, total=False):
    """The fields of ``GridSpec`` but for the problem, as keywords of a function."""

    seeds: int | Sequence[int]
    learning_rates: float | Sequence[float]
    weight_decays: float | Sequence[float]
    num_steps: int | None
    tau: float | None
    record_every: int | None
    record_at: Sequence[int] | None
    num_records: int | None
    observables: str | Observable | Sequence[str | Observable]
    snapshot_every: int | None
    final_params: bool
    final_state: bool
    fork: Fork | None
    optimizer: MakeOptimizer
    start: Start | None
    axes: Mapping[str, Sequence] | None
    effective_learning_rate: EffectiveRate | None
    matmul_precision: MatmulPrecision


@summarized
@dataclasses.dataclass(frozen=True, eq=False)
class GridSpec:
    """What a grid simulates; how and where it runs is given separately.

    Attributes:
      problem: what to train; or a function of some of ``axes`` that makes it. Problems that
        differ in their data alone are compiled together and run side by side. All problems
        are made before the first is traced: put what differs between them into the data or
        the closures of each, not into one object that the function changes.
      seeds: integers; a point starts from ``problem.init(jax.random.key(seed))``.
      learning_rates, weight_decays: η and λ; one value or several, as ``seeds``.
      num_steps, tau: updates of every point; or their flow time, for which a point makes
        tau/(ηλ) of them, under a schedule as many as its rates take. One of the two.
      record_every, record_at, num_records: steps from a record to the next, by default 1;
        or the steps to record; or how many records each point makes, evenly spaced. The
        last gives a dimension ``record`` in place of ``step``, which is then a coordinate.
      observables: as in ``simulate``.
      snapshot_every: records from a snapshot of the params, and of the buffers of the rule, to the
        next; none by default.
      final_params: whether the last params are kept.
      final_state: whether the folder of the run keeps all that each point needs to go on from its
        end, bit for bit: the params, the state of the optimizer, and what observables remember.
      fork: the run that the points go on from, a ``Fork``; ``start`` and ``init`` are then not
        called. Steps and flow time are counted on, while num_steps, tau and record_at count from
        the fork. The state of the optimizer is taken over where the run kept it and the rule has
        the same buffers; a warning says what begins anew.
      optimizer: (learning_rate, weight_decay, **others) -> optax transformation; called with
        traced values.
      start: (key, learning_rate, weight_decay, **others) -> params, in place of
        ``problem.init``; called with numbers.
      axes: further axes by name. A value reaches those of ``problem``, ``start`` and
        ``optimizer`` that take a keyword of this name.
      effective_learning_rate, matmul_precision: as in ``simulate``.

    Raises:
      ValueError: an argument of another kind.
    """

    problem: Problem | MakeProblem
    _: dataclasses.KW_ONLY
    seeds: int | Sequence[int]
    learning_rates: float | Sequence[float]
    weight_decays: float | Sequence[float]
    num_steps: int | None = None
    tau: float | None = None
    record_every: int | None = None
    record_at: Sequence[int] | None = None
    num_records: int | None = None
    observables: str | Observable | Sequence[str | Observable] = DEFAULT
    snapshot_every: int | None = None
    final_params: bool = False
    final_state: bool = False
    fork: Fork | None = None
    optimizer: MakeOptimizer = gdwd
    start: Start | None = None
    axes: Mapping[str, Sequence] | None = None
    effective_learning_rate: EffectiveRate | None = None
    matmul_precision: MatmulPrecision = FULL

    def __post_init__(self) -> None:
        for name, kind in _KINDS.items():
            kind.require(name, getattr(self, name))
        validated_precision(self.matmul_precision)

    def _summary(self) -> Summary:
        fields = dataclasses.fields(self)
        given = {field.name: getattr(self, field.name) for field in fields[1:]}
        own = {f.name: given[f.name] for f in fields[1:] if given[f.name] is not f.default}
        lines = [(name, words(value)) for name, value in own.items() if value is not None]
        return Summary("GridSpec", [("problem", words(self.problem)), *lines])

    @classmethod
    def of(
        cls, problem: "Problem | MakeProblem | GridSpec", arguments: Mapping[str, Any]
    ) -> "GridSpec":
        """The specification that a function was given, whole or by its keywords.

        Args:
          problem: a specification, or the first field of one.
          arguments: the other fields; none beside a specification.

        Raises:
          ValueError: a specification and other fields.
          TypeError: a keyword that is no field, or one that is missing, as of any function.
        """
        if not isinstance(problem, GridSpec):
            fields = [field.name for field in dataclasses.fields(cls)][1:]
            unknown = [name for name in arguments if name not in fields]
            if unknown:
                close = nearest(unknown[0], fields)
                raise TypeError(f"got an unexpected keyword argument {unknown[0]!r}{close}")
            missing = [name for name in _REQUIRED if name not in arguments]
            if missing:
                raise TypeError(f"needs the keyword arguments {', '.join(missing)}")
            return cls(problem, **arguments)
        if arguments:
            raise ValueError(
                f"problem is a whole GridSpec, got {sorted(arguments)} beside it: change the "
                "specification by dataclasses.replace"
            )
        return problem


_REQUIRED = ("seeds", "learning_rates", "weight_decays")
_KINDS = {
    "axes": AXES,
    "num_steps": optional(COUNT),
    "tau": optional(POSITIVE),
    "record_every": optional(COUNT),
    "num_records": optional(COUNT),
    "observables": OBSERVABLES,
    "snapshot_every": optional(COUNT),
    "final_params": FLAG,
    "final_state": FLAG,
    "fork": optional(instance(Fork, "a Fork, as sharpflow.simulator.Fork(run, at) makes it")),
    "optimizer": MAKE_OPTIMIZER,
    "start": optional(FUNCTION),
    "effective_learning_rate": optional(FUNCTION),
}


def with_signature(function: _Function) -> _Function:
    """Show the fields of ``GridSpec`` where Python's help looks for the arguments of a function.

    Args:
      function: takes them as ``**arguments``, and its docstring has an entry of one line for that.
    """
    # Python keeps the indentation of a docstring up to 3.12 only, and ``-OO`` keeps no docstring.
    described, text = inspect.getdoc(GridSpec), inspect.getdoc(function)
    if described and text:
        fields_text = described[described.index("  seeds:") :].split("\n\n")[0]
        entry = next(line for line in text.splitlines() if "**arguments:" in line)
        function.__doc__ = text.replace(entry, fields_text)
    own = inspect.signature(function)
    keywords = [p for p in own.parameters.values() if p.kind is not p.VAR_KEYWORD]
    _, *fields = inspect.signature(GridSpec).parameters.values()
    parameters = [keywords[0], *fields, *keywords[1:]]
    function.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    return function


# Snapshots of a point whose prediction is wanted, where nobody says how many: enough to find the
# arrival on Γ within a thirtieth of the run, few enough to keep many points of a large network.
_SNAPSHOTS_TO_PREDICT = 32


def prepare(spec: GridSpec, *, to_predict: bool = False) -> Grid:
    """Work out the points of a grid.

    Args:
      spec: what is asked for.
      to_predict: whether its points will be predicted, so that snapshots are kept even where the
        spec does not ask for them.

    Raises:
      ValueError: an argument that cannot be used; nothing has been simulated.
    """
    num_steps, tau, record_every, num_records, snapshot_every = map(
        plain,
        (spec.num_steps, spec.tau, spec.record_every, spec.num_records, spec.snapshot_every),
    )
    axes = grid_axes(spec.seeds, spec.learning_rates, spec.weight_decays, spec.axes)
    others = [name for name in axes.names if name not in BASE]
    of_problem = _axes_of_problem(others, spec)
    origin = None if spec.fork is None else Origin(spec.fork, axes)
    observables, running = resolve(spec.observables)
    rule = Rule.made_by(spec.optimizer)
    precision = validated_precision(spec.matmul_precision)

    def program(made: Problem) -> Program:
        rate = spec.effective_learning_rate
        return Program(made, rule, observables, rate, matmul_precision=precision)

    keep_previous = any(observable.needs_previous for observable in observables)

    def points_of(batch: Batch) -> Points:
        return Points(
            axes, batch, spec.start, spec.optimizer, keep_previous=keep_previous, origin=origin
        )

    separate = batches(spec.problem, axes, of_problem, program)
    by_problem = tuple(points_of(batch) for batch in separate)
    joined = joined_batches(by_problem)
    points = by_problem if len(joined) == len(separate) else tuple(map(points_of, joined))
    rates = _rates(axes, by_problem)
    timetable = schedule(
        num_steps,
        tau,
        rates,
        record_every=record_every,
        record_at=spec.record_at,
        num_records=num_records,
        steps_to=partial(_steps_to, axes, by_problem, rates),
    )
    if origin is not None:
        timetable = _counted_on(timetable, origin)
    clocks = _clocks(axes, by_problem, timetable)
    if to_predict and snapshot_every is None:
        snapshot_every = -(-timetable.num_records // _SNAPSHOTS_TO_PREDICT)
    columns = _columns(points, running, axes.names)
    for points_together in points:
        state = points_together.state(points_together.batch.points[0]).optimizer_state
        made_of = points_together.batch.program.problem
        rate = spec.effective_learning_rate
        warn_of_missing_columns(spec.observables, observables, made_of, state, rate)
    if to_predict and "threshold" not in columns:
        _refuse_prediction([*map(_name, observables)])
    keeps_params = snapshot_every is not None or spec.final_params
    example = _one_shape(points) if keeps_params else None
    begun = None if origin is None else origin.clocks(rates)
    variables = grid_variables(
        axes,
        timetable,
        rates,
        clocks,
        columns,
        _snapshot_parts(points, example) if snapshot_every is not None else None,
        snapshot_every,
        example if spec.final_params else None,
        recorded_quantities(columns, observables),
        begun,
    )
    first = points[0]
    description = {
        "axes": {name: list(values) for name, values in axes.values.items()},
        "num_steps": num_steps,
        "tau": tau,
        "record_every": record_every,
        "record_at": None if spec.record_at is None else [int(step) for step in spec.record_at],
        "num_records": num_records,
        "snapshot_every": snapshot_every,
        "final_params": spec.final_params,
        "observables": [*(_name(observable) for observable in observables), *running],
        "columns": {name: list(like.shape) for name, like in columns.items()},
        "optimizer": _name(spec.optimizer),
        "start": None if spec.start is None else _name(spec.start),
        "dtype": str(first.dtype),
        "num_parameters": sum(leaf.size for leaf in jax.tree.leaves(first.example)),
        "loss_at_start": first.loss_at_start(),
    }
    if precision != FULL:  # left out otherwise, so that runs begun before it was kept go on
        description["matmul_precision"] = precision
    if spec.final_state:
        description["final_state"] = True
    if origin is not None:
        description["fork"] = origin.description
    return Grid(
        axes=axes,
        schedule=timetable,
        batches=points,
        by_problem=by_problem,
        variables=variables,
        # Through JSON, in which a run stores it: tuples become lists and numbers what they are when
        # they are read again, so that a resume compares like with like.
        description=json.loads(json.dumps(description)),
        snapshot_every=snapshot_every,
        final_params=spec.final_params,
        final_state=spec.final_state,
        origin=origin,
        end_taus=_end_taus(axes, clocks, None if begun is None else begun[1]),
    )


def require_gdwd(grid: Grid) -> None:
    """Refuse to predict by the central flow where no point follows the rule that it is known for.

    Args:
      grid: before it runs.

    Raises:
      ValueError: no point is one of gradient descent with weight decay.
    """
    cells = grid.axes.num_points // grid.axes.shape[0]  # the seed does not enter
    if not any(
        points.may_be_gdwd(point)
        for points in grid.by_problem
        for point in points.batch.points
        if point < cells
    ):
        raise ValueError(
            "predict: kind = 'central_flow' predicts gradient descent with weight decay, "
            "sharpflow.gdwd with a weight_decay above 0, and no point of the grid has this rule"
        )


def _refuse_prediction(observables: Sequence[str]) -> None:
    """Say what is missing where no thresholds will be there to predict from."""
    if "threshold" in observables:
        raise ValueError(
            "predict: the rule tells no effective learning rate, and so no threshold to predict "
            "from: give effective_learning_rate"
        )
    raise ValueError(
        f"observables must have 'threshold' among them where points are to be predicted, got "
        f"{list(observables)}"
    )


def _counted_on(timetable: Schedule, origin: Origin) -> Schedule:
    """The schedule of a fork, whose steps are counted on from those of its run."""
    counted = dataclasses.replace(timetable, before=origin.steps)
    lengths = {len(counted.steps(point)) for point in range(len(origin.steps))}
    if counted.dimension == "record" and len(lengths) > 1:
        raise ValueError(
            "num_records must be given: the points of the run that is forked end at different "
            "steps, and would make different numbers of records here"
        )
    return counted


def _axes_of_problem(others: Sequence[str], spec: GridSpec) -> tuple[str, ...]:
    """The axes that the problem takes, once it is known that somebody takes each."""
    by_problem: tuple[str, ...] = ()
    if not isinstance(spec.problem, Problem) and callable(spec.problem):
        by_problem = keywords_of(spec.problem, others)
    taken = set(by_problem)
    for name in ("start", "optimizer"):
        function = getattr(spec, name)
        if function is None:
            continue
        own = keywords_of(function, others, BY_POSITION[name])
        wrong = call_mistake(function, BY_POSITION[name], own)
        if wrong is not None:
            allowed, said = wrong
            remedy = "what stands in front is passed by position: wrap what takes it by keyword"
            raise ArgumentError(name, allowed, shown(function), f"{said}; {remedy}")
        taken.update(own)
    unused = [name for name in others if name not in taken]
    if unused:
        raise ValueError(
            f"axes has {unused}, which neither problem, start nor optimizer takes as a keyword: "
            "the rates have axes of their own, learning_rates and weight_decays, and are passed by "
            "position; any other axis needs a keyword of its name in one of the three"
        )
    return by_problem


def _rates(axes: Axes, batches: Sequence[Points]) -> np.ndarray:
    """Flow time per step of every point; the seed does not enter."""
    # A rule is made for the rates of every point once, and not for every seed again.
    cells = axes.num_points // axes.shape[0]
    rates = np.full(cells, math.nan)
    for points in batches:
        for point in points.batch.points:
            if point < cells:
                rates[point] = points.rate(point)
    return np.tile(rates, axes.shape[0])


def _steps_to(axes: Axes, batches: Sequence[Points], rates: np.ndarray, tau: float) -> np.ndarray:
    """Updates that take a flow time at the points without a rate, as of ``clock.steps_to``."""
    cells = axes.num_points // axes.shape[0]
    steps = np.full(cells, math.nan)
    for points in batches:
        for point in points.batch.points:
            if point < cells and np.isnan(rates[point]):
                steps[point] = points.steps_to(point, tau)
    return np.tile(steps, axes.shape[0])


def _clocks(axes: Axes, batches: Sequence[Points], timetable: Schedule) -> dict[int, Clock]:
    """The clocks of the points of the first seed whose rules follow schedules."""
    cells = axes.num_points // axes.shape[0]
    clocks = {
        point: points.clock(point, int(timetable.num_steps[point]))
        for points in batches
        for point in points.batch.points
        if point < cells
    }
    return {point: clock for point, clock in clocks.items() if clock is not None}


def _end_taus(
    axes: Axes, clocks: Mapping[int, Clock], begun: np.ndarray | None
) -> dict[int, float]:
    """τ at the end of the points whose rules follow schedules, of all seeds.

    Args:
      begun: τ where each point of a fork begins, shape (points,).
    """
    before = np.zeros(axes.num_points) if begun is None else begun
    cells = axes.num_points // axes.shape[0]
    return {
        point: float(before[point] + clocks[point % cells].tau[-1])
        for point in range(axes.num_points)
        if point % cells in clocks
    }


def _columns(
    batches: Sequence[Points], running: Sequence[str], axes: Sequence[str]
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shape and dtype of one record of every column."""
    columns: dict[str, jax.ShapeDtypeStruct] = {}
    for points in batches:
        point = points.batch.points[0]
        shapes = column_shapes(points.batch.program, stacked([points.state(point)]), axes)
        for name, one in sorted(shapes.items()):
            if name == "step" or (name in RUNNING and name not in running):
                continue
            if np.issubdtype(one.dtype, np.complexfloating):
                raise ValueError(
                    f"the column {name!r} is complex, and a grid keeps real numbers: record its "
                    "real and its imaginary part"
                )
            if columns.setdefault(name, one).shape != one.shape:
                raise ValueError(
                    f"{name} has shape {one.shape} at {points.batch.values}, elsewhere "
                    f"{columns[name].shape}: a grid records one shape"
                )
    return columns


def _snapshot_parts(batches: Sequence[Points], example: Params) -> SnapshotParts:
    """Those of one point; of a rule that is the same for all points, and params of one shape."""
    first = batches[0]
    return SnapshotParts(example, SnapshotParts.of(first.state(first.batch.points[0])).buffers)


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


def _name(thing: Callable | Observable) -> str:
    """What to call a function or an observable, the same in another process."""
    if isinstance(thing, Observable):
        compute = thing.compute
        # With its options, because two sharpnesses of another tolerance are other columns. Fields
        # and class names of our own observables are part of the format of a run by this.
        text = f"{thing.name}: {compute!r}" if dataclasses.is_dataclass(compute) else thing.name
    else:
        text = f"{thing.__module__}:{getattr(thing, '__qualname__', repr(thing))}"
    return re.sub(r" at 0x[0-9a-f]+", "", text)

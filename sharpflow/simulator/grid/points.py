"""The points of a grid: how each starts, and the update rule it follows."""

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from sharpflow.models import Params, Problem
from sharpflow.models.arguments import require_within, shown
from sharpflow.models.fitting import validate_start
from sharpflow.models.precision import compiled
from sharpflow.simulator.axes import BASE, BY_POSITION, Axes, keywords_of
from sharpflow.simulator.clock import Clock, clock_of, steps_to
from sharpflow.simulator.gdwd_rates import may_be_gdwd
from sharpflow.simulator.grid.fork import Origin
from sharpflow.simulator.host import Starts
from sharpflow.simulator.premises import require_possible_rule
from sharpflow.simulator.program import (
    Hyperparameters,
    LoopState,
    MakeOptimizer,
    Program,
    initial_state,
    rule_at,
)
from sharpflow.simulator.rules.wrapped import require_followed_schedules
from sharpflow.simulator.schedule import flow_time_per_step

# Starts that are kept for the next point of the same seed. Points of one seed enter one after the
# other, so that few are needed; of a large network each is as large as its params.
_MOST_DRAWN = 32

MakeProblem = Callable[..., Problem]
Start = Callable[..., Params]


@dataclasses.dataclass(frozen=True)
class Batch:
    """Points that share a compiled program: their problems differ in their data at most.

    Attributes:
      program: what their loop does; it holds the first of the problems.
      points: their numbers within the grid.
      problems: the distinct problems.
      problem_of: the number of each point's problem among them, by point.
      values: of the axes that the first problem was made from.
    """

    program: Program
    points: tuple[int, ...]
    problems: tuple[Problem, ...]
    problem_of: Mapping[int, int]
    values: dict[str, Any]

    @property
    def structure(self) -> Any:
        """What two batches must share so that one compiled program serves both.

        Data that are spread over devices fill them, and are never put side by side.
        """
        leaves = jax.tree.leaves(self.program)
        spread = any(len(leaf.sharding.device_set) > 1 for leaf in leaves)
        return _kinds(self.program), id(self) if spread else None

    def joined(self, other: "Batch") -> "Batch":
        """The points of both, those of this batch first."""
        shift = len(self.problems)
        return dataclasses.replace(
            self,
            points=(*self.points, *other.points),
            problems=(*self.problems, *other.problems),
            problem_of={
                **self.problem_of,
                **{point: shift + index for point, index in other.problem_of.items()},
            },
        )


class Points:
    """Starting states and hyperparameters of the points of a batch.

    Args:
      axes: of the grid.
      batch: whose points they are.
      start: (key, learning_rate, weight_decay, **further axes) -> params, or None for
        ``problem.init``.
      optimizer: as of ``rule_at``.
      keep_previous: whether something looks at w_{t−1}.
      origin: of a fork the run that points go on from, in place of ``start``.
    """

    def __init__(
        self,
        axes: Axes,
        batch: Batch,
        start: Start | None,
        optimizer: MakeOptimizer,
        *,
        keep_previous: bool,
        origin: Origin | None = None,
    ) -> None:
        others = [name for name in axes.names if name not in BASE]
        self.axes, self.batch = axes, batch
        self._start = start = start if origin is None else None
        self._origin = origin
        self._start_takes = (
            keywords_of(start, others, BY_POSITION["start"]) if start is not None else ()
        )
        self._optimizer = optimizer
        self._rule_takes = keywords_of(optimizer, others, BY_POSITION["optimizer"])
        self._drawn: dict[tuple[int, int], Params] = {}
        first = batch.points[0]
        # a start that takes an axis, as a number of columns, may choose the shapes by it
        self.example = validate_start(
            batch.program.problem, self._params(first), "the start", as_drawn=not self._start_takes
        )
        self.dtype = jax.tree.leaves(self.example)[0].dtype

        def begin(params: Params, hyperparameters: Hyperparameters) -> LoopState:
            state = rule_at(optimizer, hyperparameters).init(params)
            observables = batch.program.observables
            return initial_state(params, state, observables, keep_previous=keep_previous)

        self._begin = compiled(begin)

    def problem(self, point: int) -> Problem:
        """What is trained at a point."""
        return self.batch.problems[self.batch.problem_of[point]]

    def state(self, point: int) -> LoopState:
        """A point before its first update, as numpy arrays.

        Raises:
          ValueError: its start differs in shape from that of the first point, or is not
            finite; or its optimizer keeps what a grid cannot store.
        """
        params = self._params(point)
        expected, arrays = _kinds(self.example)[:2], _kinds(params)[:2]
        if expected != arrays:
            raise ValueError(
                f"the start at {self.axes.describe(point)} has arrays {arrays}, others have "
                f"{expected}: points that share a problem must have params of one shape"
            )
        if not all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(params)):
            raise ValueError(f"the start at {self.axes.describe(point)} is not finite")
        begun = self._begin(params, self.hyperparameters(point))
        # numpy has no such dtype, and neither have checkpoints.
        if any(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) for leaf in jax.tree.leaves(begun)):
            raise ValueError(
                "optimizer keeps a typed key of jax.random in its state, as optax.add_noise does, "
                "and a grid stores arrays of numbers: keep jax.random.key_data of it, or call "
                "simulate for each point"
            )
        # All at once: a device that hands over one array after the other waits as often.
        begun = jax.device_get(begun)
        if self._origin is None:
            return begun
        rule = rule_at(self._optimizer, self.hyperparameters(point))
        return jax.device_get(self._origin.state(point, begun, rule.update))

    def hyperparameters(self, point: int) -> dict[str, np.ndarray]:
        """Of a point's rule, scalars of the dtype of its params."""
        at = self.axes.at(point)
        names = (*BASE[1:], *self._rule_takes)
        require_within(self.dtype, **{name: at[name] for name in BASE[1:]})
        return {name: np.asarray(at[name], self.dtype) for name in names}

    def rate(self, point: int) -> float:
        """Flow time per step of a point; NaN where its rule does not tell, or follows a schedule.

        Raises:
          ValueError: what the rule refuses.
        """
        _, state = self._rule(point)
        require_followed_schedules(state)
        require_possible_rule(state, self.example)
        return flow_time_per_step(state)

    def may_be_gdwd(self, point: int) -> bool:
        """Whether a point may be one of plain GD+WD, by what its rule tells before it runs."""
        return may_be_gdwd(self._rule(point)[1])

    def steps_to(self, point: int, tau: float) -> float:
        """Updates that take a flow time at a point whose rule follows a schedule.

        Args:
          point: its number.
          tau: counted from its start.

        Returns:
          As of ``clock.steps_to``: infinite where the schedule never gets there, NaN without one.

        Raises:
          ValueError: a rate of one of its steps that cannot be.
        """
        rule, state = self._rule(point)
        try:
            return steps_to(rule.update, state, self._first(point), tau)
        except ValueError as error:
            raise ValueError(f"at {self.axes.describe(point)}: {error}") from error

    def clock(self, point: int, num_steps: int) -> Clock | None:
        """The clock of a point whose rule follows a schedule, from its start; None for others.

        Raises:
          ValueError: a rate of one of its steps that cannot be.
        """
        rule, state = self._rule(point)
        begin = self._first(point)
        try:
            return clock_of(rule.update, state, begin, begin + num_steps)
        except ValueError as error:
            raise ValueError(f"at {self.axes.describe(point)}: {error}") from error

    def _first(self, point: int) -> int:
        """The step at which a point begins."""
        return 0 if self._origin is None else int(self._origin.steps[point])

    def _rule(self, point: int) -> tuple[optax.GradientTransformation, Any]:
        at = self.axes.at(point)
        names = (*BASE[1:], *self._rule_takes)
        try:
            optimizer = rule_at(self._optimizer, {name: at[name] for name in names})
        except ValueError as error:
            raise ValueError(f"at {self.axes.describe(point)}: {error}") from error
        return optimizer, optimizer.init(self.example)

    @property
    def starts(self) -> Starts:
        """How each point starts, as the host looks for it."""
        if self._origin is None:
            return Starts(self.state, self.hyperparameters, self.problem)
        before = self._origin.steps
        return Starts(
            self.state, self.hyperparameters, self.problem, lambda point: int(before[point])
        )

    def loss_at_start(self) -> float:
        """L where the first point starts."""
        return float(_loss_value(self.batch.program.problem, self.example))

    def _params(self, point: int) -> Params:
        at = self.axes.at(point)
        if self._origin is not None:
            return self._origin.params(point, _drawn_shapes(self.problem(point)))
        if self._start is not None:
            others = {name: at[name] for name in self._start_takes}
            # A key for every seed and no further split by rates: points of one seed start alike, so
            # that what differs between them are the rates.
            key = jax.random.key(at["seed"])
            return self._start(key, at["learning_rate"], at["weight_decay"], **others)
        # the rates do not enter: drawn once for each seed and problem
        place = at["seed"], self.batch.problem_of[point]
        if place not in self._drawn:
            if len(self._drawn) >= _MOST_DRAWN:
                # The oldest: points enter seed by seed, so that it is the least likely to be asked
                # for again.
                del self._drawn[next(iter(self._drawn))]
            drawn = self.problem(point).init(jax.random.key(at["seed"]))
            self._drawn[place] = jax.device_get(drawn)
        return self._drawn[place]


def _drawn_shapes(problem: Problem) -> Params:
    """What ``init`` draws, as shapes and dtypes."""
    return jax.eval_shape(problem.init, jax.random.key(0))


@compiled
def _loss_value(problem: Problem, params: Params) -> Float[Array, ""]:
    return problem.loss_value(params)


def batches(
    problem: Problem | MakeProblem,
    axes: Axes,
    used: tuple[str, ...],
    program: Callable[[Problem], Program],
) -> list[Batch]:
    """The points of a grid by the problem they share.

    Args:
      problem: one for all, or a function of some of the axes.
      axes: of the grid.
      used: the axes that ``problem`` takes.
      program: of a problem.

    Raises:
      ValueError: ``problem`` is neither, or its function returns something else.
    """
    if isinstance(problem, Problem):
        return [_batch(program(problem), tuple(range(axes.num_points)), {})]
    if not callable(problem):
        raise ValueError(
            f"problem must be a Problem or a function that makes one, got {shown(problem)}"
        )
    try:
        inspect.signature(problem).bind(**dict.fromkeys(used))
    except TypeError as error:
        raise ValueError(
            f"problem must be a Problem or a function that takes the axes {list(used)} and needs "
            f"nothing else, got {shown(problem)}: {error}"
        ) from error
    points_of: dict[tuple, list[int]] = {}
    for point in range(axes.num_points):
        at = axes.at(point)
        points_of.setdefault(tuple(at[name] for name in used), []).append(point)
    result = []
    for values, points in points_of.items():
        keywords = dict(zip(used, values, strict=True))
        made = problem(**keywords)
        if not isinstance(made, Problem):
            raise ValueError(f"problem(**{keywords}) returned {type(made).__name__}, not a Problem")
        result.append(_batch(program(made), tuple(points), keywords))
    return result


def joined_batches(points: Sequence[Points]) -> list[Batch]:
    """Batches that one compiled program serves, joined to one each, in their order.

    Their starts have arrays of the same shapes, which ``start`` may choose by an axis.
    """
    joined: dict[Any, Batch] = {}
    for one in points:
        key = one.batch.structure, _kinds(one.example)
        joined[key] = joined[key].joined(one.batch) if key in joined else one.batch
    return list(joined.values())


def _batch(program: Program, points: tuple[int, ...], values: dict[str, Any]) -> Batch:
    return Batch(program, points, (program.problem,), dict.fromkeys(points, 0), values)


def _kinds(tree: Any) -> tuple:
    leaves, structure = jax.tree.flatten(tree)
    weak = tuple(getattr(leaf, "weak_type", False) for leaf in leaves)
    return structure, tuple(map(_kind, leaves)), weak


def _kind(leaf: Any) -> tuple:
    # Not by an array made of the leaf: for each point of a grid that would copy it to the device.
    dtype = jax.dtypes.canonicalize_dtype(jnp.result_type(leaf), allow_extended_dtype=True)
    return jnp.shape(leaf), str(dtype)

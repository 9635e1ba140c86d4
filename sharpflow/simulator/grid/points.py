"""The points of a grid: how each starts, and the update rule it follows."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from sharpflow.models import Params, Problem, validate_params
from sharpflow.simulator.grid.axes import BASE, Axes, keywords_of
from sharpflow.simulator.program import Hyperparameters, LoopState, Program, initial_state
from sharpflow.simulator.rules import find_rule

_MOST_DRAWN = 32  # starts kept for the next point of the same seed

MakeProblem = Callable[..., Problem]
Start = Callable[..., Params]
MakeOptimizer = Callable[..., optax.GradientTransformation]


@dataclasses.dataclass(frozen=True)
class GridRule:
    """The update rule of a point, from its learning rate, weight decay and further axes.

    Attributes:
      optimizer: (learning_rate, weight_decay, **further axes) -> transformation.
    """

    optimizer: MakeOptimizer

    def __call__(
        self, learning_rate: Any, weight_decay: Any, **others: Any
    ) -> optax.GradientTransformation:
        """The transformation; with traced values inside compiled code."""
        return self.optimizer(learning_rate, weight_decay, **others)


@dataclasses.dataclass(frozen=True)
class Batch:
    """Points that share a problem, and so a compiled program.

    Attributes:
      program: what their loop does.
      points: their numbers within the grid.
      values: of the axes that the problem was made from.
    """

    program: Program
    points: tuple[int, ...]
    values: dict[str, Any]


class Points:
    """Starting states and hyperparameters of the points of a batch.

    Args:
      axes: of the grid.
      batch: whose points they are.
      start: (key, learning_rate, weight_decay, **further axes) -> params, or None for
        ``problem.init``.
      optimizer: as in ``GridRule``.
      keep_previous: whether something looks at w_{t−1}.
    """

    def __init__(
        self,
        axes: Axes,
        batch: Batch,
        start: Start | None,
        optimizer: MakeOptimizer,
        *,
        keep_previous: bool,
    ) -> None:
        others = [name for name in axes.names if name not in BASE]
        self.axes, self.batch = axes, batch
        self._start = start
        self._start_takes = keywords_of(start, others) if start is not None else ()
        self._rule = GridRule(optimizer)
        self._rule_takes = keywords_of(optimizer, others)
        self._drawn: dict[int, Params] = {}
        first = batch.points[0]
        self.example = validate_params(batch.program.problem, self._params(first), "the start")
        self.dtype = jax.tree.leaves(self.example)[0].dtype

        def begin(params: Params, hyperparameters: Hyperparameters) -> LoopState:
            state = self._rule(**hyperparameters).init(params)
            observables = batch.program.observables
            return initial_state(params, state, observables, keep_previous=keep_previous)

        self._begin = jax.jit(begin)

    def state(self, point: int) -> LoopState:
        """A point before its first update.

        Raises:
          ValueError: its start differs in shape from that of the first point, or is not
            finite.
        """
        params = self._params(point)
        expected, found = jax.tree.map(_kind, self.example), jax.tree.map(_kind, params)
        if expected != found:
            raise ValueError(
                f"the start at {self.axes.describe(point)} has arrays {found}, others have "
                f"{expected}: points that share a problem must have params of one shape"
            )
        if not all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(params)):
            raise ValueError(f"the start at {self.axes.describe(point)} is not finite")
        return self._begin(params, self.hyperparameters(point))

    def hyperparameters(self, point: int) -> dict[str, np.ndarray]:
        """Of a point's rule, scalars of the dtype of its params."""
        at = self.axes.at(point)
        names = (*BASE[1:], *self._rule_takes)
        return {name: np.asarray(at[name], self.dtype) for name in names}

    def rate(self, point: int) -> float:
        """Flow time per step of a point; NaN where its rule does not tell.

        Raises:
          ValueError: what the rule refuses.
        """
        at = self.axes.at(point)
        others = {name: at[name] for name in self._rule_takes}
        try:
            optimizer = self._rule(at["learning_rate"], at["weight_decay"], **others)
        except ValueError as error:
            raise ValueError(f"at {self.axes.describe(point)}: {error}") from error
        rule = find_rule(optimizer.init(self.example))
        return math.nan if rule is None else float(rule.intrinsic_rate())

    def loss_at_start(self) -> float:
        """L where the first point starts."""
        return float(_loss_value(self.batch.program.problem, self.example))

    def _params(self, point: int) -> Params:
        at = self.axes.at(point)
        if self._start is not None:
            others = {name: at[name] for name in self._start_takes}
            key = jax.random.key(at["seed"])
            return self._start(key, at["learning_rate"], at["weight_decay"], **others)
        # the rates do not enter: drawn once for each seed
        if at["seed"] not in self._drawn:
            if len(self._drawn) >= _MOST_DRAWN:
                del self._drawn[next(iter(self._drawn))]
            drawn = self.batch.program.problem.init(jax.random.key(at["seed"]))
            self._drawn[at["seed"]] = jax.tree.map(np.asarray, drawn)
        return self._drawn[at["seed"]]


@partial(jax.jit, static_argnames=("problem",))
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
        return [Batch(program(problem), tuple(range(axes.num_points)), {})]
    if not callable(problem):
        raise ValueError(f"problem must be a Problem or a function that makes one, got {problem!r}")
    found: dict[tuple, list[int]] = {}
    for point in range(axes.num_points):
        at = axes.at(point)
        found.setdefault(tuple(at[name] for name in used), []).append(point)
    result = []
    for values, points in found.items():
        keywords = dict(zip(used, values, strict=True))
        made = problem(**keywords)
        if not isinstance(made, Problem):
            raise ValueError(f"problem(**{keywords}) returned {type(made).__name__}, not a Problem")
        result.append(Batch(program(made), tuple(points), keywords))
    return result


def _kind(leaf: Any) -> tuple:
    return jnp.shape(leaf), str(jnp.asarray(leaf).dtype)

"""A config as it is run: every key resolved, written as TOML, built into a grid's arguments."""

import dataclasses
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sharpflow.experiments.config import functions
from sharpflow.experiments.config.keys import is_reference
from sharpflow.experiments.config.mistakes import ConfigError, mistake, reason
from sharpflow.experiments.config.optimizers import GridOptimizer
from sharpflow.experiments.config.published import Published
from sharpflow.experiments.config.schedules import (
    ALLOWED,
    is_function,
    keywords_of_function,
    needs_length,
    rate_schedule,
    refused_by_kind,
    unfit_function,
    with_schedule,
)
from sharpflow.experiments.config.toml import toml_key, toml_value
from sharpflow.models.arguments import checked, instance
from sharpflow.models.leaves import x64_enabled
from sharpflow.models.problem import Problem
from sharpflow.models.representation import summarized
from sharpflow.simulator.axes import grid_axes
from sharpflow.simulator.grid.fork import Fork, Origin
from sharpflow.simulator.moment import Observable

# A list of forty seeds or so. Two values that differ later than that are told by their key alone;
# whole lists of thousands would fill the screen.
_LONGEST = 200
# The command line enables x64, where jax.random draws float64 unless it is told otherwise.
_DRAWN = ", as jax.random.normal(key, shape, dtype) does, or with data[...].dtype for dtype"


@summarized
@dataclasses.dataclass(frozen=True)
class Config:
    """What ``load`` makes of a file or a preset; fields are named as its keys.

    Attributes:
      problem: ``"module:function"``.
      seed, learning_rate, weight_decay: the axes that every grid has.
      optimizer, start, dtype: of all its points.
      num_steps, tau: how long; one of them is None.
      record_every, record_at, num_records: when is recorded; at least two are None.
      observables: what is recorded, by name or as ``"module:function"``.
      snapshot_every, final_state, group_width, lanes, matmul_precision: as in ``simulate_grid``, or
        None.
      problem_options: keywords of the problem function, lists as tuples.
      axes: any other axes, name -> values.
      schedule: what the learning rate follows, its kind, a name or ``"module:function"``, and its
        options, or None.
      prediction: options of ``predict_grid``, or None where nothing is predicted.
      published: numbers of a paper, which stand beside those of the run.
      fork: the fields of a ``Fork``, or None where the run begins by itself.
      description: one sentence, or empty.
      source: the file or preset, for errors.
      folder: where modules are looked for first, or None.

    Two configs are equal where they ask for the same run: published numbers, the description,
    source and folder do not count.
    """

    problem: str
    seed: tuple[int, ...]
    learning_rate: tuple[float, ...]
    weight_decay: tuple[float, ...]
    observables: tuple[str, ...]
    optimizer: str = "gdwd"
    start: str | None = None
    dtype: str = "float32"
    num_steps: int | None = None
    tau: float | None = None
    record_every: int | None = None
    record_at: tuple[int, ...] | None = None
    num_records: int | None = None
    snapshot_every: int | None = None
    final_state: bool | None = None
    group_width: int | None = None
    lanes: str | None = None
    matmul_precision: str | None = None
    problem_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    axes: Mapping[str, tuple] = dataclasses.field(default_factory=dict)
    schedule: Mapping[str, Any] | None = None
    prediction: Mapping[str, Any] | None = None
    published: tuple[Published, ...] = dataclasses.field(default=(), compare=False)
    fork: Mapping[str, Any] | None = None
    description: str = dataclasses.field(default="", compare=False)
    source: str = dataclasses.field(default="config", compare=False)
    folder: Path | None = dataclasses.field(default=None, compare=False)

    def to_toml(self) -> str:
        """The text of a file that ``load`` reads back equal.

        Raises:
          TypeError: a value of a kind that TOML has not; ``load`` makes no such config.
        """
        lines = [f"description = {toml_value(self.description)}"] if self.description else []
        tables = []
        for name, value in self._compared():
            if isinstance(value, Mapping):
                if value or name == "prediction":  # an empty one asks for predictions as well
                    entries = (f"{toml_key(key)} = {toml_value(value[key])}" for key in value)
                    tables += ["", f"[{name}]", *entries]
            elif value is not None:
                lines.append(f"{name} = {toml_value(value)}")
        for entry in self.published:
            pairs = (f"{toml_key(key)} = {toml_value(item)}" for key, item in entry.table().items())
            tables += ["", "[[published]]", *pairs]
        return "\n".join([*lines, *tables, ""])

    def build(self, begin: int | None = None) -> dict[str, Any]:
        """Arguments of ``simulate_grid``: the problem, and every key that is set.

        The problem function is called here, with its options and, where it names it,
        ``dtype``; a function that takes one of the axes is left to the grid, which calls
        it once for every value. ``start`` gets the dtype and those of the options that
        it names.

        Args:
          begin: the step at which a fork begins, where it is known; otherwise the run that it goes
            on from is asked, if the schedule depends on the step at which the fork ends.

        Returns:
          Keywords of ``simulate_grid``, ``problem`` among them.

        Raises:
          ConfigError: a function that raises, a problem function that returns anything
            but a Problem or one of an observable anything but an Observable, or a problem
            whose parameters are not of the config's dtype; a schedule that does not fit into the
            steps of a fork, or a fork whose points begin at different ones.
          ValueError: points that are not in the run that a fork goes on from.
        """
        if self.dtype == "float64" and not x64_enabled():
            allowed = "\"float32\"; or call jax.config.update('jax_enable_x64', True) first"
            raise ConfigError(self.source, [mistake("dtype", self.dtype, allowed)])
        problem = self._found("problem")
        optimizer = self._found("optimizer")
        arguments = {
            "problem": self._built(problem),
            "seeds": self.seed,
            "learning_rates": self.learning_rate,
            "weight_decays": self.weight_decay,
            "axes": dict(self.axes) or None,
            "optimizer": self._scheduled(
                optimizer.function
                if optimizer.reference in functions.OPTIMIZERS
                else optimizer.guarded(self.folder, self.source, {}),
                begin,
            ),
            "start": None if self.start is None else self._guarded(self._found("start")),
        }
        arguments["observables"] = tuple(map(self._observable, self.observables))
        kept = ("num_steps", "tau", "record_every", "record_at", "num_records", "snapshot_every")
        arguments |= {name: getattr(self, name) for name in (*kept, "final_state")}
        arguments["fork"] = None if self.fork is None else Fork(**self.fork)
        arguments |= {
            name: getattr(self, name) for name in ("group_width", "lanes", "matmul_precision")
        }
        arguments["predict"] = self.prediction
        return {name: value for name, value in arguments.items() if value is not None}

    def _compared(self) -> Iterator[tuple[str, Any]]:
        for field in dataclasses.fields(self):
            if field.compare:
                yield field.name, getattr(self, field.name)

    def _scheduled(self, optimizer: GridOptimizer, begin: int | None) -> GridOptimizer:
        """The optimizer with the schedule of the learning rate, if there is one."""
        if self.schedule is None or self.schedule["kind"] == "constant":
            return optimizer
        kind = self.schedule["kind"]
        function = self._found("schedule", kind) if is_function(kind) else None
        length = self._end(begin) if needs_length(self.schedule, function) else None
        if function is None:
            # of a fork from the end of a run the length was not known before
            if length is not None and (wrong := refused_by_kind(self.schedule, length)):
                raise ConfigError(self.source, wrong)
            make = partial(rate_schedule, schedule=self.schedule, length=length)
            return with_schedule(optimizer, self.schedule, make)
        keywords = keywords_of_function(function, self.schedule, length)
        call = function.guarded(self.folder, self.source, keywords)

        def made(learning_rate: Any) -> Any:
            schedule = call(learning_rate)
            if not callable(schedule):
                allowed = f"{ALLOWED}, a function that returns a schedule, a function of the step"
                said = mistake("schedule.kind", kind, f"{allowed}, not {type(schedule).__name__}")
                raise ConfigError(self.source, [said])
            return schedule

        if wrong := unfit_function(kind, made, self.dtype):
            raise ConfigError(self.source, wrong)
        return with_schedule(optimizer, self.schedule, made)

    def _end(self, begin: int | None) -> int:
        """The step at which the points end, counted as the step of a schedule is."""
        assert self.num_steps is not None
        if self.fork is None:
            return self.num_steps
        if begin is None and (begin := self.fork.get("at")) is None:
            begin = self._end_of_run_before()
        return begin + self.num_steps

    def _end_of_run_before(self) -> int:
        assert self.fork is not None
        rates = self.seed, self.learning_rate, self.weight_decay
        steps = Origin(Fork(**self.fork), grid_axes(*rates, dict(self.axes) or None)).steps
        if steps.min() < steps.max():
            said = (
                f"fork.at: got nothing, and the points of the run end at steps {steps.min()} to "
                f"{steps.max()}; allowed the step of a snapshot, as the schedule has one length "
                "for all points"
            )
            raise ConfigError(self.source, [said])
        return int(steps[0])

    def _observable(self, name: str) -> str | Observable:
        """What is recorded under a name of ours, or what a function of somebody else makes."""
        if not is_reference(name):
            return name
        function = self._found("observables", name)
        made = function.function
        if not isinstance(made, Observable):
            made = function.guarded(self.folder, self.source, {})()
        if not isinstance(made, Observable):
            allowed = f"a function that returns an Observable, not {type(made).__name__}"
            raise ConfigError(self.source, [mistake("observables", name, allowed)])
        return made

    def _found(self, key: str, reference: str | None = None) -> functions.Function:
        named = getattr(self, key) if reference is None else reference
        function, mistakes = functions.find(key, named, self.folder)
        if function is None:
            raise ConfigError(self.source, mistakes)
        return function

    def _guarded(self, function: functions.Function) -> Any:
        keywords = functions.bound(function, self.problem_options, np.dtype(self.dtype))
        return function.guarded(self.folder, self.source, keywords)

    def _built(self, function: functions.Function) -> Any:
        if isinstance(function.function, Problem):
            return self._checked(function.function, function)
        make = self._guarded(function)

        def problem(**axes: Any) -> Problem:
            return self._checked(make(**axes), function)

        taken = [name for name in self.axes if function.takes(name)]
        if not taken:
            return problem()
        # The grid calls a problem function with the axes that its signature names, and this one
        # takes what the user's function takes.
        problem.__signature__ = functions.keyword_signature(taken)  # type: ignore[attr-defined]
        return problem

    def _checked(self, problem: Any, function: functions.Function) -> Problem:
        """The problem, refused where it is none or its parameters have another dtype."""
        if not isinstance(problem, Problem):
            allowed = f"a function that returns a Problem, not {type(problem).__name__}"
            raise ConfigError(self.source, [mistake("problem", self.problem, allowed)])
        # A start of the user's own replaces what init draws, so that the dtype of init says nothing
        # then.
        if self.start is None:
            self._check_dtype(problem, function)
        return problem

    def _check_dtype(self, problem: Problem, function: functions.Function) -> None:
        try:
            # Drawn once here, before the grid is compiled: a wrong dtype would otherwise come to
            # light in the middle of a compiled step, as an error about branches of a loop.
            params = problem.init(jax.random.key(self.seed[0]))
        except Exception as error:
            said = f"problem: the init of {self.problem} raised {reason(error)}"
            raise ConfigError(self.source, [said]) from error
        for drawn in {str(jnp.result_type(leaf)) for leaf in jax.tree.leaves(params)}:
            if drawn != self.dtype:
                allowed = f'"{drawn}", which the init of {self.problem} draws'
                if "dtype" in function.keywords:
                    allowed += " although that function takes dtype"
                    remedy = "let init draw in it"
                elif isinstance(function.function, Problem):
                    remedy = f"let init draw {self.dtype}"
                else:
                    remedy = "let that function take a keyword dtype, and init draw in it"
                said = f"{mistake('dtype', self.dtype, allowed)}; or {remedy}{_DRAWN}"
                raise ConfigError(self.source, [said])


CONFIG = instance(Config, "a Config, as load returns it")


@checked(old=CONFIG, new=CONFIG)
def differences(old: Config, new: Config) -> list[str]:
    """What differs between the config of a run and another, one line for each key.

    Args:
      old: of the run.
      new: the other.

    Returns:
      ``key: the run has VALUE, now VALUE``; nothing where both ask for the same run.

    Raises:
      ValueError: something else than two configs.
      TypeError: a value of a kind that TOML has not.
    """
    before, after = _flat(old), _flat(new)
    changed = {k: None for k in [*before, *after] if before.get(k) != after.get(k)}
    return [f"{key}: the run has {_cut(before, key)}, now {_cut(after, key)}" for key in changed]


def _cut(values: Mapping[str, str], key: str) -> str:
    text = values.get(key, "nothing")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _flat(config: Config) -> dict[str, str]:
    """Every key that is set, those of tables dotted, with its value as text."""
    values: dict[str, str] = {}
    for name, value in config._compared():
        if value == {} and name == "prediction":
            values[name] = "{}"
        elif isinstance(value, Mapping):
            values |= {f"{name}.{key}": toml_value(item) for key, item in value.items()}
        elif value is not None:
            values[name] = toml_value(value)
    return values

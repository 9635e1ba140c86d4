"""Schedules of the learning rate that a config names."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from sharpflow.experiments.config.functions import Function
from sharpflow.experiments.config.mistakes import (
    ConfigError,
    fault_of_user,
    mistake,
    reason,
    refusals,
)
from sharpflow.experiments.config.optimizers import GridOptimizer
from sharpflow.models.arguments import MOST
from sharpflow.simulator.rules import (
    cosine_decay,
    linear_decay,
    step_decay,
    warmup,
    warmup_stable_decay,
)

# each with the keys of [schedule] that it takes beside its kind, and the name of its length
_MAKERS: dict[str, tuple[Callable[..., Any], str | None]] = {
    "step": (step_decay, None),
    "linear": (linear_decay, "num_steps"),
    "cosine": (cosine_decay, "num_steps"),
    "warmup": (warmup, None),
    "wsd": (warmup_stable_decay, "num_steps"),
}
KINDS = ("constant", *_MAKERS)
ALLOWED = ", ".join(f'"{kind}"' for kind in KINDS) + ' or "module:function"'
# what jax raises where Python wants the value of a number that is traced
_NOT_TRACED = (jax.errors.ConcretizationTypeError, jax.errors.TracerArrayConversionError)
RULES = ("gdwd", "momentum", "quasi_rmsprop")  # of those that a config names


def schedule_mistakes(values: Mapping[str, Any]) -> list[str]:
    """What is wrong with the schedule of a config.

    Args:
      values: by key, those alone that are as they should be.
    """
    schedule = values.get("schedule")
    if schedule is None:
        return []
    kind = schedule.get("kind")
    if kind is None:
        # one that is not as it should be has its line already
        return [] if "kind" in schedule else [f"schedule.kind: got nothing; allowed {ALLOWED}"]
    mistakes = []
    optimizer = values.get("optimizer", "gdwd")
    if ":" not in optimizer and optimizer not in RULES:
        allowed = f"one of {', '.join(RULES)} with a [schedule], or a rule of your own"
        mistakes.append(mistake("optimizer", optimizer, allowed))
    if is_function(kind):
        return mistakes  # what it takes is known where it is imported
    if "tau" in values and needs_length(schedule, None):
        mistakes.append(mistake("tau", values["tau"], ends_with_run(kind)))
    taken, required = _options(kind)
    mistakes += [
        mistake(f"schedule.{name}", schedule[name], f'nothing, as kind = "{kind}" takes none')
        for name in schedule
        if name not in ("kind", *taken)
    ]
    missing = [name for name in required if name not in schedule]
    mistakes += [f'schedule.{name}: got nothing; kind = "{kind}" needs it' for name in missing]
    if mistakes or "num_steps" not in values:
        return mistakes
    fork = values.get("fork")
    if fork is None or "at" in fork:
        return refused_by_kind(schedule, values["num_steps"] + (fork or {}).get("at", 0))
    # the step at which a run ended is not known before the run is read: then a schedule is built
    return refused_by_kind(schedule, MOST)


def refused_by_kind(schedule: Mapping[str, Any], length: int) -> list[str]:
    """What a kind that has a name refuses of its options.

    Args:
      schedule: the table of a config.
      length: the step at which the run ends.
    """
    keys = {name: f"schedule.{name}" for name in (*schedule, "num_steps")}
    return refusals(functools.partial(rate_schedule, 1.0, schedule, length), keys)


def needs_length(schedule: Mapping[str, Any], function: Function | None) -> bool:
    """Whether a schedule depends on the step at which the run ends.

    Args:
      schedule: the table of a config.
      function: that its kind names, if it is one of the user's own.
    """
    if function is not None:
        return "num_steps" in function.keywords
    return schedule["kind"] != "constant" and _MAKERS[schedule["kind"]][1] is not None


def ends_with_run(kind: str) -> str:
    """What is allowed in place of ``tau`` where a schedule depends on the last step of the run.

    Args:
      kind: of the schedule.
    """
    return f'num_steps in its place, as kind = "{kind}" ends with the run'


def is_function(kind: str | None) -> bool:
    """Whether a kind names a function of the user's own, ``"module:function"``.

    Args:
      kind: of a schedule; None where it is not as it should be.
    """
    return kind is not None and ":" in kind


def keywords_of_function(
    function: Function, schedule: Mapping[str, Any], length: int | None
) -> dict[str, Any]:
    """What a schedule function of the user's own gets beside the learning rate.

    Args:
      function: that the kind names.
      schedule: the table of a config, whose other keys are keywords of the function.
      length: the step at which the run ends, which it gets as ``num_steps`` where it names that.
    """
    options = {name: value for name, value in schedule.items() if name != "kind"}
    return options | ({"num_steps": length} if "num_steps" in function.keywords else {})


def unfit_function(kind: str, make: Callable[[Any], Any], dtype: str) -> list[str]:
    """Why a function of the user's own makes no schedule that a compiled step can follow.

    Args:
      kind: that names it.
      make: from a learning rate to its schedule.
      dtype: of the run.
    """
    rate, step = jax.ShapeDtypeStruct((), dtype), jax.ShapeDtypeStruct((), "int32")
    try:
        # as the rule calls a schedule, see numbers_at
        with jax.numpy_dtype_promotion("standard"):
            told = jax.eval_shape(lambda rate, step: jnp.asarray(make(rate)(step)), rate, step)
    except ConfigError:
        raise
    except _NOT_TRACED:
        wrong = "this one asks Python for the value of a traced number: jnp.where in place of if"
    except Exception as error:
        wrong = f"this one raised {fault_of_user(error) or reason(error)}"
    else:
        if told.shape == ():
            return []
        wrong = f"this one makes an array of shape {told.shape}"
    allowed = (
        f"{ALLOWED}, which takes the learning rate and returns a schedule, a function from the "
        f"step, a traced number, to the rate, one number; {wrong}"
    )
    return [mistake("schedule.kind", kind, allowed)]


def rate_schedule(rate: Any, schedule: Mapping[str, Any], length: int | None) -> Any:
    """What the learning rate follows.

    Args:
      rate: its largest value, perhaps traced.
      schedule: the table of a config, of a kind that has a name.
      length: the step at which the run ends, for the kinds that depend on it.

    Returns:
      A schedule, or the rate itself where it stays.
    """
    options = dict(schedule)
    kind = options.pop("kind")
    if kind == "constant":
        return rate
    make, name = _MAKERS[kind]
    if kind == "warmup":
        options = {"num_steps": options["warmup_steps"]}
    return make(rate, **({name: length} if name else {}), **options)


def with_schedule(
    optimizer: GridOptimizer, schedule: Mapping[str, Any], make: Callable[[Any], Any]
) -> GridOptimizer:
    """An optimizer of a grid whose learning rates are those that a schedule is made from.

    Args:
      optimizer: as a grid calls it.
      schedule: the table of a config.
      make: from a learning rate, perhaps traced, to a schedule.
    """

    @functools.wraps(optimizer)
    def scheduled(learning_rate: Any, weight_decay: Any, **others: Any) -> Any:
        return optimizer(make(learning_rate), weight_decay, **others)

    # a run knows its optimizer by this name, and is not to be resumed with another schedule
    options = ", ".join(f"{name}={value}" for name, value in schedule.items())
    scheduled.__qualname__ = f"{getattr(optimizer, '__qualname__', repr(optimizer))}({options})"
    return scheduled


def _options(kind: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The keys beside ``kind`` that a kind takes, and those that it needs."""
    if kind == "constant":
        return (), ()
    if kind == "warmup":
        return ("warmup_steps",), ("warmup_steps",)
    make, length = _MAKERS[kind]
    parameters = [
        p for p in inspect.signature(make).parameters.values() if p.name not in ("rate", length)
    ]
    needed = tuple(p.name for p in parameters if p.default is p.empty)
    return tuple(p.name for p in parameters), needed

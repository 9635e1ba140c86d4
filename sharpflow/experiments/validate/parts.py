"""The parts of the validation by name."""

import dataclasses
import importlib
import inspect
from collections.abc import Callable
from functools import partial

from sharpflow.experiments.config.functions import find
from sharpflow.experiments.validate import cases, oscillation, theorems
from sharpflow.experiments.validate.findings import Findings
from sharpflow.models.arguments import ArgumentError, nearest, shown


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of the validation.

    Attributes:
      title: what it measures, in a line.
      run: does so; takes whether to show progress.
      default: whether it runs when none is named.
    """

    title: str
    run: Callable[[bool | None], Findings]
    default: bool = False


def _module(name: str) -> Part:
    """A part in a module of its own."""
    # By name, because each such module is a part by itself, with its title beside what it runs.
    module = importlib.import_module(f"sharpflow.experiments.validate.{name}")
    return Part(module.TITLE, module.run)


PARTS: dict[str, Part] = {
    "linear-regression": Part(
        "batch-norm linear regression over ηλ, one eigenvalue at the edge",
        partial(theorems.run, cases.linear_regression),
        default=True,
    ),
    "matrix-completion": Part(
        "matrix completion over ηλ, up to three eigenvalues at the edge",
        partial(theorems.run, cases.matrix_completion),
        default=True,
    ),
    "mlp-digits": Part(
        "a batch-norm network on digits over ηλ, up to seven eigenvalues at the edge",
        partial(theorems.run, cases.mlp_digits),
        default=True,
    ),
    "oscillation": Part(
        "covariance of the oscillation with three eigenvalues at the edge",
        oscillation.run,
        default=True,
    ),
    "limits": _module("limits"),
    "adaptive": _module("adaptive"),
    "momentum": _module("momentum"),
    "schedules": _module("schedules"),
    "flat-directions": _module("ire"),
    "dynamics": _module("dynamics"),
    "layers": _module("layers"),
    "spectra": _module("spectra"),
    "fisher": _module("fisher"),
}
DEFAULT = tuple(name for name, part in PARTS.items() if part.default)


def part_named(name: str) -> Part:
    """A built-in part, or a function of the user's.

    Args:
      name: in ``PARTS``; or ``"module:function"`` with a function as ``Part.run``, whose docstring
        begins with the title. The module is in the working directory, or installed.

    Raises:
      ValueError: there is no such part or function.
    """
    if name in PARTS:
        return PARTS[name]
    if ":" not in name:
        raise ValueError(
            f"PARTS: got {name}; allowed are {', '.join(PARTS)}, or a module:function of your own"
            f"{nearest(name, PARTS)}"
        )
    own, mistakes = find("PARTS", name, None)
    if own is None:
        raise ValueError("; ".join(mistakes))
    try:
        inspect.signature(own.function).bind(None)
    except (TypeError, ValueError) as error:
        allowed = "a function of one argument, whether to show progress"
        raise ArgumentError(name, allowed, f"{shown(own.function)}: {error}") from error
    return Part((inspect.getdoc(own.function) or name).splitlines()[0], own.function)

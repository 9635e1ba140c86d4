"""The functions that a config names: where they are, what they take, and how they fail."""

import contextlib
import dataclasses
import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sharpflow.experiments.config.mistakes import ConfigError, mistake, reason, shown
from sharpflow.experiments.config.optimizers import OPTIMIZERS
from sharpflow.models.arguments import nearest
from sharpflow.models.problem import Problem
from sharpflow.simulator.axes import BY_POSITION, call_mistake
from sharpflow.simulator.moment import Observable

# What a config may name in place of a function that makes it.
_INSTANCES = {"problem": Problem, "observables": Observable}
_INSTANCES_IN_WORDS = {"problem": "a Problem", "observables": "an Observable"}

# What a reader of files says in the words of Python.
_FETCHING = "--set problem_options.download=true, or --set problem_options.root=FOLDER"


@dataclasses.dataclass(frozen=True)
class Function:
    """A function of a config.

    Attributes:
      key: what it is for: ``"problem"``, ``"start"``, ``"optimizer"``, ``"schedule"`` or
        ``"observables"``.
      reference: how the config names it.
      function: itself; for ``"problem"`` it may be a ``Problem``, for ``"observables"`` an
        ``Observable``.
    """

    key: str
    reference: str
    function: Any

    @functools.cached_property
    def _parameters(self) -> list[inspect.Parameter] | None:
        """Those after what is passed by position; None where Python cannot tell."""
        if isinstance(self.function, tuple(_INSTANCES.values())):
            return []
        try:
            parameters = list(inspect.signature(self.function).parameters.values())
        except (TypeError, ValueError):
            return None
        count = len(BY_POSITION[self.key])
        return [
            parameter
            for index, parameter in enumerate(parameters)
            if index >= count or parameter.kind is not parameter.POSITIONAL_OR_KEYWORD
        ]

    @property
    def keywords(self) -> list[str]:
        """Names that it takes by keyword."""
        kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        return [p.name for p in self._parameters or () if p.kind in kinds]

    @property
    def takes_any(self) -> bool:
        """Whether it takes every keyword."""
        parameters = self._parameters
        return parameters is None or any(p.kind is p.VAR_KEYWORD for p in parameters)

    def takes(self, name: str) -> bool:
        """Whether it takes this keyword."""
        return self.takes_any or name in self.keywords

    def mistakes(self, keywords: Sequence[str]) -> list[str]:
        """Why it cannot be called as a grid calls it, with these keywords."""
        if isinstance(self.function, tuple(_INSTANCES.values())) or self._parameters is None:
            return []
        wrong = call_mistake(self.function, BY_POSITION[self.key], keywords)
        if wrong is None:
            return []
        allowed, said = wrong
        return [f"{mistake(_path(self.key), self.reference, allowed)}; {said}"]

    def guarded(self, folder: Path | None, source: str, given: Mapping[str, Any]) -> Callable:
        """The function with keywords given; what it raises becomes a ``ConfigError``."""

        def call(*arguments: Any, **keywords: Any) -> Any:
            try:
                with _importable(folder, self.reference):
                    return self.function(*arguments, **given, **keywords)
            except ConfigError:
                raise
            except (Exception, SystemExit) as error:
                said = f"{_path(self.key)}: {self.reference} raised {reason(error)}"
                if isinstance(error, FileNotFoundError) and "download" in self.keywords:
                    said += f"; on the command line: {_FETCHING}"
                raise ConfigError(source, [said]) from error

        # Without the attributes: those of a callable object are its state, and not that of this
        # function.
        functools.update_wrapper(call, self.function, updated=())
        return call


def find(key: str, reference: str, folder: Path | None) -> tuple[Function | None, list[str]]:
    """The function of this name, and what is wrong with it.

    Args:
      key: what it is for.
      reference: ``"module:function"``, or for an optimizer the name of one of ours.
      folder: where the module is looked for first; then the working directory.
    """
    if key == "optimizer" and reference in OPTIMIZERS:
        return Function(key, reference, OPTIMIZERS[reference]), []
    module_name, _, path = reference.partition(":")
    try:
        # A module of the user's may raise anything, and a script that was meant to be run by itself
        # calls sys.exit. An interrupt goes through.
        with _importable(folder, reference):
            target: Any = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        return None, [mistake(_path(key), reference, _why_not_imported(error, module_name, folder))]
    for name in path.split("."):
        try:
            target = getattr(target, name)
        except Exception:  # an AttributeError, or what a module's __getattr__ raises
            public = [known for known in dir(target) if not known.startswith("_")]
            allowed = f"a function of {module_name}, which has no {shown(name)}"
            return None, [mistake(_path(key), reference, allowed) + nearest(name, public)]
    instance = _INSTANCES.get(key, ())
    if not callable(target) and not isinstance(target, instance):
        kinds = f"a function or {_INSTANCES_IN_WORDS[key]}" if instance else "a function"
        return None, [mistake(_path(key), reference, f"{kinds}; this is {type(target).__name__}")]
    return Function(key, reference, target), []


def _path(key: str) -> str:
    """The key of a config that names the function."""
    return "schedule.kind" if key == "schedule" else key


def misplaced(
    functions: Mapping[str, Function], options: Mapping[str, Any], axes: Mapping[str, tuple]
) -> list[str]:
    """What is wrong between the functions, the problem's options and the axes.

    Args:
      functions: by key; ``"problem"`` and ``"optimizer"`` are there, ``"start"`` may be.
      options: keywords of the problem function.
      axes: keywords of any of the functions, each with its values.
    """
    problem = functions["problem"]
    lines = []
    for name in options:
        if not problem.takes(name):
            lines.append(_no_keyword(f"problem_options.{name}", name, [problem]))
    for name, values in axes.items():
        if not any(function.takes(name) for function in functions.values()):
            lines.append(_no_keyword(f"axes.{name}", name, functions.values()))
        elif functions["optimizer"].takes(name) and not isinstance(values[0], int | float):
            allowed = "numbers, since the optimizer takes it and gets traced values"
            lines.append(mistake(f"axes.{name}", values, allowed))
    for function in functions.values():
        given = dict.fromkeys([*axes, *bound(function, options, dtype=None)])
        lines += function.mistakes([name for name in given if function.takes(name)])
    return lines


def bound(function: Function, options: Mapping[str, Any], dtype: Any) -> dict[str, Any]:
    """Keywords bound to a function before the grid calls it.

    The problem function gets all options; ``start``, which often needs the same data,
    those that it names. Both get the dtype where they name it.
    """
    if function.key == "optimizer" or isinstance(function.function, Problem):
        return {}
    named = function.keywords
    whole = function.key == "problem"
    given = {name: value for name, value in options.items() if whole or name in named}
    if "dtype" in named and "dtype" not in given:
        given["dtype"] = dtype
    return given


def keyword_signature(names: Iterable[str]) -> inspect.Signature:
    """The signature of a function that takes these keywords alone."""
    return inspect.Signature(
        [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in names]
    )


def _no_keyword(path: str, name: str, functions: Iterable[Function]) -> str:
    functions = list(functions)
    known = list(dict.fromkeys(name for f in functions for name in f.keywords if name != "dtype"))
    who = " or ".join(f"{function.key} {shown(function.reference)}" for function in functions)
    takes = f"keywords that {who} takes: {', '.join(known) or 'none'}"
    return f"{path}: got a keyword that nothing takes; allowed {takes}{nearest(name, known)}"


def _why_not_imported(error: BaseException, module: str, folder: Path | None) -> str:
    parents = [module[:end] for end, c in enumerate(module) if c == "."]
    if isinstance(error, ModuleNotFoundError) and error.name in (module, *parents):
        places = f"in {folder}, in the working directory" if folder else "in the working directory"
        told = f"a module {places} or installed; there is no module {shown(error.name)}"
        if folder and (folder / "run.json").is_file():
            told += (
                ". A run keeps the names of modules, and not the modules: go on in the folder of "
                "the module, or give the config that lies beside it, as in sharpflow run "
                f"CONFIG.toml --out {folder} --resume"
            )
        return told
    return f"a module that can be imported; this one raised {reason(error)}"


@contextlib.contextmanager
def _importable(folder: Path | None, reference: str) -> Iterator[None]:
    """Modules beside the config, or in the working directory, can be imported.

    Not so where a function of ours is called: what it imports is installed, and must not be taken
    from a folder that somebody sent.
    """
    if reference.partition(":")[0].partition(".")[0] == "sharpflow":
        yield
        return
    added = [*([str(folder)] if folder else []), ""]  # "" is the working directory
    sys.path[:0] = added
    importlib.invalidate_caches()
    try:
        yield
    finally:
        for entry in added:
            if entry in sys.path:
                sys.path.remove(entry)

"""Every public name says what it is: arguments, fields, result, errors and source."""

import ast
import enum
import functools
import inspect
import re
import textwrap
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import sharpflow
from sharpflow import experiments, models, simulator, theory
from sharpflow.experiments import config, plots, problems, report

ROOMS = (
    *(models, models.data, theory, theory.exact, simulator),
    *(experiments, plots, config, problems, report),
)
FACES = (sharpflow, *ROOMS)
SECTIONS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Source")


def _public(face: types.ModuleType) -> dict[str, object]:
    """The names that a room hands on; of a module without ``__all__`` the functions in it."""
    if hasattr(face, "__all__"):
        return {name: getattr(face, name) for name in face.__all__}
    return {
        name: value
        for name, value in vars(face).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == face.__name__
    }


# by object, so that what stands in several places is read once; nothing but what is ours
NAMES = {id(v): f"{face.__name__}.{name}" for face in FACES for name, v in _public(face).items()}
PUBLIC = {
    NAMES[id(value)]: value
    for face in FACES
    for value in _public(face).values()
    if getattr(value, "__module__", "").startswith("sharpflow")
}
CLASSES = {name: value for name, value in PUBLIC.items() if isinstance(value, type)}
FUNCTIONS = {
    name: value
    for name, value in PUBLIC.items()
    if callable(value) and name not in CLASSES and inspect.isfunction(inspect.unwrap(value))
}


def _members(cls: type) -> Iterator[tuple[str, Callable]]:
    """Public methods and properties that a class of ours defines itself."""
    for name, value in vars(cls).items():
        value = getattr(value, "__func__", value)  # of a class method
        value = getattr(value, "fget", getattr(value, "func", value))  # of a property
        if name.startswith("_") or not inspect.isfunction(value):
            continue
        if value.__module__.startswith("sharpflow.") and value.__name__ == name:
            yield name, value


METHODS = {f"{name}.{m}": value for name, cls in CLASSES.items() for m, value in _members(cls)}


def _sections(documented: object) -> dict[str, str]:
    """The sections of a docstring by name; what comes before them under ``""``."""
    found, current = {"": ""}, ""
    for line in (inspect.getdoc(documented) or "").splitlines():
        heading = re.match(rf"({'|'.join(SECTIONS)}):\s*(.*)$", line)
        if heading:
            current = heading[1]
            found[current] = heading[2]
        else:
            found[current] += "\n" + line
    return found


def _entries(section: str) -> set[str]:
    """What a section tells of: ``a, b: ...`` at its indentation tells of a and of b."""
    heads = re.findall(r"^  (\*{0,2}\w[\w, *]*?):(?:\s|$)", section, re.MULTILINE)
    return {name.strip(" *") for head in heads for name in head.split(",")}


@functools.cache
def _raised(function: Callable) -> frozenset[str]:
    """Names of the exceptions that a function raises, or a function of ours that it calls."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return frozenset(_raised_in(tree, function))


def _raised_in(node: ast.AST, function: Callable) -> set[str]:
    """Those of a part of the function; not those that it catches and does not raise again."""
    if isinstance(node, ast.Try):
        tried = set().union(*(_raised_in(part, function) for part in node.body))
        others = [*node.handlers, *node.orelse, *node.finalbody]
        again = any(
            isinstance(n, ast.Raise) for handler in node.handlers for n in ast.walk(handler)
        )
        caught = {
            name.id
            for handler in node.handlers
            for name in ast.walk(handler.type or ast.Pass())
            if isinstance(name, ast.Name)
        }
        kept = tried if again else tried - caught
        return kept.union(*(_raised_in(part, function) for part in others))
    found = set()
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        error = ast.unparse(node.exc.func)
        # what users catch; the config alone looks for the one of the two that has parts
        found.add("ValueError" if error == "ArgumentError" else error)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        if node.func.id == "checked":  # the decorator, which refuses arguments
            found.add("ValueError")
        called = inspect.unwrap(function.__globals__.get(node.func.id, len))
        ours = inspect.isfunction(called) and called.__module__.startswith("sharpflow.")
        if ours and called is not function:
            found |= _raised(called)
    return found.union(*(_raised_in(part, function) for part in ast.iter_child_nodes(node)))


def _sample(first: int, second: int, *rest: int) -> int:
    """One sentence.

    Args:
      first, second: two numbers, of which it says
        that: they are two.
      *rest: more.

    Raises:
      KeyError: never.

    Source: docs/theory.md, section 1.
    """
    if first:
        raise ValueError("first")
    try:
        raise OSError("caught")
    except OSError:
        return second


def test_the_reader_of_docstrings_finds_what_stands_there_and_nothing_else():
    sections = _sections(_sample)
    assert sections.keys() == {"", "Args", "Raises", "Source"}
    assert _entries(sections["Args"]) == {"first", "second", "rest"}
    assert _entries(sections["Raises"]) == {"KeyError"}
    assert _raised(_sample) == {"ValueError"}
    assert "ValueError" in _raised(theory.retract)  # by what it calls


@pytest.mark.parametrize("name", [*FUNCTIONS, *CLASSES, *METHODS])
def test_a_public_name_begins_with_one_sentence(name):
    thing = (FUNCTIONS | CLASSES | METHODS)[name]
    assert thing.__doc__, "no docstring"
    first = inspect.cleandoc(thing.__doc__).splitlines()[0]
    assert re.fullmatch(r"[^ ].*[^.]\.", first), first
    assert not re.search(r"(?<!e\.g|.al)\.\s", first), f"more than one sentence: {first}"


@pytest.mark.parametrize("name", [*FUNCTIONS, *METHODS])
def test_a_public_function_tells_of_its_arguments_and_its_result(name):
    function = (FUNCTIONS | METHODS)[name]
    sections = _sections(function)
    signature = inspect.signature(function)
    parameters = set(signature.parameters) - {"self", "cls"}
    assert not parameters - _entries(sections.get("Args", "")), "not in Args"
    if name in FUNCTIONS and signature.return_annotation not in (None, "None"):
        assert sections.keys() & {"Returns", "Yields"}, "no Returns"


@pytest.mark.parametrize("name", [*FUNCTIONS, *METHODS, *CLASSES])
def test_a_public_name_tells_of_the_errors_that_it_raises(name):
    thing = (FUNCTIONS | METHODS | CLASSES)[name]
    made = vars(thing).get("__post_init__") if name in CLASSES else inspect.unwrap(thing)
    told = _sections(thing).get("Raises", "")
    missing = [error for error in (_raised(made) if made else ()) if error not in told]
    assert not missing, f"Raises does not tell of {missing}"


@pytest.mark.parametrize("name", CLASSES)
def test_a_public_class_tells_of_its_fields(name):
    cls = CLASSES[name]
    inherited = {"parent", "name"} if hasattr(cls, "apply") else set()  # of a Flax module
    fields = set(getattr(cls, "__dataclass_fields__", ())) | set(getattr(cls, "_fields", ()))
    attributes = (_sections(base).get("Attributes", "") for base in cls.__mro__)
    assert not fields - inherited - set().union(*map(_entries, attributes))
    if not issubclass(cls, enum.Enum | Exception) and not fields:
        assert _sections(cls)[""]


@pytest.mark.parametrize("face", FACES, ids=lambda face: face.__name__)
def test_the_reference_has_every_public_name(face):
    page = (Path(__file__).parents[1] / "docs" / "api.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^::: (\S+)$", page, re.MULTILINE))
    for name, value in _public(face).items():
        if isinstance(value, types.ModuleType):
            continue
        module = getattr(value, "__module__", "")
        if face is sharpflow or not module.startswith("sharpflow."):  # a table; a type
            assert f"`{name}`" in page, name
        elif module.endswith(f".{name}"):  # mkdocstrings takes the name for that of the module
            assert f"{module}.{name}" in shown
        else:
            assert face.__name__ in shown, name


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n.startswith("sharpflow.theory.")])
def test_a_function_of_theory_names_its_source(name):
    assert _sections(FUNCTIONS[name]).get("Source")

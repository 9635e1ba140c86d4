"""Every public name says what it is: arguments, fields, result, errors and source."""

import ast
import dataclasses
import enum
import functools
import inspect
import re
import textwrap
import types
from collections.abc import Callable, Iterator

import pytest

import sharpflow
from sharpflow import experiments, models, simulator, theory

FACES = (sharpflow, models, models.data, theory, theory.exact, simulator, experiments)
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
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            found.add(ast.unparse(node.exc.func))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            called = inspect.unwrap(function.__globals__.get(node.func.id, len))
            ours = inspect.isfunction(called) and called.__module__.startswith("sharpflow.")
            if ours and called is not function:
                found |= _raised(called)
    return frozenset(found)


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


@pytest.mark.parametrize("name", [*FUNCTIONS, *METHODS])
def test_a_public_function_tells_of_the_errors_that_it_raises(name):
    function = inspect.unwrap((FUNCTIONS | METHODS)[name])
    told = _sections(function).get("Raises", "")
    missing = [error for error in _raised(function) if error not in told]
    assert not missing, f"Raises does not tell of {missing}"


@pytest.mark.parametrize("name", CLASSES)
def test_a_public_class_tells_of_its_fields(name):
    cls = CLASSES[name]
    inherited = {"parent", "name"} if hasattr(cls, "apply") else set()  # of a Flax module
    fields = (
        {field.name for field in dataclasses.fields(cls)}
        if dataclasses.is_dataclass(cls)
        else set()
    )
    fields |= set(getattr(cls, "_fields", ()))
    told = {
        entry for base in cls.__mro__ for entry in _entries(_sections(base).get("Attributes", ""))
    }
    assert not {f for f in fields - inherited if not f.startswith("_")} - told
    if not issubclass(cls, enum.Enum | Exception) and not fields:
        assert _sections(cls)[""]


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n.startswith("sharpflow.theory.")])
def test_a_function_of_theory_names_its_source(name):
    assert _sections(FUNCTIONS[name]).get("Source")

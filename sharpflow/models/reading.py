"""What a function can read, as a value: whether two functions are sure to compute the same.

A compiled program holds what its function read while it was traced. It may serve another
function only if that one would have read the same. Equality of functions does not tell: the same
function reads another value once a global name is bound to another number, and equal objects may
differ, as 1 and True or 0.0 and −0.0 do.
"""

import builtins
import dataclasses
import dis
import enum
import functools
import operator
import sys
import types
import weakref
from collections.abc import Callable, Hashable, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import numpy as np
from flax.core import FrozenDict

from sharpflow.models.mortal import Mortal, mortal, takes_weak_references

# Code of these is looked through where it closes over something, not for the names of its own
# modules. Any other package may be somebody's experiment, whose settings change.
_KNOWN = frozenset(sys.stdlib_module_names) | {
    *("sharpflow", "jax", "jaxlib", "numpy", "scipy", "flax", "optax", "chex", "jaxtyping"),
    *("ml_dtypes", "diffrax", "lineax", "equinox", "optimistix", "typing_extensions"),
}
# A function that calls one of these may read names that do not stand in its code.
_REFLECTION = frozenset({"globals", "locals", "vars", "eval", "exec", "compile", "__import__"})
# Compared by identity without a look inside: none of these can change in place. For the last five,
# the methods and slots of classes written in C, there is nothing to look into.
_UNCHANGING = (
    jax.Array,
    enum.Enum,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
)
# What Flax keeps in every class of modules for the course of a call.
_FLAX = frozenset({"_state", "scope", "_parent_ref", "_compact_name_scope_methods", "parent"})
# By exact type: a subclass may carry attributes, which can change.
_PLAIN = (int, bool, str, bytes, type(None), type(...), type(NotImplemented), range)
_MISSING = object()


class Binding:
    """A name that a function reads, and what it was bound to; it keeps neither alive.

    Attributes:
      name: of a global, of an attribute, or of a variable of a closure.
    """

    __slots__ = ("_owner", "_place", "_value", "name")

    def __init__(self, owner: Any, place: str | int, name: str) -> None:
        self.name = name
        self._owner, self._place = _reference(owner), place
        self._value = _reference(self.current())

    @classmethod
    def of_global(cls, function: types.FunctionType, name: str) -> "Binding":
        """A global name in the code of a function."""
        return cls(function, "__globals__", name)

    @classmethod
    def of_attribute(cls, owner: "type | types.ModuleType", name: str) -> "Binding":
        """An attribute of a class or of a module itself."""
        return cls(owner, "__dict__", name)

    @classmethod
    def of_closure(cls, function: types.FunctionType, number: int) -> "Binding":
        """A variable that a function closes over."""
        return cls(function, number, function.__code__.co_freevars[number])

    @property
    def holds(self) -> bool:
        """Whether the name still has this value."""
        # By identity first, which is one comparison and nearly always true: this runs before every
        # call of every function of a problem. Plain values get the second look because small
        # numbers are made anew by every assignment.
        now, before = self.current(), self._value()
        return now is before or (
            _is_plain(now) and _is_plain(before) and _of_plain(now) == _of_plain(before)
        )

    def current(self) -> Any:
        """What the name is bound to."""
        owner = self._owner()
        if not isinstance(self._place, int):
            return getattr(owner, self._place, {}).get(self.name, _MISSING)
        try:
            return owner.__closure__[self._place].cell_contents
        except (AttributeError, ValueError):  # gone, or not assigned yet
            return _MISSING

    def is_among(self, cells: set[int], names: set[tuple[int, str]], attributes: set[str]) -> bool:
        """Whether it is one of those that functions write to.

        Args:
          cells: of closures, by id.
          names: of globals, each with the id of its namespace.
          attributes: names of attributes.
        """
        owner = self._owner()
        if isinstance(self._place, int):
            return id(owner.__closure__[self._place]) in cells
        if isinstance(owner, type):
            return self.name in attributes
        return (id(getattr(owner, self._place)), self.name) in names


@dataclasses.dataclass(frozen=True, eq=False)
class Reading:
    """All that a function can read.

    Attributes:
      key: equal for functions that are sure to read the same. Where a function reads what can
        change in place, as a numpy array, a list or an object can, it equals itself alone.
      bindings: the names that must not be bound to something else until the function has run.
      mortals: what of the key can die; nothing can have this key any more then.
      token: of a function that is compared with no other, what its key lives and dies with.
    """

    key: Hashable
    bindings: tuple[Binding, ...] = ()
    mortals: frozenset[Mortal] = frozenset()
    token: Any = None

    @classmethod
    def of_itself(cls, bindings: tuple[Binding, ...] = ()) -> "Reading":
        """Of a function that is compared with no other."""
        token = _Token()
        key = mortal(token)
        return cls(key, bindings, frozenset({key}), token)

    @property
    def is_settled(self) -> bool:
        """Whether another function can have this key."""
        return self.token is None

    @property
    def held_weakly(self) -> "Reading":
        """The same key, which does not keep alive what it stands for."""
        return dataclasses.replace(self, token=None)

    def changed_names(self) -> list[str]:
        """The names that are bound to something else by now."""
        return [binding.name for binding in self.bindings if not binding.holds]


def reading(value: Any) -> Reading:
    """What a function, or a tuple of functions and values, can read here and now.

    Numbers, text, dtypes, and tuples, frozen dataclasses and Flax modules of such are compared by
    type and value. Functions, classes and jax arrays are compared by identity, and functions and
    classes by what they read in turn: their closures, their defaults, and the global names in their
    code. Whatever else it is that a function reads may change in place: the function is then
    compared with no other.

    Args:
      value: a callable, or a tuple with callables.

    Returns:
      A key, and the names that it is made of.
    """
    # The whole walk comes first and the names that are written to are taken out after it: a
    # function that is met last may write to a name that the first one reads.
    walk = _Walk()
    key = walk.visit(value)
    bindings = walk.lasting_bindings()
    if not walk.settled:
        return Reading.of_itself(bindings)
    return Reading(key, bindings, frozenset(walk.mortals))


class _Token:
    """An object that equals itself alone: the key of a function that is compared with no other."""

    __slots__ = ("__weakref__",)


class _Same:
    """Compares by identity what cannot be known by a weak reference."""

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._value is other._value

    def __hash__(self) -> int:
        return id(self._value)


class _Walk:
    """Goes through all that a value can read, each object once.

    Attributes:
      settled: whether nothing was met that can change in place.
      mortals: what was met that is compared by identity and is not of a known package.
    """

    def __init__(self) -> None:
        self.settled = True
        self._places: dict[int, int] = {}  # of objects, by id
        self._kept: list[Any] = []  # so that no id is used again meanwhile
        self._bindings: list[Binding] = []
        self._written_cells: set[int] = set()  # of closures, by id
        self._written_globals: set[tuple[int, str]] = set()  # with the id of the namespace
        self._written_attributes: set[str] = set()
        self.mortals: set[Mortal] = set()

    def lasting_bindings(self) -> tuple[Binding, ...]:
        """Those that no function of the walk writes to; what is written is not settled."""
        written = self._written_cells, self._written_globals, self._written_attributes
        lasting = [binding for binding in self._bindings if not binding.is_among(*written)]
        self.settled = self.settled and len(lasting) == len(self._bindings)
        return tuple(lasting)

    def visit(self, value: Any) -> Hashable:
        """A key of a value; without meaning where it is not settled."""
        if _is_plain(value):
            return _of_plain(value)
        if isinstance(value, _UNCHANGING) or type(value) is object:
            return self._identity(value)
        if isinstance(value, tuple | frozenset):
            inner = map(self.visit, value)
            return self.visit(type(value)), type(value).__base__ is tuple, tuple(inner)
        # The second time a value is met, its place in the walk stands for it. Functions that call
        # each other would otherwise be walked for ever.
        place = self._places.get(id(value))
        if place is not None:
            return _MISSING, place
        self._places[id(value)] = len(self._places)
        self._kept.append(value)
        return self._of_object(value)

    def _of_object(self, value: Any) -> Hashable:
        # Modules of the Flax adapter and static functions were read when they were made. To read
        # them again might find other values under the same names, for programs that hold the old
        # ones.
        own = getattr(value, "reading", None)
        if isinstance(own, Reading):
            self._bindings.extend(own.bindings)
            self.mortals |= own.mortals
            return type(value), own.key
        if isinstance(value, types.ModuleType):
            return value.__name__ if _is_known(value.__name__) else self._unsettled()
        # What a known package exports is taken to be what it is by name. A walk through jax itself
        # would meet its caches, which change all the time: no function that calls jax could then
        # share a program.
        if _is_of_known_package(value):
            return _identity(value)
        if isinstance(value, type):
            return self._of_class(value)
        if isinstance(value, types.FunctionType):
            return self._of_function(value)
        if isinstance(value, types.MethodType):
            return types.MethodType, self.visit(value.__func__), self.visit(value.__self__)
        if isinstance(value, types.BuiltinFunctionType | types.MethodWrapperType):
            owner = value.__self__  # of a function of a module written in C, that module
            of_module = owner is None or isinstance(owner, types.ModuleType)
            return _identity(value) if of_module else (value.__name__, self.visit(owner))
        if isinstance(value, functools.partial):
            named = tuple((name, self.visit(one)) for name, one in value.keywords.items())
            parts = (value.func, value.args, *vars(value).values())
            return functools.partial, tuple(map(self.visit, parts)), named
        if isinstance(value, staticmethod | classmethod):
            return type(value), self.visit(value.__func__)
        if isinstance(value, functools.cached_property):
            return type(value), self.visit(value.func)
        if isinstance(value, property):
            return type(value), self.visit(value.fget)
        return self._of_instance(value)

    def _of_instance(self, value: Any) -> Hashable:
        kind = type(value)
        if isinstance(value, FrozenDict):
            return kind, tuple((name, self.visit(one)) for name, one in value.items())
        if isinstance(value, nn.Module):
            if value.scope is not None:  # within a call, which fills it
                return self._unsettled()
            names = [field.name for field in dataclasses.fields(value) if field.name != "parent"]
            return self.visit(kind), tuple(self.visit(getattr(value, n, None)) for n in names)
        parameters = getattr(kind, "__dataclass_params__", None)
        # Attributes too that are not fields: object.__setattr__ and cached properties put some
        # there.
        if parameters is not None and parameters.frozen:
            fields = {f.name: getattr(value, f.name, None) for f in dataclasses.fields(value)}
            fields |= getattr(value, "__dict__", {})
            return self.visit(kind), tuple((n, self.visit(one)) for n, one in fields.items())
        if (
            _is_known(kind.__module__)
            and kind.__base__ is object
            and getattr(value, "__dict__", None) == {}
        ):
            return _identity(value)  # a mark, which says that something was not given
        if _is_known(kind.__module__) and hasattr(value, "__wrapped__"):
            return self._identity(value), self.visit(value.__wrapped__), self._of_attributes(value)
        # A class that has both an equality and a hash of its own promises, by Python's rules, that
        # its instances do not change while they are keys of a dictionary. Here they are such keys.
        if kind.__eq__ is not object.__eq__ and kind.__hash__ not in (None, object.__hash__):
            try:
                hash(value)
            except TypeError:
                return self._unsettled()
            return self.visit(kind), value  # compares itself by value, and promises not to change
        return self._unsettled()

    def _of_class(self, kind: type) -> Hashable:
        own = vars(kind)
        fields = getattr(kind, "__dataclass_fields__", {})
        parts = [self.visit(base) for base in kind.__bases__]
        if type(kind) is not type:
            parts.append(self.visit(type(kind)))
        for name, value in own.items():
            if _is_of_the_language(name, value) or (name in _FLAX and issubclass(kind, nn.Module)):
                continue
            if name not in fields:  # instances write to those, each to its own
                self._bindings.append(Binding.of_attribute(kind, name))
            parts.append((name, self.visit(value)))
        return self._identity(kind), tuple(parts)

    def _of_function(self, function: types.FunctionType) -> Hashable:
        names = _names(function.__code__)
        known = _is_known(function.__globals__.get("__name__"))
        parts: list[Hashable] = [self._identity(function)]
        parts += map(self.visit, function.__defaults__ or ())
        parts += [(n, self.visit(one)) for n, one in (function.__kwdefaults__ or {}).items()]
        parts += [self._of_attributes(function)]
        for number, cell in enumerate(function.__closure__ or ()):
            binding = Binding.of_closure(function, number)
            if not known:
                self._bindings.append(binding)
            if binding.name in names.written_cells:
                self._written_cells.add(id(cell))
            for attributes in names.cells.get(binding.name, ((),)):
                parts.append(self._of_path(binding.current(), attributes))
        if known:
            return tuple(parts)
        self._written_attributes |= names.written_attributes
        self._written_globals |= {(id(function.__globals__), n) for n in names.written_globals}
        # An import inside of the function gives it names that this walk does not follow, and a
        # global name that it assigns may have another value at its next call.
        if names.modules - _KNOWN or names.written_globals:
            self._unsettled()
        for name, attributes in names.globals:
            parts.append(self._of_global(function, name, attributes))
        return tuple(parts)

    def _of_attributes(self, value: Any) -> Hashable:
        """Of a function, without those that Python or a decorator describes it by."""
        own = getattr(value, "__dict__", {}).items()
        return tuple((name, self.visit(one)) for name, one in own if not name.startswith("__"))

    def _of_global(
        self, function: types.FunctionType, name: str, attributes: tuple[str, ...]
    ) -> Hashable:
        value = function.__globals__.get(name, _MISSING)
        if value is _MISSING and hasattr(builtins, name):
            return self._unsettled() if name in _REFLECTION else name
        self._bindings.append(Binding.of_global(function, name))
        return name, self._of_path(value, attributes)

    def _of_path(self, value: Any, attributes: tuple[str, ...]) -> Hashable:
        """Of ``value.a.b``, of which only modules are looked through."""
        for attribute in attributes:
            # Through modules alone, because `settings.rate` reads one name of a module. Of an
            # object, `rates.rate` may call code of its class, so that the whole object is visited
            # instead.
            if not isinstance(value, types.ModuleType) or _is_known(value.__name__):
                break
            self._bindings.append(Binding.of_attribute(value, attribute))
            value = vars(value).get(attribute, _MISSING)
        return self._unsettled() if value is _MISSING else self.visit(value)

    def _identity(self, value: Any) -> Hashable:
        key = _identity(value)
        if isinstance(key, Mortal):
            self.mortals.add(key)
        return key

    def _unsettled(self) -> Hashable:
        self.settled = False
        return None


class _Names(NamedTuple):
    """Names in the code of a function and of the functions within it.

    Attributes:
      globals: each with the attributes that are read of it.
      cells: the attributes that are read of each, by name.
      written_globals, written_cells, written_attributes: what is assigned to.
      modules: the packages that it imports; of a relative import "".
    """

    globals: tuple[tuple[str, tuple[str, ...]], ...]
    cells: Mapping[str, tuple[tuple[str, ...], ...]]
    written_globals: frozenset[str]
    written_cells: frozenset[str]
    written_attributes: frozenset[str]
    modules: frozenset[str]


# By code object, which functions made by one `def` share. Without the cache a sweep that makes a
# problem per point would disassemble the same code every time. The limit lets go of code that a
# notebook has redefined; 4096 is more functions than a program of a user has, and an entry takes
# about a kilobyte.
@functools.lru_cache(maxsize=4096)
def _names(code: types.CodeType) -> _Names:
    of_globals: dict[tuple[str, tuple[str, ...]], None] = {}
    of_cells: dict[str, dict[tuple[str, ...], None]] = {}
    written: dict[str, set[str]] = {"GLOBAL": set(), "DEREF": set(), "ATTR": set()}
    modules: set[str] = set()
    # The compiled code and not the source: there is source only for what stands in a file, and a
    # notebook, exec and a lambda in a line have none that is theirs alone.
    for one in _codes(code):
        instructions = [step for step in dis.get_instructions(one) if step.opname not in _BETWEEN]
        for number, step in enumerate(instructions):
            # A name counts as written wherever it is assigned to in any function of the walk,
            # whether or not that line is ever reached. To refuse to share too often costs a
            # compilation; to share once too often costs a wrong number.
            action, _, kind = step.opname.partition("_")
            if action in ("STORE", "DELETE") and kind in written:
                written[kind].add(step.argval)
            elif step.opname == "IMPORT_NAME":
                modules.add(step.argval.partition(".")[0])
            elif step.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"):
                of_globals[step.argval, _attributes(instructions, number)] = None
            elif step.opname in ("LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF"):
                attributes_of_cell = of_cells.setdefault(step.argval, {})
                attributes_of_cell[_attributes(instructions, number)] = None
    return _Names(
        globals=tuple(of_globals),
        cells={name: tuple(attributes_of_cell) for name, attributes_of_cell in of_cells.items()},
        written_globals=frozenset(written["GLOBAL"]),
        written_cells=frozenset(written["DEREF"]),
        written_attributes=frozenset(written["ATTR"]),
        modules=frozenset(modules),
    )


# Instructions without effect, which versions of Python put between the others.
_BETWEEN = ("CACHE", "EXTENDED_ARG", "NOP")


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _attributes(instructions: list[dis.Instruction], number: int) -> tuple[str, ...]:
    names = []
    for step in instructions[number + 1 :]:
        if step.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
            break
        names.append(step.argval)
    return tuple(names)


def _is_plain(value: Any) -> bool:
    return type(value) in _PLAIN or isinstance(value, float | complex | np.generic | np.dtype)


def _of_plain(value: Any) -> Hashable:
    """Type and value; tells zeros of both signs apart, and takes NaN for NaN."""
    if isinstance(value, np.generic):
        return type(value), value.dtype, value.tobytes()
    # By digits: 0.0 == -0.0 although 1/x tells them apart, and NaN does not equal itself, so that a
    # function with NaN in it would be compiled anew at every call.
    if isinstance(value, float):
        return type(value), value.hex()
    if isinstance(value, complex):
        return type(value), value.real.hex(), value.imag.hex()
    return type(value), value


def _is_known(module: Any) -> bool:
    return isinstance(module, str) and module.partition(".")[0] in _KNOWN


def _is_of_known_package(value: Any) -> bool:
    """Whether it is what a known package has under the name that the value gives itself."""
    # A name alone proves nothing, since anybody may set __module__ of his own function: what stands
    # there must be this very object.
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    name = name or getattr(value, "__name__", None)
    if not (_is_known(module) and isinstance(name, str) and module in sys.modules):
        return False
    try:
        return operator.attrgetter(name)(sys.modules[module]) is value
    except AttributeError:
        return False


def _is_of_the_language(name: str, value: Any) -> bool:
    """Attributes that Python gives a class; its special methods are the user's."""
    special = name.startswith("__") and name.endswith("__")
    is_method = isinstance(value, types.FunctionType | staticmethod | classmethod | property)
    return name == "_abc_impl" or (special and (not is_method or name == "__repr__"))


def _identity(value: Any) -> Hashable:
    """A key that is equal for the same thing; it keeps nothing alive where it need not."""
    return mortal(value) if takes_weak_references(value) else _Same(value)


def _reference(value: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(value)
    except TypeError:  # numbers, tuples, lists
        return lambda: value

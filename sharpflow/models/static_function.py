"""What is static of a pytree: compared by value, and within our own programs held weakly."""

import dataclasses
import functools
import threading
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from sharpflow.models.mortal import Mortal, mortal, takes_weak_references
from sharpflow.models.reading import Reading, reading

# Of each thread by itself: another thread may flatten the same problem meanwhile for a jax.jit of
# its own, which must keep what it compiled for.
_HOLDING = threading.local()


class StaticFunction:
    """A function, or another value, as the static part of a pytree.

    jax compiles a program once for all pytrees whose static parts are equal. This one is compared
    as the function compares itself, whatever it reads: so are update rules and what is recorded,
    where the caller who goes on with the same one goes on with its program. A
    ``functools.partial`` and a bound method, which Python compares by identity, are compared by
    what they are made of. What has no hash is compared by identity. The functions of problems are
    compared ``by_reading`` instead.

    jax keeps what it has compiled, and the static parts with it, for as long as the compiled
    function lives. A function that closes over an array would so keep the array for ever.
    ``held_weakly`` is for compiled functions of this package: it knows what is compared by
    identity by a weak reference alone, for once that has died nothing can be equal to it.

    Args:
      function: any callable, or a value with a hash.
    """

    __slots__ = (
        *("__weakref__", "_function", "_hash", "_key", "_parts", "_weak"),
        *("mortals", "reading"),
    )

    def __init__(self, function: Any) -> None:
        self._function = function
        self._set(_parts(function, weakly=False), None)

    @classmethod
    def by_reading(cls, function: Any) -> "StaticFunction":
        """A function compared by all that it can read, here and now."""
        static = object.__new__(cls)
        static._function = function
        static._set(_parts(function, weakly=False), reading(function))
        return static

    def _set(self, parts: Any, read: Reading | None) -> None:
        self._parts, self.reading = parts, read
        self._key = parts if read is None else read.key
        # Once: jax hashes its keys at every call, and this key has all that a function reads.
        self._hash = hash(self._key)
        self._weak: StaticFunction | None = None
        of_reading = frozenset() if read is None else read.mortals
        self.mortals = of_reading | frozenset(_mortals(parts))

    @property
    def function(self) -> Any:
        """The function; one that is held weakly is there as long as its parts are."""
        return _rebuilt(self._parts) if self._function is None else self._function

    @property
    def held_weakly(self) -> "StaticFunction":
        """The same function, without keeping alive what is compared by identity."""
        # Kept, so that every call finds the very same object and __eq__ ends at its first line.
        if self._weak is None:
            weak = object.__new__(StaticFunction)
            weak._function = None
            read = None if self.reading is None else self.reading.held_weakly
            weak._set(_parts(self.function, weakly=True), read)
            weak._weak = weak
            self._weak = weak
        return self._weak

    def __eq__(self, other: object) -> bool:
        if self is other:  # jax asks at every call
            return True
        return isinstance(other, StaticFunction) and bool(self._key == other._key)

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple:
        # identities and hashes do not outlast a process
        make = StaticFunction if self.reading is None else StaticFunction.by_reading
        return make, (self.function,)

    def require_unchanged(self) -> None:
        """Refuse to run the function if it would read something else than at its making.

        Raises:
          ValueError: naming what it reads and what to do.
        """
        changed = [] if self.reading is None else self.reading.changed_names()
        if changed:
            name = getattr(self.function, "__qualname__", None) or repr(self.function)
            raise ValueError(
                f"{name} reads {', '.join(map(repr, dict.fromkeys(changed)))}, bound to another "
                "value since this problem was made: make the problem again, or give as data= "
                "what changes"
            )


@contextmanager
def holding_weakly() -> Iterator[set[Mortal]]:
    """Pytrees of this package that are flattened in here, in this thread, hold functions weakly.

    Yields:
      What is mortal among the static parts of these pytrees, once they are flattened.
    """
    before = getattr(_HOLDING, "mortals", None)
    _HOLDING.mortals = set()
    try:
        yield _HOLDING.mortals
    finally:
        _HOLDING.mortals = before


_Part = TypeVar("_Part", StaticFunction, StaticFunction | None)


def static_part(static: _Part) -> _Part:
    """A static part as a pytree is to give it here and now; None stays None."""
    mortals = getattr(_HOLDING, "mortals", None)
    if static is None or mortals is None:
        return static
    mortals |= static.held_weakly.mortals
    return static.held_weakly


@dataclasses.dataclass(frozen=True)
class _Compound:
    """The key of something that is compared by its parts.

    Attributes:
      kind: its type.
      parts: their keys.
    """

    kind: type
    parts: tuple


class _Same:
    """The key of something without a hash: equal where it is the same thing."""

    __slots__ = ("thing",)

    def __init__(self, thing: Any) -> None:
        self.thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.thing is other.thing

    def __hash__(self) -> int:
        return id(self.thing)


def _parts(thing: Any, weakly: bool) -> Any:
    """What a function is made of and can be made of again, in a form that can be compared."""

    def of(part: Any) -> Any:
        return _parts(part, weakly)

    if isinstance(thing, types.MethodType):
        return _Compound(types.MethodType, (of(thing.__func__), of(thing.__self__)))
    if isinstance(thing, functools.partial):
        # In the order of the names, because that of the keywords makes no difference to a call.
        keywords = tuple(sorted((name, of(value)) for name, value in thing.keywords.items()))
        arguments = tuple(of(argument) for argument in thing.args)
        return _Compound(functools.partial, (of(thing.func), arguments, keywords))
    # Not a subclass: a named tuple of the same values is another argument to the function.
    if type(thing) is tuple:
        return _Compound(tuple, tuple(of(part) for part in thing))
    own = getattr(thing, "reading", None)
    if weakly and isinstance(own, Reading) and not own.is_settled:
        return mortal(thing)  # equals itself alone, and its programs go with it
    try:
        hash(thing)
    except TypeError:
        return mortal(thing) if weakly and takes_weak_references(thing) else _Same(thing)
    if weakly and type(thing).__eq__ is object.__eq__ and takes_weak_references(thing):
        return mortal(thing)
    if weakly and _is_compared_by_fields(thing):
        return _Compound(type(thing), tuple(of(part) for part in _fields(thing)))
    return type(thing), thing  # 1, 1.0 and True are equal, and are not the same argument


def _rebuilt(key: Any) -> Any:
    """What a key was made of; of things that are compared by value an equal one."""
    if isinstance(key, (Mortal, _Same)):
        return key.thing
    if not isinstance(key, _Compound):
        _, thing = key
        return thing
    if key.kind is types.MethodType:
        return types.MethodType(*map(_rebuilt, key.parts))
    if key.kind is functools.partial:
        function, arguments, keywords = key.parts
        named = {name: _rebuilt(part) for name, part in keywords}
        return functools.partial(_rebuilt(function), *map(_rebuilt, arguments), **named)
    parts = [_rebuilt(part) for part in key.parts]
    if key.kind is tuple:
        return tuple(parts)
    # Without __init__, which may check or convert: the parts have been through it once.
    made: Any = object.__new__(key.kind)
    for field, part in zip(dataclasses.fields(key.kind), parts, strict=True):
        object.__setattr__(made, field.name, part)
    return made


def _mortals(key: Any) -> Iterator[Mortal]:
    if isinstance(key, Mortal):
        yield key
    elif isinstance(key, _Compound):
        yield from _mortals(key.parts)
    elif isinstance(key, tuple):
        for part in key:
            yield from _mortals(part)


def _is_compared_by_fields(thing: Any) -> bool:
    """Whether this is a frozen data class with the equality that Python makes for it."""
    parameters = getattr(type(thing), "__dataclass_params__", None)
    return (
        parameters is not None
        and parameters.frozen
        and parameters.eq
        and "__dataclass_params__" in vars(type(thing))
        and all(field.compare for field in dataclasses.fields(thing))
        # The dataclass decorator compiles the method from a text, and Python gives it this file
        # name. An equality that the author wrote may look at more than the fields, or at less.
        and vars(type(thing))["__eq__"].__code__.co_filename == "<string>"
    )


def _fields(thing: Any) -> Iterator[Any]:
    return (getattr(thing, field.name) for field in dataclasses.fields(thing))

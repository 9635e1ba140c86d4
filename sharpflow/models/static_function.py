"""What is static of a pytree: compared by value, and within our own programs held weakly."""

import dataclasses
import functools
import threading
import types
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

_FORGETTING: "weakref.WeakSet[Any]" = weakref.WeakSet()  # caches to clear of what has died
_HOLDING = threading.local()


class StaticFunction:
    """A function, or another value, as the static part of a pytree.

    jax compiles a program once for all pytrees whose static parts are equal. Plain functions
    are compared by identity, and callable objects as they define it. A ``functools.partial``
    and a bound method, which Python compares by identity, are compared by what they are made
    of. What has no hash, as an object that holds an array, is compared by identity.

    jax keeps what it has compiled, and the static parts with it, for as long as the compiled
    function lives. A function that closes over an array would so keep the array for ever.
    ``held_weakly`` is for compiled functions of this package: it knows what is compared by
    identity by a weak reference alone, for once that has died nothing can be equal to it.

    Args:
      function: any callable, or a value with a hash.
    """

    __slots__ = ("__weakref__", "_function", "_hash", "_key", "_weak", "mortals")

    def __init__(self, function: Any) -> None:
        self._function = function
        self._set_key(_key(function, weakly=False))

    def _set_key(self, key: Any) -> None:
        self._key, self._hash = key, hash(key)
        self._weak: StaticFunction | None = None
        self.mortals = frozenset(_mortals(key))

    @property
    def function(self) -> Any:
        """The function; one that is held weakly is there as long as its parts are."""
        return _rebuilt(self._key) if self._function is None else self._function

    @property
    def held_weakly(self) -> "StaticFunction":
        """The same function, without keeping alive what is compared by identity."""
        if self._weak is None:
            weak = object.__new__(StaticFunction)
            weak._function = None
            weak._set_key(_key(self.function, weakly=True))
            weak._weak = weak
            self._weak = weak
        return self._weak

    def __eq__(self, other: object) -> bool:
        if self is other:  # jax asks at every call
            return True
        return isinstance(other, StaticFunction) and bool(self._key == other._key)

    def __hash__(self) -> int:
        return self._hash


class Mortal:
    """Something compared by identity, known by a weak reference; equal to itself alone.

    There is one for each such thing, in ``mortal``, so that it outlives its thing safely: the
    identity of the dead may be used again, this object is not.
    """

    __slots__ = ("__weakref__", "_reference")

    def __init__(self, thing: Any) -> None:
        self._reference = weakref.ref(thing, self._forget)

    @property
    def thing(self) -> Any:
        """What it stands for.

        Raises:
          ReferenceError: it has died.
        """
        found = self._reference()
        if found is None:
            raise ReferenceError("a function of this problem does not exist any more")
        return found

    def _forget(self, reference: Any, caches: "weakref.WeakSet[Any]" = _FORGETTING) -> None:
        # an argument, because the names of a module are gone when Python ends
        del reference
        for cache in list(caches):
            cache.forget(self)


class _MortalsByIdentity:
    """The ``Mortal`` of each thing, found by its identity."""

    def __init__(self) -> None:
        self._known: dict[int, weakref.ReferenceType[Mortal]] = {}
        self._lock = threading.Lock()

    def __call__(self, thing: Any) -> Mortal:
        with self._lock:
            reference = self._known.get(id(thing))
            found = None if reference is None else reference()
            if found is None or found._reference() is not thing:
                found = Mortal(thing)
                self._known[id(thing)] = weakref.ref(
                    found, functools.partial(self._drop, id(thing))
                )
            return found

    def _drop(self, identity: int, reference: Any) -> None:
        # an unlocked look: a search for reference cycles may come here while the lock is held
        if self._known.get(identity) is reference:
            self._known.pop(identity, None)


mortal = _MortalsByIdentity()


def forgets_the_dead(cache: Any) -> None:
    """Have ``cache.forget(mortal)`` called once for everything mortal that has died."""
    _FORGETTING.add(cache)


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


def _key(thing: Any, weakly: bool) -> Any:
    def of(part: Any) -> Any:
        return _key(part, weakly)

    if isinstance(thing, types.MethodType):
        return _Compound(types.MethodType, (of(thing.__func__), of(thing.__self__)))
    if isinstance(thing, functools.partial):
        keywords = tuple(sorted((name, of(value)) for name, value in thing.keywords.items()))
        arguments = tuple(of(argument) for argument in thing.args)
        return _Compound(functools.partial, (of(thing.func), arguments, keywords))
    if type(thing) is tuple:
        return _Compound(tuple, tuple(of(part) for part in thing))
    try:
        hash(thing)
    except TypeError:
        return mortal(thing) if weakly and _takes_weak_references(thing) else _Same(thing)
    if weakly and type(thing).__eq__ is object.__eq__ and _takes_weak_references(thing):
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
        and vars(type(thing))["__eq__"].__code__.co_filename == "<string>"
    )


def _fields(thing: Any) -> Iterator[Any]:
    return (getattr(thing, field.name) for field in dataclasses.fields(thing))


def _takes_weak_references(thing: Any) -> bool:
    return type(thing).__weakrefoffset__ != 0  # negative for classes of Python 3.12

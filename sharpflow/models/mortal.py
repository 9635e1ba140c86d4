"""Things compared by identity, known weakly: what is compiled for them is forgotten with them."""

import functools
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

_FORGETTING: "weakref.WeakSet[Any]" = weakref.WeakSet()  # caches to clear of what has died


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
        referent = self._reference()
        if referent is None:
            raise ReferenceError("a function of this problem does not exist any more")
        return referent

    def _forget(
        self,
        reference: Any,
        caches: "weakref.WeakSet[Any]" = _FORGETTING,
        python_ends: Callable[[], bool] = sys.is_finalizing,
    ) -> None:
        # Arguments, because the names of a module are gone when Python ends. So are those that the
        # caches use; and all that they keep goes with the process.
        del reference
        if python_ends():
            return
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
            known = None if reference is None else reference()
            # An identity may have been taken over by a new object before the callback of the dead
            # one ran.
            if known is None or known._reference() is not thing:
                known = Mortal(thing)
                self._known[id(thing)] = weakref.ref(
                    known, functools.partial(self._drop, id(thing))
                )
            return known

    def _drop(self, identity: int, reference: Any) -> None:
        # an unlocked look: a search for reference cycles may come here while the lock is held
        if self._known.get(identity) is reference:
            self._known.pop(identity, None)


mortal = _MortalsByIdentity()


def forgets_the_dead(cache: Any) -> None:
    """Have ``cache.forget(mortal)`` called once for everything mortal that has died."""
    _FORGETTING.add(cache)


def takes_weak_references(thing: Any) -> bool:
    """Whether something can be known by a weak reference."""
    return type(thing).__weakrefoffset__ != 0  # negative for classes of Python 3.12

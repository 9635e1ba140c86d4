"""Compiled functions of problems, whose programs are forgotten when their problems are."""

import contextlib
import ctypes
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from sharpflow.models.mortal import Mortal, forgets_the_dead
from sharpflow.models.static_function import StaticFunction, holding_weakly, static_part


class CompiledFunction:
    """``jax.jit`` of a function that takes problems.

    It differs in two things.

    * jax keeps all that it has compiled, with the functions of the problems it was compiled for
      and every array that these close over. Here each set of functions has a ``jax.jit`` of its
      own that knows them weakly; it goes, and what it compiled with it, when one of them dies.
      Equal problems share one, as they would share an entry of jax's.
    * ``jax_debug_nans`` and ``jax_debug_infs`` do not reach it. NaN means in many results of this
      package that there is no value, and a status says what failed.

    Args:
      function: without variadic arguments.
      static_argnames, donate_argnames: as of ``jax.jit``.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        *,
        static_argnames: Sequence[str] = (),
        donate_argnames: Sequence[str] = (),
    ) -> None:
        functools.update_wrapper(self, function)
        self._function = function
        self._signature = inspect.signature(function)
        self._static, self._donated = frozenset(static_argnames), frozenset(donate_argnames)
        self._programs: dict[frozenset[Mortal], Any] = {}
        self._num_forgotten = 0
        forgets_the_dead(self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The value of the function, compiled."""
        program, donated, kept = self._program(args, kwargs)
        with special_values_allowed():
            return program(donated, kept)

    def trace(self, *args: Any, **kwargs: Any) -> Any:
        """As of what ``jax.jit`` returns."""
        program, donated, kept = self._program(args, kwargs)
        return program.trace(donated, kept)

    def lower(self, *args: Any, **kwargs: Any) -> "LoweredFunction":
        """Lower the function for arguments, which may be shapes and places of arrays."""
        program, donated, kept = self._program(args, kwargs)
        return LoweredFunction(self, program.lower(donated, kept))

    def eval_shape(self, *args: Any, **kwargs: Any) -> Any:
        """As of what ``jax.jit`` returns: shapes and dtypes of the value."""
        program, donated, kept = self._program(args, kwargs)
        return program.eval_shape(donated, kept)

    def forget(self, dead: Mortal) -> None:
        """Drop the programs that were compiled for something that has died."""
        # A copy of the keys: a garbage collection may come here from within a call that adds one.
        stale = [known for known in list(self._programs) if dead in known]
        for mortals in stale:
            program = self._programs.pop(mortals, None)
            self._num_forgotten += 0 if program is None else program._cache_size()
            del program  # with what was compiled, before its memory is asked for
        if stale:
            _return_freed_memory()

    def _cache_size(self) -> int:
        """How many programs were compiled, those that were forgotten included."""
        return self._num_forgotten + sum(p._cache_size() for p in list(self._programs.values()))

    def arguments(self, args: tuple, kwargs: dict[str, Any]) -> tuple[dict, dict, set[Mortal]]:
        """What the programs take: arguments by name, donated ones and others.

        Returns:
          Both, and what is mortal among their static parts.
        """
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        with holding_weakly() as mortals:
            packed = {
                name: _Static.of(value) if name in self._static else _Argument.of(value)
                for name, value in bound.arguments.items()
            }
        # In two dictionaries, because jax donates whole arguments by their number, and an argument
        # of the program is here one dictionary of all arguments.
        donated = {name: packed.pop(name) for name in self._donated}
        return donated, packed, mortals

    def _program(self, args: tuple, kwargs: dict[str, Any]) -> tuple[Any, dict, dict]:
        donated, kept, mortals = self.arguments(args, kwargs)
        key = frozenset(mortals)
        program = self._programs.get(key)
        if program is None:
            # Two threads that come at once share the program of the first; a jax.jit that was not
            # called costs nothing.
            program = self._programs.setdefault(key, self._compiled())
        return program, donated, kept

    def _compiled(self) -> Any:
        """A ``jax.jit`` of its own: jax keeps what it compiles as long as this function lives."""
        function = self._function

        @functools.wraps(function)
        def unpacked(donated: dict[str, Any], kept: dict[str, Any]) -> Any:
            given = {name: packed.value for name, packed in (donated | kept).items()}
            return function(**given)

        del unpacked.__wrapped__  # jax would take its arguments for those of this one
        return jax.jit(unpacked, donate_argnums=(0,) if self._donated else ())


class LoweredFunction:
    """A function lowered for certain arguments.

    Args:
      owner: the compiled function.
      lowered: what jax made of it.
    """

    def __init__(self, owner: CompiledFunction, lowered: Any) -> None:
        self._owner, self._lowered = owner, lowered

    def compile(self) -> "Executable":
        """Have XLA compile the program, ahead of its first call."""
        return Executable(self._owner, self._lowered.compile())


class Executable:
    """A function compiled for certain arguments.

    Args:
      owner: the compiled function.
      compiled: what jax made of it.
    """

    def __init__(self, owner: CompiledFunction, compiled: Any) -> None:
        self._owner, self._compiled = owner, compiled

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program; the arguments have the shapes and places that it was compiled for."""
        donated, kept, _ = self._owner.arguments(args, kwargs)
        with special_values_allowed():
            return self._compiled(donated, kept)

    def memory_analysis(self) -> Any:
        """What XLA says of the memory that the program takes, or None where it does not."""
        return self._compiled.memory_analysis()


def _trimming() -> Callable[[int], int] | None:
    """``malloc_trim`` where the C library has it, as glibc does."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        return ctypes.CDLL(None).malloc_trim
    return None


_TRIM = _trimming()


def _return_freed_memory() -> None:
    """Have the C library give back to the system what it keeps of freed memory.

    A compiler leaves its memory scattered over the arenas of glibc, which keeps nearly all of it:
    250 MB after eight small programs. To look for it takes a hundredth of the time that compiling
    one took.
    """
    if _TRIM is not None:
        _TRIM(0)


@contextlib.contextmanager
def special_values_allowed() -> Iterator[None]:
    """A context in which jax does not raise on NaN and infinite results, in this thread."""
    if not (jax.debug_nans.value or jax.debug_infs.value):
        yield  # without a context of its own, which would be another key of jax's caches
        return
    with jax.debug_nans(False), jax.debug_infs(False):
        yield


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True, eq=False)
class _Argument:
    """A pytree in parts, as it was flattened where functions are held weakly.

    Attributes:
      leaves: of the pytree.
      structure: of the pytree.
    """

    leaves: list[Any]
    structure: Any

    @classmethod
    def of(cls, tree: Any) -> "_Argument":
        return cls(*jax.tree.flatten(tree))

    @property
    def value(self) -> Any:
        return jax.tree.unflatten(self.structure, self.leaves)

    def tree_flatten(self) -> tuple[tuple[Any, ...], Any]:
        return tuple(self.leaves), self.structure

    @classmethod
    def tree_unflatten(cls, structure: Any, leaves: tuple[Any, ...]) -> "_Argument":
        return cls(list(leaves), structure)


@jax.tree_util.register_pytree_node_class
@dataclasses.dataclass(frozen=True, eq=False)
class _Static:
    """An argument that is not traced.

    Attributes:
      static: what is compared, also by its type.
    """

    static: StaticFunction

    @classmethod
    def of(cls, value: Any) -> "_Static":
        return cls(static_part(StaticFunction(value)))

    @property
    def value(self) -> Any:
        return self.static.function

    def tree_flatten(self) -> tuple[tuple[()], StaticFunction]:
        return (), self.static

    @classmethod
    def tree_unflatten(cls, static: StaticFunction, children: tuple[()]) -> "_Static":
        del children
        return cls(static)

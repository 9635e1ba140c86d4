"""What arguments must be, said once for each kind, and refused before anything is computed."""

import dataclasses
import difflib
import functools
import inspect
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

MOST = 2**31 - 1  # of a count: compiled code counts in 32 bits

# A line of a terminal. Ten times as many would bury the sentence around it.
_LONGEST = 80  # characters of a value in an error
_FEW_NAMES = 4  # of arguments that an error lists one by one

_Function = TypeVar("_Function", bound=Callable[..., Any])


class ArgumentError(ValueError):
    """An argument that is not what it must be.

    Its parts are kept apart from its sentence, because a config tells the same mistake by the key
    of a file, and together with all others.

    Attributes:
      name: of the argument, or a product of several, as ``"learning_rate * weight_decay"``.
      allowed: in words, after "must be".
      got: what was given, in one line.
      remedy: what to do about it, where more can be said than what is allowed; or empty.
    """

    def __init__(self, name: str, allowed: str, got: str, remedy: str = "") -> None:
        super().__init__(name, allowed, got, remedy)
        self.name, self.allowed, self.got, self.remedy = name, allowed, got, remedy

    def __str__(self) -> str:
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{self.name} must be {self.allowed}, got {self.got}{remedy}"


def no_remedy(value: Any) -> str:
    """Nothing more to say of a value than that it is not what is allowed.

    Args:
      value: what was given.
    """
    del value
    return ""


@dataclasses.dataclass(frozen=True)
class Kind:
    """What an argument must be.

    Attributes:
      allowed: in words, after "must be".
      fits: whether a value is that. It is not asked for values that jax traces, of which Python
        knows no numbers.
      remedy: what to do about a value that is something else, for those that are often given by
        mistake; empty for all others.
    """

    allowed: str
    fits: Callable[[Any], bool]
    remedy: Callable[[Any], str] = no_remedy

    def require(self, name: str, value: Any) -> None:
        """Refuse a value that is something else.

        Args:
          name: of the argument.
          value: what was given.

        Raises:
          ArgumentError: a ValueError that names the argument, the value and what is allowed.
        """
        if not isinstance(value, jax.core.Tracer) and not self.fits(value):
            raise ArgumentError(name, self.allowed, shown(value), self.remedy(value))

    def with_remedy(self, remedy: Callable[[Any], str]) -> "Kind":
        """The same kind, which says more of some values that it refuses.

        Args:
          remedy: value -> what to do about it, or an empty text.
        """
        return dataclasses.replace(self, remedy=remedy)


def checked(**kinds: Kind) -> Callable[[_Function], _Function]:
    """Have a function refuse arguments that are not what they must be, by their names.

    What depends on several arguments together is for the function itself to look at. Two mistakes
    are told apart from others, because the value itself does not show them: arguments that stand
    in another order, and a keyword that is misspelt.

    Args:
      **kinds: of the arguments, by name; those that are left out are not looked at, and
        neither are defaults.

    Returns:
      A decorator.
    """

    def decorate(function: _Function) -> _Function:
        parameters = inspect.signature(function).parameters
        variable = {p.kind for p in parameters.values()} & {inspect.Parameter.VAR_KEYWORD}
        names = [name for name, p in parameters.items() if p.kind is not p.KEYWORD_ONLY]
        unknown = kinds.keys() - parameters.keys()
        assert not unknown, f"{function.__qualname__} has no argument {sorted(unknown)}"

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            given = (*zip(names, args, strict=False), *kwargs.items())
            for place, (name, value) in enumerate(given):
                kind = kinds.get(name)
                if kind is None:
                    continue
                try:
                    kind.require(name, value)
                except ArgumentError as error:
                    # numbers fit the kinds of many arguments, and tell nothing of their order
                    others = [other for other in args if real(other) is None]
                    if error.remedy or place >= len(args) or not any(map(kind.fits, others)):
                        raise
                    order = f"the order is {function.__name__}({', '.join(names[: len(args)])})"
                    raise ArgumentError(error.name, error.allowed, error.got, order) from None
            try:
                return function(*args, **kwargs)
            except TypeError as error:
                misspelt = [name for name in kwargs if name not in parameters]
                # Python 3.13 says what was meant, and earlier ones do not
                if misspelt and not variable and "did you mean" not in str(error).lower():
                    error.args = (f"{error}{nearest(misspelt[0], parameters)}",)
                elif not misspelt and not _binds(function, args, kwargs):
                    error.args = (f"{error}; {_order(function)}",)
                raise

        return call  # type: ignore[return-value]

    return decorate


def _binds(function: Callable, args: tuple, kwargs: Mapping[str, Any]) -> bool:
    """Whether these are as many arguments as the function takes, and none is missing."""
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def _order(function: Callable) -> str:
    """The arguments of a function in their order, and those that are given by their names."""
    parameters = inspect.signature(function).parameters.values()
    by_place = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    by_name = [f"{p.name}=" for p in parameters if p.kind is p.KEYWORD_ONLY]
    named = ", ".join(by_name) if len(by_name) <= _FEW_NAMES else "all else"
    order = f"the order is {function.__name__}({', '.join(by_place)})"
    is_given = "is" if len(by_name) == 1 or named == "all else" else "are"
    return f"{order}, and {named} {is_given} given by name" if by_name else order


def remedies(*table: tuple[Kind, str]) -> Callable[[Any], str]:
    """What to do about values of some kinds, for ``Kind.with_remedy``.

    Args:
      *table: of kinds that are often given by mistake, each with what to do; the first that fits
        counts.

    Returns:
      value -> what to do about it; empty for one of no such kind, and for one that jax traces.
    """

    def remedy(value: Any) -> str:
        if isinstance(value, jax.core.Tracer):
            return ""
        return next((words for kind, words in table if kind.fits(value)), "")

    return remedy


def real(value: Any) -> float | None:
    """A real number as a float; None for all else, and for what no float can hold.

    Args:
      value: a number of Python, numpy or jax, or an array of shape ().
    """
    if isinstance(value, (bool, np.bool_)):
        return None
    # other numbers, as fractions, no array holds; and a span of time is an integer to numpy alone
    scalar = (
        isinstance(value, (int, float, np.integer, np.floating))
        and not isinstance(value, np.timedelta64)
    ) or (
        getattr(value, "shape", None) == ()
        and _is_real(getattr(value, "dtype", None))
        and not isinstance(value, jax.ShapeDtypeStruct)
    )
    try:
        return float(value) if scalar else None
    except (OverflowError, TypeError, ValueError):
        return None


def number(
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    most: float | None = None,
) -> Kind:
    """A real and finite number within bounds.

    Args:
      above, least, below, most: exclusive and inclusive bounds, none by default.
    """
    bounds = {"above": above, "at least": least, "below": below, "at most": most}
    in_words = [f"{words} {bound:g}" for words, bound in bounds.items() if bound is not None]
    if above == 0 and below is most is None:
        in_words = ["positive"]

    def fits(value: Any) -> bool:
        size = real(value)
        if size is None or not math.isfinite(size):
            return False
        if isinstance(value, int) and abs(value) > MOST:  # as no array of jax holds it
            return False
        return (
            (above is None or size > above)
            and (least is None or size >= least)
            and (below is None or size < below)
            and (most is None or size <= most)
        )

    return Kind(" and ".join([*in_words, "finite"]) + ("" if in_words else ", a number"), fits)


def count(least: int = 1, most: int = MOST) -> Kind:
    """An integer.

    Args:
      least, most: bounds, both allowed.
    """

    def fits(value: Any) -> bool:
        integer = isinstance(value, (int, np.integer)) or (
            getattr(value, "shape", None) == ()
            and jnp.issubdtype(getattr(value, "dtype", bool), jnp.integer)
        )
        integer = integer and not isinstance(value, (bool, np.timedelta64))
        return integer and least <= int(value) <= most

    words = "an integer" + ("" if least == -MOST else f" from {least} to {most}")
    return Kind(words, fits)


def choice(options: Iterable[Any], also: Sequence[Any] = ()) -> Kind:
    """One of some texts.

    Args:
      options: what is allowed, as the error names it.
      also: what else is allowed.
    """
    known = tuple(options)
    # by comparison, because not everything has a hash, and texts only: arrays compare entrywise
    return Kind(
        f"one of {known}",
        lambda value: isinstance(value, str) and (value in known or value in also),
    )


def optional(kind: Kind) -> Kind:
    """None, or of a kind."""
    fits = lambda value: value is None or kind.fits(value)  # noqa: E731
    return Kind(f"{kind.allowed}, or None", fits, kind.remedy)


def sequence(kind: Kind, words: str) -> Kind:
    """A sequence, and no text, whose members are all of a kind.

    Args:
      kind: of each member.
      words: what the members are, after "a sequence of".
    """
    return Kind(
        f"a sequence of {words}",
        lambda value: (
            isinstance(value, Sequence)
            and not isinstance(value, (str, bytes))
            and all(kind.fits(member) for member in value)
        ),
    )


def instance(types: type | tuple[type, ...], words: str) -> Kind:
    """An object of a class.

    Args:
      types: as for ``isinstance``.
      words: what to call it.
    """
    return Kind(words, lambda value: isinstance(value, types))


def of_lazy_type(module: str, name: str, words: str) -> Kind:
    """An object of a class of a library that is not loaded for this check.

    Args:
      module: the library; nothing is of the class before somebody has loaded it.
      name: of the class.
      words: what to call it.
    """

    def fits(value: Any) -> bool:
        return any(
            kind.__name__ == name and kind.__module__.split(".")[0] == module
            for kind in type(value).__mro__
        )

    return Kind(words, fits)


def any_of(*kinds: Kind) -> Kind:
    """What is of one of some kinds."""
    return Kind(
        ", or ".join(kind.allowed for kind in kinds),
        lambda value: any(kind.fits(value) for kind in kinds),
        lambda value: next(filter(None, (kind.remedy(value) for kind in kinds)), ""),
    )


def array(
    rank: int | None = None,
    *,
    above: float | None = None,
    least: float | None = None,
    below: float | None = None,
    missing: bool = False,
) -> Kind:
    """An array of real and finite numbers, or what numpy makes one of.

    Args:
      rank: number of its dimensions; by default any.
      above, least, below: exclusive and inclusive bounds of all entries.
      missing: whether entries may be NaN, as those of a trajectory that has ended.
    """
    shape = "" if rank is None else f" with {rank} dimension" + ("s" if rank != 1 else "")
    bounds = {" above": above, " of at least": least, " below": below}
    in_words = "".join(f"{words} {bound:g}" for words, bound in bounds.items() if bound is not None)
    unknown = ", or NaN" if missing else ""

    def fits(value: Any) -> bool:
        if isinstance(value, (list, tuple)) and any(
            isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value)
        ):
            return True
        if isinstance(value, np.ma.MaskedArray):  # numpy would read what is under the mask
            return False
        try:
            entries = np.asarray(value)
        except (TypeError, ValueError, OverflowError):
            return False
        if not _is_real(entries.dtype) or (rank is not None and entries.ndim != rank):
            return False
        if missing:
            entries = entries[~np.isnan(entries)]
        return bool(
            np.all(np.isfinite(entries))
            and (above is None or np.all(entries > above))
            and (least is None or np.all(entries >= least))
            and (below is None or np.all(entries < below))
        )

    return Kind(f"an array of finite numbers{in_words}{unknown}{shape}", fits)


def _is_floating_pytree(value: Any) -> bool:
    leaves = jax.tree.leaves(value)
    return bool(leaves) and all(
        jnp.issubdtype(getattr(leaf, "dtype", type(None)), jnp.floating) or isinstance(leaf, float)
        for leaf in leaves
    )


def _is_array(value: Any) -> bool:
    """Whether numpy makes an array of this; of which kind is for the function to look at."""
    if value is None or isinstance(value, np.ma.MaskedArray):
        return False
    try:
        kind = np.asarray(value).dtype.kind
    except (TypeError, ValueError, OverflowError):
        return False
    return kind != "O"


POSITIVE = number(above=0)
NOT_NEGATIVE = number(least=0)
SHARE = Kind("at least 0 and below 1", number(least=0, below=1).fits)
FINITE = number()
COUNT = count()
INTEGER = count(-MOST)  # where its bounds depend on what else is given
# jax.random.key takes the low 32 bits of a seed where x64 is off, so that a larger one would draw
# what a smaller one draws.
SEED = count(0, 2**32 - 1)
FLAG = Kind("True or False", lambda value: isinstance(value, (bool, np.bool_)))
TEXT = Kind("a text", lambda value: isinstance(value, str))
DATA = Kind("an array of numbers", _is_array)
NUMBERS = Kind(
    "an array of real numbers",
    lambda value: (
        _is_array(value)
        and (isinstance(value, jax.Array) or np.asarray(value).dtype.kind in "biuf")
    ),
)
SIZES = sequence(COUNT, "positive integers")
LAYERS = sequence(count(0), "integers from 0 on")  # 0 for a layer without channels of its own
MAPPING = instance(Mapping, "a dictionary")
NAMES = Kind(
    "a sequence of names",
    lambda value: (
        isinstance(value, Iterable)
        and not isinstance(value, (str, bytes))
        and all(isinstance(name, str) for name in value)
    ),
)
PAIR = Kind(
    "a pair (x, y), or None",
    # an iterable is let pass, because looking into it would use it up
    lambda value: (
        value is None
        or (isinstance(value, Iterable) and (not isinstance(value, Sized) or len(value) == 2))
    ),
)
PATH = instance((str, os.PathLike), "a path")
KEY = Kind(
    "a key of jax.random",
    lambda value: (
        isinstance(value, jax.Array)
        and (jnp.issubdtype(value.dtype, jax.dtypes.prng_key) or value.dtype == jnp.uint32)
    ),
)
FUNCTION = Kind("a function", callable)
# By the names of their classes, most of which belong to rooms and libraries that this one does not
# import.
SNAPSHOT_LIKE, TRAJECTORY_LIKE, FLOW_LIKE, CENTRAL_FLOW_LIKE = (
    of_lazy_type("sharpflow", name, name)
    for name in ("Snapshot", "Trajectory", "FlowSolution", "CentralFlowSolution")
)
DATASET = of_lazy_type("xarray", "Dataset", "an xarray.Dataset")
PARAMS = Kind("a pytree of floating-point arrays", _is_floating_pytree).with_remedy(
    remedies(
        (SNAPSHOT_LIKE, "take its params, as in snapshot.params"),
        (
            TRAJECTORY_LIKE,
            "take its final_params, or those of a step by trajectory.snapshot(step).params",
        ),
        (
            FLOW_LIKE,
            "take one of its points, as in jax.tree.map(lambda leaf: leaf[-1], flow.theta)",
        ),
        (
            CENTRAL_FLOW_LIKE,
            "take one of its points, as in jax.tree.map(lambda leaf: leaf[-1], flow.params)",
        ),
        (
            DATASET,
            "of a grid sharpflow.simulator.grid_point(grid, problem, seed=...) makes a trajectory, "
            "whose final_params are params",
        ),
        (
            PATH,
            "sharpflow.load(path) reads what the method save of a trajectory wrote, and its "
            "final_params are params",
        ),
        (KEY, "draw them with problem.init(key)"),
        (count(0), "draw them with problem.init(jax.random.key(seed))"),
    )
)


def require_within(dtype: DTypeLike, *, zero: bool = False, **given: Any) -> None:
    """Refuse numbers that a dtype turns into infinity, or into zero though they are not.

    A check of the number itself is made in Python's double precision, and what is computed with it
    may be in single precision.

    Args:
      dtype: floating point, that will hold them.
      zero: whether what is too small may become zero.
      **given: numbers or arrays by their names; None and traced ones pass.

    Raises:
      ArgumentError: a ValueError that names the first that does not fit.
    """
    limits = jnp.finfo(dtype)
    for name, value in given.items():
        if value is None or isinstance(value, jax.core.Tracer):
            continue
        sizes = np.abs(np.asarray(value, np.float64))
        sizes = sizes[sizes > 0]
        if sizes.size and not (
            (zero or float(limits.tiny) <= sizes.min()) and sizes.max() <= float(limits.max)
        ):
            low, high = float(limits.tiny), float(limits.max)
            held = f"within {np.dtype(dtype).name}, from {low:.2g} to {high:.2g} in size"
            raise ArgumentError(name, held, shown(value))


def require_alike(name: str, tree: Any, like_name: str, like: Any) -> None:
    """Refuse a pytree that has not the arrays of another one.

    Args:
      name, tree: what is looked at.
      like_name, like: what it must be like.

    Raises:
      ValueError: another structure or other shapes.
    """
    # as a set, because jax declares no comparison of structures
    trees = {jax.tree.structure(one) for one in (tree, like)}
    shapes = [[jnp.shape(leaf) for leaf in jax.tree.leaves(one)] for one in (tree, like)]
    if len(trees) > 1 or shapes[0] != shapes[1]:
        raise ValueError(
            f"{name} must be a pytree like {like_name}, with arrays of shapes {shown(shapes[1])}, "
            f"got {shown(shapes[0])} in {shown(jax.tree.structure(tree))}"
        )


def nearest(name: object, known: Iterable[str]) -> str:
    """``; did you mean "..."?`` where a name is close to one of the known ones, else nothing.

    Args:
      name: what somebody wrote.
      known: what there is.
    """
    if not isinstance(name, str):
        return ""
    matches = difflib.get_close_matches(name[:_LONGEST], list(known), n=1)
    return f'; did you mean "{matches[0]}"?' if matches else ""


def shown(value: Any) -> str:
    """Any value, short and on one line.

    Args:
      value: whatever was given as an argument.
    """
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**30:
        return f"an integer of {value.bit_length()} bits"  # Python may refuse its digits
    if isinstance(getattr(value, "shape", None), tuple) and getattr(value, "shape", ()) != ():
        dtype = f" and dtype {value.dtype}" if hasattr(value, "dtype") else ""
        return f"{type(value).__name__} of shape {value.shape}{dtype}"
    try:
        text = " ".join(repr(value).split())
    except Exception:  # somebody else's repr, while this says what is wrong with the argument
        text = f"a {type(value).__name__}"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def _is_real(dtype: Any) -> bool:
    if dtype is None:
        return False
    return jnp.issubdtype(dtype, jnp.integer) or jnp.issubdtype(dtype, jnp.floating)

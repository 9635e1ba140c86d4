"""The keys of a config, each by itself: of what kind its value is, and within what range."""

import keyword
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sharpflow.experiments.config.mistakes import mistake, nearest, shortened, shown_key
from sharpflow.experiments.config.optimizers import OPTIMIZERS
from sharpflow.models.precision import MATMUL_PRECISIONS
from sharpflow.simulator.columns import is_free
from sharpflow.simulator.grid.layout import LANES
from sharpflow.simulator.observables import BUILT_IN, RUNNING

OBSERVABLES = (*BUILT_IN, *RUNNING)
DTYPES = ("float32", "float64")
MOST = 2**31 - 1  # steps are counted in int32
_DEEPEST = 8


class Kind(NamedTuple):
    """What one value of a key may be.

    Attributes:
      allowed: in words.
      read: the value as a run uses it, or None where it is not allowed.
      many: whether a list of them is allowed too.
      choices: names among which a misspelt one is looked for.
    """

    allowed: str
    read: Callable[[Any], Any]
    many: bool = False
    choices: Sequence[str] = ()


def number(value: Any) -> float | None:
    """A finite float, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _number_where(fits: Callable[[float], bool]) -> Callable[[Any], float | None]:
    def read(value: Any) -> float | None:
        found = number(value)
        return found if found is not None and fits(found) else None

    return read


def _integer(low: int, high: int) -> Callable[[Any], int | None]:
    def read(value: Any) -> int | None:
        whole = isinstance(value, int) and not isinstance(value, bool)
        return value if whole and low <= value <= high else None

    return read


def _one_of(names: Sequence[str]) -> Callable[[Any], str | None]:
    return lambda value: value if isinstance(value, str) and value in names else None


def _reference(value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    module, colon, attribute = value.partition(":")
    names = [*module.split("."), *attribute.split(".")]
    return value if colon and all(name.isidentifier() for name in names) else None


def _optimizer(value: Any) -> str | None:
    return value if _one_of(tuple(OPTIMIZERS))(value) else _reference(value)


_POSITIVE = Kind("a finite number above 0", _number_where(lambda value: value > 0))
_COUNT = Kind(f"an integer from 1 to {MOST}", _integer(1, MOST))
_REFERENCE = Kind('"module:function"', _reference)

KINDS: dict[str, Kind] = {
    "problem": _REFERENCE,
    "seed": Kind("an integer from 0 to 4294967295", _integer(0, 2**32 - 1), many=True),
    "learning_rate": _POSITIVE._replace(many=True),
    "weight_decay": Kind(
        "a finite number of at least 0", _number_where(lambda value: value >= 0), many=True
    ),
    "num_steps": _COUNT,
    "tau": _POSITIVE,
    "record_every": _COUNT,
    "record_at": Kind(f"an integer from 0 to {MOST}", _integer(0, MOST), many=True),
    "num_records": _COUNT,
    "observables": Kind(
        f"names of observables ({', '.join(OBSERVABLES)})",
        _one_of(OBSERVABLES),
        many=True,
        choices=OBSERVABLES,
    ),
    "snapshot_every": _COUNT,
    "optimizer": Kind(
        ", ".join(f'"{name}"' for name in OPTIMIZERS) + ' or "module:function"',
        _optimizer,
        choices=tuple(OPTIMIZERS),
    ),
    "start": _REFERENCE,
    "dtype": Kind('"float32" or "float64"', _one_of(DTYPES), choices=DTYPES),
    "group_width": _COUNT,
    "lanes": Kind('"side_by_side" or "in_turn"', _one_of(LANES), choices=LANES),
    "matmul_precision": Kind(
        '"highest", "high" or "default"', _one_of(MATMUL_PRECISIONS), choices=MATMUL_PRECISIONS
    ),
    "description": Kind("a text", lambda value: value if isinstance(value, str) else None),
}
KEYS = ("preset", *KINDS, "problem_options", "axes")

# An axis is a keyword of the functions beside the keys of a config, which name what each is for.
RESERVED = {*KEYS, *OBSERVABLES, "params"}


def read_key(key: str, value: Any) -> tuple[Any, list[str]]:
    """The value of a key as a run uses it, None where it is not allowed, and what is wrong.

    Keys of many values take one, or a list of values that differ, and give a tuple.
    """
    if key == "problem_options":
        return _read_options(value)
    if key == "axes":
        return _read_axes(value)
    kind = KINDS[key]
    if kind.many and isinstance(value, list):
        return _read_list(key, value, kind)
    found = kind.read(value)
    if found is None:
        return None, [_unfit(key, value, kind, ", or a list of those" if kind.many else "")]
    return ((found,) if kind.many else found), []


def _read_list(key: str, value: list, kind: Kind) -> tuple[tuple | None, list[str]]:
    if not value:
        return None, [mistake(key, value, f"at least one: {kind.allowed}")]
    entries = [kind.read(item) for item in value]
    unfit = [index for index, entry in enumerate(entries) if entry is None]
    lines = (_unfit(f"{key}[{index}]", value[index], kind) for index in unfit)
    mistakes = shortened(lines, len(unfit), key) or _repeated(key, entries)
    return (None if mistakes else tuple(entries)), mistakes


def _read_options(value: Any) -> tuple[dict[str, Any] | None, list[str]]:
    if not isinstance(value, dict):
        return None, [mistake("problem_options", value, "a table, [problem_options]")]
    options, mistakes = {}, _unfit_names("problem_options", value)
    if "dtype" in value:
        mistakes.append(mistake("problem_options.dtype", value["dtype"], "as the key dtype alone"))
    for name, item in value.items():
        options[name], wrong = _plain(f"problem_options.{shown_key(name)}", item, _DEEPEST)
        mistakes += wrong
    return options, shortened(mistakes, len(mistakes), "problem_options")


def _read_axes(value: Any) -> tuple[dict[str, tuple] | None, list[str]]:
    if not isinstance(value, dict):
        return None, [mistake("axes", value, "a table of lists, [axes]")]
    axes, mistakes = {}, _unfit_names("axes", value)
    for name, values in value.items():
        path = f"axes.{shown_key(name)}"
        if name in RESERVED or not is_free(name):
            mistakes.append(f"{path}: got a name that is taken; allowed any other name")
        entries, wrong = _axis(path, values)
        mistakes += wrong
        if entries is not None:
            axes[name] = entries
    return axes, shortened(mistakes, len(mistakes), "axes")


def _unfit_names(table: str, names: Iterable[str]) -> list[str]:
    return [
        f"{table}: got the name {shown_key(name)}; allowed names of keywords"
        for name in names
        if not name.isidentifier() or keyword.iskeyword(name)
    ]


def _axis(path: str, values: Any) -> tuple[tuple | None, list[str]]:
    allowed = "a list of finite numbers, of texts, or of lists of integers, all of one kind"
    if not isinstance(values, list) or not values:
        return None, [mistake(path, values, f"at least one value in {allowed}")]
    integer = _integer(-(2**63), 2**63 - 1)
    entries: list[Any]
    whole = all(integer(item) is not None for item in values)
    if whole or all(isinstance(item, str) and item and item.isprintable() for item in values):
        entries = list(values)
    elif all(
        isinstance(item, list) and item and all(integer(part) is not None for part in item)
        for item in values
    ):
        entries = [tuple(item) for item in values]
    else:
        entries = [number(item) for item in values]
    if None in entries:
        return None, [mistake(path, values, allowed)]
    repeated = _repeated(path, entries)
    return (None if repeated else tuple(entries)), repeated


def _plain(path: str, value: Any, depth: int) -> tuple[Any, list[str]]:
    """A value of TOML as it is passed on, lists as tuples."""
    if depth == 0:
        return None, [mistake(path, value, f"at most {_DEEPEST} levels of nesting")]
    if isinstance(value, list):
        items, mistakes = [], []
        for index, item in enumerate(value):
            plain, wrong = _plain(f"{path}[{index}]", item, depth - 1)
            items.append(plain)
            mistakes += wrong
        return tuple(items), shortened(mistakes, len(mistakes), path)
    if isinstance(value, Mapping):
        table, mistakes = {}, []
        for name, item in value.items():
            table[name], wrong = _plain(f"{path}.{shown_key(name)}", item, depth - 1)
            mistakes += wrong
        return table, shortened(mistakes, len(mistakes), path)
    small = not isinstance(value, int) or -(2**63) <= value < 2**63
    if isinstance(value, bool | int | float | str) and small and value == value:
        return value, []
    allowed = "numbers other than nan, integers of 64 bits, texts, booleans, lists and tables"
    return None, [mistake(path, value, allowed)]


def _unfit(key: str, value: Any, kind: Kind, more: str = "") -> str:
    return mistake(key, value, f"{kind.allowed}{more}") + nearest(value, kind.choices)


def _repeated(key: str, entries: Sequence[Any]) -> list[str]:
    seen: set[Any] = set()
    lines = []
    for index, entry in enumerate(entries):
        if entry in seen:
            lines.append(mistake(f"{key}[{index}]", entry, "every value once; it is repeated"))
        seen.add(entry)
    return shortened(lines, len(lines), key)

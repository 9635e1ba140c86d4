"""The keys of a config, each by itself: of what kind its value is, and within what range."""

import keyword
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from sharpflow.experiments.config.mistakes import mistake, shortened, shown_key
from sharpflow.experiments.config.optimizers import OPTIMIZERS
from sharpflow.experiments.config.published import read_published
from sharpflow.experiments.config.schedules import ALLOWED as ALLOWED_KINDS
from sharpflow.experiments.config.schedules import KINDS as KINDS_OF_SCHEDULE
from sharpflow.models import arguments
from sharpflow.models.arguments import (
    COUNT,
    FINITE,
    FLAG,
    SEED,
    TEXT,
    Kind,
    any_of,
    choice,
    count,
    nearest,
)
from sharpflow.models.paths import user_path
from sharpflow.models.precision import MATMUL_PRECISIONS
from sharpflow.simulator.columns import is_free
from sharpflow.simulator.grid.engine import LANES
from sharpflow.simulator.observables import BUILT_IN, RUNNING
from sharpflow.simulator.prediction import KINDS
from sharpflow.theory.linearization import METHODS

OBSERVABLES = (*BUILT_IN, *RUNNING)
# Options are nested two or three levels deep. Every level costs a few frames of the readers below,
# so that ten times as many come near the end of the stack.
_DEEPEST = 8  # levels of an option; Python's own stack ends at some hundred


class Key(NamedTuple):
    """What a key of a config takes.

    Attributes:
      kind: of a value, as the library checks it.
      many: whether a list of such values is allowed too.
      choices: names among which a misspelt one is looked for.
      read: makes of a value what a run uses.
    """

    kind: Kind
    many: bool = False
    choices: Sequence[str] = ()
    read: Callable[[Any], Any] = lambda value: value


def is_reference(value: Any) -> bool:
    """Whether this names a function, ``"module:function"``.

    Args:
      value: of a config.
    """
    module, colon, attribute = value.partition(":") if isinstance(value, str) else ("", "", "")
    return bool(colon) and all(
        name.isidentifier() for name in (*module.split("."), *attribute.split("."))
    )


def _one_of(*names: str) -> Key:
    *first, last = (f'"{name}"' for name in names)
    return Key(Kind(f"{', '.join(first)} or {last}", choice(names).fits), choices=names)


# In the words of a list that may stand after "got VALUE; allowed", with the checks of the library.
_POSITIVE = Kind("a finite number above 0", arguments.POSITIVE.fits)
_NOT_NEGATIVE = Kind("a finite number of at least 0", arguments.NOT_NEGATIVE.fits)
_REFERENCE = Kind('"module:function"', is_reference)
_OPTIMIZER = Kind(
    ", ".join(f'"{name}"' for name in OPTIMIZERS) + ' or "module:function"',
    arguments.any_of(choice(OPTIMIZERS), _REFERENCE).fits,
)
_OBSERVABLE = Kind(
    f'names of observables ({", ".join(OBSERVABLES)}) or "module:function"',
    arguments.any_of(choice(OBSERVABLES), _REFERENCE).fits,
)

_KIND_OF_SCHEDULE = Kind(
    ALLOWED_KINDS,
    arguments.any_of(choice(KINDS_OF_SCHEDULE), _REFERENCE).fits,
)

# Not models of pydantic, which could check the same: loading and building them adds more than 0.1 s
# to every start, a list of a million wrong entries takes it ten seconds, an entry that may be of
# several kinds gets a mistake for each, and its sentences tell neither our keys nor near names.
SCHEMA: dict[str, Key] = {
    "problem": Key(_REFERENCE),
    "seed": Key(SEED, many=True),
    "learning_rate": Key(_POSITIVE, many=True, read=float),
    "weight_decay": Key(_NOT_NEGATIVE, many=True, read=float),
    "num_steps": Key(COUNT),
    "tau": Key(_POSITIVE, read=float),
    "record_every": Key(COUNT),
    "record_at": Key(count(0), many=True),
    "num_records": Key(COUNT),
    "observables": Key(_OBSERVABLE, many=True, choices=OBSERVABLES),
    "snapshot_every": Key(COUNT),
    "final_state": Key(FLAG),
    "optimizer": Key(_OPTIMIZER, choices=tuple(OPTIMIZERS)),
    "start": Key(_REFERENCE),
    "dtype": _one_of("float32", "float64"),
    "group_width": Key(COUNT),
    "lanes": _one_of(*LANES),
    "matmul_precision": _one_of(*MATMUL_PRECISIONS),
    "description": Key(TEXT),
}
# of the table [prediction], which may be empty: then every option has its default
PREDICTION: dict[str, Key] = {
    "kind": _one_of(*KINDS),
    "arrival_distance": Key(_POSITIVE, read=float),
    "num_outputs": Key(COUNT),
    "max_edge": Key(COUNT),
    "rtol": Key(_POSITIVE, read=float),
    "max_steps": Key(COUNT),
    "max_seconds": Key(_POSITIVE, read=float),
    "method": _one_of(*METHODS),
}
# of the table [fork]; its table point has labels by axis
FORK: dict[str, Key] = {
    "run": Key(TEXT, read=lambda run: str(user_path(run).absolute())),
    "at": Key(count(0)),
}
# of the table [schedule], beside which its kind decides what it takes
SCHEDULE: dict[str, Key] = {
    "kind": Key(_KIND_OF_SCHEDULE, choices=KINDS_OF_SCHEDULE),
    "at": Key(COUNT, many=True),
    "factor": Key(_POSITIVE, read=float),
    "final_share": Key(_NOT_NEGATIVE, read=float),
    "warmup_steps": Key(COUNT),
    "decay_steps": Key(COUNT),
}
KEYS = ("preset", *SCHEMA, "problem_options", "axes", "schedule", "prediction", "published", "fork")

# What TOML promises for its integers; a larger one would be refused by numpy much later.
_WHOLE = count(-(2**63), 2**63 - 1)
_PLAIN = Kind(
    "numbers other than nan, integers of 64 bits, texts, booleans, lists and tables",
    lambda value: (
        _WHOLE.fits(value)
        or isinstance(value, bool | str)
        or (isinstance(value, float) and value == value)
    ),
)
# Of what an axis may consist, each with what a run makes of an entry. In this order, because a
# whole number is a finite one too and stays whole where all are.
_ENTRIES: tuple[tuple[Callable[[Any], bool], Callable[[Any], Any]], ...] = (
    (_WHOLE.fits, int),
    (lambda entry: isinstance(entry, str) and bool(entry) and entry.isprintable(), str),
    (lambda entry: isinstance(entry, list) and bool(entry) and all(map(_WHOLE.fits, entry)), tuple),
    (FINITE.fits, float),
)


def read_key(key: str, value: Any) -> tuple[Any, list[str]]:
    """The value of a key as a run uses it, None where it is not allowed, and what is wrong.

    Keys of many values take one, or a list of values that differ, and give a tuple.
    """
    if key == "problem_options":
        return _read_options(value)
    if key == "axes":
        return _read_axes(value)
    if key == "prediction":
        return _read_table(key, PREDICTION, value)
    if key == "schedule":
        return _read_schedule(value)
    if key == "published":
        return read_published(value)
    if key == "fork":
        return _read_fork(value)
    return _read_entries(key, SCHEMA[key], value)


def _read_entries(key: str, schema: Key, value: Any) -> tuple[Any, list[str]]:
    """The value of a key by its schema."""
    kind, many, choices, read = schema
    listed = many and isinstance(value, list)
    entries = value if listed else [value]
    if not entries:
        return None, [mistake(key, value, f"at least one: {kind.allowed}")]
    allowed = f"{kind.allowed}, or a list of those" if many and not listed else kind.allowed
    unfit = [index for index, entry in enumerate(entries) if not kind.fits(entry)]
    lines = (
        mistake(f"{key}[{index}]" if listed else key, entries[index], allowed)
        + nearest(entries[index], choices)
        for index in unfit
    )
    if unfit:
        return None, shortened(lines, len(unfit), key)
    entry_values = tuple(map(read, entries))
    return _distinct(key, entry_values) if many else (entry_values[0], [])


def _read_options(value: Any) -> tuple[dict[str, Any] | None, list[str]]:
    if not isinstance(value, dict):
        return None, [mistake("problem_options", value, "a table, [problem_options]")]
    mistakes = _unfit_names("problem_options", value)
    if "dtype" in value:
        mistakes.append(mistake("problem_options.dtype", value["dtype"], "as the key dtype alone"))
    options, wrong = _plain("problem_options", value, _DEEPEST + 1)
    mistakes += wrong
    return options, shortened(mistakes, len(mistakes), "problem_options")


def _read_table(
    key: str, schema: dict[str, Key], value: Any
) -> tuple[dict[str, Any] | None, list[str]]:
    if not isinstance(value, dict):
        return None, [mistake(key, value, f"a table, [{key}]")]
    options, mistakes = {}, []
    for name, entry in value.items():
        path = f"{key}.{shown_key(name)}"
        if name not in schema:
            near = nearest(name, tuple(schema))
            mistakes.append(f"{path}: got an unknown key; allowed {', '.join(schema)}{near}")
            continue
        options[name], wrong = _read_entries(path, schema[name], entry)
        mistakes += wrong
    return options, shortened(mistakes, len(mistakes), key)


def _read_schedule(value: Any) -> tuple[dict[str, Any] | None, list[str]]:
    """The table of a schedule; beside a function of the user's own its keywords."""
    if not isinstance(value, dict) or not is_reference(value.get("kind")):
        return _read_table("schedule", SCHEDULE, value)
    mistakes = _unfit_names("schedule", value)
    if "num_steps" in value:
        allowed = "as the key num_steps alone"
        mistakes.append(mistake("schedule.num_steps", value["num_steps"], allowed))
    options, wrong = _plain("schedule", value, _DEEPEST + 1)
    mistakes += wrong
    return options, shortened(mistakes, len(mistakes), "schedule")


def _read_fork(value: Any) -> tuple[dict[str, Any] | None, list[str]]:
    if not isinstance(value, dict):
        return None, [mistake("fork", value, "a table, [fork], with run")]
    allowed = (*FORK, "point")
    given, mistakes = {}, []
    for name, entry in value.items():
        path = f"fork.{shown_key(name)}"
        if name == "point":
            wrong = _unfit_labels(path, entry)
            given[name] = entry
        elif name in FORK:
            given[name], wrong = _read_entries(path, FORK[name], entry)
        else:
            near = nearest(name, allowed)
            wrong = [f"{path}: got an unknown key; allowed {', '.join(allowed)}{near}"]
        mistakes += wrong
    if "run" not in value:
        mistakes.append("fork.run: got nothing; allowed the folder of a run")
    return given, shortened(mistakes, len(mistakes), "fork")


def _unfit_labels(path: str, value: Any) -> list[str]:
    """What is wrong with the labels of a point of a run."""
    if not isinstance(value, dict):
        return [mistake(path, value, "a table of labels by axis, [fork.point]")]
    fits = any_of(FINITE, Kind("", lambda label: isinstance(label, str))).fits
    return [
        mistake(f"{path}.{shown_key(name)}", label, "a number or a text, a label of the run")
        for name, label in value.items()
        if not fits(label)
    ]


def _read_axes(value: Any) -> tuple[dict[str, tuple] | None, list[str]]:
    if not isinstance(value, dict):
        return None, [mistake("axes", value, "a table of lists, [axes]")]
    axes, mistakes = {}, _unfit_names("axes", value)
    for name, values in value.items():
        path = f"axes.{shown_key(name)}"
        # the keys of a config name what each value is for, and an axis is a keyword beside them
        if name in KEYS or not is_free(name):
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
    # All entries of one kind, because they become one coordinate of a dataset, which has one dtype.
    for fits, read in _ENTRIES:
        if all(map(fits, values)):
            return _distinct(path, tuple(map(read, values)))
    return None, [mistake(path, values, allowed)]


def _plain(path: str, value: Any, depth: int) -> tuple[Any, list[str]]:
    """A value of TOML as it is passed on, lists as tuples."""
    table, several = isinstance(value, dict), isinstance(value, dict | list)
    if depth == 0 or not (several or _PLAIN.fits(value)):
        deep = f"at most {_DEEPEST} levels of nesting"
        return None, [mistake(path, value, _PLAIN.allowed if depth else deep)]
    if not several:
        return value, []
    items = (
        [(f"{path}.{shown_key(name)}", item) for name, item in value.items()]
        if table
        else [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    )
    read = [_plain(inner, item, depth - 1) for inner, item in items]
    plain_items = [item for item, _ in read]
    mistakes = [line for _, lines in read for line in lines]
    plain = dict(zip(value, plain_items, strict=True)) if table else tuple(plain_items)
    return plain, shortened(mistakes, len(mistakes), path)


def _distinct(key: str, entries: tuple) -> tuple[tuple | None, list[str]]:
    """The entries, or None and a line for each that is there a second time."""
    seen: set[Any] = set()
    lines = []
    for index, entry in enumerate(entries):
        if entry in seen:
            lines.append(mistake(f"{key}[{index}]", entry, "every value once; it is repeated"))
        seen.add(entry)
    return (None if lines else entries), shortened(lines, len(lines), key)

"""A config from where it is written to what is run: read, laid in layers, and checked."""

import os
from collections.abc import Sequence
from pathlib import Path

from sharpflow.experiments.config import functions, keys
from sharpflow.experiments.config.consistency import Values, inconsistent
from sharpflow.experiments.config.mistakes import (
    ConfigError,
    mistake,
    shortened,
    shown,
    shown_key,
)
from sharpflow.experiments.config.optimizers import default_decay
from sharpflow.experiments.config.resolved import Config
from sharpflow.experiments.config.schedules import (
    ends_with_run,
    is_function,
    keywords_of_function,
    needs_length,
)
from sharpflow.experiments.config.sources import (
    ALTERNATIVES,
    Table,
    overlaid,
    read_overrides,
    read_source,
    under_preset,
)
from sharpflow.models.arguments import FLAG, NAMES, TEXT, any_of, checked, instance, nearest
from sharpflow.simulator.observables import DEFAULT


@checked(
    source=any_of(instance(os.PathLike, "a path"), TEXT), overrides=NAMES, check_functions=FLAG
)
def load(
    source: str | os.PathLike[str], overrides: Sequence[str] = (), *, check_functions: bool = True
) -> Config:
    """The config of a TOML file or a preset, with everything about it checked.

    A preset lies under the file that names it, the file under the overrides. No problem is
    made, but the modules that the config names are imported, from beside the file, the
    working directory or where Python finds them: load only what you would run. Where ``tau``
    is given, the update rule is asked for its clock, in arrays of jax.

    Args:
      source: path of a TOML file, or the name of a preset; ``./name`` is always a file.
      overrides: ``"key=value"``, as after ``--set``: the value is TOML, or a bare word
        or path; a dotted key reaches into a table.
      check_functions: False leaves the named modules alone, for the config that a run
        has stored.

    Returns:
      The config, every key resolved.

    Raises:
      ConfigError: a ValueError with every mistake there is, one line each.
    """
    changes, mistakes = read_overrides(overrides)
    try:
        name, folder, table = read_source(source)
    except ConfigError as error:
        raise ConfigError(error.source, [*error.mistakes, *mistakes]) from error
    table = overlaid(table, changes)
    mistakes += _misgiven(table)
    # A file that gives both has a mistake already. Which of the two functions was meant is not
    # known, and to check one of them would report mistakes of a problem that nobody asked for.
    doubtful = {"preset", "problem"} <= table.keys()
    table, wrong = under_preset(table)
    mistakes += wrong
    values, wrong = _read(table)
    values |= _defaults(table)
    mistakes += wrong
    if "preset" not in table:
        mistakes += _missing(table)
    # Always, with the values that are right and the defaults for others: a reader learns all that
    # is wrong at once, and not one thing with every try.
    mistakes += inconsistent(values)
    if check_functions and not doubtful:
        mistakes += _unusable(values, table, folder)
    if mistakes:
        raise ConfigError(name, mistakes)
    return Config(**values, source=name, folder=folder)


def _misgiven(table: Table) -> list[str]:
    """Keys of which the file and the overrides together give more than one."""
    return [
        f"{', '.join(group)}: got {' and '.join(given)}; allowed one of them"
        for group in (("preset", "problem"), *ALTERNATIVES)
        if len(given := [f"{key} = {shown(table[key])}" for key in group if key in table]) > 1
    ]


def _defaults(table: Table) -> Values:
    """Values of keys that are not given, where another key or the checks want to know them."""
    values: Values = {"optimizer": Config.optimizer, "dtype": Config.dtype, "observables": DEFAULT}
    decay = default_decay(table.get("optimizer", Config.optimizer))
    if decay is not None:
        values["weight_decay"] = (decay,)
    return {key: value for key, value in values.items() if key not in table}


def _missing(table: Table) -> list[str]:
    """Keys that the table and its preset do not give but a run needs."""
    required = ["problem", "seed", "learning_rate"]
    if default_decay(table.get("optimizer", Config.optimizer)) is None:
        required.append("weight_decay")
    mistakes = [
        f"{key}: got nothing; allowed {keys.SCHEMA[key].kind.allowed}"
        + (', or preset = "name"' if key == "problem" else "")
        for key in required
        if key not in table
    ]
    if not any(key in table for key in ALTERNATIVES[0]):
        mistakes.append("num_steps, tau: got neither; allowed one of them")
    return mistakes


def _read(table: Table) -> tuple[Values, list[str]]:
    """Every value that is as it should be, and what is wrong with the others."""
    unknown = [key for key in table if key not in keys.KEYS]
    lines = (
        f"{shown_key(key)}: got an unknown key; allowed {', '.join(keys.KEYS)}"
        + nearest(key, keys.KEYS)
        for key in unknown
    )
    values, mistakes = {}, shortened(lines, len(unknown), "unknown keys")
    for key in keys.KEYS[1:]:
        if key in table:
            value, wrong = keys.read_key(key, table[key])
            mistakes += wrong
            if value is not None:
                values[key] = value
    return values, mistakes


def _unusable(values: Values, table: Table, folder: Path | None) -> list[str]:
    """What is wrong with the functions that are named."""
    functions_by_key, mistakes = {}, []
    named = {"optimizer": "gdwd"} | {key: values.get(key) for key in table}
    for key in ("problem", "start", "optimizer"):
        if reference := named.get(key):
            function, wrong = functions.find(key, reference, folder)
            mistakes += wrong
            if function is not None:
                functions_by_key[key] = function
    for reference in filter(keys.is_reference, values.get("observables", ())):
        function, wrong = functions.find("observables", reference, folder)
        mistakes += wrong
        if function is not None:
            mistakes += function.mistakes([])
    schedule = values.get("schedule") or {}
    if is_function(schedule.get("kind")):
        function, wrong = functions.find("schedule", schedule["kind"], folder)
        mistakes += wrong
        if function is not None:
            mistakes += function.mistakes([*keywords_of_function(function, schedule, None)])
            if "tau" in values and needs_length(schedule, function):
                mistakes.append(mistake("tau", values["tau"], ends_with_run(schedule["kind"])))
    if functions_by_key.keys() != {"problem", "optimizer"} | ({"start"} & table.keys()):
        return mistakes
    return mistakes + functions.misplaced(
        functions_by_key, values.get("problem_options", {}), values.get("axes", {})
    )

"""What a config may call without its reader's word: what sharpflow's own presets call."""

from sharpflow.experiments.config.keys import is_reference
from sharpflow.experiments.config.optimizers import OPTIMIZERS
from sharpflow.experiments.config.resolved import Config
from sharpflow.experiments.config.sources import preset_names, preset_table

_FUNCTIONS = ("problem", "start", "optimizer")
# By its name, since a config may give it to a preset's own function: a folder that somebody sent
# could have the reader's disk filled.
_FETCHES = "download"  # the one option of a preset's function that writes files


def modules_of_user(config: Config) -> list[str]:
    """The modules that a config names and that are not of this package.

    Args:
      config: that was read.
    """
    named = [getattr(config, key) for key in _FUNCTIONS]
    named += [*config.observables, *_of_schedule(config)]
    modules = [name.partition(":")[0] for name in named if is_reference(name)]
    return [module for module in dict.fromkeys(modules) if module.partition(".")[0] != "sharpflow"]


def beyond_presets(config: Config) -> list[str]:
    """What a config would call, or have fetched, that no preset does.

    Args:
      config: perhaps of a folder that somebody sent.

    Returns:
      ``key = VALUE``, one line each; nothing where making its problem is safe.
    """
    tables = [preset_table(name) for name in preset_names()]
    ours = {str(table[key]) for table in tables for key in _FUNCTIONS if key in table}
    named = {key: getattr(config, key) for key in _FUNCTIONS}
    lines = [
        f"{key} = {reference!r}"
        for key, reference in named.items()
        if reference is not None and reference not in ours | OPTIMIZERS.keys()
    ]
    lines += [f"observables = {name!r}" for name in config.observables if is_reference(name)]
    lines += [f"schedule.kind = {name!r}" for name in _of_schedule(config)]
    given = {"problem_options": config.problem_options, "axes": config.axes}
    lines += [
        f"{table}.{_FETCHES} = {values[_FETCHES]!r}"
        for table, values in given.items()
        if values.get(_FETCHES)
    ]
    return lines


def _of_schedule(config: Config) -> list[str]:
    """The function that its schedule names; none of our kinds is one."""
    kind = (config.schedule or {}).get("kind")
    return [kind] if isinstance(kind, str) and is_reference(kind) else []

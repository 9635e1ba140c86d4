"""Run a config, or say what it would take."""

import collections
import dataclasses
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sharpflow.experiments.config import Config, ConfigError, differences, load
from sharpflow.experiments.config.toml import toml_value
from sharpflow.experiments.grid_summary import SHARPNESSES
from sharpflow.experiments.published import Beside, beside
from sharpflow.models.representation import duration_in_words, size_in_words
from sharpflow.simulator import GridPlan, Processes, RunError, plan_grid, simulate_grid
from sharpflow.simulator.axes import BASE
from sharpflow.simulator.store.folder import CONFIG_FILE, RunFolder
from sharpflow.simulator.store.sink import summary

if TYPE_CHECKING:
    import xarray

_ASKED = ("num_steps", "tau", "record_every", "record_at", "num_records", "snapshot_every")


def resolved_config(
    source: str | None,
    overrides: Sequence[str],
    out: Path,
    resume: bool,
    fork: Mapping[str, Any] | None = None,
) -> Config:
    """The config that is asked for; that of the run itself where a resume names none.

    Args:
      source: a file or a preset, or None.
      overrides: what is changed in it.
      out, resume: of the run.
      fork: ``run`` and perhaps ``at`` of another run to go on from, whose config is the source
        where none is named; empty for none.

    Raises:
      ConfigError: it has mistakes, or differs from the one the run was started with.
      RunError: the folder holds a config that is not that of its run.
    """
    stored, run = out / CONFIG_FILE, RunFolder(out)
    # without a run, a config in the folder is what a launch left that never began one
    own = own_config(run) if resume and run.exists else None
    if fork:
        source, overrides = _of_fork(source, overrides, fork)
    if source is None:
        if not (resume and stored.is_file()):
            raise ConfigError(str(out), ["CONFIG: name a TOML file or a preset: sharpflow list"])
        return load(str(stored), overrides)
    config = load(source, overrides)
    if own is not None:
        # Without importing the modules that it names: they may have moved since, and what is
        # compared are the names alone.
        begun = load(str(stored), check_functions=False)
        # How a grid is laid out changes no number of the config's own, so that a run may be resumed
        # on a machine with another number of devices.
        if config.lanes not in (None, begun.lanes):  # a run may go on with other lanes
            begun = dataclasses.replace(begun, lanes=config.lanes, group_width=config.group_width)
        changed = differences(begun, config)
        if changed:
            raise ConfigError(f"{out} was started with another config", changed)
    return config


def _of_fork(
    source: str | None, overrides: Sequence[str], fork: Mapping[str, Any]
) -> tuple[str, list[str]]:
    """Where the config of a fork comes from, and what is changed in it."""
    given = [f"fork.{key}={toml_value(value)}" for key, value in fork.items()]
    if source is not None:
        return source, [*given, *overrides]
    run = RunFolder(fork["run"])
    if own_config(run) is None:
        lost = " any more" if run.described.config is not None else ""
        allowed = "name a TOML file or a preset"
        raise ConfigError(str(run.path), [f"CONFIG: the run has no {CONFIG_FILE}{lost}: {allowed}"])
    # what the run before was called says nothing of this one
    place = f"step {fork['at']}" if "at" in fork else "the end"
    said = toml_value(f"Goes on from {place} of {run.path}.")
    return str(run.path / CONFIG_FILE), [f"description={said}", *given, *overrides]


def own_config(run: RunFolder) -> str | None:
    """The text of the config of a run, once it is known to be that of the run.

    Returns:
      None where the run has none.

    Raises:
      RunError: it was changed, or belongs to another run. Earlier versions kept no digest of it:
        then it must say nothing else than ``run.json``.
    """
    text = run.read_config()
    if text is None:
        return None
    path = run.path / CONFIG_FILE
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be used: it is not TOML: {error}; remove it") from error
    described = run.described
    wrong = [] if described.sealed else _contradictions(table, described.grid)
    if wrong:
        raise RunError(
            f"{path} cannot be used: it is not that of the run, which has another "
            f"{', '.join(wrong)}; put it back from a copy of the run, or remove it"
        )
    return text


def _contradictions(table: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """The keys that a stored config and a run both have, with different values."""
    axes, others = asked.get("axes"), table.get("axes")
    axes = axes if isinstance(axes, dict) else {}
    given = {key: table[key] for key in BASE if key in table}
    given |= others if isinstance(others, dict) else {}
    wrong = [key for key, values in given.items() if key in axes and axes[key] != values]
    return wrong + [key for key in _ASKED if key in table and table[key] != asked.get(key)]


class Ended(NamedTuple):
    """What a run came to.

    Attributes:
      words: how its points ended and what was predicted.
      beside: the published numbers of its config, with its own.
    """

    words: str
    beside: list[Beside]


def run_config(
    config: Config,
    out: Path,
    *,
    resume: bool,
    processes: Processes | None = None,
    progress: bool = True,
) -> Ended:
    """Run a config into a folder, which keeps a copy of it once the run begins.

    Returns:
      How its points ended, what was predicted, and what stands beside published numbers.

    Raises:
      ConfigError: a function of the user that fails.
      ValueError, RunLockedError, StorageError, Interrupted: as ``simulate_grid``.
    """
    # The config is written by the run itself, once it has the lock of the folder: two launches into
    # one folder would otherwise overwrite each other's.
    run = RunFolder(out, config.to_toml())
    arguments = config.build()
    data = simulate_grid(
        **arguments, out=run, resume=resume, processes=processes, progress=progress
    )
    said = [summary(np.asarray(data["status"]).reshape(-1)), *predictions_in_words(data)]
    return Ended(", ".join(said), beside(data, config.published))


def predictions_in_words(data: "xarray.Dataset") -> list[str]:
    """How many points are predicted and by what; nothing where none was asked for.

    Args:
      data: of a run.
    """
    if "prediction_kind" not in data:
        return []
    kinds = kinds_in_words(data["prediction_kind"].values.reshape(-1))
    return [f"predicted: {', '.join(kinds) or 'none'}"]


FLOWS = {"sharpness_flow": "the flow on the manifold", "central_flow": "the central flow"}


def kinds_in_words(kinds: Iterable[str]) -> list[str]:
    """How many points each kind of prediction predicts, of those that predict any.

    Args:
      kinds: of the points.
    """
    counts = collections.Counter(map(str, kinds))
    return [f"{counts[kind]} by {words}" for kind, words in FLOWS.items() if counts[kind]]


def plan_config(config: Config) -> GridPlan:
    """What a config would take, from compiling and timing it.

    Raises:
      ConfigError, ValueError: as ``run_config``.
    """
    arguments = config.build()
    arguments.pop("predict", None)
    return plan_grid(**arguments)


def _untold(config: Config) -> list[str]:
    """What a report will not tell of a run, each with what would have to be recorded."""
    # imported here, for a report loads what it draws with, and a run does not need that
    from sharpflow.experiments.report.measured import NEEDS

    lines = [f"{what} (needs {name})" for name, what in NEEDS.items()
             if name not in config.observables]  # fmt: skip
    if not {*SHARPNESSES} & {*config.observables}:
        lines.insert(0, "the entry, and what comes after it (needs a sharpness)")
    if config.snapshot_every is None:
        lines.append("the flow (needs snapshot_every)")
    return lines


def describe(config: Config, plan: GridPlan) -> list[str]:
    """A plan in lines for people."""
    points = int(np.prod(list(plan.shape.values())))
    shape = " × ".join(f"{count} {name}" for name, count in plan.shape.items())
    lines = [f"{points} points: {shape}", f"problem: {config.problem}"]
    if config.fork is not None:
        place = f"step {config.fork['at']}" if "at" in config.fork else "the end"
        lines.append(f"goes on from {place} of {config.fork['run']}")
    for name in ("seed", "learning_rate", "weight_decay", *config.axes):
        values = config.axes[name] if name in config.axes else getattr(config, name)
        # of one integer, which may be meant for a count, it is said that it is one seed
        one = "one seed, " if name == "seed" and len(values) == 1 else ""
        lines.append(f"{name}: {one}{', '.join(str(value) for value in values)}")
    each = f"num_steps = {config.num_steps}" if config.tau is None else f"tau = {config.tau:g}"
    lines.append(f"updates: {plan.updates:,} in all, {each} each")
    lines.append(f"columns: {', '.join(config.observables)}")
    if untold := _untold(config):
        lines.append(f"a report of it cannot tell: {'; '.join(untold)}")
    for layout in plan.layouts:
        share, count = layout.groups * layout.width, layout.devices
        place = f"{share} on each of {count} devices" if count > 1 else "all on one device"
        order = "in turn" if layout.width == 1 else f"{layout.width} side by side"
        lines.append(f"at a time: {count * share} points, {place}, computed {order}")
    measured = "" if plan.peak_bytes is None else f"; {size_in_words(plan.peak_bytes)} measured"
    lines.append(f"memory of a device: {size_in_words(plan.memory_bytes)}{measured}")
    lines.append(f"on disk: at most {size_in_words(plan.stored_bytes)}")
    lines.append(f"time: about {duration_in_words(plan.seconds)}, compiling aside")
    lines.append(
        f"compiling: comes first, and took {duration_in_words(plan.compile_seconds)} for this plan"
    )
    return lines

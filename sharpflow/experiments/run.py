"""Run a config, or say what it would take."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sharpflow.experiments.config import Config, ConfigError, differences, load
from sharpflow.simulator import GridPlan, Processes, plan_grid, simulate_grid
from sharpflow.simulator.grid.sink import summary
from sharpflow.simulator.store.folder import RunFolder

CONFIG_FILE = "config.toml"


def resolved_config(
    source: str | None, overrides: Sequence[str], out: Path, resume: bool
) -> Config:
    """The config that is asked for; that of the run itself where a resume names none.

    Raises:
      ConfigError: it has mistakes, or differs from the one the run was started with.
    """
    stored = out / CONFIG_FILE
    if source is None:
        if not (resume and stored.is_file()):
            raise ConfigError(str(out), ["CONFIG: name a TOML file or a preset: sharpflow list"])
        return load(str(stored), overrides)
    config = load(source, overrides)
    if resume and stored.is_file():
        changed = differences(load(str(stored), check_functions=False), config)
        if changed:
            raise ConfigError(f"{out} was started with another config", changed)
    return config


def run_config(
    config: Config,
    out: Path,
    *,
    resume: bool,
    processes: Processes | None = None,
    progress: bool = True,
) -> str:
    """Run a config into a folder, beside a copy of it.

    Returns:
      How its points ended, in words.

    Raises:
      ConfigError: a function of the user that fails.
      ValueError, RunLockedError, StorageError, Interrupted: as ``simulate_grid``.
    """
    run = RunFolder(out)
    arguments = config.build()
    if processes is None or processes.index == 0:
        if not (resume and run.exists):
            run.require_unused()
        out.mkdir(parents=True, exist_ok=True)
        if not (out / CONFIG_FILE).is_file() or not run.exists:
            (out / CONFIG_FILE).write_text(config.to_toml(), encoding="utf-8")
    data = simulate_grid(
        **arguments, out=out, resume=resume, processes=processes, progress=progress
    )
    return summary(np.asarray(data["status"]).reshape(-1))


def plan_config(config: Config) -> GridPlan:
    """What a config would take, from compiling and timing it.

    Raises:
      ConfigError, ValueError: as ``run_config``.
    """
    return plan_grid(**config.build())


def describe(config: Config, plan: GridPlan) -> list[str]:
    """A plan in lines for people."""
    points = int(np.prod(list(plan.shape.values())))
    shape = " × ".join(f"{count} {name}" for name, count in plan.shape.items())
    lines = [f"{points} points: {shape}", f"problem: {config.problem}"]
    for name in ("seed", "learning_rate", "weight_decay", *config.axes):
        values = config.axes[name] if name in config.axes else getattr(config, name)
        lines.append(f"{name}: {', '.join(str(value) for value in values)}")
    each = f"num_steps = {config.num_steps}" if config.tau is None else f"tau = {config.tau:g}"
    lines.append(f"updates: {plan.updates:,} in all, {each} each")
    lines.append(f"columns: {', '.join(config.observables)}")
    for layout in plan.layouts:
        lanes = layout.devices * layout.groups * layout.width
        lines.append(
            f"in flight: {lanes} points, on each of {layout.devices} devices "
            f"{layout.groups} groups of {layout.width}"
        )
    measured = "" if plan.peak_bytes is None else f"; {_size(plan.peak_bytes)} measured"
    lines.append(f"memory of a device: {_size(plan.memory_bytes)}{measured}")
    lines.append(f"on disk: at most {_size(plan.stored_bytes)}")
    lines.append(f"time: about {_duration(plan.seconds)}, compiling aside")
    return lines


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.2g} seconds" if seconds < 10 else f"{seconds:.0f} seconds"

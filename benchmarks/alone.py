"""Measurements in interpreters of their own, ours and those of peers."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sharpflow.experiments.environment import num_cores

CORES = min(2, num_cores())

Report = Any  # what JSON holds, mostly a dict


def run_alone(module: str, *arguments: object, cores: int = CORES) -> Report:
    """What a module prints as JSON, run in an interpreter of its own on so many cores."""
    return printed_json([sys.executable, "-m", module, *arguments], cores)


def printed_json(command: list, cores: int = CORES) -> Report:
    """The last line that a command prints, read as JSON; it runs on so many cores."""
    with _limited_to(cores):
        run = subprocess.run(
            [str(word) for word in command],
            cwd=Path(__file__).parents[1],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return json.loads(run.stdout.splitlines()[-1])


def usable(peers: Path | None) -> Path | None:
    """The Python of the peers where it can be run; else None, and a line says why."""
    if peers is None:
        print("peers skipped: no --peers; benchmarks/peers/requirements.txt says what they need")
        return None
    if not peers.exists():
        print(f"peers skipped: there is no {peers}; make bench installs them")
        return None
    return peers.absolute()


def spread(values: list[float]) -> str:
    """Least and largest, in words."""
    return f"{min(values):.4g} to {max(values):.4g}"


@contextlib.contextmanager
def _limited_to(cores: int) -> Iterator[None]:
    """Processes started meanwhile have so many cores, where the system lets one say so."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)

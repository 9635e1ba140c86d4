"""What a section has measured, in a file that is whole after each measurement."""

import dataclasses
import hashlib
import json
import math
import os
import subprocess
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sharpflow.experiments.checks import Check

Values = dict[str, Any]  # what JSON holds
Measurement = Callable[[], tuple[Values, list[Check]]]

DONE = "done"
UNFINISHED = "unfinished"  # the time did not last for all of it; a second call goes on
FAILED = "failed"  # a measurement raised
CUT = "cut"  # the section was stopped at its budget
RUNNING = "running"


_NEEDED = {"section", "state", "seconds", "measurements", "failures", "left_out"}


class RecordError(ValueError):
    """The file of a section is damaged."""


class Record:
    """The measurements of a section; those in its file are kept, and not made again.

    Args:
      path: of the JSON.
      section: name of it.
      size: ``"full"`` or ``"toy"``.
      made: how the measurements are made; those of another device, release of jax, code or size
        are dropped.
      budget: seconds that the section may take from now on.
    """

    def __init__(
        self, path: Path, section: str, size: str, made: Values, budget: float = math.inf
    ) -> None:
        self.path = path
        self._deadline = time.monotonic() + budget
        self._began = time.monotonic()
        self._content = {"section": section, "size": size, "state": RUNNING, "seconds": 0.0,
                         "made": made, "notes": {}, "measurements": {}}  # fmt: skip
        before = read_section(path)
        self._seconds_before = 0.0
        if before is not None and _same(before, self._content):
            self._content["measurements"] = before["measurements"]
            self._seconds_before = before["seconds"]
        self._content |= {"failures": {}, "left_out": []}
        self._write()

    @property
    def remaining(self) -> float:
        """Seconds of the budget."""
        return self._deadline - time.monotonic()

    @property
    def state(self) -> str:
        """How the section goes, or how it ended."""
        return self._content["state"]

    def has(self, name: str) -> bool:
        """Whether a measurement was made."""
        return name in self._content["measurements"]

    def values(self, name: str) -> Values:
        """Of a measurement; nothing where it was not made."""
        return self._content["measurements"].get(name, {}).get("values", {})

    def note(self, name: str, value: Any) -> None:
        """Say something about all measurements."""
        self._content["notes"][name] = value
        self._write()

    def measure(
        self, name: str, measurement: Measurement, *, seconds: float = 0.0, again: bool = False
    ) -> None:
        """Make a measurement, unless the file has it or less than ``seconds`` remain.

        With ``again`` one that the file has is made again, and replaced.

        What it raises is kept under ``failures``, so that one that does not fit into memory
        costs none of the others; one that ran out of time is left to a later call.
        """
        if self.has(name) and not again:
            return
        if self.remaining < seconds:
            self._content["left_out"].append(name)
            self._write()
            return
        began = time.monotonic()
        try:
            values, checks = measurement()
        except (TimeoutError, subprocess.TimeoutExpired):
            self._content["left_out"].append(name)
        except Exception as error:
            traceback.print_exc()
            self._content["failures"][name] = f"{type(error).__name__}: {error}"[:2000]
        else:
            self._content["measurements"][name] = {
                "seconds": time.monotonic() - began,
                "values": values,
                "checks": [row_of(check) for check in checks],
            }
        self._write()

    def close(self, *, unfinished: bool = False) -> None:
        """Say how the section ended."""
        state = UNFINISHED if unfinished or self._content["left_out"] else DONE
        self._content["state"] = FAILED if self._content["failures"] else state
        self._write()

    def _write(self) -> None:
        elapsed = time.monotonic() - self._began
        self._content["seconds"] = round(self._seconds_before + elapsed, 2)
        write(self.path, self._content)


def _same(before: Values, now: Values) -> bool:
    """Whether measurements may stand beside each other."""
    made = (before.get("made", {}), now["made"])
    return before.get("size") == now["size"] and all(
        made[0].get(key) == made[1].get(key) for key in ("device", "jax_version", "code")
    )


def code_digest(root: Path) -> str:
    """SHA-256 of all files of this project that decide what is measured.

    A commit would not do: the one that keeps the results is another one, changes that are not
    committed have none, and a copy of the files on a machine with a GPU may have no git.

    Args:
      root: of the checkout.
    """
    found = hashlib.sha256()
    for folder in ("sharpflow", "benchmarks/accelerator"):
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in (".py", ".toml"):
                content = path.read_bytes()
                found.update(f"{path.relative_to(root).as_posix()} {len(content)} ".encode())
                found.update(content)
    return found.hexdigest()


def code_in_words(made: Values) -> str:
    """By which code something was measured."""
    digest = f"code {made['code'][:12]}" if "code" in made else "unknown code"
    revision = made.get("git_revision")
    if revision is None:
        return digest
    commit, _, changes = revision.partition("-")
    changed = f" with changes that are not committed, {digest}" if changes else ""
    return f"commit {commit[:12]}{changed}"


def read_section(path: Path) -> Values | None:
    """What a section has written, or None.

    Raises:
      RecordError: the file is damaged, or not that of a section.
    """
    content = read(path)
    if content is not None and not content.keys() >= _NEEDED:
        raise RecordError(_damaged(path, f"it lacks one of {', '.join(sorted(_NEEDED))}"))
    return content


def read(path: Path) -> Values | None:
    """What ``write`` wrote, or None.

    Raises:
      RecordError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecordError(_damaged(path, error)) from error
    if not isinstance(content, dict):
        raise RecordError(_damaged(path, "it is no table"))
    return content


def _damaged(path: Path, reason: object) -> str:
    return f"{path} cannot be read: {reason}; remove it, and its section is measured again"


def write(path: Path, content: Values) -> None:
    """Replace the file at once: a process that is killed leaves the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.partial")
    # scalars of numpy and jax become plain numbers
    beside.write_text(json.dumps(content, indent=1, ensure_ascii=False, default=float) + "\n")
    os.replace(beside, path)


def checks_of(content: Values) -> list[Check]:
    """All statements of a section, in the order in which they were measured."""
    return [check_of(row) for found in content["measurements"].values() for row in found["checks"]]


def row_of(check: Check) -> Values:
    """A statement as JSON holds it; an infinite bound is null there."""
    row = dataclasses.asdict(check) | {"holds": check.holds}
    return row | {
        bound: None if math.isinf(row[bound]) else row[bound] for bound in ("low", "high")
    }


def check_of(row: Values) -> Check:
    """The statement that ``row_of`` wrote."""
    bounds = {
        "low": -math.inf if row["low"] is None else row["low"],
        "high": math.inf if row["high"] is None else row["high"],
    }
    return Check(row["part"], row["statement"], row["measured"], note=row["note"], **bounds)

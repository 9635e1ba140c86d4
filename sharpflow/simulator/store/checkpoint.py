"""Checkpoints: arrays with a manifest that names their digest. No pickle."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

_KEPT = 2


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Where the points in flight are.

    Attributes:
      positions: rows that each point has done.
      states: everything each point needs to go on, its arrays in a fixed order.
    """

    positions: dict[int, int]
    states: dict[int, list[np.ndarray]]


def write_checkpoint(
    folder: Path, positions: Mapping[int, int], leaves: Sequence[np.ndarray]
) -> None:
    """Add a checkpoint to a folder and remove all but the last two.

    A checkpoint counts once its manifest is there, which is written last.

    Args:
      folder: of the checkpoints of one process.
      positions: rows that each point has done, in the order of the arrays' leading axis.
      leaves: arrays of shape (points, ...).
    """
    folder.mkdir(parents=True, exist_ok=True)
    numbers = _numbers(folder)
    name = f"{numbers[-1] + 1 if numbers else 0:08d}"
    arrays = {f"{index:04d}": leaf for index, leaf in enumerate(leaves)}
    data = folder / f"{name}.npz"
    write_atomically(data, lambda file: np.savez(file, allow_pickle=False, **arrays))
    manifest = {
        "sha256": _digest(data),
        "points": [[int(point), int(rows)] for point, rows in positions.items()],
    }
    write_json(folder / f"{name}.json", manifest)
    for number in numbers[: 1 - _KEPT]:
        for suffix in ("json", "npz"):
            (folder / f"{number:08d}.{suffix}").unlink(missing_ok=True)


def read_newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint of a folder that is whole, and what is wrong with later ones."""
    wrong: list[str] = []
    for number in reversed(_numbers(folder)):
        try:
            return _read(folder, f"{number:08d}"), wrong
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            wrong.append(f"{folder / f'{number:08d}'}: {error}")
    return None, wrong


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that a reader finds the old file or the new one, never a part."""
    text = json.dumps(content, indent=1).encode() + b"\n"
    write_atomically(path, lambda file: file.write(text))


def write_atomically(path: Path, write: Callable[[Any], object]) -> None:
    """Write a file beside its place, flush it to the disk, and put it in its place."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _read(folder: Path, name: str) -> Checkpoint:
    manifest = json.loads((folder / f"{name}.json").read_text())
    data = folder / f"{name}.npz"
    if _digest(data) != manifest["sha256"]:
        raise ValueError("its digest is another one: the file is damaged")
    with np.load(data, allow_pickle=False) as stored:
        leaves = [stored[key] for key in sorted(stored.files)]
    points = [(int(point), int(rows)) for point, rows in manifest["points"]]
    return Checkpoint(
        positions=dict(points),
        states={p: [leaf[index] for leaf in leaves] for index, (p, _) in enumerate(points)},
    )


def _numbers(folder: Path) -> list[int]:
    names = [path.stem for path in folder.glob("*.json")] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdigit())


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Checkpoints: arrays with a manifest that names their digest. No pickle."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sharpflow.models.files import digest, read_sealed, write_atomically, write_sealed

# Checkpoints that stay. While the newest is written the one before must be whole, and that is all
# that a kill at any moment needs.
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

    A checkpoint counts once its manifest is there, which is written last and removed first.

    Args:
      folder: of the checkpoints of one process.
      positions: rows that each point has done, in the order of the arrays' leading axis.
      leaves: arrays of shape (points, ...).
    """
    folder.mkdir(parents=True, exist_ok=True)
    numbers = _numbers(folder)
    name = _name(numbers[-1] + 1 if numbers else 0)
    arrays = {f"{index:04d}": leaf for index, leaf in enumerate(leaves)}
    data = folder / f"{name}.npz"
    # Not compressed: parameters are noise to a compressor, and the device waits meanwhile.
    write_atomically(data, lambda file: np.savez(file, allow_pickle=False, **arrays))
    points = [[int(point), int(rows)] for point, rows in positions.items()]
    write_sealed(folder / f"{name}.json", {"data": digest(data), "points": points})
    # By their names and not by their age: clocks of machines on one disk differ.
    kept = {name, *(_name(number) for number in numbers[1 - _KEPT :])}
    # In the order of names "00000001.json" comes before "00000001.npz": the manifest goes first.
    for path in sorted(folder.iterdir()):
        if path.stem not in kept:
            path.unlink(missing_ok=True)


def read_newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint of a folder that is whole, and what is wrong with later ones."""
    wrong: list[str] = []
    for number in reversed(_numbers(folder)):
        try:
            return _read(folder, _name(number)), wrong
        except (OSError, ValueError, KeyError, TypeError) as error:
            wrong.append(f"{folder / _name(number)}: {error}")
    return None, wrong


def newest_positions(folder: Path) -> dict[int, int]:
    """Rows that each point has done, by the newest manifest that is whole; its arrays aside."""
    for number in reversed(_numbers(folder)):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            manifest = read_sealed(folder / f"{_name(number)}.json")
            return {int(point): int(rows) for point, rows in manifest["points"]}
    return {}


def remove_checkpoints(folder: Path) -> None:
    """Remove all of a folder, manifests first: half removed they must not look damaged."""
    for path in sorted(folder.glob("*")):
        path.unlink(missing_ok=True)
    with contextlib.suppress(FileNotFoundError):
        folder.rmdir()


def _read(folder: Path, name: str) -> Checkpoint:
    manifest = read_sealed(folder / f"{name}.json")
    data = folder / f"{name}.npz"
    if digest(data) != manifest["data"]:
        raise ValueError("its digest is another one: the file is damaged")
    with np.load(data, allow_pickle=False) as stored:
        leaves = [stored[key] for key in sorted(stored.files)]
    points = [(int(point), int(rows)) for point, rows in manifest["points"]]
    return Checkpoint(
        positions=dict(points),
        states={p: [leaf[index] for leaf in leaves] for index, (p, _) in enumerate(points)},
    )


def _name(number: int) -> str:
    return f"{number:08d}"


def _numbers(folder: Path) -> list[int]:
    """Of the checkpoints that have a manifest, increasing."""
    names = [path.stem for path in folder.glob("*.json")] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal())

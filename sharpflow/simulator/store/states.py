"""The last states of the points of a run, from which another run may go on bit for bit.

A state is arrays, with a manifest that names their digest and where each of them stood. No pickle.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from sharpflow.models.files import digest, read_sealed, write_atomically, write_sealed
from sharpflow.models.stored_tree import StoredLeaves

State = Mapping[str, StoredLeaves]


def write_state(folder: Path, point: int, state: State) -> None:
    """Keep the state of a point, which counts once its manifest is there.

    Args:
      folder: of the states.
      point: number of it.
      state: its parts by name; ``StoredLeaves``, because classes belong to no file.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {
        f"{name}.{index}": np.asarray(leaf)
        for name, part in state.items()
        for index, leaf in enumerate(part.leaves)
    }
    data = _data(folder, point)
    write_atomically(data, lambda file: np.savez(file, allow_pickle=False, **arrays))
    parts = {name: [part.structure, list(part.paths)] for name, part in state.items()}
    write_sealed(_manifest(folder, point), {"data": digest(data), "parts": parts})


def has_state(folder: Path, point: int) -> bool:
    """Whether the state of a point was kept."""
    return _manifest(folder, point).is_file()


def read_state(folder: Path, point: int) -> dict[str, StoredLeaves]:
    """What ``write_state`` wrote.

    Raises:
      ValueError: it is damaged.
      OSError: it cannot be read.
    """
    manifest, data = read_sealed(_manifest(folder, point)), _data(folder, point)
    if digest(data) != manifest["data"]:
        raise ValueError(f"{data} is damaged: its digest is another one")
    with np.load(data, allow_pickle=False) as arrays:
        return {
            name: StoredLeaves(
                tuple(arrays[f"{name}.{index}"] for index in range(len(paths))),
                structure,
                tuple(paths),
            )
            for name, (structure, paths) in manifest["parts"].items()
        }


def _manifest(folder: Path, point: int) -> Path:
    return folder / f"{point}.json"


def _data(folder: Path, point: int) -> Path:
    return folder / f"{point}.npz"

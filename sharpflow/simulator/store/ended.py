"""Which points of a run have ended, noted beside its arrays.

A point that has not ended has no status on the disk. Without a note, one that has ended and lost
it would look the same.
"""

import contextlib
from pathlib import Path

import numpy as np

from sharpflow.models.files import read_sealed, write_sealed


def note_ended(folder: Path, process: int, ended: np.ndarray) -> None:
    """Replace the note of a process.

    Args:
      folder: of the notes.
      process: its index; each has a note of its own.
      ended: which points have ended, shape (points,); a bit for each is kept.
    """
    folder.mkdir(exist_ok=True)
    # Two letters for eight points: the note is written again at every checkpoint.
    bits = np.packbits(ended).tobytes().hex()
    write_sealed(folder / f"{process}.json", {"points": len(ended), "ended": bits})


def read_ended(folder: Path, points: int) -> np.ndarray:
    """Which points have ended by the notes of all processes, shape (points,).

    A note that is damaged says nothing: then the status on the disk counts alone.
    """
    ended = np.zeros(points, bool)
    for path in folder.glob("*.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            note = read_sealed(path)
            if note["points"] == points:
                bits = np.frombuffer(bytes.fromhex(note["ended"]), np.uint8)
                ended |= np.unpackbits(bits, count=points).astype(bool)
    return ended

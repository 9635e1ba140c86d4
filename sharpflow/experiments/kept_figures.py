"""The figures that ``sharpflow plot`` leaves beside a run, and what they were drawn from."""

from collections.abc import Iterable
from pathlib import Path

from sharpflow.models.files import digest, read_sealed, write_sealed
from sharpflow.simulator.store.folder import RunFolder
from sharpflow.simulator.store.predictions import predictions_path
from sharpflow.simulator.store.reading import verified_digest

_NOTE = "figures.json"


def drawn_from(run: RunFolder) -> str:
    """A digest of all that the figures of a run show, once its arrays are known to be whole.

    Predictions are made after the arrays, which they leave as they are: figures that were drawn
    before them lack their lines.

    Raises:
      RunError: a file of the arrays is missing or damaged.
    """
    arrays, predictions = verified_digest(run), predictions_path(run)
    return f"{arrays} {digest(predictions)}" if predictions.is_file() else arrays


def keep(folder: Path, data: str, paths: Iterable[Path]) -> None:
    """Note what figures were drawn from.

    Args:
      folder: that holds them.
      data: what ``drawn_from`` gives.
      paths: of the figures; those noted before of the same data stay noted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    figures = {path.name: digest(path) for path in paths}
    write_sealed(folder / _NOTE, {"data": data, "figures": _noted(folder, data) | figures})


def kept(folder: Path, data: str) -> list[Path]:
    """The figures of this data; none where a single one is missing or was changed."""
    figures = _noted(folder, data)
    try:
        # All or none: a page with some figures of this run and some that somebody changed would
        # mislead more than one that has to draw them again.
        whole = all(digest(folder / name) == right for name, right in figures.items())
    except OSError:
        return []
    return [folder / name for name in figures] if whole else []


def _noted(folder: Path, data: str) -> dict[str, str]:
    try:
        note = read_sealed(folder / _NOTE)
        figures = dict(note["figures"]) if note["data"] == data else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    # a note may come with the folder: it must not lead out of it
    inside = all(isinstance(name, str) and Path(name).name == name for name in figures)
    return figures if inside else {}

"""Where the files of a data set lie below the folder that a user names."""

from collections.abc import Callable, Sequence
from pathlib import Path

from sharpflow.models.data.origin import Origin


def data_folder(
    root: Path,
    folders: Sequence[str],
    files: Sequence[str],
    url: str,
    fetch: Callable[[Path], None] | None = None,
) -> Path:
    """The folder that holds files of a data set, fetched first where it is asked for.

    Args:
      root: that folder or the one above it.
      folders: names that it may have below ``root``; the first is that of a download.
      files: names of which at least one must be there.
      url: where the data comes from, for the error.
      fetch: puts the files into the folder given; None looks only.

    Raises:
      FileNotFoundError: none of the files anywhere, naming the places.
    """
    candidates = (root, *(root / folder for folder in folders))
    if fetch is not None and _first_with(candidates, files) is None:
        fetch(candidates[1])
    folder = _first_with(candidates, files)
    if folder is None:
        places = ", ".join(str(candidate) for candidate in candidates)
        raise FileNotFoundError(
            f"none of {', '.join(files)} is in any of {places}; "
            f"download=True fetches them from {url}"
        )
    return folder


def _first_with(candidates: Sequence[Path], files: Sequence[str]) -> Path | None:
    for candidate in candidates:
        if any((candidate / file).is_file() for file in files):
            return candidate
    return None


def require_complete(folder: Path, origins: Sequence[Origin]) -> None:
    """Refuse to download what is there in part: nobody's files are overwritten.

    Raises:
      FileExistsError: saying what was found.
    """
    if any(origin.found != origin.official for origin in origins):
        sentences = "; ".join(origin.sentence() for origin in origins)
        raise FileExistsError(
            f"download=True wants the complete data, but {folder} holds a part of it "
            f"({sentences}); move that folder away to fetch all, or read what is there "
            "with download=False"
        )

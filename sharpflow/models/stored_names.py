"""What arrays are called on a disk, whatever they are called in a dataset."""

import hashlib
import re
from collections.abc import Iterable
from urllib.parse import quote

# The attribute of an array that keeps its name, where that on the disk is another.
NAME = "sharpflow_name"

_LONGEST = 120  # bytes: file systems take 255 for a name, and cloud folders less for a path
_ENDS = re.compile(r"^(?:[.]|_(?=_))|[.]$")


def stored_names(names: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """A folder name for each array of a run.

    An array is a folder of the Zarr group, so that its name must be that of a file: without a
    slash, not ``.`` or ``..``, not too long, and not equal to another one on file systems that take
    small and capital letters for the same. Letters, digits and ``_.-~`` stay, all else is written
    as in an URL. What is still too long, or equal to another, ends in a digest of the name.

    Args:
      names: of all arrays of a group, any text.
      taken: what else is in the group, as a group within it.

    Returns:
      The folder of each, different from all others.
    """
    stored_as: dict[str, str] = {}
    used = {"zarr.json", *taken}  # the file describes the group
    for name in names:
        stored = _as_file(name)
        if stored.lower() in used:
            stored = _with_digest(stored, name)
        used.add(stored.lower())
        stored_as[name] = stored
    return stored_as


def _as_file(name: str) -> str:
    """In ASCII; an underscore in front is Zarr's own, and a dot hides a file."""
    escaped = quote(name.encode("utf-8", "surrogatepass"), safe="")
    escaped = _ENDS.sub(lambda end: f"%{ord(end[0]):02X}", escaped)
    return escaped if escaped and len(escaped) <= _LONGEST else _with_digest(escaped, name)


def _with_digest(escaped: str, name: str) -> str:
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{escaped[: _LONGEST - 33]}%{digest[:32]}"

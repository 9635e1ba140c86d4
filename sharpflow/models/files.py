"""Files that are there as a whole or not at all, and JSON that shows when it is damaged."""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PARTIAL = ".partial"


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A place beside a file or a folder, which takes its place at the end; or neither is there.

    Args:
      path: of the file or folder, which may be there already. Where it is a symbolic link, what it
        points to is replaced, as by whoever writes to the link, and the link stays.

    Yields:
      Where to write; flushed to the disk before it is moved. After an error it is removed, and what
      was there before stays. A folder that is replaced is moved aside first: a kill just then
      leaves it whole beside its place, under a name that ends in ``.partial``.
    """
    if path.is_symlink():
        path = path.resolve()
    # a process number would not do: containers on one disk have the same ones
    partial, former = (path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL}") for _ in range(2))
    try:
        yield partial
        _flush(partial)
        if path.is_dir():  # which no rename replaces, unless it is empty
            path.replace(former)
        try:
            partial.replace(path)
        except OSError:
            if former.exists():
                former.replace(path)
            raise
    finally:
        for left in (partial, former):
            if left.is_dir():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Have the bytes of a file, or of all files of a folder, on the disk."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())


def write_atomically(path: Path, write: Callable[[Any], object]) -> None:
    """Write a file beside its place, flush it to the disk, and put it in its place."""
    with replaced(path) as partial, partial.open("wb") as file:
        write(file)


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that a reader finds the old file or the new one, never a part."""
    text = json.dumps(content, indent=1).encode() + b"\n"
    write_atomically(path, lambda file: file.write(text))


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
      ValueError: the file is damaged.
      OSError: it cannot be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def write_sealed(path: Path, content: Any) -> None:
    """Write JSON with its digest."""
    write_json(path, {"sha256": digest_of(content), "content": content})


def read_sealed(path: Path) -> Any:
    """What ``write_sealed`` wrote.

    Raises:
      ValueError: the file is damaged.
      OSError: it cannot be read.
    """
    sealed = read_json(path)
    if not isinstance(sealed, dict) or sealed.get("sha256") != digest_of(sealed.get("content")):
        raise ValueError("its digest is another one: the file is damaged")
    return sealed["content"]


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of(content: Any) -> str:
    """SHA-256 of plain numbers and strings, as JSON in a fixed order."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def remove_partial(folder: Path) -> None:
    """Remove what killed processes left half written, Zarr's files among them."""
    for path in folder.rglob(f"*{PARTIAL}"):
        path.unlink(missing_ok=True)

"""What a folder looks like before every change to it, and changes that fail."""

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Tree = dict[str, bytes | None]  # contents by relative path; None for a folder

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGES = {"os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.link", "os.truncate"}

_watchers: list[tuple[str, Callable[[str, Path], None]]] = []
_installed = threading.Event()
_busy = threading.RLock()


@contextlib.contextmanager
def before_changes(folder: Path, tell: Callable[[str, Path], None]) -> Iterator[None]:
    """Call ``tell(kind, path)`` before every change below a folder; it may raise.

    Python tells its audit hooks of every file that is opened, renamed or removed, by
    whichever library, before that happens. Such a hook stays until the interpreter ends.
    """
    if not _installed.is_set():
        _installed.set()
        sys.addaudithook(_hook)
    watcher = (str(folder), tell)
    _watchers.append(watcher)
    try:
        yield
    finally:
        _watchers.remove(watcher)


def states_between_changes(folder: Path, action: Callable[[], Any]) -> list[Tree]:
    """Every state of a folder that a kill during ``action`` could leave behind."""
    found: list[Tree] = []
    known: dict[tuple, bytes] = {}

    def keep(kind: str, path: Path) -> None:
        del kind, path
        tree = _read_tree(folder, known)
        if not found or tree != found[-1]:
            found.append(tree)

    with before_changes(folder, keep):
        action()
    return found


def _read_tree(folder: Path, known: dict[tuple, bytes]) -> Tree:
    """The contents of a folder; those of ``known`` files are not read again."""
    tree: Tree = {}
    for place, folders, files in os.walk(folder):
        inside = os.path.relpath(place, folder)
        tree |= {os.path.normpath(os.path.join(inside, name)): None for name in folders}
        for name in files:
            path = os.path.join(place, name)
            with contextlib.suppress(FileNotFoundError):  # another thread removed it
                seen = os.stat(path)
                key = (seen.st_ino, seen.st_mtime_ns, seen.st_size)
                if key not in known:
                    known[key] = Path(path).read_bytes()
                tree[os.path.normpath(os.path.join(inside, name))] = known[key]
    return tree


def write_tree(folder: Path, tree: Tree) -> None:
    """Make a folder with these contents."""
    folder.mkdir(parents=True)
    for name, content in tree.items():
        path = folder / name
        if content is None:
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def _hook(event: str, arguments: tuple) -> None:
    if not _watchers or not (event == "open" or event in _CHANGES):
        return
    if event == "open" and not (arguments[2] & _WRITING):
        return
    path = _path(event, arguments)
    if path is None:
        return
    for folder, tell in list(_watchers):
        if path == folder or path.startswith(folder + os.sep):
            with _busy:
                tell(event, Path(path))


def _path(event: str, arguments: tuple) -> str | None:
    """What is changed; a name within an open folder is completed."""
    name = arguments[1] if event in ("os.rename", "os.link") else arguments[0]
    if isinstance(name, int):
        return None
    place = os.path.abspath(os.fsdecode(name))
    if event in ("os.remove", "os.rmdir") and arguments[-1] not in (-1, None):
        place = os.path.join(os.readlink(f"/proc/self/fd/{arguments[-1]}"), os.fsdecode(name))
    return place

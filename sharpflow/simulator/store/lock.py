"""One launch at a time writes to a run."""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from sharpflow.models.files import write_json
from sharpflow.simulator.store.errors import RunLockedError, storage_errors

# Seconds that other processes wait for the first, which prepares the folder: it may have to check
# every file of a large run. Ten times as long would hide for most of an hour that it had died.
_PATIENCE = 300.0


@contextlib.contextmanager
def launch_lock(folder: Path, process: int, token: str) -> Iterator[None]:
    """Hold a run for one launch, by file locks that the system drops when a process ends.

    Every process of a launch holds a lock of its own. The first makes sure that no process
    of another launch holds one, prepares the run and announces it; the others wait for that.

    Args:
      folder: of the run; it exists.
      process: index of this process within the launch.
      token: names the launch, the same in all its processes.

    Raises:
      RunLockedError: another launch holds the run, or the first process of this one did
        not announce it.
      StorageError: the folder cannot be written.
    """
    locks = folder / "locks"
    if process > 0:
        announced(folder, token)
    with contextlib.ExitStack() as stack:
        with storage_errors(folder):
            locks.mkdir(exist_ok=True)
            own = stack.enter_context((locks / f"{process}.lock").open("a+"))
            free = _try_lock(own) and not (process == 0 and _held_by_others(locks))
        if not free:
            raise RunLockedError(
                f"{folder}: another process is writing to this run; wait until it ends or "
                "choose another folder"
            )
        yield


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let the processes of a launch pass one at a time."""
    # Here, because Windows has no such module, and only who writes to a folder needs it.
    import fcntl

    with (folder / "locks" / "turn").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def announce(folder: Path, token: str, content: Any) -> None:
    """Tell the other processes of this launch that the run is ready."""
    with storage_errors(folder):
        write_json(folder / "locks" / "launch.json", {"token": token, "content": content})


def announced(folder: Path, token: str) -> Any:
    """Wait for what the first process of this launch announces.

    Raises:
      RunLockedError: nothing came.
    """
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError, KeyError):
            launch = json.loads((folder / "locks" / "launch.json").read_text(encoding="utf-8"))
            if launch["token"] == token:
                return launch["content"]
        # Looked for and not waited for: a shared file system tells nobody when a file appears.
        time.sleep(0.05)
    raise RunLockedError(
        f"{folder}: the first process of this launch did not open the run within {_PATIENCE:.0f} s"
    )


def _try_lock(file: IO[str]) -> bool:
    import fcntl

    try:
        # The lock is one of the open file, and the system drops it when the process dies in
        # whatever way. A file that says "locked" would outlive a killed run.
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _held_by_others(locks: Path) -> bool:
    for path in locks.glob("*.lock"):
        if path.stem != "0":
            with path.open("a+") as file:
                if not _try_lock(file):
                    return True
    return False

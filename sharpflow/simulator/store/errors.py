"""What can go wrong with a run's folder."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

_FULL = {errno.ENOSPC, errno.EDQUOT}


class RunError(ValueError):
    """A folder that cannot be used as it was asked for."""


class RunLockedError(RuntimeError):
    """Another launch is writing to this run."""


class StorageError(OSError):
    """The disk did not take what had to be written; the run can be resumed."""


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Say what to do where the disk is full or refuses to be written.

    Raises:
      StorageError: in place of any error of the operating system.
    """
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = "make space" if error.errno in _FULL else "mend that"
        raise StorageError(
            error.errno,
            f"cannot write to {path}: {reason}; what was written before is whole: {remedy} and "
            "resume the run",
        ) from error

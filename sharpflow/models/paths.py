"""Paths as users write them."""

import os
from pathlib import Path


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path in which a leading ``~`` is the home folder, as in a shell.

    Args:
      path: of a file or a folder, which need not be there.

    Returns:
      The path; a ``~`` that names no known user stays what it is.
    """
    return Path(os.path.expanduser(path))

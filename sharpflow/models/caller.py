"""Warnings that point to the line of the user, however deep in the package they are made."""

import sys
import warnings

# whose frames lie between a public function and who calls it
_BETWEEN = ("sharpflow", "contextlib")


def warn_caller(message: str) -> None:
    """Warn, of the line outside this package that called it.

    Python shows a warning once for each line that it points to. Pointed to a line of this package
    all would be taken for one.

    Args:
      message: what is doubtful, and what to do about it.
    """
    level, frame = 1, sys._getframe()
    while frame.f_back and frame.f_globals.get("__name__", "").split(".")[0] in _BETWEEN:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)

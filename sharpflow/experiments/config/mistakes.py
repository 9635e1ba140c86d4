"""What is wrong with a config, in one line for each mistake."""

import itertools
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from sharpflow.experiments.config.toml import toml_key, toml_scalar
from sharpflow.models.arguments import ArgumentError

# As many lines as a terminal shows with room to spare. Ten times as many scroll the first mistake
# out of sight, and it is often the cause of the others.
_MOST_LISTED = 20
# A value and its sentence fit on two lines of a terminal. A tenth would cut most names, and ten
# times as much would bury the sentence.
_LONGEST = 60


class ConfigError(ValueError):
    """A config that cannot be run, with everything that is wrong with it.

    Attributes:
      source: the file or preset it came from.
      mistakes: one line for each, ``key: got VALUE; allowed ...``.
    """

    def __init__(self, source: str, mistakes: Sequence[str]) -> None:
        self.source = source
        self.mistakes = tuple(mistakes)
        count = "1 mistake" if len(self.mistakes) == 1 else f"{len(self.mistakes)} mistakes"
        super().__init__("\n  ".join([f"{one_line(source)}: {count}", *self.mistakes]))

    def __reduce__(self) -> tuple:
        return type(self), (self.source, self.mistakes)


def mistake(key: str, value: object, allowed: str) -> str:
    """The line of a key with a value that is not allowed."""
    return f"{key}: got {shown(value)}; allowed {allowed}"


def refusals(check: Callable[[], object], keys: Mapping[str, str] | None = None) -> list[str]:
    """The line of what a check of the library refuses, or none.

    Args:
      check: that raises ``ArgumentError``.
      keys: what a config calls the arguments, where it calls them otherwise.
    """
    try:
        check()
    except ArgumentError as error:
        key = (keys or {}).get(error.name, error.name)
        remedy = f"; {error.remedy}" if error.remedy else ""
        return [f"{key}: got {error.got}; allowed {error.allowed}{remedy}"]
    return []


def shown(value: object, depth: int = 2) -> str:
    """Any value that TOML can hold, short and on one line, however hostile it is."""
    if isinstance(value, str):
        return toml_scalar(value if len(value) <= _LONGEST else value[:_LONGEST] + "…")
    if isinstance(value, int) and abs(value) >= 10**30:
        return f"an integer of {value.bit_length()} bits"  # Python may refuse its digits
    if isinstance(value, bool | int | float):
        return toml_scalar(value)
    if isinstance(value, Mapping):
        pairs = [
            f"{shown_key(key)} = {shown(item, depth - 1)}"
            for key, item in _first(value.items(), depth)
        ]
        return "{" + ", ".join(_with_rest(pairs, len(value))) + "}"
    if isinstance(value, Sequence):
        items = [shown(item, depth - 1) for item in _first(value, depth)]
        return "[" + ", ".join(_with_rest(items, len(value))) + "]"
    return str(value)  # a date or a time


def shown_key(key: str) -> str:
    """A key, short and on one line."""
    return toml_key(key if len(key) <= _LONGEST else key[:_LONGEST] + "…")


def reason(error: BaseException) -> str:
    """An exception as one line: its type and what it says."""
    said = one_line(str(error))
    said = said if len(said) <= 5 * _LONGEST else said[: 5 * _LONGEST] + "…"
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def fault_of_user(error: BaseException) -> str | None:
    """An error in a function of the user's as one line, with where it arose.

    Such a function is called by ours, and is not installed as a library is. An error that arises
    where it calls a library is its own; one that arises where it calls us is told in our words.

    Args:
      error: that was caught.

    Returns:
      None for an error in code of this package, or where Python cannot tell.
    """
    ours = Path(__file__).parents[2]
    place = None
    is_called_by_us = False
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = Path(frame.f_code.co_filename)
        if file.is_relative_to(ours):
            is_called_by_us, place = True, None
        elif is_called_by_us and not _is_library(file):
            place = f"{frame.f_code.co_name} in {file}, line {line}"
    return None if place is None else f"{reason(error)} ({one_line(place)})"


def _is_library(file: Path) -> bool:
    """Whether code was installed, belongs to Python, or was made while it ran."""
    installed = not {"site-packages", "dist-packages"}.isdisjoint(file.parts)
    standard = file.is_relative_to(sysconfig.get_path("stdlib"))
    return installed or standard or file.name.startswith("<")


def one_line(text: str) -> str:
    """Text without line breaks and without what else a terminal would act on."""
    joined = " ".join(text.split())
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in joined)


def shortened(lines: Iterable[str], count: int, what: str) -> list[str]:
    """The first of ``count`` lines and how many more there are: no key floods the report."""
    first = list(itertools.islice(lines, _MOST_LISTED))
    rest = count - len(first)
    return [*first, f"{what}: {rest} more mistakes like these"] if rest else first


def _first(items: Iterable, depth: int) -> list:
    return list(itertools.islice(items, 4 if depth > 0 else 0))


def _with_rest(items: list[str], count: int) -> list[str]:
    return items if len(items) == count else [*items, f"… {count} in all"]

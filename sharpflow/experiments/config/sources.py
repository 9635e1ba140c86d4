"""Where a config comes from: a preset, a file, and what the command line changes in it."""

import importlib.resources
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from sharpflow.experiments.config.mistakes import (
    ConfigError,
    mistake,
    one_line,
    shown,
    shown_key,
)
from sharpflow.models.arguments import nearest

Table = dict[str, Any]

# Of each group one key is enough: what is set above replaces what lies below.
ALTERNATIVES = (("num_steps", "tau"), ("record_every", "record_at", "num_records"))
_TABLES = ("axes", "problem_options")
_FORK = "fork"

# 16 MB. The ten million points that are allowed at most are the product of a few short lists, so
# that a larger file is data given by mistake. tomllib takes about ten seconds for 16 MB; ten times
# as much would seem to hang.
_LARGEST_FILE = 2**24
# Bare keys alone: no key of a config needs quotes, and a quoted key would have to pass through a
# shell.
_PATH = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
# What is no TOML is text if it begins as a word or a path does: the rest are mistyped numbers,
# lists and quoted texts.
_TEXT = re.compile(r"([^\W\d]|[~/\\]|\.{1,2}[/\\]|\.[^\W\d]|\d[\w.-]*[/\\]).*")


class Source(NamedTuple):
    """A table as it was found.

    Attributes:
      name: what to call it in errors.
      folder: where functions that it names may lie, or None.
      table: what it says.
    """

    name: str
    folder: Path | None
    table: Table


def presets() -> dict[str, str]:
    """Names of the presets, each with the sentence that describes it.

    Returns:
      In alphabetical order.
    """
    return {name: preset_table(name)["description"] for name in preset_names()}


def preset_names() -> list[str]:
    """Names of the presets, in alphabetical order."""
    files = (importlib.resources.files("sharpflow.experiments") / "presets").iterdir()
    return sorted(file.name[: -len(".toml")] for file in files if file.name.endswith(".toml"))


def preset_table(name: str) -> Table:
    """What the preset of this name says, over the one that it names in turn."""
    folder = importlib.resources.files("sharpflow.experiments") / "presets"
    table = tomllib.loads((folder / f"{name}.toml").read_text(encoding="utf-8"))
    if "preset" not in table:
        return table
    return overlaid(preset_table(table.pop("preset")), table)


def read_source(source: str | os.PathLike[str]) -> Source:
    """The table of a preset, by name, or of a TOML file, by path.

    Raises:
      ConfigError: neither, a file that cannot be read, or text that is not TOML.
    """
    name = os.path.expanduser(os.fspath(source))
    if name in preset_names():
        return Source(name, None, {"preset": name})
    return Source(name, Path(name).absolute().parent, _parsed(name, _text(name)))


def read_overrides(overrides: Sequence[str]) -> tuple[Table, list[str]]:
    """What ``key=value`` strings set, and what is wrong with them.

    A value is TOML, or text without quotes that begins as a word or a path does; a dotted key
    reaches into a table. Of two values for a key the later one counts.
    """
    table: Table = {}
    mistakes = []
    for override in overrides:
        path, equals, text = override.partition("=")
        path = path.strip()
        if not equals or not _PATH.fullmatch(path):
            mistakes.append(f"--set: got {shown(override)}; allowed key=value or table.key=value")
            continue
        try:
            value = _value(text.strip())
        except (ValueError, RecursionError) as error:
            allowed = f'a number, "text", a word or path, or a [list] of TOML ({_said(error)})'
            mistakes.append(mistake(f"--set {shown_key(path)}", text.strip(), allowed))
            continue
        *outer, key = path.split(".")
        within = table
        for part in outer:
            if not isinstance(within.get(part), dict):
                within[part] = {}
            within = within[part]
        within[key] = value
    return table, mistakes


def overlaid(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> Table:
    """The lower table under the upper one.

    The entries of ``axes`` and ``problem_options`` are merged; keys that are
    alternatives, and an option that becomes an axis or the reverse, replace each other. Of another
    run to go on from nothing below is kept.
    """
    replaced = {key for group in ALTERNATIVES if any(k in upper for k in group) for key in group}
    merged = {key: value for key, value in lower.items() if key not in replaced} | dict(upper)
    for key, other in (_TABLES, _TABLES[::-1]):
        below, above, elsewhere = lower.get(key), upper.get(key), upper.get(other)
        if isinstance(below, dict) and isinstance(above, dict | None):
            moved = elsewhere if isinstance(elsewhere, dict) else {}
            kept = {name: value for name, value in below.items() if name not in moved}
            merged[key] = kept | (above or {})
    below, above = lower.get(_FORK), upper.get(_FORK)
    if isinstance(below, dict) and isinstance(above, dict) and "run" not in above:
        merged[_FORK] = below | above
    return merged


def under_preset(table: Table) -> tuple[Table, list[str]]:
    """The table over the preset that it names, if any, and what is wrong with the name.

    A preset that is not changed keeps its description.
    """
    if "preset" not in table:
        return table, []
    name, names = table["preset"], preset_names()
    if not isinstance(name, str) or name not in names:
        return table, [mistake("preset", name, f"one of {', '.join(names)}") + nearest(name, names)]
    preset = preset_table(name)
    if table != {"preset": name}:
        del preset["description"]
    changed = {key: value for key, value in table.items() if key != "preset"}
    return overlaid(preset, changed), []


def _text(name: str) -> str:
    try:
        with open(name, "rb") as file:
            data = file.read(_LARGEST_FILE + 1)
    except IsADirectoryError as error:
        allowed = "allowed a TOML file, or the name of a preset"
        raise ConfigError(name, [f"is a folder; {allowed}"]) from error
    except FileNotFoundError as error:
        names = preset_names()
        known = f"the presets are {', '.join(names)}{nearest(name, _could_be(name, names))}"
        raise ConfigError(name, [f"no such file, and no preset of this name; {known}"]) from error
    except OSError as error:
        raise ConfigError(name, [f"cannot be read: {error.strerror}"]) from error
    except ValueError as error:
        raise ConfigError(name, [f"is no path: {error}; allowed a TOML file"]) from error
    if len(data) > _LARGEST_FILE:
        raise ConfigError(name, [f"is larger than {_LARGEST_FILE} bytes; allowed a smaller file"])
    try:
        # Editors of Windows begin a file with a mark that is no TOML; this leaves it out, where it
        # is there.
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        where = f"line {data[: error.start].count(10) + 1}, byte {error.start}"
        raise ConfigError(name, [f"is not UTF-8 ({where}); allowed a text file"]) from error


def _could_be(name: str, names: list[str]) -> list[str]:
    """What a name that is neither may have meant: the TOML files where it points to, and presets.

    Where but the ending of a file was left out, it is that file, also where a preset is nearer.
    """
    if os.path.isfile(f"{name}.toml"):
        return [f"{name}.toml"]
    folder = os.path.dirname(name)
    try:
        files = sorted(os.listdir(folder or "."))
    except OSError:
        files = []
    return [os.path.join(folder, file) for file in files if file.endswith(".toml")] + names


def _parsed(name: str, text: str) -> Table:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(name, [f"is not TOML: {_said(error)}"]) from error


def _value(text: str) -> Any:
    # A shell hands on bytes that are not UTF-8 as lone surrogates, which no TOML file could hold.
    if text.encode(errors="replace").decode() != text:
        raise ValueError("is not UTF-8")
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        if _TEXT.fullmatch(text) and text.isprintable():
            return text
        raise
    # A value with a line break in it could go on with further keys.
    if parsed.keys() != {"value"}:
        raise ValueError("is more than one value")
    return parsed["value"]


def _said(error: Exception) -> str:
    return "nested too deeply" if isinstance(error, RecursionError) else one_line(str(error))

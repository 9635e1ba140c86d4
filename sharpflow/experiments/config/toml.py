"""Values as TOML text; the standard library only reads it."""

import json
import re
from collections.abc import Mapping, Sequence

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def toml_value(value: object) -> str:
    """A value as TOML writes it on one line, so that it reads back equal.

    Args:
      value: a boolean, integer, float, string, or a sequence or mapping of those.

    Raises:
      TypeError: a value of another kind.
    """
    if isinstance(value, bool | int | float | str):
        return toml_scalar(value)
    if isinstance(value, Mapping):
        pairs = (f"{toml_key(key)} = {toml_value(item)}" for key, item in value.items())
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    raise TypeError(f"TOML has no value for {type(value).__name__}")


def toml_scalar(value: bool | int | float | str) -> str:
    """A boolean, a number or a string as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return _quoted(value) if isinstance(value, str) else repr(value)


def toml_key(key: str) -> str:
    """A key, quoted where TOML wants it."""
    return key if _BARE_KEY.fullmatch(key) else _quoted(key)


def _quoted(text: str) -> str:
    # JSON escapes as TOML does, but leaves what a terminal or splitlines would act on
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(c if c.isprintable() else _escaped(ord(c)) for c in quoted)


def _escaped(code: int) -> str:
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

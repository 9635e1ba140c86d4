"""What a run is, in ``run.json``: what was asked for, and the digests of what lies beside it."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sharpflow.models.files import digest_of, read_json, write_json
from sharpflow.simulator.store.errors import RunError

FORMAT = 2  # since chunks have checksums, and none is left out
# The format before that, whose runs can still be opened and resumed.
_UNSEALED = 1


@dataclasses.dataclass(frozen=True)
class Description:
    """The content of ``run.json``.

    Attributes:
      grid: what was asked for, in plain numbers and strings.
      arrays: digest of the metadata of the arrays; None in a run of an earlier version.
      config: digest of ``config.toml``, or None where the run has none of its own.
      sealed: whether the file has a digest of itself; not so in a run of an earlier version.
    """

    grid: dict[str, Any]
    arrays: str | None = None
    config: str | None = None
    sealed: bool = True


def write_description(
    path: Path, grid: Mapping[str, Any], arrays: str | None, config: str | None
) -> None:
    """Write ``run.json`` with its digest; arguments as of ``Description``."""
    content = {"format": FORMAT, "grid": dict(grid), "arrays": arrays, "config": config}
    write_json(path, content | {"sha256": digest_of(content)})


def read_description(path: Path) -> Description:
    """What ``write_description`` wrote, or an earlier version.

    Raises:
      RunError: no such file, a damaged one, or one of another format.
    """
    try:
        stored = read_json(path)
    except FileNotFoundError:
        raise RunError(f"{path.parent} holds no run: there is no run.json in it") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    if not isinstance(stored, dict) or stored.get("format") not in (FORMAT, _UNSEALED):
        raise RunError(f"{path.parent} is a run of another version of sharpflow")
    sealed = "sha256" in stored or stored["format"] != _UNSEALED
    if sealed and stored.pop("sha256", None) != digest_of(stored):
        raise RunError(
            f"{path} is damaged: its digest is another one; put it back from a copy of the run"
        )
    if not isinstance(stored.get("grid"), dict):
        raise RunError(f"{path} is damaged: it does not say what was asked for")
    return Description(stored["grid"], stored.get("arrays"), stored.get("config"), sealed)

"""How a result was made."""

import datetime
import json
import platform
import subprocess
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax

from sharpflow.models import Params, Problem


def provenance(params: Params | None = None, problems: Iterable[Problem] = ()) -> dict[str, Any]:
    """Versions, device, dtype, date and data, as plain numbers and strings.

    Args:
      params: whose dtype is told.
      problems: whose ``source`` is told, as JSON under ``data``; where they have several, a list of
        them.
    """
    device = jax.devices()[0]
    kind = f"{device.platform}: {device.device_kind}"
    made = {
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": device.platform if device.device_kind == device.platform else kind,
        "python": platform.python_version(),
    }
    # Those whose version can change a number.
    for package in ("sharpflow", "jax", "jaxlib", "flax", "optax", "numpy"):
        try:
            made[f"{package}_version"] = version(package)
        except PackageNotFoundError:
            made[f"{package}_version"] = "not installed"
    if params is not None:
        made["dtype"] = str(jax.tree.leaves(params)[0].dtype)
    # By their text, in which those that say the same are one: an axis makes a problem for each of
    # its values, most often of the same images.
    sources = list(dict.fromkeys(json.dumps(p.source) for p in problems if p.source))
    if sources:
        made["data"] = sources[0] if len(sources) == 1 else f"[{', '.join(sources)}]"
    return made


def launch_provenance(
    params: Params | None = None, problems: Iterable[Problem] = ()
) -> dict[str, Any]:
    """``provenance``, and the commit of the working directory where it is in git.

    Args:
      params, problems: as of ``provenance``.

    Returns:
      With ``git_revision``, ``-dirty`` at its end if something was changed.
    """
    revision = _git_revision()
    made = provenance(params, problems)
    return made if revision is None else made | {"git_revision": revision}


def _git_revision() -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        # By the program and not by a library, which would be one more dependency for one line.
        # Where there is no git, or it hangs on a slow disk, the result is made without.
        git = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return git.stdout.strip()

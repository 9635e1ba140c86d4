"""How a result was made."""

import datetime
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax

from sharpflow.models import Params


def provenance(params: Params | None = None) -> dict[str, Any]:
    """Versions, device, dtype and date, as plain numbers and strings."""
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
    return made


def launch_provenance(params: Params | None = None) -> dict[str, Any]:
    """``provenance``, and the commit of the working directory where it is in git.

    Returns:
      With ``git_revision``, ``-dirty`` at its end if something was changed.
    """
    revision = _git_revision()
    made = provenance(params)
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

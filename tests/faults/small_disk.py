"""Fills file systems of several sizes with a run, enlarges them and resumes it.

Runs in a mount namespace of its own: ``unshare -rm python small_disk.py FOLDER SIZES``.
"""

import json
import subprocess
import sys
from pathlib import Path

import jax

import sharpflow as sf

sys.path.insert(0, str(Path(__file__).parent))
from scenarios import cut_short, differences, short


def main(disk: Path, sizes: list[int]) -> None:
    """One line of JSON for each size in KiB, and one for a disk that is read only."""
    jax.config.update("jax_enable_x64", True)
    cut_short(setattr)
    arguments = short()
    expected = sf.simulate_grid(**arguments)
    disk.mkdir()
    for size in sizes:
        _mount(disk, f"size={size}k")
        report = {"kilobytes": size} | _attempt(disk / "run", arguments)
        _mount(disk, "remount,size=64m")
        found = sf.simulate_grid(**arguments, out=disk / "run", resume=True)
        print(json.dumps(report | {"differences": differences(found, expected)}), flush=True)
        subprocess.run(["umount", str(disk)], check=True)
    _mount(disk, "size=64m")
    sf.simulate_grid(**arguments, out=disk / "run")
    _mount(disk, "remount,ro")
    report = {"kilobytes": None} | _attempt(disk / "run", arguments)
    found = sf.open_run(disk / "run")
    print(json.dumps(report | {"differences": differences(found, expected)}), flush=True)


def _attempt(run: Path, arguments: dict) -> dict:
    """The error that a run ends with, whatever it is."""
    try:
        sf.simulate_grid(**arguments, out=run, resume=True)
    except Exception as error:
        return {"error": type(error).__name__, "message": str(error)}
    return {"error": "", "message": ""}


def _mount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))

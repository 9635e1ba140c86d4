"""Starts, watches and kills processes that run a scenario."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from environments import cpu_devices

_LAUNCH = Path(__file__).with_name("launch.py")
_PATIENCE = 120.0  # seconds; much more than anything here takes on a busy machine


@contextmanager
def launched(
    scenario: str, out: Path, *, devices: int = 1, **options: Any
) -> Iterator[subprocess.Popen]:
    """A process that runs a scenario; it is killed at the end if it still runs."""
    arguments = json.dumps({"scenario": scenario, "out": str(out), **options})
    root = _LAUNCH.parents[2]
    process = subprocess.Popen(
        [sys.executable, str(_LAUNCH), arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=root,
        env=cpu_devices(devices) | {"PYTHONPATH": str(root)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def finished(process: subprocess.Popen) -> str:
    """Wait for a process; the name of the error that it ended with, or nothing."""
    printed, errors = process.communicate(timeout=_PATIENCE)
    if process.returncode == 0:
        return ""
    lines = printed.splitlines()
    assert lines, f"ended with {process.returncode} and no word: {errors[-2000:]}"
    return json.loads(lines[-1])["error"]


def run_to_end(scenario: str, out: Path, **options: Any) -> None:
    """Run or resume a scenario in a process of its own."""
    with launched(scenario, out, **options) as process:
        assert finished(process) == ""


def wait_for(condition: Callable[[], Any], process: subprocess.Popen | None = None) -> None:
    """Wait until something holds, as long as a process lives."""
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        ended = process is not None and process.poll() is not None
        if ended and not condition():
            raise AssertionError(f"the process ended: {process.communicate()[1][-2000:]}")
        time.sleep(0.01)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]

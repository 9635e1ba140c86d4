"""How long a fresh interpreter takes to import the package."""

import statistics
import subprocess
import sys

from sharpflow.experiments.checks import Check

_TIMED = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"


def measure(repetitions: int = 5) -> list[Check]:
    """Median import times of the package and of jax alone, and their ratio."""
    ours, jax_alone = (
        statistics.median(_seconds(name) for _ in range(repetitions))
        for name in ("sharpflow", "jax")
    )
    return [
        Check("cold start", "import sharpflow, s", ours, high=2.5),
        Check("cold start", "import sharpflow / import jax", ours / jax_alone),
    ]


def _seconds(name: str) -> float:
    run = subprocess.run(
        [sys.executable, "-c", _TIMED.format(name)], capture_output=True, text=True, check=True
    )
    return float(run.stdout)

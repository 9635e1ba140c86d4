"""Points with λ₁ side by side, as on an accelerator, beside the same points in turn, on a CPU.

Each number of points runs in an interpreter of its own, ``python -m benchmarks.lanes``.
"""

import json
import sys

import numpy as np

from benchmarks.alone import Report, run_alone, spread
from benchmarks.compiled_grid import CompiledGrid, Task
from sharpflow.experiments.checks import Check
from sharpflow.experiments.environment import configure_jax

NUM_LANES = (64, 256)
STEPS = 500
TOLERANCE = 1e-4
REPETITIONS = 3
MOST_TIME = 1.3  # of that in turn
MODULE = "benchmarks.lanes"

SAME_RECORDS = 3  # later ones may drift apart by rounding
SAME_NUMBERS = 1e-5  # relative; in float32


def measure() -> list[Check]:
    """Time of points side by side beside that of the same points in turn, on one core."""
    return [check for lanes in NUM_LANES for check in _compared(lanes)]


def _compared(lanes: int) -> list[Check]:
    report = run_alone(MODULE, lanes, cores=1)
    in_turn, together, one_group = (report[name] for name in ("in_turn", "side_by_side", "group"))
    ratios, of_group = (
        [ours / theirs for ours, theirs in zip(times, in_turn, strict=True)]
        for times in (together, one_group)
    )
    part = f"{Task(num_seeds=lanes // 8, num_steps=STEPS, tolerance=TOLERANCE)}, one core"
    in_turns = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    return [
        Check(part, "time side by side / in turn, median", float(np.median(ratios)),
              high=MOST_TIME, note=f"in turns {in_turns}; group of {report['width']}"),
        Check(part, f"the same in one group of {lanes}, which does not fit into a cache",
              float(np.median(of_group)), note=spread(of_group)),
        Check(part, f"largest relative difference in the first {SAME_RECORDS} records",
              report["difference"], high=SAME_NUMBERS),
        Check(part, "s in turn, best", min(in_turn), note=spread(in_turn)),
    ]  # fmt: skip


def _measured(lanes: int) -> Report:
    """Seconds of each way, in turns, and how far their numbers differ."""
    task = Task(num_seeds=lanes // 8, num_steps=STEPS, tolerance=TOLERANCE)
    grids = {
        "in_turn": CompiledGrid(task, lanes="in_turn"),
        "side_by_side": CompiledGrid(task, lanes="side_by_side"),
        "group": CompiledGrid(task, lanes="side_by_side", width=lanes),
    }
    seconds: dict[str, list[float]] = {name: [] for name in grids}
    arrays = {}
    for _ in range(REPETITIONS):
        for name, grid in grids.items():
            taken, arrays[name] = grid.run()
            seconds[name].append(taken)
    difference = max(
        _difference(arrays[name], arrays["in_turn"]) for name in ("side_by_side", "group")
    )
    return seconds | {"difference": difference, "width": grids["side_by_side"].layout.width}


def _difference(ours: dict, theirs: dict) -> float:
    first = np.s_[:, :, :, :SAME_RECORDS]
    return max(
        float(np.max(np.abs(ours[name][first] / theirs[name][first] - 1.0)))
        for name in ("loss", "hessian_sharpness")
    )


if __name__ == "__main__":
    configure_jax("cpu", 1)
    print(json.dumps(_measured(int(sys.argv[1]))))

"""A grid with λ₁ on a few cores, beside the same grid as one would run it with PyTorch.

``measure`` runs each grid in an interpreter of its own, ``python -m benchmarks.grid``: how many
devices the cores are split into must be known before jax starts.
"""

import dataclasses
import json
import math
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

import sharpflow as sf
from benchmarks.alone import CORES, Report, printed_json, run_alone, spread, usable
from benchmarks.compiled_grid import NUM_IMAGES, RECORD_EVERY, CompiledGrid, Task
from sharpflow.experiments.checks import Check
from sharpflow.experiments.environment import configure_jax
from sharpflow.models import standardized_targets

REPETITIONS = 3
FEW_SEEDS = 2  # on one core
TOLERANCE, DEFAULT_TOLERANCE = 1e-3, 1e-4  # of λ₁, relative; of eigsh too
LEAST_RATIO = 6.0

SAME_RECORDS = 3  # later ones may drift apart by rounding
SAME_LOSS = 1e-5  # relative; in float32


def measure(peers: Path | None = None) -> list[Check]:
    """Points·steps/s of the grid, beside PyTorch's where there is one.

    Args:
      peers: Python of an environment with ``benchmarks/peers/requirements.txt``.
    """
    peers = usable(peers)
    plain = Task()
    tracked = dataclasses.replace(plain, tolerance=TOLERANCE)
    accurate = dataclasses.replace(plain, tolerance=DEFAULT_TOLERANCE)
    few = dataclasses.replace(tracked, num_seeds=FEW_SEEDS)
    return [
        *_compared(tracked, peers, REPETITIONS, low=LEAST_RATIO),
        *_compared(accurate, peers, 1),
        *_compared(plain, peers, REPETITIONS),
        *_compared(few, peers, REPETITIONS, cores=1),
    ]


def _compared(
    task: Task, peers: Path | None, repetitions: int, *, cores: int = CORES, low: float = -math.inf
) -> list[Check]:
    """Ours and PyTorch's in turns, so that what else the machine does falls on both."""
    part = f"{task}, cores: {cores}"
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "task.npz"
        if peers is not None:
            np.savez(path, **task_of_peers(task))
        for _ in range(repetitions):
            ours.append(_ours(task, cores))
            if peers is not None:
                theirs.append(_of_peers(task, peers, path, cores))
    rates = [task.updates / report["seconds"] for report in ours]
    whole = [task.updates / report["seconds_in_all"] for report in ours]
    checks = [
        Check(part, "points·steps/s, best", max(rates), note=spread(rates)),
        Check(part, "points·steps/s with compiling, best", max(whole), note=spread(whole)),
    ]
    if task.tolerance is not None:
        found = min(report["found"] for report in ours)
        checks.append(Check(part, "share of records with λ₁ to this tolerance", found))
    if not theirs:
        return checks
    _require_same(task, ours[0], theirs[0])
    of_peers = [report["point_steps_per_second"] for report in theirs]
    in_turns = ", ".join(f"{a / b:.2f}" for a, b in zip(rates, of_peers, strict=True))
    made = f"{theirs[0]['made']}, processes: {theirs[0]['processes']}"
    if task.tolerance is not None:
        made += f", products for a λ₁: {theirs[0]['products_per_record']:.1f}"
    return [
        *checks,
        Check(part, "points·steps/s of PyTorch, best", max(of_peers),
              note=f"{spread(of_peers)}; {made}"),
        Check(part, "ours / PyTorch's, best of each", max(rates) / max(of_peers), low=low,
              note=f"in turns {in_turns}"),
    ]  # fmt: skip


def _ours(task: Task, cores: int) -> Report:
    """What ``_simulate`` reports from an interpreter of its own."""
    settings = json.dumps(dataclasses.asdict(task))
    return run_alone("benchmarks.grid", settings, cores, cores=cores)


def _of_peers(task: Task, python: Path, path: Path, cores: int) -> Report:
    script = Path(__file__).parent / "peers" / "grid.py"
    tolerance = ["--tolerance", task.tolerance]
    curvature = ["--without-curvature"] if task.tolerance is None else tolerance
    command = [python, script, path, "--processes", cores, *curvature]
    return printed_json(command, cores)


def task_of_peers(task: Task) -> dict[str, np.ndarray]:
    """What the peers need: data, first params and rates of all points, in their order."""
    images, labels = sf.models.digits(NUM_IMAGES)
    grid = task.prepared()
    (points,) = grid.batches
    numbers = points.batch.points
    starts = [jax.tree.leaves(points.state(number).params) for number in numbers]
    at = [grid.axes.at(number) for number in numbers]
    return {
        "images": images.astype(np.float32),
        "targets": standardized_targets(labels, np.dtype(np.float32)),
        "learning_rate": np.array([values["learning_rate"] for values in at]),
        "weight_decay": np.array([values["weight_decay"] for values in at]),
        "num_steps": np.array(task.num_steps),
        "record_every": np.array(RECORD_EVERY),
        **{f"kernel_{i}": np.stack(leaf) for i, leaf in enumerate(zip(*starts, strict=True))},
    }


def _require_same(task: Task, ours: Report, theirs: Report) -> None:
    """Make sure that both simulated the same: the first records of the first point agree.

    Raises:
      RuntimeError: they do not.
    """
    tolerances = {"first_losses": SAME_LOSS}
    if task.tolerance is not None:
        tolerances["first_sharpness"] = 2.0 * task.tolerance  # both are that far off
    for name, tolerance in tolerances.items():
        mine, of_peers = (np.array(report[name][:SAME_RECORDS]) for report in (ours, theirs))
        if not np.allclose(mine, of_peers, rtol=tolerance, atol=0.0):
            raise RuntimeError(f"{name} differ: {mine} of ours, {of_peers} of PyTorch")


def _simulate(task: Task) -> Report:
    """Simulate in this process.

    Returns:
      ``seconds`` without compiling and ``seconds_in_all`` with it; losses and λ₁ of the first
      point; the share ``found`` of all λ₁ that are no NaN.
    """
    began = time.perf_counter()
    compiled = CompiledGrid(task)
    seconds, arrays = compiled.run()
    report: Report = {"seconds": seconds, "seconds_in_all": time.perf_counter() - began}
    first = compiled.grid.axes.index(0)
    report["first_losses"] = arrays["loss"][first].tolist()
    if task.tolerance is not None:
        sharpness = arrays["hessian_sharpness"][..., 0]
        report["first_sharpness"] = sharpness[first].tolist()
        report["found"] = float(np.mean(np.isfinite(sharpness)))
    return report


if __name__ == "__main__":
    configure_jax("cpu", int(sys.argv[2]))
    print(json.dumps(_simulate(Task(**json.loads(sys.argv[1])))))

"""A grid with λ₁ on a few cores, beside the same grid as one would run it with PyTorch.

``measure`` runs each grid in an interpreter of its own, ``python -m benchmarks.grid``: how many
devices the cores are split into must be known before jax starts.
"""

import contextlib
import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

import sharpflow as sf
from sharpflow.experiments.checks import Check
from sharpflow.experiments.environment import configure_jax, num_cores
from sharpflow.models import Problem, standardized_targets
from sharpflow.simulator.grid.engine import build_engine
from sharpflow.simulator.grid.prepare import Grid, prepare
from sharpflow.simulator.grid.run import BatchRun
from sharpflow.simulator.grid.sink import Sink, summary
from sharpflow.simulator.interrupt import Stop
from sharpflow.simulator.store.arrays import in_memory
from sharpflow.simulator.store.checkpoint import Checkpoint
from sharpflow.simulator.store.folder import RunFolder

NETWORK = "64-64-64-10, 128 digits"
NUM_IMAGES, WIDTHS = 128, (64, 64)
CORES = min(2, num_cores())
REPETITIONS = 3

NUM_SEEDS, NUM_STEPS = 8, 2000
FEW_SEEDS = 2  # on one core
# The least rate keeps its first point below the edge for the records that are compared.
LEARNING_RATES, WEIGHT_DECAYS = (0.02, 0.05, 0.1, 0.2), (1e-3, 3e-3)
RECORD_EVERY = 100
TOLERANCE, DEFAULT_TOLERANCE = 1e-3, 1e-4  # of λ₁, relative; of eigsh too
LEAST_RATIO = 6.0

SAME_RECORDS = 3  # later ones may drift apart by rounding
SAME_LOSS = 1e-5  # relative; in float32

Report = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Task:
    """A grid to simulate.

    Attributes:
      num_seeds: of each pair of rates.
      num_steps: of each point.
      tolerance: of λ₁; None records no λ₁.
    """

    num_seeds: int = NUM_SEEDS
    num_steps: int = NUM_STEPS
    tolerance: float | None = None

    @property
    def num_points(self) -> int:
        """Of the grid."""
        return self.num_seeds * len(LEARNING_RATES) * len(WEIGHT_DECAYS)

    @property
    def updates(self) -> int:
        """Of all points."""
        return self.num_points * self.num_steps

    def __str__(self) -> str:
        points = f"grid of {self.num_points} × {self.num_steps} steps, {NETWORK}"
        if self.tolerance is None:
            return f"{points}, without λ₁"
        return f"{points}, λ₁ to {self.tolerance:g} every {RECORD_EVERY}"

    def prepared(self) -> Grid:
        """The grid, as ``simulate_grid`` prepares it."""
        observables: list = ["loss"]
        if self.tolerance is not None:
            observables.append(sf.simulator.hessian_sharpness(tolerance=self.tolerance))
        unused = ("axes", "tau", "record_at", "num_records", "snapshot_every", "start")
        return prepare(
            network(),
            seeds=range(self.num_seeds),
            learning_rates=LEARNING_RATES,
            weight_decays=WEIGHT_DECAYS,
            num_steps=self.num_steps,
            record_every=RECORD_EVERY,
            observables=observables,
            final_params=False,
            optimizer=sf.gdwd,
            effective_learning_rate=None,
            **dict.fromkeys(unused),
        )


def measure(peers: Path | None = None, *, quick: bool = False) -> list[Check]:
    """Points·steps/s of the grid, beside PyTorch's where there is one.

    Args:
      peers: Python of an environment with ``benchmarks/peers/requirements.txt``.
      quick: 8 points of 400 steps, once: whether it works, not how fast.
    """
    if peers is None:
        print("peers skipped: no --peers; benchmarks/peers/requirements.txt says what they need")
    elif not peers.exists():
        print(f"peers skipped: there is no {peers}; make bench-peers installs them")
        peers = None
    plain = Task(num_seeds=1, num_steps=400) if quick else Task()
    tracked = dataclasses.replace(plain, tolerance=TOLERANCE)
    accurate = dataclasses.replace(plain, tolerance=DEFAULT_TOLERANCE)
    few = dataclasses.replace(tracked, num_seeds=min(FEW_SEEDS, plain.num_seeds))
    repetitions = 1 if quick else REPETITIONS
    return [
        *_compared(tracked, peers, repetitions, low=LEAST_RATIO),
        *_compared(accurate, peers, 1),
        *_compared(plain, peers, repetitions),
        *_compared(few, peers, repetitions, cores=1),
    ]


@cache
def network() -> Problem:
    """Batch-norm network on digits, in float32."""
    return sf.models.mlp(*sf.models.digits(NUM_IMAGES), widths=WIDTHS, dtype=np.float32)


class CompiledGrid:
    """A grid on all devices of this process, compiled once and run as often as one likes."""

    def __init__(self, task: Task) -> None:
        self.grid = task.prepared()
        (self.points,) = self.grid.batches
        self._pending = self.points.batch.points
        self._engine = build_engine(
            self.points.batch.program,
            self.points,
            self._pending,
            self.grid.schedule,
            jax.local_devices(),
            snapshot_every=None,
        )

    def run(self, folder: RunFolder | None = None) -> tuple[float, dict[str, Any]]:
        """Seconds and arrays of a run in memory or into an empty folder, as ``simulate_grid``.

        Raises:
          RuntimeError: a point diverged.
        """
        began = time.perf_counter()
        if folder is None:
            arrays = in_memory(self.grid.variables)
        else:
            folder.create(self.grid.description, self.grid.variables, {})
            arrays = folder.open_arrays()
        sink = Sink(self.grid.axes, arrays, folder)
        BatchRun(
            0,
            self._engine.chunk,
            self._engine.layout,
            self.points,
            self.grid.schedule,
            sink,
            snapshot_every=None,
            final_params=False,
        ).run(self._pending, Checkpoint({}, {}), Stop(), lambda count, note="": None)
        if folder is not None:
            folder.finish()
        seconds = time.perf_counter() - began
        if np.any(sink.statuses() != sf.Status.SUCCESS):
            raise RuntimeError(f"a grid that is timed must not diverge: {summary(sink.statuses())}")
        return seconds, arrays


def run_alone(module: str, *arguments: object, cores: int = CORES) -> Report:
    """What a module prints as JSON, run in an interpreter of its own on so many cores."""
    return _json_from([sys.executable, "-m", module, *arguments], cores)


def spread(values: list[float]) -> str:
    """Least and largest, in words."""
    return f"{min(values):.4g} to {max(values):.4g}"


def _compared(
    task: Task, peers: Path | None, repetitions: int, *, cores: int = CORES, low: float = -math.inf
) -> list[Check]:
    """Ours and PyTorch's in turns, so that what else the machine does falls on both."""
    part = f"{task}, cores: {cores}"
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "task.npz"
        if peers is not None:
            np.savez(path, **_task_of_peers(task))
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
    command = [python.absolute(), script, path, "--processes", cores, *curvature]
    return _json_from(command, cores)


def _task_of_peers(task: Task) -> dict[str, np.ndarray]:
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


def _json_from(command: list, cores: int) -> Report:
    with _limited_to(cores):
        run = subprocess.run(
            [str(word) for word in command],
            cwd=Path(__file__).parents[1],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return json.loads(run.stdout.splitlines()[-1])


@contextlib.contextmanager
def _limited_to(cores: int) -> Iterator[None]:
    """Processes started meanwhile have so many cores, where the system lets one say so."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


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

"""Grids of small networks side by side, beside PyTorch's loop and PyTorch's vmap on the same card.

Network and task are those of ``benchmarks/grid.py``. A measurement of its own is made of each
number of points, and the most important come first.
"""

import dataclasses
import math
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax
import numpy as np

from benchmarks.accelerator.operations import product_operations, share_of_peak
from benchmarks.accelerator.record import Record, Values
from benchmarks.accelerator.sections import Settings
from benchmarks.alone import Report, printed_json
from benchmarks.compiled_grid import CompiledGrid, Task, network
from benchmarks.grid import SAME_LOSS, SAME_RECORDS, task_of_peers
from sharpflow.experiments.checks import Check

TOLERANCE = 1e-3  # of λ₁, as in benchmarks/grid.py
POINTS_OF_A_SEED = 8
SEEDS = {"full": (32, 512, 128, 8), "toy": (1,)}  # 256 points first: the goal is theirs
NUM_STEPS = {"full": 2000, "toy": 20}
LEAST_RATIO = 50.0  # of our points·steps/s at 256 points over those of PyTorch's loop
LOOP_POINTS, LOOP_STEPS = 4, 200  # the loop is as fast at one point as at any number of them
BATCH_STEPS = 200
ENOUGH = 12.0  # seconds: compiling alone takes most of them

WITHOUT = "without λ₁"
TRACKED = f"λ₁ to {TOLERANCE:g} every 100"


def measure(record: Record, settings: Settings) -> bool:
    """All grids, ours and PyTorch's, as far as the time lasts."""
    seeds, others = SEEDS[settings.size][0], SEEDS[settings.size][1:]
    plain = Task(num_seeds=seeds, num_steps=NUM_STEPS[settings.size])
    tracked = dataclasses.replace(plain, tolerance=TOLERANCE)
    _ours(record, plain)
    with tempfile.TemporaryDirectory() as folder:
        peers = _Peers(record, settings, Path(folder))
        if peers.usable:
            peers.loop(WITHOUT)
            _compare(record, plain, "PyTorch's loop", WITHOUT, low=LEAST_RATIO)
            peers.batched(plain.num_points)
            _compare(record, plain, f"PyTorch's vmap of {plain.num_points}", WITHOUT)
        _ours(record, tracked)
        if peers.usable:
            peers.loop(TRACKED)
            _compare(record, tracked, "PyTorch's loop", TRACKED)
        for number in others:
            task = dataclasses.replace(plain, num_seeds=number)
            _ours(record, task)
            if peers.usable:
                peers.batched(task.num_points)
                _compare(record, task, f"PyTorch's vmap of {task.num_points}", WITHOUT)
    for task in _rest(plain, tracked, others):
        _ours(record, task)
    return False


def _rest(plain: Task, tracked: Task, others: tuple[int, ...]) -> Iterator[Task]:
    """Less precision where the card is full and where the goal is, then λ₁ elsewhere."""
    if not others:
        return
    for precision in ("default", "high"):
        for number in (others[0], plain.num_seeds):
            yield dataclasses.replace(plain, num_seeds=number, matmul_precision=precision)
    for number in others:
        yield dataclasses.replace(tracked, num_seeds=number)


def _name(task: Task) -> str:
    kind = WITHOUT if task.tolerance is None else TRACKED
    return f"{task.num_points} points, {kind}, {task.matmul_precision}"


def _ours(record: Record, task: Task) -> None:
    record.measure(_name(task), partial(_simulated, task), seconds=ENOUGH)


def _simulated(task: Task) -> tuple[Values, list[Check]]:
    """Points·steps/s: of a run from its start to its result, and of its updates alone."""
    compiled = CompiledGrid(task)
    runs = [compiled.run() for _ in range(2)]
    seconds = min(took for took, _ in runs)
    losses = runs[0][1]["loss"][compiled.grid.axes.index(0)]
    updates = 1.0 / compiled.update_seconds
    problem = network()
    operations = product_operations(jax.grad(problem.loss_value), problem.init(jax.random.key(0)))
    device = jax.local_devices()[0]
    share = share_of_peak(device, operations * updates, task.matmul_precision)
    values = {
        "points": task.num_points,
        "steps": task.num_steps,
        "points·steps/s": task.updates / seconds,
        "points·steps/s of the updates alone": updates,
        "operations of a step": operations,
        "share of peak": share,
        "first losses": losses[:SAME_RECORDS].tolist(),
    }
    part = f"grid of {_name(task)}"
    checks = [
        Check(part, "points·steps/s, best of 2", task.updates / seconds),
        Check(part, "points·steps/s of the updates alone", updates),
    ]
    if share is not None:
        checks.append(Check(part, "share of the card's peak in the updates", share))
    if task.tolerance is not None:
        found = float(np.mean(np.isfinite(runs[0][1]["hessian_sharpness"])))
        # a point whose λ₁ the tolerance refuses is rare at this one; it was never seen on a CPU
        checks.append(Check(part, "share of records with λ₁ to this tolerance", found, low=0.99))
    return values, checks


def _compare(record: Record, task: Task, peer: str, kind: str, *, low: float = -math.inf) -> None:
    """Our points·steps/s over a peer's, once both are there and simulate the same."""
    ours, theirs = record.values(_name(task)), record.values(f"{peer}, {kind}")
    if not ours or not theirs:
        return
    on_cpu = jax.default_backend() == "cpu"

    def measurement() -> tuple[Values, list[Check]]:
        rates = [values["points·steps/s"] for values in (ours, theirs)]
        part = f"grid of {_name(task)}"
        return {"ratio": rates[0] / rates[1]}, [
            Check(part, f"ours / {peer}", rates[0] / rates[1],
                  low=-math.inf if on_cpu else low, note=f"{rates[1]:.4g}; {theirs['made']}"),
            Check(part, f"first losses beside {peer}, difference, relative",
                  _difference(ours["first losses"], theirs["first losses"]), high=SAME_LOSS),
        ]  # fmt: skip

    record.measure(f"{_name(task)}, beside {peer}", measurement)


def _difference(ours: list[float], theirs: list[float]) -> float:
    """Largest, relative."""
    pairs = zip(ours, theirs, strict=False)
    return max(abs(mine / other - 1.0) for mine, other in pairs)


class _Peers:
    """PyTorch's side, in the Python that the settings name."""

    def __init__(self, record: Record, settings: Settings, folder: Path) -> None:
        self._record, self._settings, self._folder = record, settings, folder
        self._device = "cpu" if settings.toy else "cuda"
        self.usable = self._has_torch()
        if self.usable:
            # the first eight points are in every grid, and those of other seeds take as long
            np.savez(folder / "loop.npz", **task_of_peers(Task(1, self._steps(LOOP_STEPS))))
            np.savez(folder / "batch.npz", **task_of_peers(Task(1, self._steps(BATCH_STEPS))))

    def loop(self, kind: str) -> None:
        """One point after the other, in one process: two compete for the card."""
        curvature = ["--without-curvature"] if kind == WITHOUT else ["--tolerance", TOLERANCE]
        points = 1 if self._settings.toy else LOOP_POINTS
        options = ["loop.npz", "--processes", 1, "--points", points, *curvature]
        name = f"PyTorch's loop, {kind}"
        self._record.measure(name, partial(self._ran, "grid.py", *options), seconds=ENOUGH)

    def batched(self, points: int) -> None:
        """All points side by side, which PyTorch can do without λ₁ alone."""
        options = ["batch.npz", "--points", points]
        name = f"PyTorch's vmap of {points}, {WITHOUT}"
        self._record.measure(name, partial(self._ran, "batched_grid.py", *options), seconds=ENOUGH)

    def _ran(self, script: str, task: str, *options: object) -> tuple[Values, list[Check]]:
        path = Path(__file__).parents[1] / "peers" / script
        command = [self._settings.peers, path, self._folder / task, *options,
                   "--device", self._device]  # fmt: skip
        report: Report = printed_json(command)
        return {
            "points·steps/s": report["point_steps_per_second"],
            "first losses": report["first_losses"][:SAME_RECORDS],
            "made": report["made"],
            "report": report,
        }, []

    def _steps(self, number: int) -> int:
        return 100 if self._settings.toy else number

    def _has_torch(self) -> bool:
        """Whether there is PyTorch for the device; the section says it where there is none."""
        condition = "torch.cuda.is_available()" if self._device == "cuda" else "True"
        command = [str(self._settings.peers), "-c", f"import torch; assert {condition}"]
        found = subprocess.run(command, capture_output=True).returncode == 0
        self._record.note("PyTorch", "beside it" if found else "not there for this device")
        return found

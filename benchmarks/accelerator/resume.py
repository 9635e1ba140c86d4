"""A run that is killed and goes on in another process, and the flow beside the CPU's."""

import contextlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import xarray

import sharpflow as sf
from benchmarks.accelerator.killed_run import WAIT, simulated
from benchmarks.accelerator.numbers import SAME_FLOW
from benchmarks.accelerator.record import Record, Values
from benchmarks.accelerator.sections import Settings
from sharpflow.experiments.checks import Check
from sharpflow.experiments.starts import point_at_angle, trained_to_manifold

NETWORK = "64-16-16-3, 24 digits"
ANGLE = 1.2
FIRST_RECORDS = 2
SAME_LOSS = 1e-5  # of the first records, relative, as in benchmarks/grid.py
ENOUGH = 12.0  # seconds: compiling takes most of them


def measure(record: Record, settings: Settings) -> bool:
    """Kill and resume, then integrate the flow."""
    record.measure("kill and resume", lambda: _killed(record, settings), seconds=ENOUGH)
    record.measure("flow", lambda: _flow(settings), seconds=ENOUGH)
    return False


def _killed(record: Record, settings: Settings) -> tuple[Values, list[Check]]:
    """A run in another process, killed in its middle and resumed, beside two that were not."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        with _started(settings, folder, WAIT) as process:
            _wait_for_the_middle(process, folder, record)
        done = _records(sf.open_run(folder))
        uninterrupted = simulated(settings.size, None)
        with _started(settings, folder) as process:
            again = simulated(settings.size, None)
            if process.wait(max(record.remaining, 0.0)) != 0:
                raise RuntimeError(f"the run did not go on: exit status {process.returncode}")
        resumed = sf.open_run(folder).load()
    return _told(uninterrupted, again, resumed, done)


@contextlib.contextmanager
def _started(settings: Settings, folder: Path, *options: str) -> Iterator[subprocess.Popen]:
    """A process that begins the run or goes on with it; it is killed at the end."""
    command = [sys.executable, "-m", "benchmarks.accelerator.killed_run", settings.size]
    process = subprocess.Popen([*command, str(folder), *options])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _wait_for_the_middle(process: subprocess.Popen, folder: Path, record: Record) -> None:
    """Until a part of the records is there: not only the first, and not all of them.

    Raises:
      RuntimeError: the process ended before.
      TimeoutError: there is no time to resume it.
    """
    while True:
        if process.poll() is not None:
            raise RuntimeError(f"it ended before it was killed, with {process.returncode}")
        if record.remaining < ENOUGH:
            raise TimeoutError("it had not recorded anything in time")
        if (folder / "checkpoints").exists():
            try:
                if _records(sf.open_run(folder)) > 0.0:
                    return
            except ValueError:  # the folder is being made
                pass
        time.sleep(0.02)


def _records(data: xarray.Dataset) -> float:
    """The share of all records that a run has."""
    return float(np.mean(np.isfinite(data["loss"].values)))


def _told(
    uninterrupted: xarray.Dataset, again: xarray.Dataset, resumed: xarray.Dataset, done: float
) -> tuple[Values, list[Check]]:
    """Whether the bits are those of runs that were not killed; and if they are not, why."""
    names = [name for name in uninterrupted.data_vars if uninterrupted[name].dtype.kind == "f"]
    same = [_same_bits(uninterrupted, resumed, name) for name in names]
    repeated = all(_same_bits(uninterrupted, again, name) for name in names)
    if all(same):
        why = "the programs are the same, and so is the order of their sums"
    elif not repeated:
        why = "two runs in one process differ too: the device sums in no fixed order"
    else:
        why = (
            "two runs in one process agree: the other process compiled other kernels, which a "
            "compiler chooses by timing them"
        )
    first, other = (data["loss"].values[..., :FIRST_RECORDS] for data in (uninterrupted, resumed))
    difference = float(np.max(np.abs(first / other - 1.0)))
    part = "a run that is killed and resumed"
    # the CPU is known to keep every bit; what an accelerator does is what is to be found out
    low = 1.0 if jax.default_backend() == "cpu" else -np.inf
    checks = [
        Check(part, "share of its records when it was killed", done, low=0.0, high=1.0),
        Check(part, "share of its records at the end", _records(resumed), low=1.0),
        Check(part, "share of columns with the bits of a run in one piece",
              float(np.mean(same)), low=low, note=why),
        Check(part, f"first {FIRST_RECORDS} losses, difference, relative", difference,
              high=SAME_LOSS),
    ]  # fmt: skip
    values = {"columns": names, "same bits": same, "same bits in one process": repeated,
              "why": why, "share when killed": done}  # fmt: skip
    return values, checks


def _same_bits(ours: xarray.Dataset, theirs: xarray.Dataset, name: str) -> bool:
    return ours[name].values.tobytes() == theirs[name].values.tobytes()


def _flow(settings: Settings) -> tuple[Values, list[Check]]:
    """Seconds of the flow here and on the CPU, without compiling."""
    tau = np.linspace(0.0, 0.1 if settings.toy else 1.0, 6)
    cpu = jax.local_devices(backend="cpu")[0]
    make, subject = (_small, "a linear regression") if settings.toy else (_network, NETWORK)
    with jax.default_device(cpu):
        theta0 = jax.tree.map(np.asarray, make()[1]())
    found = {}
    for name, device in (("here", jax.local_devices()[0]), ("CPU", cpu)):
        with jax.default_device(device):
            problem, _ = make()
            for _ in range(2):  # the first compiles
                began = time.perf_counter()
                flow = sf.sharpness_flow(problem, theta0, tau, max_edge=8)
                values = np.asarray(flow.eigenvalues[:, 0])
                found[name] = (time.perf_counter() - began, values, int(flow.status))
    (here, ours, status), (on_cpu, theirs, _) = found["here"], found["CPU"]
    difference = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
    part = f"flow of {subject}, to τ = {tau[-1]:g}"
    return {"seconds": here, "seconds on the CPU": on_cpu}, [
        Check(part, "seconds", here),
        Check(part, "seconds on the CPU", on_cpu),
        Check(part, "the CPU's seconds over those here", on_cpu / here),
        Check(part, "status", status, low=0.0, high=0.0),
        Check(part, "λ₁, difference from the CPU, relative", difference, high=SAME_FLOW),
    ]


def _network() -> tuple[sf.Problem, Callable[[], sf.models.Params]]:
    """A batch-norm network on digits, and how to reach a point of its Γ."""
    problem = sf.models.mlp(*sf.models.digits(24, classes=(0, 1, 2)), widths=(16, 16))
    return problem, lambda: trained_to_manifold(problem)


def _small() -> tuple[sf.Problem, Callable[[], sf.models.Params]]:
    """For a rehearsal, which has no time to train."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(12, 30)), random.normal(size=12)
    problem = sf.models.linear_regression(x, y)
    return problem, lambda: point_at_angle(problem, x, y, ANGLE)

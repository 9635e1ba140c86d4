"""What a folder costs a grid: the time of writing, and the memory of a long run.

Each part runs in an interpreter of its own, ``python -m benchmarks.grid_memory``.
"""

import dataclasses
import json
import sys
import tempfile

import numpy as np

import sharpflow as sf
from benchmarks.alone import CORES, Report, run_alone, spread
from benchmarks.compiled_grid import CompiledGrid, Task
from benchmarks.grid import REPETITIONS
from benchmarks.memory import peak_memory
from sharpflow.experiments.checks import Check
from sharpflow.experiments.environment import configure_jax
from sharpflow.simulator.store.folder import RunFolder

FEW, MANY = 1_000, 1_000_000  # steps
RECORDS = 100
SEEDS = 4
MOST_ADDED = 100.0  # MB
MODULE = "benchmarks.grid_memory"


def measure() -> list[Check]:
    """Time that writing adds, and peak memory at 10⁶ steps beside that at 10³."""
    return [*_time(Task()), *_memory()]


def _time(task: Task) -> list[Check]:
    report = run_alone(MODULE, "time", json.dumps(dataclasses.asdict(task)), REPETITIONS)
    memory, folder = report["memory"], report["folder"]
    in_turns = ", ".join(f"{b / a - 1.0:.3f}" for a, b in zip(memory, folder, strict=True))
    part = f"{task}, into a folder"
    return [
        Check(part, "time added, of that in memory, best of each",
              min(folder) / min(memory) - 1.0, note=f"in turns {in_turns}"),
        Check(part, "s in memory, best", min(memory), note=spread(memory)),
    ]  # fmt: skip


def _memory() -> list[Check]:
    reports = [
        (run_alone(MODULE, "memory", FEW), run_alone(MODULE, "memory", MANY))
        for _ in range(REPETITIONS)
    ]
    low, high = (
        [report["peak"] / 1e6 for report in column] for column in zip(*reports, strict=True)
    )
    part = f"grid of {SEEDS}, matrix completion, {RECORDS} records, into a folder"
    return [
        Check(part, f"peak memory at {MANY:,} steps / at {FEW:,}, median of each",
              float(np.median(high) / np.median(low))),
        Check(part, f"peak memory at {MANY:,} steps less that at {FEW:,}, MB, median of each",
              float(np.median(high) - np.median(low)), high=MOST_ADDED,
              note=f"at most {max(high) - min(low):.1f}"),
        Check(part, f"peak memory at {FEW:,} steps, MB, median", float(np.median(low)),
              note=spread(low)),
    ]  # fmt: skip


def _measure_time(task: Task, repetitions: int) -> Report:
    """Seconds in memory and into a folder, in turns."""
    compiled = CompiledGrid(task)
    memory, folder = [], []
    for _ in range(repetitions):
        memory.append(compiled.run()[0])
        with tempfile.TemporaryDirectory() as path:
            folder.append(compiled.run(RunFolder(path))[0])
    return {"memory": memory, "folder": folder}


def _measure_memory(num_steps: int) -> Report:
    """Peak memory of this process, in bytes, once it has run a grid."""
    with tempfile.TemporaryDirectory() as folder:
        run = sf.simulate_grid(
            sf.models.matrix_completion(shape=(10, 10), width=4),
            seeds=SEEDS,
            learning_rates=0.1,
            weight_decays=1e-3,
            num_steps=num_steps,
            record_every=num_steps // RECORDS,
            out=folder,
            progress=False,
        )
        if run.sizes["step"] != RECORDS or np.any(run.final_step != num_steps):
            raise RuntimeError(f"a grid that is measured must make all steps: {run.final_step}")
    return {"peak": peak_memory()}


if __name__ == "__main__":
    configure_jax("cpu", CORES)
    what, size, *times = sys.argv[1:]
    if what == "time":
        print(json.dumps(_measure_time(Task(**json.loads(size)), int(*times))))
    else:
        print(json.dumps(_measure_memory(int(size))))

"""What data cost that are arguments of compiled programs: text, compiling, memory.

Each part runs in an interpreter of its own, ``python -m benchmarks.data``.
"""

import ctypes
import gc
import json
import sys
import time
from pathlib import Path

import jax
import numpy as np

import sharpflow as sf
from benchmarks.alone import Report, run_alone, spread
from benchmarks.memory import peak_memory
from sharpflow.experiments.checks import Check
from sharpflow.experiments.environment import configure_jax
from sharpflow.models import Problem

FEW, SOME, MANY = 100, 5_000, 50_000  # images
IMAGE = (32, 32, 3)
REPETITIONS = 3
MOST_TEXT = 0.01  # relative difference
MOST_MEMORY, MOST_TIME = 1.3, 1.5
NUM_PROBLEMS, PROBLEM_BYTES = 10, 25e6
MOST_LEFT = 50.0  # MB
MODULE = "benchmarks.data"

_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h


def measure() -> list[Check]:
    """VGG-11's gradient at several numbers of images, and problems made and deleted in turn."""
    return [*_of_vgg(), *_of_problems()]


def _of_vgg() -> list[Check]:
    few, some = (run_alone(MODULE, "text", count)["characters"] for count in (FEW, SOME))
    pairs = [
        (run_alone(MODULE, "compile", FEW), run_alone(MODULE, "compile", MANY))
        for _ in range(REPETITIONS)
    ]
    images = MANY * int(np.prod(IMAGE)) * 4
    memory = [(many["peak"] - few["peak"]) / images for few, many in pairs]
    few_times, many_times = ([pair[side]["seconds"] for pair in pairs] for side in (0, 1))
    part = "gradient of VGG-11 at full width"
    return [
        Check(part, f"text at {SOME:,} images / at {FEW}, less 1", some / few - 1.0,
              high=MOST_TEXT, note=f"{few:,} characters at {FEW}"),
        Check(part, f"memory of compiling at {MANY:,} images less that at {FEW}, of the images",
              float(np.median(memory)), high=MOST_MEMORY, note=spread(memory)),
        Check(part, f"time of compiling at {MANY:,} images / at {FEW}, best of each",
              min(many_times) / min(few_times), high=MOST_TIME,
              note=f"{spread(many_times)} s at {MANY:,}"),
    ]  # fmt: skip


def _of_problems() -> list[Check]:
    report = run_alone(MODULE, "problems", NUM_PROBLEMS)
    part = f"{NUM_PROBLEMS} problems of {PROBLEM_BYTES / 1e6:.0f} MB in turn"
    return [
        Check(part, "programs compiled after the first problem", report["compilations"], high=0),
        Check(part, "memory after they are deleted less that after the first, MB",
              report["left"] / 1e6, high=MOST_LEFT),
    ]  # fmt: skip


def _vgg(count: int) -> Problem:
    # one image many times, which takes no memory beside the problem's own
    image = np.random.default_rng(0).normal(size=(1, *IMAGE)).astype(np.float32)
    return sf.models.vgg11(
        np.broadcast_to(image, (count, *IMAGE)), np.arange(count) % 10, dtype=np.float32
    )


def _lowered(count: int) -> jax.stages.Lowered:
    problem = _vgg(count)
    params = problem.init(jax.random.key(0))
    step = jax.jit(lambda problem, params: jax.value_and_grad(problem.loss_value)(params))
    return step.lower(problem, params)


def _measure_compiling(count: int) -> Report:
    lowered = _lowered(count)
    began = time.perf_counter()
    lowered.compile()
    return {"seconds": time.perf_counter() - began, "peak": peak_memory()}


def _measure_problems(number: int) -> Report:
    """Compilations and memory that problems leave behind which have the shapes of the first."""
    _return_freed_arrays()
    _use(0)
    before, compilations = _resident(), _Compilations()
    for seed in range(1, number + 1):
        _use(seed)
    return {"compilations": compilations.count, "left": _resident() - before}


def _use(seed: int) -> None:
    """Make a problem, train it a little, look at its curvature, and forget it."""
    random = np.random.default_rng(seed)
    examples = int(PROBLEM_BYTES / 4 / 1024)
    x = random.normal(size=(examples, 1024)).astype(np.float32)
    problem = sf.models.mlp(
        x, random.permutation(np.arange(examples) % 10), (16, 16), dtype=np.float32
    )
    del x
    params = problem.init(jax.random.key(seed))
    sf.simulate(problem, params, sf.gdwd(0.1, 1e-3), 5, observables=("loss", "sharpness_iterate"))
    sf.theory.top_eigenpairs(problem, params)


class _Compilations:
    """Counts what XLA compiles from now on."""

    def __init__(self) -> None:
        self.count = 0
        jax.monitoring.register_event_duration_secs_listener(self._note)

    def _note(self, event: str, seconds: float, **_: object) -> None:
        self.count += event == "/jax/core/compile/backend_compile_duration"


def _return_freed_arrays() -> None:
    """Let the allocator hand back at once what is freed, so that the rest is what is held.

    By itself glibc keeps freed arrays of up to 32 MB for later: up to 190 MB after problems of
    25 MB, of which nothing is in use.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(_M_MMAP_THRESHOLD, 1_000_000)


def _resident() -> float:
    """Bytes of memory that this process has."""
    gc.collect()
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * float(dict(line.split(":", 1) for line in lines)["VmRSS"].split()[0])


if __name__ == "__main__":
    configure_jax("cpu", 1)
    what, size = sys.argv[1], int(sys.argv[2])
    if what == "text":
        print(json.dumps({"characters": len(_lowered(size).as_text())}))
    elif what == "compile":
        print(json.dumps(_measure_compiling(size)))
    else:
        print(json.dumps(_measure_problems(size)))

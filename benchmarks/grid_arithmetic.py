"""The arithmetic of a grid's step beside this machine's, and what takes the rest of the time.

Each half runs in an interpreter of its own, ``python -m benchmarks.grid_arithmetic``: a step on
devices of one thread each, the product on one device with all of them.
"""

import json
import math
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

import sharpflow as sf
from benchmarks.alone import CORES, Report, run_alone
from benchmarks.compiled_grid import NETWORK, NUM_IMAGES, WIDTHS, CompiledGrid, Task, network
from benchmarks.grid import FEW_SEEDS, REPETITIONS
from sharpflow.experiments.checks import Check
from sharpflow.experiments.environment import configure_jax
from sharpflow.models import Params, Problem
from sharpflow.simulator.chunk import stacked
from sharpflow.simulator.loop import padded_rows, run_rows

PART = f"arithmetic of a step of a grid, {NETWORK}, float32, cores: {CORES}"
NUM_OUTPUTS = 10
SIZE = 1024  # of the matrix product
PRODUCTS = 200
STEPS = 4000  # of a timed loop
LOOPS = 5
LEAST_SHARE = 0.3
BARE_LEARNING_RATE, BARE_WEIGHT_DECAY = 1e-3, 1e-3  # a network without batch norm stays finite

Loop = Callable[[int], object]  # of a device


def measure() -> list[Check]:
    """Share of the machine's arithmetic, and shares of the time of a step by kind.

    The kinds are differences between loops that leave out more and more, each run on all
    devices at once.
    """
    task = json.dumps({"num_seeds": FEW_SEEDS})
    module = "benchmarks.grid_arithmetic"
    peaks, reports = [], []
    for _ in range(REPETITIONS):  # in turns
        peaks.append(run_alone(module, "product", PRODUCTS)["rate"])
        reports.append(run_alone(module, "step", task, LOOPS))
    kinds = ("step", "products", "normalized", "activated", "loop")
    step, products, normalized, activated, loop = (
        min(report[kind] for report in reports) for kind in kinds
    )
    operations = floating_point_operations()
    peak, rate, alone = max(peaks), CORES * operations / step, CORES * operations / products
    in_turns = ", ".join(
        f"{CORES * operations / report['step'] / found:.3f}"
        for report, found in zip(reports, peaks, strict=True)
    )
    return [
        Check(PART, f"arithmetic / matrix product of n = {SIZE}, best of each", rate / peak,
              low=LEAST_SHARE, note=f"in turns {in_turns}"),
        Check(PART, f"GFLOP/s of the matrix product, n = {SIZE}", peak / 1e9),
        Check(PART, "GFLOP/s of a step", rate / 1e9,
              note=f"{operations / 1e6:.2f} MFLOP in {1e6 * step:.1f} µs"),
        Check(PART, "GFLOP/s of a step that is matrix products and update alone", alone / 1e9),
        Check(PART, "share of a step: matrix products and update", products / step),
        Check(PART, "share of a step: batch norm", (normalized - products) / step),
        Check(PART, "share of a step: softplus", (activated - normalized) / step),
        Check(PART, "share of a step: loss, finiteness, running means, freezing",
              (loop - activated) / step),
        Check(PART, "share of a step: records and the host", (step - loop) / step),
    ]  # fmt: skip


def floating_point_operations() -> int:
    """Of the matrix products of a step: forward, for the kernels, for all inputs but the first."""
    images, _ = sf.models.digits(NUM_IMAGES)
    sizes = (images.shape[1], *WIDTHS, NUM_OUTPUTS)
    first, *others = (rows * columns for rows, columns in pairwise(sizes))
    return 2 * NUM_IMAGES * (2 * first + 3 * sum(others))


def _product(repetitions: int) -> Report:
    """Floating-point operations a second of a matrix product on all cores."""
    left, right = jax.random.normal(jax.random.key(0), (2, SIZE, SIZE), np.float32)
    product = jax.jit(jnp.matmul)
    seconds = []
    for _ in range(repetitions):
        began = time.perf_counter()
        jax.block_until_ready(product(left, right))
        seconds.append(time.perf_counter() - began)
    return {"rate": 2 * SIZE**3 / min(seconds)}


def _step(task: Task, repetitions: int) -> Report:
    """Seconds of a step of a point: in the grid, and in loops from the least to the whole."""
    compiled = CompiledGrid(task)
    loops = {
        "products": _bare_loop(_network_without()),
        "normalized": _bare_loop(_network_without(normalized=True)),
        "activated": _bare_loop(network()),
        "loop": _whole_loop(compiled),
    }
    best = dict.fromkeys(("step", *loops), math.inf)
    with ThreadPoolExecutor(CORES) as pool:

        def seconds(loop: Loop) -> float:
            """Of a step, on all devices at once."""
            began = time.perf_counter()
            list(pool.map(loop, range(CORES)))
            return (time.perf_counter() - began) / STEPS

        for loop in loops.values():
            seconds(loop)  # compiles
        for _ in range(repetitions):  # in turns
            found = {kind: seconds(loop) for kind, loop in loops.items()}
            found["step"] = compiled.run()[0] * CORES / task.updates
            best = {kind: min(best[kind], found[kind]) for kind in best}
    return best


def _network_without(*, normalized: bool = False) -> Problem:
    """The network without softplus, and perhaps without batch norm; as ``sf.models.mlp``."""
    layers: list[Callable] = []
    for width in (*WIDTHS, NUM_OUTPUTS):
        layers.append(nn.Dense(width, use_bias=False))
        if normalized:
            statistics = {"use_fast_variance": False, "force_float32_reductions": False}
            affine = {"use_bias": False, "use_scale": False, "epsilon": 0.0}
            layers.append(nn.BatchNorm(use_running_average=False, **affine, **statistics))
    data = sf.models.digits(NUM_IMAGES)
    return sf.models.from_flax(nn.Sequential(layers), *data, dtype=np.float32)


def _bare_loop(problem: Problem) -> Loop:
    """Updates and nothing else."""
    rates = np.float32(BARE_LEARNING_RATE), np.float32(BARE_WEIGHT_DECAY)

    @jax.jit
    def updated(params: Params, learning_rate: jax.Array, weight_decay: jax.Array) -> Params:
        def update(_: int, params: Params) -> Params:
            gradient = jax.grad(problem.loss_value)(params)
            return jax.tree.map(
                lambda w, g: w - learning_rate * (g + weight_decay * w), params, gradient
            )

        return jax.lax.fori_loop(0, STEPS, update, params)

    return _on_devices(updated, problem.init(jax.random.key(0)), *rates)


def _whole_loop(compiled: CompiledGrid) -> Loop:
    """Updates as a grid makes them, without a record."""
    points = compiled.points
    state, hyperparameters = (
        stacked([of_point]) for of_point in (points.state(0), points.hyperparameters(0))
    )
    rows = padded_rows(np.full((1, 1), STEPS, np.int32), False, False, 1)
    whole = jax.jit(partial(run_rows, points.batch.program))
    return _on_devices(whole, state, hyperparameters, rows)


def _on_devices(function: Callable, *arguments: Any) -> Loop:
    placed = [jax.device_put(arguments, device) for device in jax.local_devices()]
    return lambda device: jax.block_until_ready(function(*placed[device]))


if __name__ == "__main__":
    which, size, *others = sys.argv[1:]
    configure_jax("cpu", CORES if which == "step" else None)
    if which == "step":
        print(json.dumps(_step(Task(**json.loads(size)), int(others[0]))))
    else:
        print(json.dumps(_product(int(size))))

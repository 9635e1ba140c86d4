"""Matrix-free operations: against dense ones, and at a size where the Jacobian does not fit.

``measure`` runs the larger size in an interpreter of its own, ``python -m benchmarks.scale``:
its peak memory is that of the operations alone.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

import sharpflow as sf
from benchmarks.alone import run_alone
from benchmarks.memory import peak_memory
from sharpflow.experiments.checks import Check
from sharpflow.experiments.environment import num_cores
from sharpflow.experiments.starts import trained_to_manifold
from sharpflow.models.parameter_names import parameter_rows
from sharpflow.theory.residuals import residual_form

SMALL = "matrix-free against dense, 64-32-32-10, 24 digits, float64"
LARGE = "matrix-free, 3072-40-40-10, 500 CIFAR-10 images, float32"
IMAGES = 500


def measure() -> list[Check]:
    """Both sizes; the larger one where ``SHARPFLOW_DATA`` has CIFAR-10."""
    return [*_against_dense(), *_large()]


def _against_dense() -> list[Check]:
    problem = sf.models.mlp(*sf.models.digits(24), widths=(32, 32))
    theta = trained_to_manifold(problem)
    flat, _ = ravel_pytree(theta)
    residual = residual_form(problem, theta)
    vectors = jnp.asarray(np.random.default_rng(0).normal(size=(3, flat.size)))
    tau = np.linspace(0.0, 2.0, 5)

    def found(method: str) -> tuple[Any, Any, np.ndarray]:
        @jax.jit
        def at_point(point: jax.Array) -> tuple[jax.Array, jax.Array]:
            here = sf.theory.linearize(residual, point, method)
            return here.top_eigenpairs(12)[0], here.project(vectors)

        flow = sf.sharpness_flow(problem, theta, tau, max_edge=12, method=method)
        return *at_point(flat), parameter_rows(flow.theta)

    values, projected, path = found("dense")
    checks = []
    for method in ("gram", "iterative"):
        other_values, other_projected, other_path = found(method)
        error = float(jnp.max(jnp.abs(other_values / values - 1.0)))
        checks.append(Check(SMALL, f"{method}: eigenvalues, largest of 12", error, high=1e-8))
        error = float(jnp.linalg.norm(other_projected - projected) / jnp.linalg.norm(projected))
        checks.append(Check(SMALL, f"{method}: projection", error, high=1e-6))
        moved = np.linalg.norm(path[-1] - path[0])
        error = float(np.linalg.norm(other_path[-1] - path[-1]) / moved)
        checks.append(Check(SMALL, f"{method}: flow at τ = 2 / distance moved", error, high=1e-4))
    return checks


def _large() -> list[Check]:
    folder = Path(os.environ.get("SHARPFLOW_DATA", "")) / "data" / "cifar-10-batches-bin"
    if not (folder / "data_batch_1.bin").is_file():
        print("scale: SHARPFLOW_DATA has no CIFAR-10, so its rows are left out")
        return []
    rows = run_alone("benchmarks.scale", folder.absolute(), cores=num_cores())
    return [Check(LARGE, *row) for row in rows]


def _measure_large(folder: Path) -> list[tuple]:
    problem = sf.models.mlp(*_images(folder), widths=(40, 40))
    params = problem.init(jax.random.key(0))
    run = sf.simulate(problem, params, sf.gdwd(0.5, 0.0), 5000, record_every=1000, progress=False)
    retracted = jax.jit(lambda w: sf.theory.retract_with_status(problem, w))
    rows: list[tuple] = [
        ("parameters", sum(leaf.size for leaf in jax.tree.leaves(params))),
        ("residuals", jax.eval_shape(problem.residual, params).shape[0]),
    ]
    (theta, status), seconds = _timed(lambda: retracted(run.final_params))
    if int(status) != sf.Status.SUCCESS:
        raise RuntimeError(sf.Status(int(status)).message)
    rows.append(("retraction, s with compilation", seconds))
    rows.append(("‖r‖ after it", float(jnp.linalg.norm(problem.residual(theta)))))
    vector = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(1), leaf.shape), theta)
    projected, seconds = _timed(lambda: sf.theory.tangent_projection(problem, theta, vector))
    rows.append(("projection, s with compilation", seconds))
    lengths = [
        float(jnp.linalg.norm(jax.jvp(problem.residual, (theta,), (tangent,))[1]))
        for tangent in (projected, vector)
    ]
    rows.append(("‖J P v‖ / ‖J v‖", lengths[0] / lengths[1], 0.0, 1e-5))

    def step() -> sf.FlowSolution:
        return sf.sharpness_flow(problem, theta, [0.0, 2e-3], step_size=2e-3)

    rows.append(("flow step with up to 8 at the edge, s with compilation", _timed(step)[1]))
    rows.append(("flow step, s compiled", _timed(step)[1]))
    rows.append(("peak memory, GiB", peak_memory() / 2**30, 0.0, 4.0))
    return rows


def _images(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (n, 3072), standardised as a whole, and classes (n,); Krizhevsky 2009."""
    records = np.fromfile(folder / "data_batch_1.bin", np.uint8).reshape(-1, 3073)[:IMAGES]
    pixels = records[:, 1:].astype(np.float32) / 255.0
    return (pixels - pixels.mean()) / pixels.std(), records[:, 0].astype(int)


def _timed(compute: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    result = jax.block_until_ready(compute())
    return result, time.perf_counter() - began


if __name__ == "__main__":
    print(json.dumps(_measure_large(Path(sys.argv[1]))))

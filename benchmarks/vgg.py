"""Steps and Hessian products of VGG-11 in a compiled loop, beside PyTorch's steps.

``python -m benchmarks.vgg --peers PYTHON`` measures, and ``--publish`` puts the table into
docs/benchmarks.md.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax import Array, lax

import sharpflow as sf
from benchmarks.alone import CORES, Report, printed_json, usable
from benchmarks.ratios import vgg_table
from benchmarks.tables import DOCS, put_table
from sharpflow.experiments.checks import Check, print_table, write_json
from sharpflow.experiments.environment import configure_jax, num_cores
from sharpflow.models import Params, Problem, standardized_targets
from sharpflow.models.precision import compiled
from sharpflow.simulator.provenance import launch_provenance

NAME = "the convolutional networks"
SETTINGS = ((0.125, 300), (0.5, 64))  # width and number of images
TURNS, STEPS = 5, 2
SAME_LOSS = 1e-4  # relative; float32, nine batch norms deep
MOST_OF_PYTORCH, MOST_STEPS = 1.2, 2.2


class Seconds(NamedTuple):
    """For one step or product, by the clock, and of all processors together."""

    wall: float
    processors: float


def measure(peers: Path | None = None) -> list[Check]:
    """Of both widths.

    Args:
      peers: Python of an environment with ``benchmarks/peers/requirements.txt``.
    """
    peers = usable(peers)
    return [check for setting in SETTINGS for check in _measure(*setting, peers)]


def _measure(width: float, num_images: int, peers: Path | None) -> list[Check]:
    random = np.random.default_rng(0)
    images = random.normal(size=(num_images, 32, 32, 3)).astype(np.float32)
    labels = np.arange(num_images) % 10
    problem = sf.models.vgg11(images, labels, width, dtype=np.float32)
    params = problem.init(jax.random.key(0))
    functions = {"step": compiled(_descended), "Hessian product": compiled(_multiplied)}
    turns: dict[str, list[Seconds]] = {name: [] for name in (*functions, "PyTorch")}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "task.npz"
        np.savez(path, **_task_of_peers(params, images, labels))
        for function in functions.values():
            _seconds(lambda f=function: f(problem, params))  # compiles
        for _ in range(TURNS):
            for name, function in functions.items():
                turns[name].append(_seconds(lambda f=function: f(problem, params)))
            if peers is not None:
                report = _of_peers(peers, path)
                _require_same(float(problem.loss_value(params)), report["loss"])
                turns["PyTorch"] += [Seconds(*each) for each in report["seconds"]]
    part = f"VGG-11, {width:g} of the width, {num_images} images, float32, cores: {CORES}"
    checks = []
    for kind, what in (("wall", "time"), ("processors", "processor time")):
        seconds = {name: [getattr(one, kind) for one in every] for name, every in turns.items()}
        checks += _ratios(part, what, seconds)
    return checks


def _ratios(part: str, what: str, seconds: dict[str, list[float]]) -> list[Check]:
    """Of the least times, because what else the machine does only adds to them."""
    best = {name: min(values, default=np.nan) for name, values in seconds.items()}

    def ratio(statement: str, above: str, below: str, high: float) -> Check:
        note = f"{1e3 * best[above]:.0f} / {1e3 * best[below]:.0f} ms"
        return Check(part, f"{what} {statement}", best[above] / best[below], high=high, note=note)

    product = ratio("of a Hessian product / of a step", "Hessian product", "step", MOST_STEPS)
    if not seconds["PyTorch"]:
        return [product]
    return [ratio("of a step / PyTorch's", "step", "PyTorch", MOST_OF_PYTORCH), product]


def _seconds(function: Callable[[], object]) -> Seconds:
    wall, processors = time.perf_counter(), time.process_time()
    jax.block_until_ready(function())
    wall, processors = time.perf_counter() - wall, time.process_time() - processors
    return Seconds(wall / STEPS, processors / STEPS)


def _descended(problem: Problem, params: Params) -> tuple[Params, Array]:
    def step(params: Params, _: None) -> tuple[Params, Array]:
        loss, gradient = jax.value_and_grad(problem.loss_value)(params)
        return jax.tree.map(lambda w, g: w - 0.01 * g, params, gradient), loss

    return lax.scan(step, params, None, length=STEPS)


def _multiplied(problem: Problem, params: Params) -> Params:
    """As a power iteration does: each product from the one before."""

    def multiply(vector: Params, _: None) -> tuple[Params, None]:
        return jax.jvp(jax.grad(problem.loss_value), (params,), (vector,))[1], None

    return lax.scan(multiply, params, None, length=STEPS)[0]


def _task_of_peers(params: Params, images: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    names = sorted((name for name in params if name != "head"), key=lambda n: int(n.split("_")[1]))
    return {
        "images": images,
        "targets": standardized_targets(labels, np.dtype(np.float32)),
        **{f"kernel_{i}": params[name]["kernel"] for i, name in enumerate((*names, "head"))},
    }


def _of_peers(python: Path, path: Path) -> Report:
    script = Path(__file__).parent / "peers" / "vgg.py"
    return printed_json([python, script, path, "--steps", STEPS, "--threads", CORES])


def _require_same(ours: float, theirs: float) -> None:
    """Make sure that both compute the same loss.

    Raises:
      RuntimeError: they do not.
    """
    if not np.isclose(ours, theirs, rtol=SAME_LOSS, atol=0.0):
        raise RuntimeError(f"losses differ: {ours} of ours, {theirs} of PyTorch")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=Path, metavar="PYTHON")
    parser.add_argument("--publish", action="store_true", help="put the table into the page")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "vgg")
    asked = parser.parse_args()
    configure_jax()
    made = launch_provenance() | {"cores": num_cores()}
    checks = measure(asked.peers)
    print_table(checks, f"VGG-11 on {made['device']}, jax {made['jax_version']}")
    asked.out.mkdir(parents=True, exist_ok=True)
    kept = asked.out / f"{str(made['created'])[:16].replace(':', '')}-cpu.json"
    write_json(checks, kept, made)
    if asked.publish:
        put_table(DOCS / "benchmarks.md", vgg_table(kept), NAME)
    print(json.dumps({"written": str(kept)}))

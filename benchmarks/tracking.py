"""λ₁ of the Hessian tracked every ten steps at the edge: products, error, time, and peers."""

import json
import math
import subprocess
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse.linalg
from jax.flatten_util import ravel_pytree

import sharpflow as sf
from benchmarks.alone import usable
from benchmarks.edge import NETWORK, at_edge, network
from sharpflow.experiments.checks import Check
from sharpflow.models import Params, standardized_targets
from sharpflow.theory import top_eigenpairs

PART = f"tracking λ₁, {NETWORK}"
PEERS = "tracking λ₁, peers on PyTorch"
SEEDS = (0, 1)
RECORDS = 60  # snapshots of each seed, the first of which only starts the tracking
EVERY = 10  # steps from a snapshot to the next
TOLERANCE = 1e-4
RECORD_BASIS = 18  # vectors that the observable ``sharpness`` keeps for one eigenvalue
ROUNDING = 1e-6  # of λ₁ from products in float32, relative
LEAST_RATIO = {"eigsh": 3.0}  # products of a peer / ours

Row = dict[str, float]  # products, relative errors and their estimates, seconds


@chex.dataclass(frozen=True)
class Snapshots:
    """Params of one seed, ``EVERY`` steps apart, in float32.

    Attributes:
      params: with leading axis ``RECORDS``.
      truth: λ₁ at each, from products in float64.
      edge_ratio: mean of ηλ₁/2.
    """

    params: Params
    truth: np.ndarray
    edge_ratio: float


class Summary(NamedTuple):
    """Mean number of Hessian products, largest relative error, median seconds of a record."""

    products: float
    error: float
    seconds: float


def measure(peers: Path | None = None) -> list[Check]:
    """Products, errors and time of a record, and of the peers where there are any.

    Args:
      peers: Python of an environment with ``benchmarks/peers/requirements.txt``.
    """
    snapshots = [_snapshots(seed) for seed in SEEDS]
    ours = [_track(each) for each in snapshots]
    rows = [row for each in ours for row in each]
    found = _summary(rows)
    recorded = [row for each in snapshots for row in _track(each, RECORD_BASIS)]
    every = [*rows, *recorded]
    covered = [row["errors"] <= row["estimates"] + ROUNDING for row in every]
    ratio = np.mean([each.edge_ratio for each in snapshots])
    note = f"{len(SEEDS)} seeds, {len(rows)} records"
    checks = [
        Check(PART, "Hessian products a record, mean", found.products, high=22.0, note=note),
        Check(PART, "Hessian products a record, mean, as sharpness() records it",
              _summary(recorded).products, high=22.0, note=f"a space of {RECORD_BASIS} vectors"),
        Check(PART, "Hessian products a record, largest", max(row["products"] for row in rows)),
        Check(PART, "relative error of λ₁, largest", _summary(every).error, high=TOLERANCE),
        Check(PART, "share of records whose error estimate covers the error",
              float(np.mean(covered)), low=0.999, note=f"{len(every)} records"),
        Check(PART, "ms a record, median", 1e3 * found.seconds),
        Check(PART, "ηλ₁/2, mean", float(ratio)),
    ]  # fmt: skip
    python = usable(peers)
    return checks if python is None else [*checks, *_against_peers(python, snapshots, ours)]


def _snapshots(seed: int) -> Snapshots:
    start, rule, learning_rate = at_edge(seed)
    run = sf.simulate(
        network(),
        start,
        rule,
        EVERY * RECORDS,
        record_every=EVERY,
        snapshot_every=1,
        progress=False,
    )
    params = jax.tree.map(lambda leaf: leaf[:RECORDS], run.params)
    truth = _truth(params, seed)
    return Snapshots(
        params=params, truth=truth, edge_ratio=float(learning_rate * truth.mean() / 2.0)
    )


def _at(params: Params, index: int) -> Params:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[index]), params)


def _truth(params: Params, seed: int) -> np.ndarray:
    """λ₁ by ARPACK, independent of what is measured, with products in float64."""
    problem = network(np.float64)
    _, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.asarray(leaf[0], float), params))

    @jax.jit
    def product(flat: jax.Array, vector: jax.Array) -> jax.Array:
        gradient = jax.grad(problem.loss_value)
        return ravel_pytree(jax.jvp(gradient, (unravel(flat),), (unravel(vector),))[1])[0]

    values = []
    flat = np.asarray(jax.vmap(lambda tree: ravel_pytree(tree)[0])(params), np.float64)
    random = np.random.default_rng(seed)
    start = np.zeros(flat.shape[1])
    for point in flat:
        # nothing random would leave out an eigenvector that the last one is orthogonal to
        noise = random.normal(size=start.size) / start.size**0.5
        hessian = scipy.sparse.linalg.LinearOperator(
            (start.size, start.size),
            matvec=lambda vector, point=point: np.asarray(product(point, vector.ravel())),
            dtype=np.float64,
        )
        value, vector = scipy.sparse.linalg.eigsh(
            hessian, k=1, which="LA", tol=1e-8, v0=start + noise, ncv=40
        )
        values.append(value[0])
        start = vector[:, 0]
    return np.asarray(values)


@cache
def _compiled(basis_size: int | None) -> tuple:
    """The first record, and one that starts from the last."""
    problem = network()

    def find(params: Params, start: Params | None) -> sf.theory.Eigenpairs:
        return top_eigenpairs(
            problem,
            params,
            tolerance=TOLERANCE,
            stop="estimate",
            start=start,
            basis_size=basis_size,
        )

    return jax.jit(lambda params: find(params, None)), jax.jit(find)


def _track(snapshots: Snapshots, basis_size: int | None = None) -> list[Row]:
    """λ₁ at all snapshots but the first, which only starts the tracking."""
    first, following = _compiled(basis_size)
    found = first(_at(snapshots.params, 0))
    jax.block_until_ready(following(_at(snapshots.params, 1), found.next_start))  # compiles
    rows = []
    for index in range(1, RECORDS):
        params = jax.block_until_ready(_at(snapshots.params, index))
        began = time.perf_counter()
        found = jax.block_until_ready(following(params, found.next_start))
        seconds = time.perf_counter() - began
        truth = snapshots.truth[index]
        error = abs(float(found.values[0]) - truth) / truth
        rows.append(
            {
                "products": int(found.num_products),
                "errors": error,
                "estimates": float(found.errors[0]) / truth,
                "seconds": seconds,
            }
        )
    return rows


def _summary(rows: list[Row]) -> Summary:
    products, errors, seconds = (
        np.array([row[key] for row in rows]) for key in ("products", "errors", "seconds")
    )
    return Summary(
        products=float(products.mean()),
        error=float(errors.max()),
        seconds=float(np.median(seconds)),
    )


def _against_peers(python: Path, snapshots: list[Snapshots], ours: list[list[Row]]) -> list[Check]:
    with tempfile.TemporaryDirectory() as folder:
        task = Path(folder) / "task.npz"
        np.savez(task, **_task(snapshots))
        run = subprocess.run(
            [python, Path(__file__).parent / "peers" / "tracking.py", task],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    report = json.loads(run.stdout)
    checks = []
    for name, method in report.items():
        seeds = method["seeds"]
        peer = _summary([row for rows in seeds for row in rows])
        # at the same snapshots: a slow peer stops early
        here = len(seeds[0])
        mine = _summary([row for each in ours for row in each[:here]])
        checks += [
            Check(PEERS, f"{name}: Hessian products / ours", peer.products / mine.products,
                  low=LEAST_RATIO.get(name, -math.inf),
                  note=f"{peer.products:.1f} / {mine.products:.1f}, largest relative error "
                       f"{peer.error:.1e} / {mine.error:.1e}"),
            Check(PEERS, f"{name}: time a record / ours", peer.seconds / mine.seconds,
                  note=f"{1e3 * peer.seconds:.0f} / {1e3 * mine.seconds:.0f} ms"),
            Check(PEERS, f"{name}: relative error, largest", peer.error, note=method["made"]),
        ]  # fmt: skip
    return checks


def _task(snapshots: list[Snapshots]) -> dict[str, np.ndarray]:
    """What the peers need: data, params, truth, and loss and gradient to agree with."""
    images, labels = sf.models.digits(512)
    params = jax.tree.map(
        lambda *leaves: np.stack(leaves),
        *(each.params for each in snapshots),
    )
    loss, gradient = jax.value_and_grad(network().loss_value)(_at(snapshots[0].params, 0))
    return {
        "images": images.astype(np.float32),
        "targets": standardized_targets(labels, np.dtype(np.float32)),
        "truth": np.stack([each.truth for each in snapshots]),
        "loss": np.asarray(loss),
        **{f"kernel_{i}": leaf for i, leaf in enumerate(jax.tree.leaves(params))},
        **{f"gradient_{i}": np.asarray(leaf) for i, leaf in enumerate(jax.tree.leaves(gradient))},
    }

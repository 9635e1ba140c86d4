"""λ₁ of the same Hessians by what one would use with PyTorch; prints JSON.

Runs in an environment of its own, with ``requirements.txt`` beside this file:
``python benchmarks/peers/tracking.py task.npz``, which ``benchmarks/tracking.py`` calls.
"""

import argparse
import dataclasses
import json
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import pyhessian
import torch
from curvlinops import HessianLinearOperator
from network import (
    Counted,
    HalfSquare,
    Network,
    double_backward,
    largest_eigenpair,
    leaves,
    loss_and_gradient,
    random_start,
    versions,
)

# λ₁, an eigenvector where there is one to start from, and products
Value = tuple[float, np.ndarray | None, int]


@dataclasses.dataclass(frozen=True)
class Method:
    """How λ₁ is found.

    Attributes:
      package: it comes from.
      find: of a network, and an eigenvector to start from or None.
      warm: whether it starts from the eigenvector of the last snapshot.
      records: most snapshots of each seed, for one that takes long.
    """

    package: str
    find: Callable[["Network", np.ndarray | None], Value]
    warm: bool = False
    records: int | None = None


class Peers:
    """Each method finds λ₁ at one network, and says how many products it took."""

    def __init__(self, images: np.ndarray, targets: np.ndarray, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.data = torch.tensor(images), torch.tensor(targets)
        self.loss = HalfSquare()

    def arpack(self, network: Network, start: np.ndarray | None, tolerance: float = 0.0) -> Value:
        """scipy's eigsh; its default tolerance 0 is the precision of float32."""
        return self._eigsh(double_backward(network, *self.data), network, start, tolerance)

    def curvlinops(self, network: Network, start: np.ndarray | None) -> Value:
        """The operator of curvlinops, in eigsh with its defaults."""
        operator = HessianLinearOperator(
            network,
            self.loss,
            list(network.parameters()),
            [self.data],
            check_deterministic=False,  # which takes products
        )
        return self._eigsh(Counted(operator.to_scipy(np.float32).matvec), network, start, 0.0)

    def pyhessian(self, network: Network, start: np.ndarray | None) -> Value:
        """Power iteration as PyHessian does it by default, from random vectors."""
        module = sys.modules["pyhessian.hessian"]
        original = pyhessian.utils.hessian_vector_product
        counted = module.hessian_vector_product = Counted(original)
        try:
            found = pyhessian.hessian(network, self.loss, data=self.data, cuda=False)
            values, _ = found.eigenvalues(top_n=1)
        finally:
            module.hessian_vector_product = original
            network.zero_grad(set_to_none=True)  # it leaves a graph in the gradients
        return values[0], None, counted.count

    def _eigsh(
        self, product: Counted, network: Network, start: np.ndarray | None, tolerance: float
    ) -> Value:
        if start is None:
            start = random_start(network, self.random)
        value, vector = largest_eigenpair(product, start, tolerance)
        return value, vector, product.count


def main() -> None:
    """Run all methods on all snapshots."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", type=Path, help="npz that benchmarks/tracking.py writes")
    # the threads of torch wait busily: on a machine that does something else two of them
    # take up to a hundred times as long as one; undisturbed they save a third
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    arguments = parser.parse_args()
    task = np.load(arguments.task)
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore", "Using backward.. with create_graph=True")  # PyHessian does
    torch.manual_seed(0)
    peers = Peers(task["images"], task["targets"])
    _require_same_network(peers, task)
    methods = {
        "eigsh": Method("scipy", peers.arpack),
        "eigsh, warm start": Method("scipy", peers.arpack, warm=True),
        "eigsh, warm start, tol=1e-4": Method(
            "scipy", partial(peers.arpack, tolerance=1e-4), warm=True
        ),
        "PyHessian": Method("pyhessian", peers.pyhessian),
        "curvlinops and eigsh": Method("curvlinops-for-pytorch", peers.curvlinops, records=15),
    }
    threads = f"threads {torch.get_num_threads()}"
    report = {
        name: {
            "made": f"{versions('torch', method.package)}, {threads}",
            "seeds": _run(method, task),
        }
        for name, method in methods.items()
    }
    json.dump(report, sys.stdout)


def _run(method: Method, task: Mapping[str, np.ndarray]) -> list[list[dict[str, float]]]:
    """Products, relative error and seconds at all snapshots but the first, seed by seed."""
    kernels = leaves(task, "kernel")
    seeds = []
    for seed, truth in enumerate(task["truth"]):
        rows, vector = [], None
        for record, expected in enumerate(truth[: method.records]):
            network = Network([kernel[seed, record] for kernel in kernels])
            began = time.perf_counter()
            value, vector, products = method.find(network, vector if method.warm else None)
            seconds = time.perf_counter() - began
            error = abs(value - expected) / expected
            rows.append({"products": products, "errors": error, "seconds": seconds})
        seeds.append(rows[1:])
    return seeds


def _require_same_network(peers: Peers, task: Mapping[str, np.ndarray]) -> None:
    """Loss and gradient as jax has them, to the rounding of float32."""
    network = Network(kernel[0, 0] for kernel in leaves(task, "kernel"))
    loss, gradient = loss_and_gradient(network, *peers.data)
    np.testing.assert_allclose(loss.item(), task["loss"], rtol=1e-5)
    expected = leaves(task, "gradient")
    scale = max(np.abs(leaf).max() for leaf in expected)
    for mine, theirs in zip(gradient, expected, strict=True):
        np.testing.assert_allclose(mine.detach().numpy(), theirs, rtol=0, atol=1e-5 * scale)


if __name__ == "__main__":
    main()

"""A grid of simulations with λ₁, point after point in PyTorch; prints JSON.

Runs in the environment of ``tracking.py``: ``python benchmarks/peers/grid.py task.npz``. The
points are shared out among single-threaded processes.
"""

import argparse
import dataclasses
import json
import math
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from threading import Barrier

import numpy as np
import torch
from network import (
    HalfSquare,
    Network,
    double_backward,
    largest_eigenpair,
    leaves,
    random_start,
    versions,
)

WARM_UP = 20  # steps, and λ₁ at the first of them
PATIENCE = 60.0  # seconds that a process waits for the others to be warm


@dataclasses.dataclass(frozen=True)
class Point:
    """One simulation.

    Attributes:
      losses, sharpness: L and λ₁ at step 0 and every ``record_every`` steps from there.
      final_loss: L after the last step.
      products: with the Hessian, of all records.
      seconds: of the simulation.
      seconds_in_eigsh: of these, those for λ₁.
    """

    losses: list[float]
    sharpness: list[float]
    final_loss: float
    products: int
    seconds: float
    seconds_in_eigsh: float


@dataclasses.dataclass(frozen=True)
class Share:
    """The points of one process, by index, and when it began and finished them."""

    points: dict[int, Point]
    began: float
    finished: float


@dataclasses.dataclass(frozen=True)
class Grid:
    """What is simulated.

    Attributes:
      images, targets: shapes (n, d) and (n, c).
      kernels: first params of each layer, with a leading axis of points.
      learning_rate, weight_decay: η and λ, shape (points,).
      num_steps: of each point.
      record_every: steps from a record to the next.
      device: of torch.
      tolerance: of eigsh; None records no λ₁.
    """

    images: np.ndarray
    targets: np.ndarray
    kernels: list[np.ndarray]
    learning_rate: np.ndarray
    weight_decay: np.ndarray
    num_steps: int
    record_every: int
    device: str
    tolerance: float | None

    @classmethod
    def read(cls, path: Path, device: str, tolerance: float | None) -> "Grid":
        """The task that ``benchmarks/grid.py`` writes."""
        task = np.load(path)
        arrays = ("images", "targets", "learning_rate", "weight_decay")
        return cls(
            **{name: task[name] for name in arrays},
            kernels=leaves(task, "kernel"),
            num_steps=int(task["num_steps"]),
            record_every=int(task["record_every"]),
            device=device,
            tolerance=tolerance,
        )

    def simulate(self, index: int, num_steps: int) -> Point:
        """One point, by gradient descent with weight decay.

        Raises:
          FloatingPointError: the loss at a record is not finite.
        """
        images = torch.tensor(self.images, device=self.device)
        targets = torch.tensor(self.targets, device=self.device)
        network = Network(kernel[index] for kernel in self.kernels).to(self.device)
        half_square = HalfSquare()
        optimizer = torch.optim.SGD(
            network.parameters(),
            lr=float(self.learning_rate[index]),
            weight_decay=float(self.weight_decay[index]),
        )
        random = np.random.default_rng(index)
        losses, sharpness = [], []
        products, seconds_in_eigsh = 0, 0.0
        began = self._now()
        for step in range(num_steps):
            optimizer.zero_grad(set_to_none=True)
            loss = half_square(network(images), targets)
            loss.backward()
            if step % self.record_every == 0:
                losses.append(loss.item())
                if not math.isfinite(losses[-1]):
                    raise FloatingPointError(f"point {index} has loss {losses[-1]} at step {step}")
                if self.tolerance is not None:
                    paused = self._now()
                    product = double_backward(network, images, targets)
                    start = random_start(network, random)
                    sharpness.append(largest_eigenpair(product, start, self.tolerance)[0])
                    products += product.count
                    seconds_in_eigsh += self._now() - paused
            optimizer.step()
        seconds = self._now() - began
        with torch.no_grad():
            final_loss = half_square(network(images), targets).item()
        return Point(
            losses=losses,
            sharpness=sharpness,
            final_loss=final_loss,
            products=products,
            seconds=seconds,
            seconds_in_eigsh=seconds_in_eigsh,
        )

    def _now(self) -> float:
        if self.device.startswith("cuda"):
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def main() -> None:
    """Run all points."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", type=Path, help="npz that benchmarks/grid.py writes")
    parser.add_argument("--processes", type=int, default=2, help="of one thread each")
    parser.add_argument("--device", default="cpu", help="of torch, cpu or cuda")
    parser.add_argument("--tolerance", type=float, default=0.0, help="of eigsh")
    parser.add_argument("--without-curvature", action="store_true", help="record no λ₁")
    parser.add_argument("--points", type=int, help="how many, from the first; all by default")
    arguments = parser.parse_args()
    tolerance = None if arguments.without_curvature else arguments.tolerance
    grid = Grid.read(arguments.task, arguments.device, tolerance)
    indices = range(len(grid.learning_rate))[: arguments.points]
    json.dump(_report(grid, _share_out(grid, indices, arguments.processes)), sys.stdout)
    print()


def _share_out(grid: Grid, indices: Sequence[int], processes: int) -> list[Share]:
    """Every p-th point to each of p processes, which begin together."""
    processes = min(processes, len(indices))
    # numpy and scipy read it in each process when they are imported there
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, ProcessPoolExecutor(processes, context) as executor:
        barrier = manager.Barrier(processes)
        futures = [
            executor.submit(_work, grid, indices[first::processes], barrier)
            for first in range(processes)
        ]
        return [future.result() for future in as_completed(futures)]


def _work(grid: Grid, indices: Sequence[int], barrier: Barrier) -> Share:
    torch.set_num_threads(1)
    grid.simulate(indices[0], WARM_UP)
    barrier.wait(PATIENCE)
    began = time.perf_counter()
    points = {index: grid.simulate(index, grid.num_steps) for index in indices}
    return Share(points=points, began=began, finished=time.perf_counter())


def _report(grid: Grid, shares: list[Share]) -> dict[str, object]:
    done = {index: point for share in shares for index, point in share.points.items()}
    points = [done[index] for index in sorted(done)]
    # all processes read the same clock
    seconds = max(share.finished for share in shares) - min(share.began for share in shares)
    in_eigsh = [sum(point.seconds_in_eigsh for point in share.points.values()) for share in shares]
    in_all = [sum(point.seconds for point in share.points.values()) for share in shares]
    products = sum(point.products for point in points)
    records = sum(len(point.sharpness) for point in points)
    return {
        "points": len(points),
        "steps": grid.num_steps,
        "processes": len(shares),
        "device": grid.device,
        "made": versions("torch", "scipy", "numpy"),
        "seconds": seconds,
        "point_steps_per_second": len(points) * grid.num_steps / seconds,
        "seconds_in_steps": [whole - part for whole, part in zip(in_all, in_eigsh, strict=True)],
        "seconds_in_eigsh": in_eigsh,
        "products_per_record": products / records if records else None,
        "final_losses": [point.final_loss for point in points],
        "first_losses": points[0].losses,
        "first_sharpness": points[0].sharpness,
    }


if __name__ == "__main__":
    main()

"""A grid of simulations side by side in PyTorch, by vmap of the gradient; prints JSON.

Runs in the environment of ``tracking.py``: ``python benchmarks/peers/batched_grid.py task.npz``.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from network import HalfSquare, Network, leaves, versions
from torch.func import functional_call, grad_and_value, vmap

WARM_UP = 20  # steps


class Points:
    """Points side by side: of each kernel a stack, and the rates with an axis for it.

    Args:
      task: what ``benchmarks/grid.py`` writes; its points are repeated as often as needed.
      number: of points.
      device: of torch.
    """

    def __init__(self, task: dict[str, np.ndarray], number: int, device: str) -> None:
        def placed(array: np.ndarray) -> torch.Tensor:
            return torch.tensor(array, dtype=torch.float32, device=device)

        def repeated(array: np.ndarray) -> torch.Tensor:
            return placed(np.resize(array, (number, *array.shape[1:])))

        self._images, self._targets = placed(task["images"]), placed(task["targets"])
        kernels = leaves(task, "kernel")
        self._network = Network(kernel[0] for kernel in kernels).to(device)
        names = [name for name, _ in self._network.named_parameters()]
        self._params = dict(zip(names, map(repeated, kernels), strict=True))
        rates = (task["learning_rate"], task["weight_decay"])
        self._rates = [repeated(rate).reshape(number, 1, 1) for rate in rates]
        self._gradient = vmap(grad_and_value(self._loss))
        self._device = device

    def _loss(self, params: dict[str, torch.Tensor]) -> torch.Tensor:
        outputs = functional_call(self._network, params, (self._images,))
        return HalfSquare()(outputs, self._targets)

    def simulate(self, num_steps: int, record_every: int) -> tuple[float, list[float]]:
        """Seconds of so many steps of all points, and the recorded losses of the first."""
        learning_rate, weight_decay = self._rates
        losses = []
        began = self._now()
        with torch.no_grad():
            for step in range(num_steps):
                gradient, loss = self._gradient(self._params)
                if step % record_every == 0:
                    losses.append(loss)
                for name, w in self._params.items():
                    # what SGD does, in one pass less than it takes for a tensor that is new
                    w.sub_(learning_rate * gradient[name].add_(weight_decay * w))
        seconds = self._now() - began
        return seconds, [float(loss[0]) for loss in losses]

    def _now(self) -> float:
        if self._device.startswith("cuda"):
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def main() -> None:
    """Run all points."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", type=Path, help="npz that benchmarks/grid.py writes")
    parser.add_argument("--points", type=int, required=True, help="side by side")
    parser.add_argument("--device", default="cpu", help="of torch, cpu or cuda")
    asked = parser.parse_args()
    with np.load(asked.task) as stored:
        task = {name: stored[name] for name in stored.files}
    num_steps, record_every = int(task["num_steps"]), int(task["record_every"])
    Points(task, asked.points, asked.device).simulate(WARM_UP, record_every)
    seconds, losses = Points(task, asked.points, asked.device).simulate(num_steps, record_every)
    report = {
        "points": asked.points,
        "steps": num_steps,
        "device": asked.device,
        "made": versions("torch", "numpy"),
        "seconds": seconds,
        "point_steps_per_second": asked.points * num_steps / seconds,
        "first_losses": losses,
    }
    json.dump(report, sys.stdout)
    print()


if __name__ == "__main__":
    main()

"""Steps of VGG-11 in PyTorch; prints JSON.

Runs in the environment of ``tracking.py``: ``python benchmarks/peers/vgg.py task.npz``.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from network import HalfSquare, leaves, versions

functional = torch.nn.functional
POOLED = (0, 1, 3, 5, 7)  # the convolutions that pooling follows


def outputs(kernels: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Of shape (n, c), for images with channels first."""
    for index, kernel in enumerate(kernels[:-1]):
        x = functional.softplus(_normalized(functional.conv2d(x, kernel, padding=1)))
        if index in POOLED:
            x = functional.avg_pool2d(x, 2)
    return _normalized(x.flatten(1) @ kernels[-1])


def _normalized(x: torch.Tensor) -> torch.Tensor:
    # torch refuses eps = 0; this one adds nothing to a variance in float32
    return functional.batch_norm(x, None, None, training=True, eps=1e-30)


def measure(
    task: dict[str, np.ndarray], steps: int, layout: torch.memory_format
) -> tuple[float, list[tuple[float, float]]]:
    """First loss, and wall and processor seconds of each step of gradient descent."""
    images = torch.tensor(task["images"]).permute(0, 3, 1, 2).contiguous(memory_format=layout)
    targets = torch.tensor(task["targets"])
    kernels = [torch.tensor(kernel) for kernel in leaves(task, "kernel")]
    kernels = [
        kernel.permute(3, 2, 0, 1).contiguous(memory_format=layout) if kernel.ndim == 4 else kernel
        for kernel in kernels
    ]
    for kernel in kernels:
        kernel.requires_grad_()
    optimizer = torch.optim.SGD(kernels, lr=0.01)
    losses, seconds = [], []
    for _ in range(steps + 1):  # the first warms up
        wall, processors = time.perf_counter(), time.process_time()
        optimizer.zero_grad(set_to_none=True)
        loss = HalfSquare()(outputs(kernels, images), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        seconds.append((time.perf_counter() - wall, time.process_time() - processors))
    return losses[0], seconds[1:]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", type=Path)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    task = dict(np.load(asked.task))
    # both layouts, because which is faster depends on the number of channels
    found = [
        measure(task, asked.steps, layout)
        for layout in (torch.contiguous_format, torch.channels_last)
    ]
    seconds = [each for _, steps in found for each in steps]
    print(json.dumps({"loss": found[0][0], "seconds": seconds, "made": versions("torch")}))

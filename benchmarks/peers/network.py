"""A batch-norm network and its loss in PyTorch, and λ₁ of its Hessian by eigsh."""

from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh


class Network(torch.nn.Module):
    """Dense layers without biases, each batch-normed without affine map and epsilon."""

    def __init__(self, kernels: Iterable[np.ndarray]) -> None:
        super().__init__()
        self.kernels = torch.nn.ParameterList(torch.tensor(kernel) for kernel in kernels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs of shape (n, c)."""
        for index, kernel in enumerate(self.kernels):
            x = x @ kernel
            # torch refuses eps = 0; this one adds nothing to a variance in float32
            x = torch.nn.functional.batch_norm(x, None, None, training=True, eps=1e-30)
            if index < len(self.kernels) - 1:
                x = torch.nn.functional.softplus(x)
        return x


class HalfSquare(torch.nn.Module):
    """½ mean over examples of the squared error summed over outputs."""

    reduction = "mean"

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss, shape ()."""
        return 0.5 * (outputs - targets).square().sum() / targets.shape[0]


class Counted:
    """A function that counts its calls."""

    def __init__(self, function: Callable) -> None:
        self.function = function
        self.count = 0

    def __call__(self, *arguments: object) -> object:
        self.count += 1
        return self.function(*arguments)


def loss_and_gradient(
    network: Network, images: torch.Tensor, targets: torch.Tensor
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    """Loss and gradient, to be differentiated again."""
    loss = HalfSquare()(network(images), targets)
    return loss, torch.autograd.grad(loss, list(network.parameters()), create_graph=True)


def double_backward(network: Network, images: torch.Tensor, targets: torch.Tensor) -> Counted:
    """The Hessian as an operator, by differentiating the gradient once for all products."""
    parameters = list(network.parameters())
    _, gradient = loss_and_gradient(network, images, targets)
    sizes = [parameter.numel() for parameter in parameters]

    def product(vector: np.ndarray) -> np.ndarray:
        flat = torch.from_numpy(vector.astype(np.float32).ravel()).to(images.device)
        parts = zip(flat.split(sizes), parameters, strict=True)
        shaped = [part.view_as(like) for part, like in parts]
        result = torch.autograd.grad(gradient, parameters, shaped, retain_graph=True)
        return torch.cat([part.ravel() for part in result]).cpu().numpy()

    return Counted(product)


def largest_eigenpair(
    product: Counted, start: np.ndarray, tolerance: float = 0.0
) -> tuple[float, np.ndarray]:
    """λ₁ and its eigenvector by scipy's eigsh.

    Args:
      product: with the Hessian.
      start: vector that ARPACK starts from.
      tolerance: relative; eigsh's default 0 is the precision of float32.
    """
    operator = LinearOperator((start.size, start.size), matvec=product, dtype=np.float32)
    values, vectors = eigsh(operator, k=1, which="LA", v0=start, tol=tolerance)
    return float(values[0]), vectors[:, 0]


def random_start(network: Network, random: np.random.Generator) -> np.ndarray:
    """A vector to start from, distributed as ARPACK's own, but from a seed."""
    return random.uniform(-1.0, 1.0, sum(parameter.numel() for parameter in network.parameters()))


def leaves(task: Mapping[str, np.ndarray], name: str) -> list[np.ndarray]:
    """Arrays ``name_0``, ``name_1``, ... of a task."""
    return [task[key] for key in sorted(task) if key.startswith(f"{name}_")]


def versions(*packages: str) -> str:
    """Packages with their versions, in words."""
    return ", ".join(f"{package} {version(package)}" for package in packages)

"""The problems of the presets, and where they start."""

from sharpflow.experiments.problems.cifar10 import (
    mlp_cifar10,
    resnet20_cifar10,
    vgg11_cifar10,
    vgg_cifar10,
)
from sharpflow.experiments.problems.digits import (
    linear_regression_digits,
    mlp_digits,
    start_at_angle,
)

__all__ = [
    "linear_regression_digits",
    "mlp_cifar10",
    "mlp_digits",
    "resnet20_cifar10",
    "start_at_angle",
    "vgg11_cifar10",
    "vgg_cifar10",
]

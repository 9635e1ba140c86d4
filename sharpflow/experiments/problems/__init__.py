"""The problems of the presets, and where they start."""

from sharpflow.experiments.problems.cifar10 import (
    mlp_cifar10,
    resnet20_cifar10,
    vgg11_cifar10,
    vgg_cifar10,
    vit_small_cifar10,
)
from sharpflow.experiments.problems.dense import (
    chebyshev_regression,
    dense_cifar10,
    dense_cifar10_classes,
)
from sharpflow.experiments.problems.digits import (
    linear_regression_digits,
    mlp_digits,
    start_at_angle,
)
from sharpflow.experiments.problems.products import diagonal_network, matrix_factorization
from sharpflow.experiments.problems.sequences import sorting
from sharpflow.experiments.problems.spheres import scale_invariant_groups

__all__ = [
    "chebyshev_regression",
    "dense_cifar10",
    "dense_cifar10_classes",
    "diagonal_network",
    "linear_regression_digits",
    "matrix_factorization",
    "mlp_cifar10",
    "mlp_digits",
    "resnet20_cifar10",
    "scale_invariant_groups",
    "sorting",
    "start_at_angle",
    "vgg11_cifar10",
    "vgg_cifar10",
    "vit_small_cifar10",
]

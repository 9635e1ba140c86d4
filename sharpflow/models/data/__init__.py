"""Images and labels to train on: from files, from an archive fetched once, from memory.

Every loader gives ``Images``, which unpack into inputs and labels and know where they
come from: ``train, test = data.cifar10(root)``, then ``mlp(*train, test=test)``.
``digits`` comes with the package and gives plain arrays.
"""

from sharpflow.models.data.arrays import arrays
from sharpflow.models.data.cifar import cifar10, cifar100
from sharpflow.models.data.digits import digits
from sharpflow.models.data.fashion_mnist import fashion_mnist
from sharpflow.models.data.images import Images
from sharpflow.models.data.npz import npz
from sharpflow.models.data.standardization import (
    CIFAR10_STANDARDIZATION,
    CIFAR100_STANDARDIZATION,
    FASHION_MNIST_STANDARDIZATION,
    Standardization,
)

__all__ = [
    "CIFAR10_STANDARDIZATION",
    "CIFAR100_STANDARDIZATION",
    "FASHION_MNIST_STANDARDIZATION",
    "Images",
    "Standardization",
    "arrays",
    "cifar10",
    "cifar100",
    "digits",
    "fashion_mnist",
    "npz",
]

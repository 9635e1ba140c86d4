"""Networks whose loss is invariant to the scale of all that is trained, and random ones."""

from sharpflow.models.networks.mlp import MLP, mlp
from sharpflow.models.networks.random_network import RandomNetwork, random_network
from sharpflow.models.networks.resnet import ResNet, resnet20
from sharpflow.models.networks.transformer import Transformer, transformer, vit_small
from sharpflow.models.networks.vgg import VGG, vgg, vgg11

__all__ = [
    "MLP",
    "VGG",
    "RandomNetwork",
    "ResNet",
    "Transformer",
    "mlp",
    "random_network",
    "resnet20",
    "transformer",
    "vgg",
    "vgg11",
    "vit_small",
]

"""What is trained: losses on pytrees of parameters, and the data they are made of."""

from sharpflow.models import data
from sharpflow.models.convolution import conv_general_dilated
from sharpflow.models.cross_entropy import (
    SmoothedCrossEntropy,
    smallest_label_smoothing,
    smallest_logit_scale,
    smoothed_targets,
)
from sharpflow.models.data import digits
from sharpflow.models.fitting import validate_params
from sharpflow.models.flax_adapter import from_flax
from sharpflow.models.inputs import standardized_targets
from sharpflow.models.invariance import check_scale_invariance
from sharpflow.models.linear import linear_regression
from sharpflow.models.matrix_completion import matrix_completion
from sharpflow.models.networks import (
    MLP,
    VGG,
    RandomNetwork,
    ResNet,
    Transformer,
    mlp,
    random_network,
    resnet20,
    transformer,
    vgg,
    vgg11,
    vit_small,
)
from sharpflow.models.normalization import Normalization, batch_normalize, normalized
from sharpflow.models.problem import Params, Problem

__all__ = [
    "MLP",
    "VGG",
    "Normalization",
    "Params",
    "Problem",
    "RandomNetwork",
    "ResNet",
    "SmoothedCrossEntropy",
    "Transformer",
    "batch_normalize",
    "check_scale_invariance",
    "conv_general_dilated",
    "data",
    "digits",
    "from_flax",
    "linear_regression",
    "matrix_completion",
    "mlp",
    "normalized",
    "random_network",
    "resnet20",
    "smallest_label_smoothing",
    "smallest_logit_scale",
    "smoothed_targets",
    "standardized_targets",
    "transformer",
    "validate_params",
    "vgg",
    "vgg11",
    "vit_small",
]

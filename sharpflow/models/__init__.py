"""What is trained: losses on pytrees of parameters, and the data they are made of."""

from sharpflow.models.cross_entropy import (
    SmoothedCrossEntropy,
    smallest_label_smoothing,
    smallest_logit_scale,
    smoothed_targets,
)
from sharpflow.models.data import digits
from sharpflow.models.flax_adapter import from_flax
from sharpflow.models.inputs import standardized_targets
from sharpflow.models.invariance import check_scale_invariance
from sharpflow.models.linear import linear_regression
from sharpflow.models.matrix_completion import matrix_completion
from sharpflow.models.networks import MLP, mlp
from sharpflow.models.normalization import batch_normalize
from sharpflow.models.problem import Params, Problem, validate_params

__all__ = [
    "MLP",
    "Params",
    "Problem",
    "SmoothedCrossEntropy",
    "batch_normalize",
    "check_scale_invariance",
    "digits",
    "from_flax",
    "linear_regression",
    "matrix_completion",
    "mlp",
    "smallest_label_smoothing",
    "smallest_logit_scale",
    "smoothed_targets",
    "standardized_targets",
    "validate_params",
]

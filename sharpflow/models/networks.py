"""Scale-invariant networks."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sharpflow.models.flax_adapter import from_flax
from sharpflow.models.normalization import resolve_dtype
from sharpflow.models.problem import Problem

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "softplus": jax.nn.softplus,
    "tanh": jnp.tanh,
    "gelu": jax.nn.gelu,
    "relu": jax.nn.relu,
}
NORMALIZATIONS = ("batch", "none")


class MLP(nn.Module):
    """Dense layers without biases, each followed by batch norm without affine parameters.

    The last layer is normalised too, so that the loss is invariant to the scale of
    every layer; an activation follows every layer but the last.

    Attributes:
      widths: units of each layer, the outputs last.
      activation: a key of ``ACTIVATIONS``.
      normalization: ``"batch"``, or ``"none"`` for the ablation.
    """

    widths: tuple[int, ...]
    activation: str = "softplus"
    normalization: str = "batch"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Outputs of shape (n, widths[-1]) for inputs of shape (n, ...)."""
        x = x.reshape(x.shape[0], -1)
        for index, width in enumerate(self.widths):
            x = nn.Dense(width, use_bias=False, param_dtype=x.dtype, dtype=x.dtype)(x)
            if self.normalization == "batch":
                x = nn.BatchNorm(
                    use_running_average=False,
                    epsilon=0.0,
                    use_bias=False,
                    use_scale=False,
                    use_fast_variance=False,
                    force_float32_reductions=False,  # statistics in the dtype of x
                    dtype=x.dtype,
                )(x)
            if index < len(self.widths) - 1:
                x = ACTIVATIONS[self.activation](x)
        return x


def mlp(
    x: np.ndarray,
    y: np.ndarray,
    widths: tuple[int, ...] = (64, 64),
    normalization: str = "batch",
    activation: str = "softplus",
    *,
    test: tuple[np.ndarray, np.ndarray] | None = None,
    dtype: object = None,
) -> Problem:
    """Batch-norm multilayer perceptron with mean square loss, all parameters scale-invariant.

    Args:
      x: inputs, shape (n, ...).
      y: integer classes, shape (n,), or targets, shape (n,) or (n, c); standardised
        per column.
      widths: units of the hidden layers.
      normalization: ``"batch"``, or ``"none"`` for the ablation, which is not
        scale-invariant and gets no flow.
      activation: ``"softplus"``, ``"tanh"``, ``"gelu"`` or ``"relu"``.
      test: (x, y) for the metrics ``test_error``, the mean square error, and with
        classes ``test_accuracy``; the statistics are those of the training batch.
      dtype: float32 or float64; by default that of jax.

    Returns:
      A Problem with a residual of shape (n·c,) and metric ``train_accuracy`` where
      ``y`` holds classes.

    Raises:
      ValueError: an unknown normalization or activation, or unusable data.
    """
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization must be one of {NORMALIZATIONS}, got {normalization!r}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {tuple(ACTIVATIONS)}, got {activation!r}")
    if not all(isinstance(width, int) and width >= 1 for width in widths):
        raise ValueError(f"widths must be positive integers, got {widths!r}")
    resolved = resolve_dtype(dtype, x)
    module = MLP(
        widths=(*widths, _num_outputs(np.asarray(y))),
        activation=activation,
        normalization=normalization,
    )
    return from_flax(
        module, x, y, test=test, dtype=resolved, scale_invariant=normalization != "none"
    )


def _num_outputs(y: np.ndarray) -> int:
    if y.ndim == 2:
        return y.shape[1]
    return len(np.unique(y)) if np.issubdtype(y.dtype, np.integer) else 1

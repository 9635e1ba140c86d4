"""Scale-invariant networks."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sharpflow.models.activations import softplus
from sharpflow.models.cross_entropy import require_reachable
from sharpflow.models.flax_adapter import LOSSES, from_flax
from sharpflow.models.inputs import resolve_dtype
from sharpflow.models.metrics import holds_classes
from sharpflow.models.problem import Problem

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "softplus": softplus,
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
      logit_scale: γ, what the outputs are multiplied with.
    """

    widths: tuple[int, ...]
    activation: str = "softplus"
    normalization: str = "batch"
    logit_scale: float = 1.0

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
        return x if self.logit_scale == 1.0 else self.logit_scale * x


def mlp(
    x: np.ndarray,
    y: np.ndarray,
    widths: tuple[int, ...] = (64, 64),
    normalization: str = "batch",
    activation: str = "softplus",
    *,
    loss: str = "mse",
    label_smoothing: float = 0.1,
    logit_scale: float = 1.0,
    test: tuple[np.ndarray, np.ndarray] | None = None,
    micro_batch: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    dtype: object = None,
) -> Problem:
    """Batch-norm multilayer perceptron, all of whose parameters are scale-invariant.

    Args:
      x: inputs, shape (n, ...).
      y: integer classes, shape (n,), or targets, shape (n,) or (n, c); standardised
        per column.
      widths: units of the hidden layers.
      normalization: ``"batch"``, or ``"none"`` for the ablation, which is not
        scale-invariant and gets no flow.
      activation: ``"softplus"``, ``"tanh"``, ``"gelu"`` or ``"relu"``.
      loss: ``"mse"``, or ``"smoothed_cross_entropy"`` for integer classes, with logits
        of mean square γ² over the examples. Those reach the smoothed targets only with
        equally many examples of each class and label_smoothing and logit_scale large
        enough: see ``smallest_label_smoothing``.
      label_smoothing: ε of the cross-entropy, in (0, 1).
      logit_scale: γ, for the cross-entropy.
      test: (x, y) for the metrics ``test_error``, the mean square error, or
        ``test_loss``, the cross-entropy, and with classes ``test_accuracy``; the
        statistics are those of the training batch.
      micro_batch, devices: as in ``from_flax``.
      dtype: float32 or float64; by default that of jax.

    Returns:
      A Problem with a residual of shape (n·c,), or with outputs and a criterion for the
      cross-entropy, and metric ``train_accuracy`` where ``y`` holds classes.

    Raises:
      ValueError: an unknown normalization, activation or loss, unusable data, or
        smoothed targets that the logits do not reach.
    """
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization must be one of {NORMALIZATIONS}, got {normalization!r}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {tuple(ACTIVATIONS)}, got {activation!r}")
    if not all(isinstance(width, int) and width >= 1 for width in widths):
        raise ValueError(f"widths must be positive integers, got {widths!r}")
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {LOSSES}, got {loss!r}")
    if loss == "mse" and logit_scale != 1.0:
        raise ValueError(
            f"logit_scale is for the cross-entropy and must be 1.0 for mse, got {logit_scale}"
        )
    if loss != "mse" and normalization == "batch" and holds_classes(np.asarray(y)):
        require_reachable(np.asarray(y), label_smoothing, logit_scale)
    resolved = resolve_dtype(dtype, x)
    module = MLP(
        widths=(*widths, _num_outputs(np.asarray(y))),
        activation=activation,
        normalization=normalization,
        logit_scale=logit_scale,
    )
    return from_flax(
        module,
        x,
        y,
        loss,
        label_smoothing=label_smoothing,
        test=test,
        micro_batch=micro_batch,
        devices=devices,
        dtype=resolved,
        scale_invariant=normalization != "none",
    )


def _num_outputs(y: np.ndarray) -> int:
    if y.ndim == 2:
        return y.shape[1]
    return len(np.unique(y)) if np.issubdtype(y.dtype, np.integer) else 1

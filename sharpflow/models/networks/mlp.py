"""Multilayer perceptrons."""

from collections.abc import Iterable, Sequence
from functools import partial

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Float

from sharpflow.models.arguments import (
    COUNT,
    DATA,
    FINITE,
    POSITIVE,
    SEED,
    SIZES,
    TEXT,
    checked,
    optional,
)
from sharpflow.models.flax_adapter import LOSS
from sharpflow.models.networks.network import NormalizedNetwork, network_problem, num_outputs
from sharpflow.models.problem import Problem


class MLP(NormalizedNetwork):
    """Dense layers without biases, each normalized.

    Attributes:
      widths: units of each layer, the outputs last.
    """

    widths: tuple[int, ...] = (64, 64, 10)

    @nn.compact
    def __call__(self, x: Float[Array, "n ..."]) -> Float[Array, "n c"]:
        """Outputs of shape (n, widths[-1]) for inputs of shape (n, ...)."""
        # Images too, whatever their shape: the example axis is the first everywhere in this
        # package.
        x = x.reshape(x.shape[0], -1)
        for width in self.widths[:-1]:
            x = self.activated(self.normalized(self.dense(width, x))(x))
        # Without a name of its own Flax numbers the last layer as the others, Dense_2 of two hidden
        # layers, by which `fixed` finds it.
        return self.outputs(x, self.widths[-1], name=None)


@checked(
    x=DATA,
    y=DATA,
    normalization=TEXT,
    activation=TEXT,
    widths=SIZES,
    head=optional(TEXT),
    num_groups=COUNT,
    loss=LOSS,
    label_smoothing=FINITE,
    logit_scale=POSITIVE,
    fixed_seed=SEED,
)
def mlp(
    x: np.ndarray,
    y: np.ndarray,
    widths: tuple[int, ...] = (64, 64),
    normalization: str = "batch",
    activation: str = "softplus",
    *,
    head: str | None = None,
    num_groups: int = 4,
    loss: str = "mse",
    label_smoothing: float = 0.1,
    logit_scale: float = 1.0,
    test: Iterable[np.ndarray] | None = None,
    micro_batch: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    fixed_seed: int = 0,
    dtype: object = None,
) -> Problem:
    """Multilayer perceptron, all of whose parameters are scale-invariant.

    Args:
      x: inputs, shape (n, ...).
      y: integer classes, shape (n,), or targets, shape (n,) or (n, c); standardised
        per column.
      widths: units of the hidden layers.
      normalization: ``"batch"``, ``"layer"``, ``"group"``, ``"rms"``, ``"weight"`` or
        ``"standardized"``; or ``"none"`` for the ablation, which is not scale-invariant
        and gets no flow. ``"instance"`` needs images. ``sharpflow.models.normalization``
        tells them.
      activation: ``"softplus"``, ``"tanh"``, ``"gelu"`` or ``"relu"``.
      head: of the last layer: ``"normalized"`` as the others, ``"fixed"`` for one that is
        drawn with ``fixed_seed`` and not trained, or ``"trained"`` without normalization,
        which is not scale-invariant. By default ``"normalized"`` with batch or weight
        normalization, ``"trained"`` without any, and ``"fixed"`` otherwise, because
        outputs that are normalized within an example fit balanced classes only.
      num_groups: of ``"group"``; it must divide the widths.
      loss: ``"mse"``, or ``"smoothed_cross_entropy"`` for integer classes, with logits
        of mean square γ² over the examples. Those reach the smoothed targets only with
        equally many examples of each class and label_smoothing and logit_scale large
        enough: see ``smallest_label_smoothing``.
      label_smoothing: ε of the cross-entropy, in (0, 1).
      logit_scale: γ, for the cross-entropy.
      test: (x, y) for the metrics ``test_error``, the mean square error, or
        ``test_loss``, the cross-entropy, and with classes ``test_accuracy``; the
        statistics are those of the training batch.
      micro_batch, devices, fixed_seed: as in ``from_flax``.
      dtype: float32 or float64; by default that of jax.

    Returns:
      A Problem with a residual of shape (n·c,), or with outputs and a criterion for the
      cross-entropy, and metric ``train_accuracy`` where ``y`` holds classes.

    Raises:
      ValueError: an unknown normalization, activation, head or loss, unusable data, or
        smoothed targets that the logits do not reach.
    """
    if not all(isinstance(width, int) and width >= 1 for width in widths):
        raise ValueError(f"widths must be positive integers, got {widths!r}")
    return network_problem(
        partial(MLP, widths=(*widths, num_outputs(y))),
        x,
        y,
        normalization,
        activation,
        head=head,
        head_name=f"Dense_{len(widths)}",
        num_groups=num_groups,
        loss=loss,
        label_smoothing=label_smoothing,
        logit_scale=logit_scale,
        test=test,
        micro_batch=micro_batch,
        devices=devices,
        fixed_seed=fixed_seed,
        dtype=dtype,
    )

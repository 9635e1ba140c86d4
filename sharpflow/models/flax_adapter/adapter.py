"""Any Flax linen module, with its data, as a Problem."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from sharpflow.models.cross_entropy import SmoothedCrossEntropy, smoothed_targets
from sharpflow.models.flax_adapter.network import Network, Outputs
from sharpflow.models.flax_adapter.sharding import example_sharding
from sharpflow.models.inputs import (
    resolve_dtype,
    standardized_targets,
    validated_inputs,
)
from sharpflow.models.metrics import (
    Scores,
    cross_entropy_scores,
    holds_classes,
    mean_square_scores,
    validated_test,
)
from sharpflow.models.problem import Params, Problem

LOSSES = ("mse", "smoothed_cross_entropy")


def from_flax(
    module: nn.Module,
    x: np.ndarray,
    y: np.ndarray,
    loss: str = "mse",
    *,
    label_smoothing: float = 0.1,
    test: tuple[np.ndarray, np.ndarray] | None = None,
    apply_kwargs: Mapping[str, Any] | None = None,
    fixed: Sequence[str] = (),
    fixed_seed: int = 0,
    micro_batch: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    dtype: object = None,
    scale_invariant: bool = True,
) -> Problem:
    """A Flax linen module and its full training batch as a Problem.

    Batch norm is part of the loss: the module is applied in training mode to the
    whole batch, every time, and its running averages are never used. For the test
    metrics the test inputs go through the module with the statistics of the training
    batch alone.

    Args:
      module: maps (n, ...) inputs to (n, c) outputs. Its normalization layers must
        use batch statistics: pass what switches them in ``apply_kwargs``.
      x: inputs, shape (n, ...).
      y: integer classes, shape (n,), or targets, shape (n,) or (n, c); standardised
        per column.
      loss: ``"mse"``, L = ½ mean over examples of the squared error summed over
        outputs; or ``"smoothed_cross_entropy"`` of the outputs as logits, for integer
        classes. It has a manifold Γ where the logits can be those of the smoothed
        targets: ``mlp`` checks its own, for another module ``theory.retract`` does.
      label_smoothing: ε of the cross-entropy, in (0, 1).
      test: (x, y) for the metrics ``test_error``, or ``test_loss`` for cross-entropy,
        and with classes ``test_accuracy``.
      apply_kwargs: keywords for ``module.apply``, for instance ``{"train": True}``.
      fixed: parameters held constant, by path or by the start of one
        (``"Dense_2"``, ``"BatchNorm_0/scale"``): a trained last layer or affine
        parameters break scale invariance.
      fixed_seed: seed of the values of the fixed parameters.
      micro_batch: most examples that go through the module at once, for memory. The
        loss is the same: the statistics are those of the whole batch, made layer by
        layer, one pass more for every batch-norm layer. None takes all examples at
        once. On a CPU a convolution runs slowly inside the compiled loop.
      devices: jax devices over which the examples are spread, of each micro-batch or
        of the whole batch; parameters are copied to all. A compiled function holds
        the data itself on every device, unless jax runs with
        ``JAX_USE_SIMPLIFIED_JAXPR_CONSTANTS=1``.
      dtype: float32 or float64; by default that of jax.
      scale_invariant: False marks an ablation.

    Returns:
      A Problem whose params are the module's, without the fixed ones, as the
      ``"params"`` collection nests them. It has a residual for ``"mse"``, outputs and a
      criterion (``SmoothedCrossEntropy``) otherwise.

    Raises:
      ValueError: an unknown loss, targets that it does not take, a name in ``fixed``
        that matches nothing, nothing left to train, dropout, outputs whose shape does
        not match the targets, or a split batch with a module that mixes its examples
        otherwise than by ``nn.BatchNorm``.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {LOSSES}, got {loss!r}")
    resolved = resolve_dtype(dtype, x)
    inputs = validated_inputs(x, resolved)
    labels = np.asarray(y)
    if labels.shape[:1] != inputs.shape[:1]:
        raise ValueError(f"y must have {inputs.shape[0]} rows to match x, got {labels.shape}")
    if loss == "mse":
        targets = jnp.asarray(standardized_targets(labels, resolved))
        score = partial(mean_square_scores, labels, dtype=resolved)
    else:
        targets = jnp.asarray(smoothed_targets(labels, label_smoothing, resolved))
        score = partial(
            cross_entropy_scores, labels, dtype=resolved, label_smoothing=label_smoothing
        )
    network = Network(
        module,
        inputs,
        apply_kwargs=apply_kwargs or {},
        fixed=fixed,
        fixed_seed=fixed_seed,
        micro_batch=micro_batch,
        sharding=example_sharding(devices),
    )
    _require_shape(network, targets.shape)

    metrics: dict[str, Callable[[Params], jax.Array]] = {}
    if holds_classes(labels):
        accuracy = {"accuracy": score(scored=labels)["accuracy"]}
        metrics |= _of_params("train", accuracy, network.outputs)
    if test is not None:
        test_inputs, test_labels = validated_test(test, labels, resolved)
        scores = score(scored=test_labels)
        metrics |= _of_params("test", scores, network.test_outputs(test_inputs))
    problem = partial(Problem, network.init, metrics=metrics, scale_invariant=scale_invariant)
    if loss == "mse":
        return problem(residual=_standardized_residual(network.outputs, targets))
    return problem(outputs=network.outputs, criterion=SmoothedCrossEntropy(targets))


def _standardized_residual(outputs: Outputs, targets: jax.Array) -> Callable[[Params], jax.Array]:
    root_count = np.sqrt(targets.shape[0]).astype(targets.dtype)

    def residual(params: Params) -> jax.Array:
        return ((outputs(params) - targets) / root_count).ravel()

    return residual


def _of_params(
    prefix: str, scores: Scores, outputs: Outputs
) -> dict[str, Callable[[Params], jax.Array]]:
    """Scores of outputs as metrics of params, named after what they are taken on."""

    def metric(score: Callable[[jax.Array], jax.Array]) -> Callable[[Params], jax.Array]:
        return lambda params: score(outputs(params))

    return {f"{prefix}_{name}": metric(score) for name, score in scores.items()}


def _require_shape(network: Network, expected: tuple[int, ...]) -> None:
    produced = jax.eval_shape(network.outputs, jax.eval_shape(network.init, jax.random.key(0)))
    if produced.shape != expected:
        raise ValueError(
            f"module must give outputs of shape {expected} for these targets, got {produced.shape}"
        )

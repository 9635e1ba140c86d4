"""Any Flax module, linen or nnx, with its data, as a Problem."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import numpy as np

from sharpflow.models.arguments import (
    COUNT,
    DATA,
    FINITE,
    FLAG,
    MAPPING,
    NAMES,
    PAIR,
    SEED,
    TEXT,
    any_of,
    checked,
    choice,
    optional,
    shown,
)
from sharpflow.models.cross_entropy import smoothed_targets
from sharpflow.models.flax_adapter.functional import FunctionalModule
from sharpflow.models.flax_adapter.linen_module import LinenModule
from sharpflow.models.flax_adapter.network import (
    CrossEntropyOfData,
    Network,
    NetworkData,
    Score,
    bound_network,
    with_test_inputs,
)
from sharpflow.models.flax_adapter.sharding import example_sharding
from sharpflow.models.inputs import (
    holds_classes,
    resolve_dtype,
    standardized_targets,
    validated_inputs,
)
from sharpflow.models.leaves import known_while_traced
from sharpflow.models.metrics import (
    Scores,
    cross_entropy_scores,
    mean_square_scores,
    validated_test,
)
from sharpflow.models.problem import Problem

if TYPE_CHECKING:
    from flax import nnx

LOSS = choice(("mse", "smoothed_cross_entropy")).with_remedy(
    lambda value: "for another loss make a Problem of outputs and a criterion"
)


@known_while_traced()
@checked(
    x=DATA,
    y=DATA,
    label_smoothing=FINITE,
    apply_kwargs=optional(MAPPING),
    fixed=any_of(TEXT, NAMES),
    fixed_seed=SEED,
    scale_invariant=optional(FLAG),
    test=PAIR,
    loss=LOSS,
    metrics=optional(MAPPING),
)
def from_flax(
    module: "nn.Module | nnx.Module | Callable[[nnx.Rngs], nnx.Module]",
    x: np.ndarray,
    y: np.ndarray,
    loss: str = "mse",
    *,
    label_smoothing: float = 0.1,
    test: Iterable[np.ndarray] | None = None,
    apply_kwargs: Mapping[str, Any] | None = None,
    fixed: str | Sequence[str] = (),
    fixed_seed: int = 0,
    micro_batch: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    dtype: object = None,
    scale_invariant: bool | None = None,
    metrics: Mapping[str, Callable[..., Any]] | None = None,
) -> Problem:
    """A Flax module and its full training batch as a Problem.

    Batch norm is part of the loss: the module is applied in training mode to the
    whole batch, every time, and its running averages are never used. For the test
    metrics the test inputs go through the module with the statistics of the training
    batch alone.

    Args:
      module: maps (n, ...) inputs to (n, c) outputs. One of

        * a ``flax.linen`` module. Its normalization layers must use batch statistics:
          pass what switches them in ``apply_kwargs``;
        * a function from ``nnx.Rngs`` to a ``flax.nnx`` module,
          ``lambda rngs: Net(rngs=rngs)``; every key of ``init`` makes a new one;
        * a ``flax.nnx`` module. Its own parameters are then what ``init`` gives for
          every key, and seeds make no difference: it does not know how it was made.

        ``nnx.BatchNorm`` uses batch statistics in whatever mode the module is, also
        where a call asks for running averages. The module itself is copied and never
        changed; variables that are no ``nnx.Param`` are constants.
      x: inputs, shape (n, ...). Integers, such as tokens, stay integers; give images as
        floating-point numbers.
      y: integer classes, shape (n,), or targets, shape (n,) or (n, c); standardised
        per column.
      loss: ``"mse"``, L = ½ mean over examples of the squared error summed over
        outputs; or ``"smoothed_cross_entropy"`` of the outputs as logits, for integer
        classes. It has a manifold Γ where the logits can be those of the smoothed
        targets: ``mlp`` checks its own, for another module ``theory.retract`` does. For
        another loss make a ``Problem`` of ``outputs`` and a ``criterion``.
      label_smoothing: ε of the cross-entropy, in (0, 1).
      test: (x, y) for the metrics ``test_error``, or ``test_loss`` for cross-entropy,
        and with classes ``test_accuracy``.
      apply_kwargs: keywords for ``module.apply``, or for calling an nnx module, for
        instance ``{"train": True}``.
      fixed: parameters held constant, one or several, by path or by the start of one
        (``"Dense_2"``, ``"BatchNorm_0/scale"``, ``"layers/0/kernel"``): a trained last
        layer or affine parameters break scale invariance.
      fixed_seed: seed of the values of the fixed parameters.
      micro_batch: most examples that go through the module at once, for memory. The
        loss is the same: the statistics are those of the whole batch, made layer by
        layer, one pass more for every batch-norm layer. None takes all examples at
        once. Not for nnx modules.
      devices: jax devices over which the examples are spread, of each micro-batch or
        of the whole batch; parameters are copied to all.
      dtype: float32 or float64; by default that of jax.
      scale_invariant: as of ``Problem``: False marks an ablation; by default what a linen module
        tells as its ``scale_invariant``, as those of ``sharpflow.models`` do, and otherwise the
        loss is taken to be invariant, and the first simulation looks whether it is.
      metrics: further metrics, named functions of the params, or of the params and the data,
        -> scalar, as of ``Problem``; beside those that the targets and ``test`` give.

    Returns:
      A Problem whose params are the module's, without the fixed ones: nested
      dictionaries as of the ``"params"`` collection, or of the ``nnx.Param`` with the
      places in a list as ``"0"``, ``"1"``, .... It has a residual for ``"mse"``, outputs and a
      criterion (``SmoothedCrossEntropy``) otherwise.

    Raises:
      ValueError: no Flax module, an unknown loss, targets that it does not take, a
        name in ``fixed`` that matches nothing, nothing left to train, dropout or other
        random numbers, keywords that the module does not take or lacks, outputs that are
        no array or whose shape does not match the targets, or a split batch
        with an nnx module or one that mixes its examples otherwise than by
        ``nn.BatchNorm``, or metrics with the name of another column.
    """
    if micro_batch is not None and not COUNT.fits(micro_batch):
        raise ValueError(
            f"micro_batch must be a positive integer or None, got {shown(micro_batch)}"
        )
    resolved = resolve_dtype(dtype, x)
    # An embedding needs integers as they are. Only the networks of this package say that theirs are
    # numbers like any other, so that a user's module gets what was given.
    keep_integers = not getattr(module, "floating_inputs", False)
    inputs = validated_inputs(x, resolved, keep_integers=keep_integers)
    labels = np.asarray(y)
    if labels.shape[:1] != inputs.shape[:1]:
        raise ValueError(f"y must have {inputs.shape[0]} rows to match x, got {labels.shape}")
    if loss == "mse":
        targets = standardized_targets(labels, resolved)
        score = partial(mean_square_scores, labels, dtype=resolved)
    else:
        targets = smoothed_targets(labels, label_smoothing, resolved)
        score = partial(
            cross_entropy_scores, labels, dtype=resolved, label_smoothing=label_smoothing
        )
    apply_kwargs = dict(apply_kwargs or {})
    with _named_arguments(apply_kwargs):
        network, data = bound_network(
            _functional(module, resolved, apply_kwargs),
            inputs,
            targets,
            fixed=(fixed,) if isinstance(fixed, str) else fixed,
            fixed_seed=fixed_seed,
            micro_batch=micro_batch,
            sharding=example_sharding(devices),
        )
        _require_shape(network, data, targets.shape)
    scores: Scores = {}
    if holds_classes(labels):
        scores["train_accuracy"] = score(scored=labels)["accuracy"]
    if test is not None:
        test_inputs, test_labels = validated_test(test, labels, inputs.dtype)
        test_scores = score(scored=test_labels)
        scores |= {f"test_{name}": one for name, one in test_scores.items()}
        # Before the test inputs, whose rows are counted by the scores.
        data = dataclasses.replace(data, scores=scores)
        data = with_test_inputs(network, data, test_inputs, micro_batch)
    if scale_invariant is None and isinstance(module, nn.Module):
        declared = getattr(module, "scale_invariant", None)
        scale_invariant = None if declared is None else bool(declared)
    own_metrics = {name: Score(network, name) for name in scores}
    repeated = sorted(own_metrics.keys() & (metrics or {}).keys())
    if repeated:
        raise ValueError(f"metrics has {repeated}, which from_flax makes itself: rename them")
    problem = partial(
        Problem,
        network.init,
        metrics=own_metrics | dict(metrics or {}),
        scale_invariant=scale_invariant,
        data=dataclasses.replace(data, scores=scores),
    )
    if loss == "mse":
        return problem(residual=network.residual)
    return problem(outputs=network.outputs, criterion=CrossEntropyOfData())


def _functional(module: Any, dtype: np.dtype, apply_kwargs: Mapping[str, Any]) -> FunctionalModule:
    if isinstance(module, nn.Module):
        return LinenModule(module, dtype, apply_kwargs)
    # imported here, because linen alone loads in half the time
    from flax import nnx

    from sharpflow.models.flax_adapter.nnx_module import NnxModule

    makes_one = callable(module) and not isinstance(module, type)
    if not (makes_one or isinstance(module, nnx.Module)):
        raise ValueError(
            "module must be a flax.linen module, a flax.nnx module, or a function from nnx.Rngs "
            f"to one, such as lambda rngs: Net(rngs=rngs); got {module!r}"
        )
    return NnxModule(module, dtype, apply_kwargs)


@contextmanager
def _named_arguments(apply_kwargs: Mapping[str, Any]) -> Iterator[None]:
    """Say where the arguments of a module come from, if they are not those that it takes."""
    try:
        yield
    except TypeError as error:
        if " argument" not in str(error):
            raise
        raise ValueError(
            f"module cannot be called with x and apply_kwargs={apply_kwargs}: {error}. "
            "apply_kwargs must give the keywords that its call needs, such as {'train': True}, "
            "and no others"
        ) from error


def _require_shape(network: Network, data: NetworkData, expected: tuple[int, ...]) -> None:
    params = jax.eval_shape(network.init, jax.random.key(0), data)
    produced = jax.eval_shape(network.outputs, params, data)
    if produced.shape != expected:
        raise ValueError(
            f"module must give outputs of shape {expected} for these targets, got {produced.shape}"
        )

"""Any Flax linen module, with its data, as a Problem."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import InvalidRngError
from flax.traverse_util import flatten_dict, unflatten_dict

from sharpflow.models.normalization import (
    resolve_dtype,
    standardized_targets,
    validated_inputs,
)
from sharpflow.models.problem import Params, Problem

LOSSES = ("mse",)


def from_flax(
    module: nn.Module,
    x: np.ndarray,
    y: np.ndarray,
    loss: str = "mse",
    *,
    test: tuple[np.ndarray, np.ndarray] | None = None,
    apply_kwargs: Mapping[str, Any] | None = None,
    fixed: Sequence[str] = (),
    fixed_seed: int = 0,
    dtype: object = None,
    scale_invariant: bool = True,
) -> Problem:
    """A Flax linen module and its full training batch as a Problem.

    Batch norm is part of the loss: the module is applied in training mode to the
    whole batch, every time, and its running averages are never used. For the test
    metrics the training batch and the test inputs go through the module together,
    with the statistics of the training batch alone.

    Args:
      module: maps (n, ...) inputs to (n, c) outputs. Its normalization layers must
        use batch statistics: pass what switches them in ``apply_kwargs``.
      x: inputs, shape (n, ...).
      y: integer classes, shape (n,), or targets, shape (n,) or (n, c); standardised
        per column.
      loss: ``"mse"``, L = ½ mean over examples of the squared error summed over
        outputs.
      test: (x, y) for the metrics ``test_error`` and, with classes, ``test_accuracy``.
      apply_kwargs: keywords for ``module.apply``, for instance ``{"train": True}``.
      fixed: parameters held constant, by path or by the start of one
        (``"Dense_2"``, ``"BatchNorm_0/scale"``): a trained last layer or affine
        parameters break scale invariance.
      fixed_seed: seed of the values of the fixed parameters.
      dtype: float32 or float64; by default that of jax.
      scale_invariant: False marks an ablation.

    Returns:
      A Problem whose params are the module's, without the fixed ones, as the
      ``"params"`` collection nests them.

    Raises:
      ValueError: an unknown loss, a name in ``fixed`` that matches nothing, nothing
        left to train, dropout, or outputs whose shape does not match the targets.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {LOSSES}, got {loss!r}")
    resolved = resolve_dtype(dtype, x)
    inputs = jnp.asarray(validated_inputs(x, resolved))
    labels = np.asarray(y)
    if labels.shape[:1] != inputs.shape[:1]:
        raise ValueError(f"y must have {inputs.shape[0]} rows to match x, got {labels.shape}")
    targets = jnp.asarray(standardized_targets(labels, resolved))
    network = _Network(module, inputs, resolved, dict(apply_kwargs or {}), tuple(fixed), fixed_seed)
    produced = jax.eval_shape(network.outputs, jax.eval_shape(network.init, jax.random.key(0)))
    if produced.shape != targets.shape:
        raise ValueError(
            f"module must give outputs of shape {targets.shape} for these targets, "
            f"got {produced.shape}"
        )
    root_count = np.sqrt(inputs.shape[0]).astype(resolved)

    def residual(params: Params) -> jax.Array:
        return ((network.outputs(params) - targets) / root_count).ravel()

    metrics: dict[str, Callable[[Params], jax.Array]] = {}
    if _holds_classes(labels):
        score = _accuracy(labels, labels, resolved)
        metrics["train_accuracy"] = lambda params: score(network.outputs(params))
    if test is not None:
        metrics |= _test_metrics(network, test, labels, resolved)
    return Problem(
        init=network.init, residual=residual, metrics=metrics, scale_invariant=scale_invariant
    )


class _Network:
    """A module bound to its training batch, with some parameters fixed."""

    def __init__(
        self,
        module: nn.Module,
        inputs: jax.Array,
        dtype: np.dtype,
        apply_kwargs: dict[str, Any],
        fixed: tuple[str, ...],
        fixed_seed: int,
    ) -> None:
        self._module, self._inputs, self._dtype = module, inputs, dtype
        self._apply_kwargs = apply_kwargs
        variables = self._variables(jax.random.key(fixed_seed))
        self._collections = {name: value for name, value in variables.items() if name != "params"}
        flat = flatten_dict(variables.get("params", {}), sep="/")
        for name in fixed:
            if not any(_matches(path, name) for path in flat):
                raise ValueError(f"fixed names {name!r}, but the parameters are {sorted(flat)}")
        self._fixed = {
            path: value
            for path, value in flat.items()
            if any(_matches(path, name) for name in fixed)
        }
        if len(self._fixed) == len(flat):
            raise ValueError("fixed leaves nothing to train")

    def init(self, key: jax.Array) -> Params:
        flat = flatten_dict(self._variables(key)["params"], sep="/")
        return unflatten_dict(
            {path: value for path, value in flat.items() if path not in self._fixed}, sep="/"
        )

    def outputs(self, params: Params) -> jax.Array:
        """Outputs on the training batch, shape (n, c)."""
        return self._apply(params, self._inputs)

    def test_outputs(self, params: Params, test_inputs: jax.Array) -> jax.Array:
        """Outputs on ``test_inputs`` with the statistics of the training batch."""
        return self.joint_outputs(params, test_inputs)[self._inputs.shape[0] :]

    def joint_outputs(self, params: Params, test_inputs: jax.Array) -> jax.Array:
        """Outputs on the training batch and ``test_inputs``, statistics from the former.

        Both go through the module together; every ``nn.BatchNorm`` gets a mask that
        keeps the test rows out of its statistics.
        """
        num_train = self._inputs.shape[0]
        rows = jnp.arange(num_train + test_inputs.shape[0])

        def masked(call, args, kwargs, context):  # type: ignore[no-untyped-def]
            if isinstance(context.module, nn.BatchNorm) and context.method_name == "__call__":
                mask = (rows < num_train).reshape((-1,) + (1,) * (args[0].ndim - 1))
                kwargs = dict(kwargs) | {"mask": mask}
            return call(*args, **kwargs)

        with nn.intercept_methods(masked):
            return self._apply(params, jnp.concatenate([self._inputs, test_inputs]))

    def _apply(self, params: Params, inputs: jax.Array) -> jax.Array:
        flat = flatten_dict(params, sep="/") | self._fixed
        variables = {"params": unflatten_dict(flat, sep="/"), **self._collections}
        mutable = list(self._collections) or False
        try:
            result: Any = self._module.apply(
                variables, inputs, mutable=mutable, **self._apply_kwargs
            )
        except InvalidRngError as error:
            raise ValueError(
                "module draws random numbers in every call, as dropout does, which full-batch "
                "gradient descent does not have; switch it off through apply_kwargs"
            ) from error
        outputs = result[0] if mutable else result
        return outputs if outputs.ndim > 1 else outputs[:, None]

    def _variables(self, key: jax.Array) -> dict[str, Any]:
        variables = self._module.init(key, self._inputs, **self._apply_kwargs)
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, self._dtype), variables)


def _matches(path: str, name: str) -> bool:
    return path == name or path.startswith(name + "/")


def _holds_classes(y: np.ndarray) -> bool:
    return y.ndim == 1 and np.issubdtype(y.dtype, np.integer)


def _test_metrics(
    network: _Network,
    test: tuple[np.ndarray, np.ndarray],
    labels: np.ndarray,
    dtype: np.dtype,
) -> dict[str, Callable[[Params], jax.Array]]:
    test_inputs = jnp.asarray(validated_inputs(test[0], dtype, "test x"))
    test_labels = np.asarray(test[1])
    if test_labels.shape != (test_inputs.shape[0], *labels.shape[1:]):
        raise ValueError(
            f"test y must have shape {(test_inputs.shape[0], *labels.shape[1:])}, "
            f"got {test_labels.shape}"
        )
    _require_training_statistics(network, test_inputs)
    targets = jnp.asarray(_targets_in_training_units(test_labels, labels, dtype))

    def test_error(params: Params) -> jax.Array:
        return jnp.mean(jnp.square(network.test_outputs(params, test_inputs) - targets))

    metrics: dict[str, Callable[[Params], jax.Array]] = {"test_error": test_error}
    if _holds_classes(labels):
        score = _accuracy(labels, test_labels, dtype)
        metrics["test_accuracy"] = lambda params: score(network.test_outputs(params, test_inputs))
    return metrics


def _require_training_statistics(network: _Network, test_inputs: jax.Array) -> None:
    params = network.init(jax.random.key(1))
    alone = network.outputs(params)
    together = network.joint_outputs(params, test_inputs)[: alone.shape[0]]
    error = float(jnp.max(jnp.abs(together - alone)) / jnp.max(jnp.abs(alone)))
    if not error < float(jnp.sqrt(jnp.finfo(alone.dtype).eps)):
        raise ValueError(
            "test metrics need the statistics of the training batch, but this module mixes "
            f"the test examples into them (outputs change by {error:.1g}): "
            "normalize with flax.linen.BatchNorm, or leave test=None"
        )


def _targets_in_training_units(
    test_labels: np.ndarray, labels: np.ndarray, dtype: np.dtype
) -> np.ndarray:
    def columns(y: np.ndarray) -> np.ndarray:
        if _holds_classes(labels):
            return (y[:, None] == np.unique(labels)[None, :]).astype(np.float64)
        return (y if y.ndim == 2 else y[:, None]).astype(np.float64)

    training = columns(labels)
    return ((columns(test_labels) - training.mean(axis=0)) / training.std(axis=0)).astype(dtype)


def _accuracy(
    labels: np.ndarray, scored_labels: np.ndarray, dtype: np.dtype
) -> Callable[[jax.Array], jax.Array]:
    """Share of outputs whose most probable class, in units of the one-hot columns, is right."""
    classes, counts = np.unique(labels, return_counts=True)
    frequency = counts / counts.sum()
    mean, deviation = frequency, np.sqrt(frequency * (1.0 - frequency))
    scale, shift = jnp.asarray(deviation.astype(dtype)), jnp.asarray(mean.astype(dtype))
    indices = jnp.asarray(np.searchsorted(classes, scored_labels))
    known = jnp.asarray(np.isin(scored_labels, classes))

    def accuracy(outputs: jax.Array) -> jax.Array:
        right = (jnp.argmax(outputs * scale[None] + shift[None], axis=1) == indices) & known
        return jnp.mean(right.astype(outputs.dtype))

    return accuracy

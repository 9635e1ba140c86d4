"""Batch-norm layers of Flax with statistics that they are given, or that are read off them."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sharpflow.models import convolution

MOMENTS = "batch_norm_moments"  # the collection that moments are left in


class Moments(NamedTuple):
    """Number of values, mean and sum of squared deviations of every feature."""

    size: Float[Array, ""]
    mean: Float[Array, " *features"]
    deviations: Float[Array, " *features"]

    def merged(self, other: "Moments") -> "Moments":
        """The moments of both samples together.

        Source: Chan, Golub and LeVeque 1979, equation 2.1; unlike E x² − (E x)² it does
        not cancel in float32.
        """
        size = self.size + other.size
        shift = other.mean - self.mean
        return Moments(
            size,
            self.mean + shift * (other.size / size),
            self.deviations
            + other.deviations
            + jnp.square(shift) * (self.size * other.size / size),
        )


class Statistics(NamedTuple):
    """Mean and variance that a batch-norm layer normalizes with."""

    mean: Float[Array, " *features"]
    variance: Float[Array, " *features"]


def normalize_with(statistics: Sequence[Statistics], weights: Array) -> Callable:
    """An interceptor that gives the first batch-norm layers their statistics.

    The next one leaves the moments of its inputs in a collection. What comes after it
    is traced with inputs of the right shape and thrown away by the compiler.
    """
    layers = itertools.count()

    def intercept(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        if not uses_batch_statistics(args, kwargs, context):
            return call(*args, **kwargs)
        layer, module = next(layers), context.module
        x = args[0] if args else kwargs["x"]
        if x.shape[:1] != weights.shape or 0 in _feature_axes(module, x):
            raise ValueError(
                f"micro_batch needs inputs of BatchNorm whose first axis is the example axis, "
                f"of length {weights.shape[0]}; {'/'.join(module.path)} gets shape {x.shape}"
            )
        if kwargs.get("mask") is not None:
            raise ValueError(f"micro_batch takes no mask; {'/'.join(module.path)} is given one")
        if layer < len(statistics):
            return _normalized(module, x, statistics[layer])
        if layer == len(statistics):
            module.sow(MOMENTS, "moments", _moments(module, x, weights))
        return x.astype(_result_dtype(module, x))

    return intercept


def sum_by_rows(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
    """An interceptor by which layers take the means of images by ``_mean``, on a CPU.

    All else is as Flax has it. A layer that normalizes anything but images in float32,
    features last, or with a mask, or over devices by name, is called as it is.
    """
    if not uses_batch_statistics(args, kwargs, context):
        return call(*args, **kwargs)
    module, x = context.module, args[0] if args else kwargs["x"]
    is_plain = (
        type(module) is nn.BatchNorm  # a class made of it may compute something else
        and module.axis_name is None
        and kwargs.get("mask") is None
        and x.ndim > 2
        and _feature_axes(module, x) == (x.ndim - 1,)
        and x.dtype == _result_dtype(module, x) == np.float32
    )
    if not (is_plain and convolution.default_device_is_cpu()):
        return call(*args, **kwargs)
    mean = _mean(x)
    if module.use_fast_variance:
        variance = jnp.maximum(0.0, _mean(jnp.square(x)) - jnp.square(mean))
    else:
        variance = _mean(jnp.square(x - mean))
    return _normalized(module, x, Statistics(mean, variance))


def uses_batch_statistics(args: tuple, kwargs: dict, context: Any) -> bool:
    """Whether an intercepted call is that of a batch-norm layer in training mode."""
    if not isinstance(context.module, nn.BatchNorm) or context.method_name != "__call__":
        return False
    given = args[1] if len(args) > 1 else kwargs.get("use_running_average")
    return not (context.module.use_running_average if given is None else given)


def _feature_axes(module: nn.BatchNorm, x: Array) -> tuple[int, ...]:
    axes = (module.axis,) if isinstance(module.axis, int) else tuple(module.axis)
    return tuple(sorted(axis % x.ndim for axis in axes))


def _moments(module: nn.BatchNorm, x: Array, weights: Array) -> Moments:
    features = _feature_axes(module, x)
    reduced = tuple(axis for axis in range(x.ndim) if axis not in features)
    x = x.astype(np.promote_types(x.dtype, np.float32))
    rows = weights.astype(x.dtype).reshape(-1, *(1,) * (x.ndim - 1))
    per_row = np.prod([x.shape[axis] for axis in reduced[1:]], initial=1.0).astype(x.dtype)
    size = jnp.sum(rows) * per_row
    # Two passes, first the mean and then the deviations from it: E x² − (E x)² cancels in float32.
    mean = jnp.sum(rows * x, axis=reduced, keepdims=True) / size
    deviations = jnp.sum(rows * jnp.square(x - mean), axis=reduced)
    return Moments(size, jnp.squeeze(mean, axis=reduced), deviations)


def _mean(x: Float[Array, "n h *positions features"]) -> Float[Array, "1 1 *ones features"]:
    """The mean of every feature over images, summed first over neighbouring rows of each.

    On a CPU XLA sums over examples and positions together on one core, and not whole rows
    at a time as over a few rows alone. The sum is as exact, which a product with a vector of
    ones is not: that adds number after number, and of five thousand images is wrong by 0.6 %.
    """
    # Sums of more than 32 numbers XLA cuts into parts itself, and slowly. Examples are not summed
    # first, because they may be spread over devices.
    rows = max(number for number in range(1, 33) if x.shape[1] % number == 0)
    axes = tuple(range(x.ndim - 1))
    if rows == 1:
        return jnp.mean(x, axis=axes, keepdims=True)
    parts = jnp.sum(x.reshape(x.shape[0], x.shape[1] // rows, rows, *x.shape[2:]), axis=2)
    # without the barrier XLA would make one sum of the two
    sums = jnp.sum(jax.lax.optimization_barrier(parts), axis=axes, keepdims=True)
    return sums / (x.size // x.shape[-1])


def _normalized(module: nn.BatchNorm, x: Array, statistics: Statistics) -> Array:
    """y = (x − mean)/√(variance + ε) · scale + bias, as flax has it."""
    shape = [1] * x.ndim
    for axis in _feature_axes(module, x):
        shape[axis] = x.shape[axis]
    mean, variance = (statistic.reshape(shape) for statistic in statistics)
    # In Flax's own order of operations, so that a micro-batch rounds as a whole batch would.
    factor = jax.lax.rsqrt(variance + module.epsilon)
    if module.use_scale:
        factor = factor * _parameter(module, "scale").astype(factor.dtype).reshape(shape)
    y = (x.astype(mean.dtype) - mean) * factor
    if module.use_bias:
        y = y + _parameter(module, "bias").astype(y.dtype).reshape(shape)
    return y.astype(_result_dtype(module, x))


def _parameter(module: nn.BatchNorm, name: str) -> Array:
    value: Array = module.get_variable("params", name)
    return value if module.force_float32_reductions else value.astype(module.param_dtype)


def _result_dtype(module: nn.BatchNorm, x: Array) -> Any:
    """Of what a layer puts out: its own, or that of its inputs and parameters."""
    if module.dtype is not None:
        return module.dtype
    names = [name for name in ("scale", "bias") if getattr(module, f"use_{name}")]
    return jnp.result_type(x, *(_parameter(module, name) for name in names))

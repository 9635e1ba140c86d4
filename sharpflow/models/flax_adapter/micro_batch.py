"""Outputs in micro-batches, with the batch-norm statistics of the whole batch.

The statistics are made layer by layer: one pass over all micro-batches for every
batch-norm layer, with the statistics of the layers before it fixed, and a last pass for
the outputs. Every pass is a scan whose body is recomputed where derivatives need it, so
reverse mode, forward mode and Hessian products go exactly through the statistics and
hold the activations of one micro-batch only.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sharpflow.models.flax_adapter.batch_norm import (
    MOMENTS,
    Moments,
    Statistics,
    normalize_with,
    uses_batch_statistics,
)
from sharpflow.models.flax_adapter.sharding import ExampleSharding, padded
from sharpflow.models.problem import Params


class Apply(Protocol):
    """A network on some rows: outputs (rows, c), and the collections asked for."""

    def __call__(
        self, params: Params, inputs: Array, collect: tuple[str, ...] = ()
    ) -> tuple[Array, Mapping[str, Any]]: ...


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("inputs", "weights"),
    meta_fields=("num_rows", "sharding"),
)
@dataclasses.dataclass(frozen=True, eq=False)
class MicroBatches:
    """Rows in K micro-batches of b, padded with copies of weight zero.

    Attributes:
      inputs: shape (K, b, ...).
      weights: 1 for a row, 0 for padding, shape (K, b).
      num_rows: n, without the padding.
      sharding: how each micro-batch is spread over devices.
    """

    inputs: Float[Array, "K b ..."]
    weights: Float[Array, "K b"]
    num_rows: int
    sharding: ExampleSharding

    @property
    def shapes(self) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
        """Of the inputs and weights of one micro-batch."""
        rows = jax.ShapeDtypeStruct(self.inputs.shape[1:], self.inputs.dtype)
        return rows, jax.ShapeDtypeStruct(self.weights.shape[1:], self.weights.dtype)


def split(
    rows: np.ndarray,
    micro_batch: int,
    sharding: ExampleSharding | None = None,
    *,
    dtype: np.dtype,
) -> MicroBatches:
    """Rows, shape (n, ...), in the fewest micro-batches of at most ``micro_batch``.

    They are as equal as they can be. Spread over devices, each has a multiple of their
    number, and so at least that many. Their weights have ``dtype``, that of the network, also
    where the rows are integers.
    """
    sharding = sharding or ExampleSharding()
    devices = sharding.num_devices
    largest = max(micro_batch // devices, 1) * devices
    number = -(-len(rows) // largest)
    # First the fewest micro-batches, then the least equal size for so many, a multiple of the
    # devices. Rounding up may leave the last one empty, so that their number is counted again.
    size = -(-len(rows) // (number * devices)) * devices
    number = -(-len(rows) // size)
    weights = np.arange(number * size).reshape(number, size) < len(rows)
    inputs = padded(rows, number * size).reshape(number, size, *rows.shape[1:])
    return MicroBatches(
        inputs=sharding.place(inputs, axis=1),
        weights=sharding.place(weights.astype(dtype), axis=1),
        num_rows=len(rows),
        sharding=sharding,
    )


def count_batch_norms(apply: Apply, params: Params, inputs: Array) -> int:
    """How many times a network normalizes with the statistics of its batch."""
    calls: list[Any] = []

    def count(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        if uses_batch_statistics(args, kwargs, context):
            calls.append(context.module.path)
        return call(*args, **kwargs)

    with nn.intercept_methods(count):
        jax.eval_shape(lambda params, inputs: apply(params, inputs)[0], params, inputs)
    return len(calls)


def batch_statistics(
    apply: Apply, params: Params, batches: MicroBatches, num_layers: int
) -> list[Statistics]:
    """The statistics of every batch-norm layer over all micro-batches, in order of call.

    Args:
      apply: the network.
      params: its parameters.
      batches: the whole batch.
      num_layers: how often it normalizes, from ``count_batch_norms``.

    Raises:
      ValueError: a batch-norm layer whose inputs do not start with the example axis, or
        one inside a transformation that hides it, such as ``nn.scan``.
    """
    known: list[Statistics] = []
    for _ in range(num_layers):
        total = _total_moments(_moments_after(known, apply, params), batches)
        known.append(Statistics(total.mean, total.deviations / total.size))
    return known


def batch_outputs(
    apply: Apply, params: Params, batches: MicroBatches, statistics: Sequence[Statistics]
) -> Float[Array, "n c"]:
    """Outputs on all rows with given statistics, shape (n, c)."""

    def outputs(_: None, rows: tuple[Array, Array]) -> tuple[None, Array]:
        inputs, weights = rows
        with nn.intercept_methods(normalize_with(statistics, weights)):
            return None, apply(params, inputs)[0]

    _, stacked = _scan(outputs, None, batches)
    return stacked.reshape(-1, *stacked.shape[2:])[: batches.num_rows]


def _moments_after(
    known: Sequence[Statistics], apply: Apply, params: Params
) -> Callable[[Array, Array], Moments]:
    """Inputs and weights -> the moments before the first layer that is not known yet."""
    known = tuple(known)

    def moments(inputs: Array, weights: Array) -> Moments:
        with nn.intercept_methods(normalize_with(known, weights)):
            _, state = apply(params, inputs, collect=(MOMENTS,))
        leaves = jax.tree.leaves(state.get(MOMENTS, {}))
        if len(leaves) != len(Moments._fields):
            raise ValueError(
                "micro_batch needs the inputs of every BatchNorm, but one of them runs "
                "inside a transformation that hides it, such as nn.scan or nn.vmap"
            )
        # One layer alone leaves its moments: those before it have their statistics and those after
        # it leave nothing.
        return Moments(*leaves)

    return moments


def _total_moments(moments: Callable[[Array, Array], Moments], batches: MicroBatches) -> Moments:
    def merge(total: Moments, rows: tuple[Array, Array]) -> tuple[Moments, None]:
        return total.merged(moments(*rows)), None

    shapes = jax.eval_shape(moments, *batches.shapes)
    empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    return _scan(merge, empty, batches)[0]


def _scan(body: Callable, start: Any, batches: MicroBatches) -> tuple[Any, Any]:
    """A scan over micro-batches that keeps nothing of one for the derivative."""

    def step(carry: Any, rows: tuple[Array, Array]) -> tuple[Any, Any]:
        inputs, weights = rows
        return body(carry, (batches.sharding.constrain(inputs), weights))

    step = jax.checkpoint(step, prevent_cse=False)  # the scan already keeps the copies apart
    return jax.lax.scan(step, start, (batches.inputs, batches.weights))

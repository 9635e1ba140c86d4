"""A Flax module bound to its full training batch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float

from sharpflow.models.flax_adapter.functional import FunctionalModule
from sharpflow.models.flax_adapter.linen_module import LinenModule
from sharpflow.models.flax_adapter.micro_batch import (
    MicroBatches,
    batch_outputs,
    batch_statistics,
    count_batch_norms,
    split,
)
from sharpflow.models.flax_adapter.sharding import ExampleSharding, padded
from sharpflow.models.problem import Params

_COMPARED = 128  # examples on which micro-batches are compared with one batch

Outputs = Callable[[Params], Float[Array, "n c"]]


class Network:
    """A module bound to its training batch, with some parameters fixed.

    Args:
      module: maps (n, ...) inputs to (n, c) outputs.
      inputs: the training batch, shape (n, ...), in the dtype of the problem.
      fixed: parameters held constant, by path or by the start of one.
      fixed_seed: seed of their values.
      micro_batch: most examples that go through the module at once; None takes all.
      sharding: how the examples are spread over devices.

    Raises:
      ValueError: a name in ``fixed`` that matches nothing, nothing left to train,
        dropout, or, where the batch is split, an nnx module or one that mixes examples
        otherwise than by ``nn.BatchNorm``.
    """

    def __init__(
        self,
        module: FunctionalModule,
        inputs: np.ndarray,
        *,
        fixed: Sequence[str] = (),
        fixed_seed: int = 0,
        micro_batch: int | None = None,
        sharding: ExampleSharding | None = None,
    ) -> None:
        if micro_batch is not None and not isinstance(module, LinenModule):
            raise ValueError(
                f"micro_batch={micro_batch} needs a flax.linen module, whose layers can be given "
                "the statistics of the whole batch: leave micro_batch=None, and spread the "
                "examples by devices= where memory is short"
            )
        self._module, self._inputs = module, inputs
        self._micro_batch, self._sharding = micro_batch, sharding or ExampleSharding()
        self._fix(fixed, fixed_seed)
        if micro_batch is None:
            self.outputs: Outputs = self._joint_outputs(inputs)
        else:
            params = jax.eval_shape(self.init, jax.random.key(0))
            sample = jnp.asarray(inputs[:micro_batch])
            self._num_layers = count_batch_norms(self._collecting, params, sample)
            self._batches = split(inputs, micro_batch, self._sharding)
            self.outputs = self._outputs_of(self._batches, self._batches)
            self._require_separate_examples(micro_batch)

    def init(self, key: jax.Array) -> Params:
        """Parameters, without the fixed ones."""
        flat, _ = self._module.init(key)
        return unflatten_dict(
            {path: value for path, value in flat.items() if path not in self._fixed}, sep="/"
        )

    def test_outputs(self, inputs: np.ndarray) -> Outputs:
        """The outputs on other inputs, with the statistics of the training batch.

        Args:
          inputs: shape (k, ...).

        Returns:
          A function params -> (k, c).

        Raises:
          ValueError: the module lets these inputs into its statistics.
        """
        if self._micro_batch is not None:
            others = split(inputs, self._micro_batch, self._sharding)
            return self._outputs_of(others, self._batches)
        joint = self._joint_outputs(self._inputs, inputs)
        num_train = len(self._inputs)
        both = jax.jit(lambda params: (joint(params)[:num_train], self.outputs(params)))
        change = _relative_change(*both(self.init(jax.random.key(1))))
        if not change < _tolerance(self._inputs.dtype):
            raise ValueError(
                "test metrics need the statistics of the training batch, but this module mixes "
                f"the test examples into them (outputs change by {change:.1g}): "
                f"normalize with {self._module.batch_norm}, or leave test=None"
            )
        return lambda params: joint(params)[num_train:]

    def _joint_outputs(self, training: np.ndarray, others: np.ndarray | None = None) -> Outputs:
        """Outputs on all rows in one go, statistics from the training rows alone.

        Rows that are not of the training batch, be they ``others`` or padding for the
        devices, are kept out by a mask that every batch-norm layer gets.
        """
        rows = training if others is None else np.concatenate([training, others])
        devices = self._sharding.num_devices
        total = -(-len(rows) // devices) * devices
        inputs = self._sharding.place(padded(rows, total))
        num_training = None if total == len(training) else len(training)

        def outputs(params: Params) -> Array:
            found = self._apply(params, self._sharding.constrain(inputs), num_training)
            return found if num_training is None else found[: len(rows)]

        return jax.jit(outputs)  # traced once, however many derivatives are taken of it

    def _outputs_of(self, rows: MicroBatches, training: MicroBatches) -> Outputs:
        def outputs(params: Params) -> Array:
            statistics = batch_statistics(self._collecting, params, training, self._num_layers)
            return batch_outputs(self._collecting, params, rows, statistics)

        return jax.jit(outputs)  # outside compiled code a scan would be compiled at every call

    def _require_separate_examples(self, micro_batch: int) -> None:
        """Compare two or more micro-batches of some examples with one batch of them."""
        number = min(len(self._inputs), max(micro_batch, _COMPARED))
        some = self._inputs[np.linspace(0, len(self._inputs) - 1, number).astype(int)]
        params = self.init(jax.random.key(1))
        together = jax.jit(self._apply)(params, jnp.asarray(some))
        halves = split(some, -(-number // 2))
        apart = self._outputs_of(halves, halves)(params)
        change = _relative_change(apart, together)
        if not change < _tolerance(self._inputs.dtype):
            raise ValueError(
                f"micro_batch={micro_batch} splits the batch, but this module mixes its examples "
                f"otherwise than by flax.linen.BatchNorm (outputs change by {change:.1g}): "
                "normalize with flax.linen.BatchNorm, or leave micro_batch=None"
            )

    def _apply(
        self, params: Params, inputs: Array, num_training: int | None = None
    ) -> Float[Array, "n c"]:
        return self._module.apply(self._whole(params), self._constants, inputs, num_training)

    def _collecting(
        self, params: Params, inputs: Array, collect: tuple[str, ...] = ()
    ) -> tuple[Float[Array, "n c"], Mapping[str, Any]]:
        assert isinstance(self._module, LinenModule)
        return self._module.apply_collecting(self._whole(params), self._constants, inputs, collect)

    def _whole(self, params: Params) -> dict[str, Array]:
        """Parameters by path, with the fixed ones."""
        return flatten_dict(params, sep="/") | self._fixed

    def _fix(self, fixed: Sequence[str], seed: int) -> None:
        flat, self._constants = self._module.init(jax.random.key(seed))
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


def _matches(path: str, name: str) -> bool:
    return path == name or path.startswith(name + "/")


def _relative_change(found: Array, expected: Array) -> float:
    difference = np.asarray(found) - np.asarray(expected)
    return float(np.max(np.abs(difference)) / np.max(np.abs(np.asarray(expected))))


def _tolerance(dtype: np.dtype) -> float:
    return float(np.sqrt(np.finfo(dtype).eps))

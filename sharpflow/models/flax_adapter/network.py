"""A Flax module and the arrays of its problem: the functions of the problem."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float

from sharpflow.models.compiled_function import CompiledFunction
from sharpflow.models.cross_entropy import SmoothedCrossEntropy
from sharpflow.models.flax_adapter.functional import FunctionalModule
from sharpflow.models.flax_adapter.linen_module import LinenModule
from sharpflow.models.flax_adapter.micro_batch import (
    Apply,
    MicroBatches,
    batch_outputs,
    batch_statistics,
    count_batch_norms,
    split,
)
from sharpflow.models.flax_adapter.sharding import ExampleSharding, padded
from sharpflow.models.leaves import on_device
from sharpflow.models.metrics import Scores
from sharpflow.models.precision import compiled, full_precision
from sharpflow.models.problem import Params
from sharpflow.models.representation import summarized

# Ten times as many would take, when the problem is made, the memory that micro-batches are there to
# save. A dozen would find a layer that mixes all its examples; more are taken in case it mixes some
# of them only.
_COMPARED = 128  # examples on which micro-batches are compared with one batch


@summarized
@partial(
    jax.tree_util.register_dataclass,
    data_fields=("inputs", "fixed", "constants", "targets", "test_inputs", "scores"),
    meta_fields=("num_devices",),
)
@dataclasses.dataclass(frozen=True, eq=False)
class NetworkData:
    """The arrays of a network problem.

    Attributes:
      inputs: the training batch, its rows padded to a multiple of the devices; or in
        micro-batches.
      fixed: parameters held constant, by path.
      constants: of the module.
      targets: of the outputs, shape (n, c); their rows say how many examples there are.
      test_inputs: rows for the test metrics, as ``inputs``, or None.
      scores: of outputs on the training rows and on the test rows, by the name of the metric.
      num_devices: to whose multiple rows are padded.
    """

    inputs: Float[Array, "n ..."] | MicroBatches
    fixed: dict[str, Array]
    constants: Any
    targets: Float[Array, "n c"]
    test_inputs: Float[Array, "k ..."] | MicroBatches | None = None
    scores: Scores = dataclasses.field(default_factory=dict)
    num_devices: int = 1

    @property
    def num_training(self) -> int:
        """n, rows of the training batch without padding."""
        return self.targets.shape[0]

    @property
    def num_test(self) -> int:
        """Rows of the test inputs without padding."""
        rows = [score.num_rows for name, score in self.scores.items() if is_of_test(name)]
        return rows[0] if rows else 0

    def require_matching_rows(self) -> None:
        """Refuse arrays that do not belong together.

        Raises:
          ValueError: inputs, targets and scores of different numbers of rows.
        """
        num_rows = {"inputs": self._num_rows(self.inputs, self.num_training)}
        if self.test_inputs is not None:
            num_rows["test_inputs"] = self._num_rows(self.test_inputs, self.num_test)
        num_rows |= {f"scores[{name!r}]": score.num_rows for name, score in self.scores.items()}
        wrong = [
            f"{name} has {rows} rows instead of {expected}"
            for name, rows in num_rows.items()
            if rows != (expected := self.num_test if "test_" in name else self.num_training)
        ]
        if wrong:
            raise ValueError(
                f"data of a network must have one number of rows, but beside {self.num_training} "
                f"rows of targets {', '.join(wrong)}: replace all of them together, or build the "
                "problem again"
            )

    def require_targets_for(self, outputs: Array) -> None:
        """Refuse targets of another shape than the outputs, which would be broadcast.

        Raises:
          ValueError: naming both shapes.
        """
        if outputs.shape != self.targets.shape:
            raise ValueError(
                "targets must have the shape of the outputs of the network, "
                f"{outputs.shape}, got {self.targets.shape}"
            )

    def _num_rows(self, inputs: Array | MicroBatches, expected: int) -> int:
        """Rows of inputs; as expected, if they are those with padding for the devices."""
        if isinstance(inputs, MicroBatches):
            return inputs.num_rows
        with_padding = -(-expected // self.num_devices) * self.num_devices
        return expected if len(inputs) == with_padding else len(inputs)


def is_of_test(name: str) -> bool:
    """Whether a metric of this name is taken on the test inputs."""
    return name.startswith("test_")


@dataclasses.dataclass(frozen=True)
class Network:
    """A module on a training batch: functions of its trained parameters and ``NetworkData``.

    It holds no arrays. Equal networks, on batches of one size, share their compiled programs.

    Attributes:
      module: maps (n, ...) inputs to (n, c) outputs.
      sharding: how the examples are spread over devices.
      num_batch_norms: how often the module normalizes with the statistics of its batch, where
        that is split into micro-batches; None takes all rows at once.
      trained: the paths of its params, sorted.
    """

    module: FunctionalModule
    sharding: ExampleSharding = dataclasses.field(default_factory=ExampleSharding)
    num_batch_norms: int | None = None
    trained: tuple[str, ...] = ()

    def init(self, key: jax.Array, data: NetworkData) -> Params:
        """Parameters, without the fixed ones."""
        flat, _ = self.module.init(key, _sample(data))
        trained = {path: value for path, value in flat.items() if path not in data.fixed}
        return self.sharding.replicated(unflatten_dict(trained, sep="/"))

    def outputs(self, params: Params, data: NetworkData) -> Float[Array, "n c"]:
        """Outputs on the training batch, with its statistics."""
        data.require_matching_rows()
        # A module overlooks an array that it does not know, and one that is held constant would
        # replace it; both would be part of ‖w‖ and of the threshold.
        given = sorted(flatten_dict(params, sep="/"))
        if given != list(self.trained):
            raise ValueError(f"the network trains {list(self.trained)}, got {given}")
        return _outputs(self, params, data)

    def test_outputs(self, params: Params, data: NetworkData) -> Float[Array, "k c"]:
        """Outputs on the test inputs, with the statistics of the training batch."""
        return _test_outputs(self, params, data)

    def residual(self, params: Params, data: NetworkData) -> Float[Array, " n*c"]:
        """(f − y)/√n, flat: half its square is the mean over examples of ½‖f − y‖²."""
        outputs = self.outputs(params, data)
        data.require_targets_for(outputs)
        root_count = math.sqrt(data.num_training)
        return ((outputs - data.targets) / root_count).ravel()

    def apply(
        self,
        params: Params,
        data: NetworkData,
        inputs: Array,
        num_training: int | None = None,
    ) -> Float[Array, "n c"]:
        """Outputs on some rows together, batch norm by the first ``num_training`` of them."""
        return self.module.apply(_whole(params, data), data.constants, inputs, num_training)

    def collecting(self, data: NetworkData) -> Apply:
        """Outputs on some rows, and what a linen module leaves in its collections."""
        module = self.module
        assert isinstance(module, LinenModule)

        def apply(
            params: Params, inputs: Array, collect: tuple[str, ...] = ()
        ) -> tuple[Array, Mapping[str, Any]]:
            return module.apply_collecting(_whole(params, data), data.constants, inputs, collect)

        return apply


@dataclasses.dataclass(frozen=True)
class CrossEntropyOfData:
    """The cross-entropy of logits with the targets among the data."""

    def of(self, data: NetworkData) -> SmoothedCrossEntropy:
        """The criterion of logits alone."""
        return SmoothedCrossEntropy(data.targets)

    def __call__(self, logits: Float[Array, "n c"], data: NetworkData) -> Float[Array, ""]:
        """L for logits of shape (n, c), a scalar."""
        data.require_targets_for(logits)
        return self.of(data)(logits)

    def infimum(self, data: NetworkData) -> Float[Array, ""]:
        """inf L: the mean entropy of the targets among the data."""
        return self.of(data).infimum

    def residual(self, logits: Float[Array, "n c"], data: NetworkData) -> Float[Array, " n*c"]:
        """The residual form of L, shape (n·c,)."""
        return self.of(data).residual(logits)


@dataclasses.dataclass(frozen=True)
class Score:
    """A metric of a network problem.

    Attributes:
      network: on whose outputs it is taken.
      name: of the metric, under which ``NetworkData`` has its score.
    """

    network: Network
    name: str

    def __call__(self, params: Params, data: NetworkData) -> Float[Array, ""]:
        """The score of the outputs at these params, shape ()."""
        data.require_matching_rows()
        return _score(self, params, data)


@full_precision  # as a problem draws its parameters, so that both have one program
def bound_network(
    module: FunctionalModule,
    inputs: np.ndarray,
    targets: np.ndarray,
    *,
    fixed: Sequence[str] = (),
    fixed_seed: int = 0,
    micro_batch: int | None = None,
    sharding: ExampleSharding | None = None,
) -> tuple[Network, NetworkData]:
    """Bind a module to its training batch, some of its parameters fixed.

    Args:
      module: maps (n, ...) inputs to (n, c) outputs.
      inputs: the training batch, shape (n, ...), in the dtype of the problem or integers.
      targets: of its outputs, shape (n, c).
      fixed: parameters held constant, by path or by the start of one.
      fixed_seed: seed of their values.
      micro_batch: most examples that go through the module at once; None takes all.
      sharding: how the examples are spread over devices.

    Returns:
      The functions and the arrays of the problem.

    Raises:
      ValueError: a name in ``fixed`` that matches nothing, nothing left to train,
        dropout, or, where the batch is split, an nnx module or one that mixes examples
        otherwise than by ``nn.BatchNorm``.
    """
    if micro_batch is not None and not isinstance(module, LinenModule):
        raise ValueError(
            f"micro_batch={micro_batch} needs a flax.linen module, whose layers can be given "
            "the statistics of the whole batch: leave micro_batch=None, and spread the "
            "examples by devices= where memory is short"
        )
    sharding = sharding or ExampleSharding()
    placed = _placed(inputs, micro_batch, sharding, module.dtype)
    data = NetworkData(
        inputs=placed,
        fixed={},
        constants=None,
        targets=on_device(targets),
        num_devices=sharding.num_devices,
    )
    flat, constants = module.init(jax.random.key(fixed_seed), _sample(data))
    data = dataclasses.replace(
        data,
        fixed=sharding.replicated(_fixed(flat, fixed)),
        constants=sharding.replicated(constants),
    )
    trained = tuple(sorted(flat.keys() - data.fixed.keys()))
    network = Network(module, sharding=sharding, trained=trained)
    if micro_batch is None:
        return network, data
    params = jax.eval_shape(partial(network.init, data=data), jax.random.key(0))
    number = count_batch_norms(network.collecting(data), params, _sample(data))
    network = dataclasses.replace(network, num_batch_norms=number)
    _require_separate_examples(network, data, inputs, micro_batch)
    return network, data


@full_precision
def with_test_inputs(
    network: Network,
    data: NetworkData,
    inputs: np.ndarray,
    micro_batch: int | None,
) -> NetworkData:
    """The same data with inputs for the test metrics.

    Args:
      network, data: from ``bound_network``; the data with all scores.
      inputs: shape (k, ...).
      micro_batch: as there.

    Raises:
      ValueError: the module lets these inputs into its statistics.
    """
    placed = _placed(inputs, micro_batch, network.sharding, network.module.dtype)
    data = dataclasses.replace(data, test_inputs=placed)
    if network.num_batch_norms is None:
        change = float(_mixing(network, network.init(jax.random.key(1), data), data))
        if not change < _tolerance(network.module.dtype):
            raise ValueError(
                "test metrics need the statistics of the training batch, but this module mixes "
                f"the test examples into them (outputs change by {change:.1g}): "
                f"normalize with {network.module.batch_norm}, or leave test=None"
            )
    return data


# Compiled functions of their own: traced once, however many derivatives are taken of them, and
# called outside of other compiled code they do not compile a scan at every call. What precision
# their products have is said by whoever traces them.
@partial(CompiledFunction, static_argnames=("network",))
def _outputs(network: Network, params: Params, data: NetworkData) -> Float[Array, "n c"]:
    inputs, num_training = data.inputs, data.num_training
    if isinstance(inputs, MicroBatches):
        return _in_micro_batches(network, params, data, inputs)
    rows = network.sharding.constrain(inputs)
    if len(rows) == num_training:
        return network.apply(params, data, rows)
    return network.apply(params, data, rows, num_training)[:num_training]


@partial(CompiledFunction, static_argnames=("network",))
def _test_outputs(network: Network, params: Params, data: NetworkData) -> Float[Array, "k c"]:
    if isinstance(data.test_inputs, MicroBatches):
        return _in_micro_batches(network, params, data, data.test_inputs)
    return _joint_outputs(network, params, data)[1]


@partial(CompiledFunction, static_argnames=("score",))
def _score(score: Score, params: Params, data: NetworkData) -> Float[Array, ""]:
    network = score.network
    outputs = network.test_outputs if is_of_test(score.name) else network.outputs
    return data.scores[score.name](outputs(params, data))


def _joint_outputs(network: Network, params: Params, data: NetworkData) -> tuple[Array, Array]:
    """Outputs on training and test rows, gone through the module together.

    Rows that are not of the training batch, be they test rows or padding for the devices, are
    kept out of the statistics by a mask that every batch-norm layer gets.
    """
    training, test = data.inputs, data.test_inputs
    assert isinstance(training, jax.Array) and isinstance(test, jax.Array)
    rows = network.sharding.constrain(jnp.concatenate([training, test]))
    outputs = network.apply(params, data, rows, data.num_training)
    tested = outputs[len(training) :][: data.num_test]
    return outputs[: data.num_training], tested


def _in_micro_batches(
    network: Network, params: Params, data: NetworkData, rows: MicroBatches
) -> Float[Array, "n c"]:
    assert network.num_batch_norms is not None and isinstance(data.inputs, MicroBatches)
    apply = network.collecting(data)
    statistics = batch_statistics(apply, params, data.inputs, network.num_batch_norms)
    return batch_outputs(apply, params, rows, statistics)


@compiled(static_argnames=("network",))
def _mixing(network: Network, params: Params, data: NetworkData) -> Float[Array, ""]:
    """How far test rows change the outputs on the training rows, relative to the largest."""
    return _relative_change(_joint_outputs(network, params, data)[0], network.outputs(params, data))


def _require_separate_examples(
    network: Network, data: NetworkData, inputs: np.ndarray, micro_batch: int
) -> None:
    """Compare two or more micro-batches of some examples with one batch of them."""
    number = min(len(inputs), max(micro_batch, _COMPARED))
    # Spread over the batch, because data are often sorted by class, and the first rows would be of
    # one.
    some = inputs[np.linspace(0, len(inputs) - 1, number).astype(int)]
    two = split(some, -(-number // 2), dtype=network.module.dtype)
    halves = dataclasses.replace(data, inputs=two, targets=data.targets[:number], num_devices=1)
    whole = dataclasses.replace(halves, inputs=jnp.asarray(some))
    # On one device: what is asked is whether the module mixes its examples, and not where they lie.
    network = dataclasses.replace(network, sharding=ExampleSharding())
    params = network.init(jax.random.key(1), whole)
    # Measured and not looked up in a list of layers that mix: a user's module may mix examples in
    # ways that have no name. Another key than that of the fixed parameters, so that a draw that
    # happens to hide it is not used twice.
    change = float(_splitting(network, params, halves, whole))
    if not change < _tolerance(network.module.dtype):
        raise ValueError(
            f"micro_batch={micro_batch} splits the batch, but this module mixes its examples "
            f"otherwise than by flax.linen.BatchNorm (outputs change by {change:.1g}): "
            "normalize with flax.linen.BatchNorm, or leave micro_batch=None"
        )


@compiled(static_argnames=("network",))
def _splitting(
    network: Network, params: Params, halves: NetworkData, whole: NetworkData
) -> Float[Array, ""]:
    return _relative_change(network.outputs(params, halves), network.outputs(params, whole))


def _relative_change(computed: Array, expected: Array) -> Float[Array, ""]:
    return jnp.max(jnp.abs(computed - expected)) / jnp.max(jnp.abs(expected))


def _placed(
    inputs: np.ndarray, micro_batch: int | None, sharding: ExampleSharding, dtype: np.dtype
) -> Array | MicroBatches:
    if micro_batch is not None:
        return split(inputs, micro_batch, sharding, dtype=dtype)
    devices = sharding.num_devices
    return sharding.place(padded(inputs, -(-len(inputs) // devices) * devices))


def _sample(data: NetworkData) -> Array:
    """Inputs that parameters are made for; only their shape matters to most modules."""
    inputs = data.inputs
    return inputs.inputs[0] if isinstance(inputs, MicroBatches) else inputs


def _whole(params: Params, data: NetworkData) -> dict[str, Array]:
    """Parameters by path, with the fixed ones."""
    return flatten_dict(params, sep="/") | data.fixed


def _fixed(flat: Mapping[str, Array], fixed: Sequence[str]) -> dict[str, Array]:
    for name in fixed:
        if not any(_matches(path, name) for path in flat):
            raise ValueError(f"fixed names {name!r}, but the parameters are {sorted(flat)}")
    chosen = {p: v for p, v in flat.items() if any(_matches(p, name) for name in fixed)}
    if len(chosen) == len(flat):
        raise ValueError("fixed leaves nothing to train")
    return chosen


def _matches(path: str, name: str) -> bool:
    return path == name or path.startswith(name + "/")


def _tolerance(dtype: np.dtype) -> float:
    # Between rounding, a few eps for a layer, and what mixing changes: of n examples, a share of
    # 1/√n where it is through a mean.
    return float(np.sqrt(np.finfo(dtype).eps))

"""Flax nnx modules as pure functions, by split and merge."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np
from flax import nnx
from flax.errors import TraceContextError
from jax import lax
from jaxtyping import Array, Float

from sharpflow.models.convolution import conv_general_dilated
from sharpflow.models.flax_adapter.functional import (
    RANDOM_NUMBERS,
    as_columns,
    in_dtype,
    training_rows,
)
from sharpflow.models.reading import Reading, reading


@partial(
    jax.tree_util.register_dataclass,
    data_fields=("others",),
    meta_fields=("graph", "paths", "params"),
)
@dataclasses.dataclass(frozen=True, eq=False)
class Constants:
    """What ``nnx.split`` gives beside the values of the parameters.

    Attributes:
      graph: the structure of the module.
      paths: of the parameters, in the order of ``params``.
      params: structure of the state of all ``nnx.Param``.
      others: every other variable and array.
    """

    graph: nnx.GraphDef
    paths: tuple[str, ...]
    params: jax.tree_util.PyTreeDef
    others: nnx.State


class NnxModule:
    """An nnx module as a ``FunctionalModule``.

    Its parameters are its ``nnx.Param``; everything else is constant. Every call works on
    a fresh copy, so that what it changes in the module is forgotten. Equal functions that make
    modules, with equal keywords, are equal, if they are sure to read the same.

    Args:
      module: a module that maps (n, ...) inputs to (n, c) or (n,) outputs, whose own
        parameters ``init`` gives for every key, or a function from ``nnx.Rngs`` to one.
      dtype: of the parameters, and of every constant that is floating point.
      call_kwargs: keywords for calling the module.

    Raises:
      ValueError: random streams among the keywords.
    """

    batch_norm = "flax.nnx.BatchNorm"

    def __init__(
        self,
        module: nnx.Module | Callable[[nnx.Rngs], nnx.Module],
        dtype: np.dtype,
        call_kwargs: Mapping[str, Any],
    ) -> None:
        streams = (nnx.Rngs, nnx.RngStream)
        if any(isinstance(value, streams) for value in call_kwargs.values()):
            raise _random_numbers()
        # a copy, since training the instance elsewhere writes to its variables
        self._module = nnx.clone(module) if isinstance(module, nnx.Module) else module
        self.dtype, self._call_kwargs = dtype, dict(call_kwargs)
        if isinstance(module, nnx.Module):
            self.reading = Reading.of_itself()  # has parameters of its own, and equals itself alone
        else:
            self.reading = reading((dtype, partial(module, **self._call_kwargs)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NnxModule) and bool(self.reading.key == other.reading.key)

    def __hash__(self) -> int:
        return hash(self.reading.key)

    def __reduce__(self) -> tuple:
        return NnxModule, (self._module, self.dtype, self._call_kwargs)

    def init(self, key: jax.Array, sample: Array) -> tuple[dict[str, Array], Constants]:
        """Parameters by path, of a new module or, from an instance, its own."""
        del sample  # an nnx module knows its shapes
        graph, *states = nnx.split(self._adapted(key), nnx.Param, ...)
        params, others = states
        leaves = jax.tree_util.tree_leaves_with_path(params)
        named = {_name(path): in_dtype(leaf, self.dtype) for path, leaf in leaves}
        others = jax.tree.map(partial(in_dtype, dtype=self.dtype), others)
        return named, Constants(graph, tuple(named), jax.tree.structure(params), others)

    def apply(
        self,
        params: Mapping[str, Array],
        constants: Constants,
        inputs: Array,
        num_training: int | None = None,
    ) -> Float[Array, "n c"]:
        """As in ``FunctionalModule``; batch norm uses batch statistics in every mode."""
        of_params = jax.tree.unflatten(constants.params, [params[path] for path in constants.paths])
        others = jax.tree.map(lambda leaf: leaf, constants.others)  # new variables to write to
        module = nnx.merge(constants.graph, of_params, others)
        for _, node in nnx.iter_graph(module):
            if isinstance(node, _BatchNorm):
                node.num_training = num_training
            if isinstance(node, nnx.Conv) and node.conv_general_dilated is lax.conv_general_dilated:
                node.conv_general_dilated = conv_general_dilated
        try:
            return as_columns(module(inputs, **self._call_kwargs))
        except TraceContextError as error:
            raise ValueError(
                "module changes flax.nnx variables that are not its own, as drawing random "
                "numbers from an nnx.Rngs outside of it does, which no function of its "
                "parameters may"
            ) from error

    def _adapted(self, key: jax.Array) -> nnx.Module:
        """A copy of the module in which batch norm and random streams are ours."""
        module = self._module
        if not isinstance(module, nnx.Module):
            module = module(nnx.Rngs(key))
            if not isinstance(module, nnx.Module):
                raise ValueError(
                    "module must be a function from nnx.Rngs to a flax.nnx module, "
                    f"but it returned {type(module).__name__}"
                )
        module = nnx.clone(module)
        for _, node in nnx.iter_graph(module):
            for theirs, ours in _SUBSTITUTES.items():
                if isinstance(node, theirs):
                    # The class of the object is exchanged, and not the object in its module: a
                    # module may refer to the same layer from several places, and nnx has no
                    # interceptors as linen has.
                    object.__setattr__(node, "__class__", _substituted(type(node), theirs, ours))
        return module


class _BatchNorm(nnx.BatchNorm):
    """Batch norm with the statistics of the first rows, whatever mode it is called in."""

    num_training: int | None = None

    def __call__(
        self, x: Array, use_running_average: bool | None = None, *, mask: Array | None = None
    ) -> Array:
        if self.num_training is not None:
            in_training = training_rows(self.num_training, x)
            mask = in_training if mask is None else in_training & mask
        return super().__call__(x, use_running_average=False, mask=mask)


class _RefusedStream(nnx.RngStream):
    """A stream of random keys that gives none."""

    def __call__(self) -> jax.Array:
        raise _random_numbers()


_SUBSTITUTES = {nnx.BatchNorm: _BatchNorm, nnx.RngStream: _RefusedStream}


@functools.cache
def _substituted(kind: type, theirs: type, ours: type) -> type:
    """``kind`` with the methods of ``ours`` in place of those of ``theirs``.

    Another subclass of ``theirs`` keeps its own methods, and finds ours by ``super()``.
    """
    if kind is theirs:
        return ours
    return type(kind.__name__, (kind, ours), {"__module__": kind.__module__})


def _random_numbers() -> ValueError:
    return ValueError(f"{RANDOM_NUMBERS}, or in the module by deterministic=True or eval()")


def _name(path: tuple[Any, ...]) -> str:
    """Keys of a path by slashes, without the attribute of a variable that holds its value."""
    keys = (key for key in path if not isinstance(key, jax.tree_util.GetAttrKey))
    return jax.tree_util.keystr(tuple(keys), simple=True, separator="/")

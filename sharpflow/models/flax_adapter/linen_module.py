"""Flax linen modules as pure functions."""

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from flax.errors import InvalidRngError
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float

from sharpflow.models.convolution import conv_general_dilated
from sharpflow.models.flax_adapter.batch_norm import sum_by_rows
from sharpflow.models.flax_adapter.functional import (
    RANDOM_NUMBERS,
    as_columns,
    in_dtype,
    training_rows,
)
from sharpflow.models.leaves import is_concrete
from sharpflow.models.reading import reading
from sharpflow.models.static_function import StaticFunction

# An entry takes about 4 MB. Ten times as many would let a long session grow by gigabytes; a tenth
# would compile again in a sweep over seven widths.
_MOST_MODULES = 64  # whose compiled init is kept
_Init = Callable[[jax.Array, Array], Any]


class LinenModule:
    """A linen module as a ``FunctionalModule``; its constants are its other collections.

    Equal modules with equal keywords are equal, if they are sure to read the same.

    Args:
      module: maps (n, ...) inputs to (n, c) or (n,) outputs.
      dtype: of the parameters, and of every constant that is floating point.
      apply_kwargs: keywords for ``module.apply``.
    """

    batch_norm = "flax.linen.BatchNorm"

    def __init__(self, module: nn.Module, dtype: np.dtype, apply_kwargs: Mapping[str, Any]) -> None:
        self._module, self.dtype = module, dtype
        self._apply_kwargs = dict(apply_kwargs)
        self.reading = reading((dtype, partial(module.apply, **self._apply_kwargs)))
        make_init = _shared_init if self.reading.is_settled else _compiled_init
        self._init = make_init(
            StaticFunction.by_reading(partial(module.init, **self._apply_kwargs))
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LinenModule) and bool(self.reading.key == other.reading.key)

    def __hash__(self) -> int:
        return hash(self.reading.key)

    def __reduce__(self) -> tuple:
        return LinenModule, (self._module, self.dtype, self._apply_kwargs)

    def init(self, key: jax.Array, sample: Array) -> tuple[dict[str, Array], dict[str, Any]]:
        """Parameters by path, and the other collections."""
        # Cast after the drawing: param_dtype is a matter of each layer, and most modules leave it
        # at float32.
        variables = jax.tree.map(partial(in_dtype, dtype=self.dtype), self._init(key, sample))
        collections = {name: value for name, value in variables.items() if name != "params"}
        return flatten_dict(variables.get("params", {}), sep="/"), collections

    def apply(
        self,
        params: Mapping[str, Array],
        constants: Mapping[str, Any],
        inputs: Array,
        num_training: int | None = None,
    ) -> Float[Array, "n c"]:
        """As in ``FunctionalModule``: rows beyond ``num_training`` get a mask in batch norm."""
        if num_training is None:
            with nn.intercept_methods(sum_by_rows):
                return self.apply_collecting(params, constants, inputs)[0]

        def masked(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
            if isinstance(context.module, nn.BatchNorm) and context.method_name == "__call__":
                kwargs = dict(kwargs) | {"mask": training_rows(num_training, args[0])}
            return call(*args, **kwargs)

        with nn.intercept_methods(masked):
            return self.apply_collecting(params, constants, inputs)[0]

    def apply_collecting(
        self,
        params: Mapping[str, Array],
        constants: Mapping[str, Any],
        inputs: Array,
        collect: tuple[str, ...] = (),
    ) -> tuple[Float[Array, "n c"], Mapping[str, Any]]:
        """Outputs, and the collections named in ``collect`` as the call leaves them."""
        variables = {"params": unflatten_dict(dict(params), sep="/"), **constants}
        # Collections may be written to, and what is written is thrown away: batch norm in training
        # mode insists on updating its running averages.
        mutable = [*constants, *collect]
        try:
            with nn.intercept_methods(_by_our_convolution):
                outputs, state = self._module.apply(
                    variables, inputs, mutable=mutable, **self._apply_kwargs
                )
        except InvalidRngError as error:
            raise ValueError(RANDOM_NUMBERS) from error
        return as_columns(outputs), state


def _compiled_init(static: StaticFunction) -> _Init:
    """``module.init`` as compiled code."""

    def init(key: jax.Array, sample: Array) -> Any:
        static.require_unchanged()
        return static.function(key, sample)

    # Compiled, all but the making of parameters falls away. It runs once, and would take
    # seconds to optimize; jax takes such options for a whole program, not for a part of one.
    within = jax.jit(init)
    optimizes = not jax.config.read("jax_disable_most_optimizations")
    quick = jax.jit(init, compiler_options={"xla_backend_optimization_level": int(optimizes)})

    def drawn(key: jax.Array, sample: Array) -> Any:
        return (quick if is_concrete(jax.random.key_data(key)) else within)(key, sample)

    return drawn


# for modules that read the same; one that is compared with no other would only be kept
_shared_init = lru_cache(maxsize=_MOST_MODULES)(_compiled_init)


def _by_our_convolution(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
    """Have Flax's layers convolve by ``conv_general_dilated``, unless they have their own."""
    layer = context.module  # the copy that this call was bound to, not the user's
    if (
        isinstance(layer, nn.Conv)
        and layer.conv_general_dilated is None
        and layer.conv_general_dilated_cls is None
    ):
        object.__setattr__(layer, "conv_general_dilated", conv_general_dilated)
    return call(*args, **kwargs)

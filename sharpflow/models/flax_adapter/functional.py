"""What a Flax module is to the adapter, whichever of Flax's two interfaces it is written in."""

from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sharpflow.models.reading import Reading

RANDOM_NUMBERS = (
    "module draws random numbers in every call, as dropout does, which full-batch "
    "gradient descent does not have; switch it off through apply_kwargs"
)


class FunctionalModule(Protocol):
    """A module without state of its own: pure functions of parameters and constants.

    It holds no arrays and is compared by what it reads, so that problems with equal modules share
    their compiled programs.

    Attributes:
      batch_norm: the layer whose statistics can be kept to the training rows.
      dtype: of the parameters.
      reading: what the module, its keywords and its dtype read.
    """

    batch_norm: str
    dtype: np.dtype
    reading: Reading

    def init(self, key: jax.Array, sample: Array) -> tuple[dict[str, Array], Any]:
        """All parameters by path (``"layers/0/kernel"``), and the constants of ``apply``.

        Args:
          key: of the random numbers.
          sample: inputs that the parameters are made for.
        """
        ...

    def apply(
        self,
        params: Mapping[str, Array],
        constants: Any,
        inputs: Array,
        num_training: int | None = None,
    ) -> Float[Array, "n c"]:
        """Outputs in training mode, shape (n, c).

        Args:
          params: all parameters by path.
          constants: what ``init`` gave beside the parameters.
          inputs: shape (n, ...).
          num_training: how many rows, from the first, batch norm takes its statistics
            from; None takes all.

        Raises:
          ValueError: the module draws random numbers.
        """
        ...


def training_rows(num_training: int, inputs: Array) -> Array:
    """Which rows are of the training batch, as a mask of shape (n, 1, ..., 1) for batch norm.

    It is counted out in the program, which so holds no array as long as the batch. The barrier
    keeps XLA from summing the mask of every layer while it compiles.
    """
    rows = jnp.arange(inputs.shape[0]).reshape((-1,) + (1,) * (inputs.ndim - 1))
    return jax.lax.optimization_barrier(rows < num_training)


def in_dtype(leaf: Any, dtype: np.dtype) -> Any:
    """A floating-point array in a dtype; what counts, chooses or draws stays what it is."""
    dtype_of_leaf = getattr(leaf, "dtype", None)
    # Counters, keys of random numbers and indices are among the variables of a module too.
    floating = dtype_of_leaf is not None and jnp.issubdtype(dtype_of_leaf, jnp.floating)
    return jnp.asarray(leaf, dtype) if floating else leaf


def as_columns(outputs: Array) -> Float[Array, "n c"]:
    """Outputs of shape (n,) as (n, 1), others as they are.

    Raises:
      ValueError: outputs that are not one array of numbers for each example.
    """
    if not getattr(outputs, "ndim", 0):
        raise ValueError(
            "module must give one array of outputs, shape (n, c), got "
            f"{type(outputs).__name__} {jax.tree.map(jnp.shape, outputs)}: wrap it in a module "
            "that returns the outputs alone"
        )
    return outputs if outputs.ndim > 1 else outputs[:, None]

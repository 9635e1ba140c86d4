"""Normalization without affine parameters."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def batch_normalize(
    x: Float[Array, "n *features"], epsilon: float = 0.0
) -> Float[Array, "n *features"]:
    """Normalize every column to mean 0 and mean square 1 over the first axis.

    The statistics are those of the whole batch, always: they are part of the loss,
    for its value, its gradient and every Hessian product.

    Args:
      x: shape (n, ...), examples first.
      epsilon: added to the variance. Anything but 0 breaks scale invariance.

    Returns:
      Shape (n, ...).

    Source: Ioffe and Szegedy 2015, without the affine map and the running average.
    """
    centred = x - jnp.mean(x, axis=0, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=0, keepdims=True)
    return centred / jnp.sqrt(variance + epsilon)

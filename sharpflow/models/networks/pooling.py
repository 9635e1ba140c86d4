"""Pooling by slices, which XLA compiles to fast loops where its windows are slow."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

POOLINGS: dict[str, Callable[..., Array]] = {"mean": jnp.mean, "max": jnp.max}


def pooled(x: Float[Array, "n h w c"], kind: str) -> Float[Array, "n h/2 w/2 c"]:
    """Maps of half the height and width: the mean or the largest of 2 × 2 values."""
    # As a reshape and a mean over two axes, and not by nn.avg_pool: windows that do not overlap
    # need no windows.
    n, h, w, c = x.shape
    return POOLINGS[kind](x.reshape(n, h // 2, 2, w // 2, 2, c), axis=(2, 4))

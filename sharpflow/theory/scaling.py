"""Norms and units in which no square of a small or a huge number is lost."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def power_of_two(array: Float[Array, "..."]) -> Float[Array, ""]:
    """The power of two at the largest entry, by which to divide changes no digit; 0 of zeros."""
    largest = jnp.max(jnp.abs(array), initial=0.0)
    usable = jnp.isfinite(largest) & (largest > 0)
    _, exponent = jnp.frexp(jnp.where(usable, largest, 1.0))
    bound = -int(jnp.finfo(array.dtype).minexp) - 2  # its inverse must be a normal number too
    power = jnp.ldexp(jnp.ones((), array.dtype), jnp.clip(exponent, -bound, bound))
    return jnp.where(usable, power, 0.0)


def norm(
    array: Float[Array, "..."], *, axis: int | None = None, keepdims: bool = False
) -> Float[Array, "..."]:
    """‖x‖, also where squares of entries are no normal numbers.

    Below 1e-19 the square of a number of float32 is 0, so that ``jnp.linalg.norm`` takes a small
    residual for none; above 1e19 it is infinite. Elsewhere both give the same bits.

    Args:
      array: of any shape.
      axis: along which; by default over all entries.
      keepdims: whether that axis stays, with length 1.
    """
    unit = unit_of(array)
    return jnp.sqrt(jnp.sum(jnp.square(array / unit), axis=axis, keepdims=keepdims)) * unit


def unit_of(array: Float[Array, "..."]) -> Float[Array, ""]:
    """The power of two at the largest entry; 1 for zeros, and for what is not finite."""
    # a constant where derivatives are taken: no value depends on it
    power = jax.lax.stop_gradient(power_of_two(array))
    return jnp.where(power > 0, power, 1.0)


def underflows(size: Float[Array, ""]) -> Bool[Array, ""]:
    """Whether numbers of this size are sums of some that XLA may have taken for zero.

    Below the smallest normal number it computes with zeros. Beside that over the rounding, which is
    1e-31 in float32 and 1e-292 in float64, they are not missed.

    Args:
      size: of the largest, at least 0, shape ().
    """
    limits = jnp.finfo(size.dtype)
    return (size > 0) & (size < float(limits.tiny) / float(limits.eps))

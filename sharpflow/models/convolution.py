"""Convolutions that are fast in a compiled loop on a CPU too, and which way each goes."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from sharpflow.models.channels_last import Window
from sharpflow.models.channels_last import convolution as channels_last_convolution

Padding = Sequence[tuple[int, int]]


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Padding,
    *args: Any,
    **kwargs: Any,
) -> Array:
    """``jax.lax.conv_general_dilated``, with derivatives that are fast in a loop on a CPU too.

    The derivatives that jax makes of it are slow inside a compiled loop on a CPU:
    benchmarks/convolution.py says how slow. There a two-dimensional one goes by ``convolve``;
    everything else, and every convolution where the default device is no CPU, goes by
    ``jax.lax``. In ``from_flax`` Flax's layers go by it; elsewhere, hand it to them:
    ``nn.Conv(..., conv_general_dilated=sf.models.conv_general_dilated)``.

    Args:
      lhs, rhs, window_strides, padding, args, kwargs: as of
        ``jax.lax.conv_general_dilated``.

    Returns:
      As that, up to rounding.
    """
    options = _options(*args, **kwargs)
    # The device is asked for while tracing, because the two ways are two programs: what is compiled
    # for an accelerator must hold the convolution itself.
    is_ours = default_device_is_cpu() and _is_plain(lhs, rhs, options)
    pads = _usual_padding(lhs, rhs, window_strides, padding) if is_ours else None
    if pads is None:
        return lax.conv_general_dilated(lhs, rhs, window_strides, padding, *args, **kwargs)
    return convolve(lhs, rhs, window_strides, pads, options["precision"])


def convolve(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "p q c f"],
    strides: Sequence[int] = (1, 1),
    padding: Padding = ((0, 0), (0, 0)),
    precision: Any = None,
) -> Float[Array, "n i j f"]:
    """Two-dimensional convolution that is fast on a CPU, with all its derivatives.

    y[n, i, j] = Σ_p Σ_q x[n, s i + p, t j + q] kernel[p, q], with strides (s, t): by XLA's own
    in float32, by matrix products in other dtypes, on maps smaller than the kernel and within
    ``jax.shard_map``.

    Args:
      x: images, channels last, shape (n, h, w, c).
      kernel: shape (p, q, c, f).
      strides: of the rows and columns.
      padding: zeros before and after the rows, and the columns.
      precision: of the products, as for ``jax.numpy.matmul``.

    Returns:
      Shape (n, i, j, f), with i = ⌊(h − p)/s⌋ + 1 of the padded height, and so j.
    """
    (top, bottom), (left, right) = padding
    window = Window((strides[0], strides[1]), ((top, bottom), (left, right)))
    # XLA's fast convolution for CPUs is of float32 alone, and not for a kernel that is larger than
    # the image: on maps of 2 × 2 another one takes six to twenty times as long as the products.
    fits = all(axis.fits for axis in window.axes(x.shape, kernel.shape))
    # Where a mesh is in force, as within jax.shard_map, types of arrays tell how they are spread.
    # jax knows how its own operations change such types, and does not ask ours.
    in_mesh = not jax.sharding.get_abstract_mesh().empty
    if x.dtype == jnp.float32 and fits and not in_mesh:
        return channels_last_convolution(x, kernel, window, precision)
    return by_products(x, kernel, strides, padding, precision)


def by_products(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "p q c f"],
    strides: Sequence[int],
    padding: Padding,
    precision: Any = None,
) -> Float[Array, "n i j f"]:
    """As ``convolve``, by slices and p matrix products.

    Slices side by side for the columns q, a sum of products over the rows p. All slices side
    by side would take p times the memory, and a product for each of them more time.
    """
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    num_rows, num_columns = (
        (size - window) // stride + 1
        for size, window, stride in zip(x.shape[1:3], kernel.shape[:2], strides, strict=True)
    )

    def every(offset: int, number: int, stride: int) -> slice:
        return slice(offset, offset + (number - 1) * stride + 1, stride)

    columns = jnp.concatenate(
        [x[:, :, every(q, num_columns, strides[1])] for q in range(kernel.shape[1])], axis=-1
    )
    wide = jnp.float32 if x.dtype.itemsize == 2 else x.dtype  # sums in half precision lose digits
    y = jnp.zeros((), wide)
    for p, row in enumerate(kernel.reshape(kernel.shape[0], -1, kernel.shape[-1])):
        rows = columns[:, every(p, num_rows, strides[0])]
        y = y + jnp.matmul(rows, row, precision=precision, preferred_element_type=wide)
    return y.astype(x.dtype)


def default_device_is_cpu() -> bool:
    """Whether functions that are traced now will run on a CPU, unless they are moved."""
    device = jax.config.jax_default_device  # type: ignore[attr-defined]
    if device is None:
        return jax.default_backend() == "cpu"
    return getattr(device, "platform", device) == "cpu"


def _options(
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: Any = None,
    preferred_element_type: Any = None,
    **others: Any,
) -> dict[str, Any]:
    """The optional arguments of ``jax.lax.conv_general_dilated``, in its order."""
    # Python binds the arguments as jax does, by position or by name, so that the order in which jax
    # takes them is written down in one place.
    return locals()


def _is_plain(lhs: Array, rhs: Array, options: dict[str, Any]) -> bool:
    """Whether a convolution is of one group, not dilated, and with channels last."""
    others = (option for option in options["others"].values() if option is not None)
    if lhs.ndim != 4 or rhs.ndim != 4 or any(others):
        return False
    numbers = lax.conv_dimension_numbers(lhs.shape, rhs.shape, options["dimension_numbers"])
    dilations = (*(options["lhs_dilation"] or ()), *(options["rhs_dilation"] or ()))
    return (
        numbers == lax.conv_dimension_numbers(lhs.shape, rhs.shape, ("NHWC", "HWIO", "NHWC"))
        and all(dilation == 1 for dilation in dilations)
        and options["feature_group_count"] == options["batch_group_count"] == 1
        and options["preferred_element_type"] is None
        and lhs.dtype == rhs.dtype
    )


def _usual_padding(
    lhs: Array, rhs: Array, window_strides: Sequence[int], padding: str | Padding
) -> Padding | None:
    """The padding of rows and columns; None where jax has to find it, or something to refuse."""
    sizes, window = lhs.shape[1:3], rhs.shape[:2]
    if not all(isinstance(size, int) for size in (*sizes, *window)):
        return None  # jax.export may leave a size open
    if lhs.shape[3] != rhs.shape[2] or len(window_strides) != 2:
        return None
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(sizes, window, window_strides, padding)
    if len(padding) != 2 or any(min(pair) < 0 for pair in padding):
        return None
    covers = (size + sum(pair) for size, pair in zip(sizes, padding, strict=True))
    return padding if all(w <= whole for w, whole in zip(window, covers, strict=True)) else None

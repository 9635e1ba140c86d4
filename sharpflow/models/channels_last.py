"""XLA's convolution with derivatives that are as fast as itself, in a compiled loop on a CPU too.

XLA has one fast convolution for CPUs, of images (n, h, w, c) with kernels (p, q, c, f). It brings
convolutions whose axes are in another order into that one, but only in the outermost
computation of a program: in the body of a loop it computes them number by number, ten to a
hundred times slower. The derivatives that jax makes of a convolution have their axes in
other orders. Here they are convolutions of the one order too, of arrays whose axes are
moved before.
"""

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

Pair = tuple[int, int]


class Window(NamedTuple):
    """How a kernel moves over images, each pair for the rows and the columns.

    Attributes:
      strides: of the kernel.
      padding: zeros before and after; negative where the image is cut.
      image_dilation, kernel_dilation: 1 more than the zeros between two numbers.
    """

    strides: Pair
    padding: tuple[Pair, Pair]
    image_dilation: Pair = (1, 1)
    kernel_dilation: Pair = (1, 1)

    @property
    def is_plain(self) -> bool:
        """Whether the kernel moves by one position, and nothing is dilated."""
        return self.strides == self.image_dilation == self.kernel_dilation == (1, 1)

    def axes(self, image: Sequence[int], kernel: Sequence[int]) -> "list[Axis]":
        """The rows and the columns, for images of shape (n, h, w, c) and a kernel (p, q, c, f)."""
        return [
            Axis(
                (image[1 + axis] - 1) * self.image_dilation[axis] + 1,
                (kernel[axis] - 1) * self.kernel_dilation[axis] + 1,
                self.strides[axis],
                *self.padding[axis],
            )
            for axis in (0, 1)
        ]


class Axis(NamedTuple):
    """A window along the rows or the columns.

    Attributes:
      image, kernel: how far they reach, dilated.
      stride: of the kernel.
      low, high: zeros before and after the image.
    """

    image: int
    kernel: int
    stride: int
    low: int
    high: int

    @property
    def num_positions(self) -> int:
        """Of the kernel."""
        return (self.low + self.image + self.high - self.kernel) // self.stride + 1

    @property
    def fits(self) -> bool:
        """Whether value and derivatives have no kernel larger than the image that it is on."""
        outputs = (self.num_positions - 1) * self.stride + 1  # with zeros between
        return self.kernel <= outputs <= self.image

    @property
    def rest(self) -> int:
        """Numbers at the end that no position of the kernel covers."""
        covered = (self.num_positions - 1) * self.stride + self.kernel
        return self.low + self.image + self.high - covered


def convolution(
    x: Float[Array, "n h w c"],
    kernel: Float[Array, "p q c f"],
    window: Window,
    precision: Any = None,
) -> Float[Array, "n i j f"]:
    """Two-dimensional convolution, as of ``jax.lax.conv_general_dilated``.

    Args:
      x: images, channels last, shape (n, h, w, c).
      kernel: shape (p, q, c, f), of the dtype of ``x``.
      window: how the kernel moves.
      precision: of the products, as for ``jax.lax.conv_general_dilated``.

    Returns:
      Shape (n, i, j, f), i and j the positions of the kernel along rows and columns.
    """
    if precision is None:
        # The one that holds where this is traced: it is lowered later, where another may hold.
        precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    if isinstance(precision, str):
        with contextlib.suppress(ValueError):  # the name of an algorithm stays one
            precision = lax.Precision(precision)
    elif isinstance(precision, list):
        precision = tuple(precision)
    return _convolution.bind(x, kernel, window=window, precision=precision)


def _by_xla(x: Array, kernel: Array, *, window: Window, precision: Any) -> Array:
    """By XLA, with neighbouring columns as features where there are few of these.

    XLA gathers the numbers under the kernel and multiplies them by it. Where they become few
    features, gathering takes many times as long as the products. A kernel that makes the
    features of b neighbouring columns has b places among q + b − 1 columns: that is
    (q + b − 1)/q times as many products, but only every b-th column is gathered for.
    """
    places = _columns_at_once(x.shape, kernel.shape, window)
    if places > 1:
        kernel = jnp.stack(
            [
                jnp.pad(kernel, ((0, 0), (place, places - 1 - place), (0, 0), (0, 0)))
                for place in range(places)
            ],
            axis=3,
        )
        kernel = kernel.reshape(*kernel.shape[:3], -1)
    if x.shape[3] == 3:
        # A fourth channel of zeros: three are gathered number by number, four together. This took
        # less time also of 64 features than those zeros cost.
        x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, 1)))
        kernel = jnp.pad(kernel, ((0, 0), (0, 0), (0, 1), (0, 0)))
    y = lax.conv_general_dilated(
        x,
        kernel,
        (window.strides[0], places * window.strides[1]),
        window.padding,
        window.image_dilation,
        window.kernel_dilation,
        ("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )
    # the features of neighbouring columns lie one after the other as the columns do
    return y.reshape(*y.shape[:2], places * y.shape[2], y.shape[3] // places)


def _columns_at_once(image: Sequence[int], kernel: Sequence[int], window: Window) -> int:
    """How many columns of outputs are made as features of one; 1, 2 or 4.

    Args:
      image: shape (n, h, w, c).
      kernel: shape (p, q, c, f).
      window: how the kernel moves.
    """
    (_, columns), features = window.axes(image, kernel), kernel[3]
    # Measured for 3 × 3 kernels: from 32 features on, and from 32 channels on, the products take
    # longest, so that more of them cost more than they save. With a kernel of one column, b columns
    # are b times as many products.
    if not window.is_plain or image[3] > 16 or not 2 < kernel[1] <= columns.num_positions:
        return 1
    fitting = (b for b in (4, 2) if columns.num_positions % b == 0 and b // 2 * features < 32)
    return next(fitting, 1)


def _shape(x: Any, kernel: Any, *, window: Window, precision: Any) -> Any:
    rows, columns = window.axes(x.shape, kernel.shape)
    shape = x.shape[0], rows.num_positions, columns.num_positions, kernel.shape[3]
    return x.update(shape=shape, weak_type=False)


def _to_image(y: Array, x: Any, kernel: Array, *, window: Window, precision: Any) -> Array:
    """Cotangent of the images: outputs, dilated by the strides, with the kernel turned around."""
    turned = jnp.swapaxes(jnp.flip(kernel, (0, 1)), 2, 3)
    rows, columns = (
        (axis.kernel - 1 - axis.low, axis.kernel - 1 - axis.high + axis.rest)
        for axis in window.axes(x.aval.shape, kernel.shape)
    )
    backward = Window(
        window.image_dilation, (rows, columns), window.strides, window.kernel_dilation
    )
    return convolution(y, turned, backward, precision)


def _to_kernel(y: Array, x: Array, kernel: Any, *, window: Window, precision: Any) -> Array:
    """Cotangent of the kernel: channels as images, examples as channels, outputs as the kernel."""
    if window.is_plain and x.shape[3] <= 4:
        return _to_kernel_of_few_channels(y, x, kernel.aval.shape[1], window, precision)
    channels, outputs = x.transpose(3, 1, 2, 0), y.transpose(1, 2, 0, 3)
    rows, columns = (
        (axis.low, axis.high - axis.rest) for axis in window.axes(x.shape, kernel.aval.shape)
    )
    backward = Window(
        window.kernel_dilation, (rows, columns), window.image_dilation, window.strides
    )
    return convolution(channels, outputs, backward, precision).transpose(1, 2, 0, 3)


def _to_kernel_of_few_channels(
    y: Array, x: Array, num_columns: int, window: Window, precision: Any
) -> Array:
    """As ``_to_kernel``, with columns as channels, and examples and rows as rows and columns.

    The outputs are the kernel in the order that they have; of three channels, moving them takes
    longer than all else. Every channel is an image for each of the q columns of the kernel,
    moved by it: q times as much to move, which from eight channels on takes as long.
    """
    rows, (left, right) = window.padding
    x = lax.pad(
        x.transpose(3, 0, 1, 2),
        jnp.zeros((), x.dtype),
        ((0, 0, 0), (0, 0, 0), (0, 0, 0), (left, right, 0)),
    )
    places = [x[..., place : place + y.shape[2]] for place in range(num_columns)]
    images = jnp.concatenate(places)
    found = convolution(images, y, Window((1, 1), ((0, 0), rows)), precision)
    return found.reshape(num_columns, -1, *found.shape[2:]).transpose(2, 0, 1, 3)


def _lanes(
    factors: tuple[Array, Array], axes: tuple[Any, Any], **options: Any
) -> tuple[Array, int]:
    """Convolutions side by side: as more images, as more features, or one after the other."""
    (x, kernel), (of_x, of_kernel) = factors, axes
    if of_kernel is None:
        x = jnp.moveaxis(x, of_x, 0)
        y = convolution(x.reshape(-1, *x.shape[2:]), kernel, **options)
        return y.reshape(*x.shape[:2], *y.shape[1:]), 0
    if of_x is None:
        kernel = jnp.moveaxis(kernel, of_kernel, 3)
        y = convolution(x, kernel.reshape(*kernel.shape[:3], -1), **options)
        return y.reshape(*y.shape[:3], *kernel.shape[3:]), 3
    lanes = jnp.moveaxis(x, of_x, 0), jnp.moveaxis(kernel, of_kernel, 0)
    return lax.map(lambda lane: convolution(*lane, **options), lanes), 0


_convolution = Primitive("channels_last_convolution")
_convolution.def_impl(_by_xla)
_convolution.def_abstract_eval(_shape)
ad.defbilinear(_convolution, _to_image, _to_kernel)
batching.primitive_batchers[_convolution] = _lanes
mlir.register_lowering(_convolution, mlir.lower_fun(_by_xla, multiple_results=False))

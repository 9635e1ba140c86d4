"""Dense networks with biases and without normalization, as published code trains them."""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.polynomial.chebyshev import Chebyshev

from sharpflow.experiments.problems.images import pooled
from sharpflow.models import data
from sharpflow.models.arguments import COUNT, FLAG, PATH, SIZES, checked, choice, count
from sharpflow.models.inputs import one_hot, resolve_dtype
from sharpflow.models.problem import Params, Problem

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    # with the error function, as PyTorch has it, where jax takes an approximation by default
    "gelu": partial(jax.nn.gelu, approximate=False),
}


@checked(
    root=PATH,
    num_images=COUNT,
    download=FLAG,
    pool=COUNT,
    widths=SIZES,
    activation=choice(ACTIVATIONS),
)
def dense_cifar10(
    root: str = "data",
    *,
    num_images: int = 5000,
    download: bool = False,
    pool: int = 1,
    widths: tuple[int, ...] = (200, 200),
    activation: str = "tanh",
    dtype: object = None,
) -> Problem:
    """Dense network on the first images of CIFAR-10, as Cohen et al. (2021) train it.

    Every pixel is standardised by its mean and deviation over all training images found, and
    L = ½ mean ‖f − onehot‖². Kernels and biases start uniform in ±1/√fan-in, as PyTorch's.

    Args:
      root, download: as of ``vgg11_cifar10``.
      num_images: the first so many training images.
      pool: side of the squares of pixels whose means are taken; it must divide 32.
      widths: units of the hidden layers.
      activation: ``"tanh"`` or ``"gelu"``.
      dtype: float32 or float64; by default that of jax.

    Returns:
      A Problem, marked as not scale-invariant, with the metric ``train_accuracy``.

    Raises:
      FileNotFoundError: no images below ``root``.
      ValueError: more images than there are, or another ``pool`` or activation.

    Source: Cohen et al. 2021 (arXiv 2103.00065), whose public code names it ``fc-tanh`` on
      ``cifar10-5k``.
    """
    train, _ = data.cifar10(root, download=download)
    first, every = train.first(num_images), pooled(train.pixels, pool)
    # Of all images found and not of those trained on, as the published code has it. A pixel that is
    # the same everywhere tells nothing, and stays 0.
    mean, deviation = every.mean(axis=0), every.std(axis=0)
    x = (pooled(first.pixels, pool) - mean) / np.where(deviation > 0.0, deviation, 1.0)
    return _network(x, first.labels, len(train.classes), widths, activation, dtype)


@checked(
    root=PATH,
    num_images=COUNT,
    num_classes=COUNT,
    download=FLAG,
    pool=COUNT,
    widths=SIZES,
    activation=choice(ACTIVATIONS),
)
def dense_cifar10_classes(
    root: str = "data",
    *,
    num_images: int = 1000,
    num_classes: int = 4,
    download: bool = False,
    pool: int = 1,
    widths: tuple[int, ...] = (256, 256),
    activation: str = "gelu",
    dtype: object = None,
) -> Problem:
    """Dense network on a few classes of CIFAR-10, as in the paper on central flows.

    The first images of each of the first classes, standardised by channel, with
    L = ½ mean ‖f − onehot‖². Kernels and biases start as in ``dense_cifar10``.

    Args:
      root, download: as of ``vgg11_cifar10``.
      num_images: in all, a multiple of ``num_classes``.
      num_classes: the first so many, at most 10.
      pool, widths, activation, dtype: as in ``dense_cifar10``.

    Returns:
      A Problem, marked as not scale-invariant, with the metric ``train_accuracy``.

    Raises:
      FileNotFoundError: no images below ``root``.
      ValueError: more images or classes than there are, a number of images that is no multiple of
        the number of classes, or another ``pool`` or activation.

    Source: Cohen et al. 2024 (arXiv 2410.24206), whose public code names it ``mlp``.
    """
    train, _ = data.cifar10(root, download=download)
    if num_classes > len(train.classes):
        raise ValueError(f"num_classes must be at most {len(train.classes)}, got {num_classes}")
    if num_images % num_classes:
        raise ValueError(
            f"num_images must be a multiple of num_classes = {num_classes}, got {num_images}"
        )
    each = num_images // num_classes
    places = [np.flatnonzero(train.labels == label) for label in range(num_classes)]
    fewest = min(len(of_class) for of_class in places)
    if each > fewest:
        raise ValueError(
            f"num_images must be at most {fewest * num_classes}, since a class has {fewest} "
            f"images, got {num_images}"
        )
    chosen = train.subset(np.concatenate([of_class[:each] for of_class in places]))
    return _network(
        pooled(chosen.images, pool), chosen.labels, num_classes, widths, activation, dtype
    )


@checked(degree=count(0), num_points=count(2), width=COUNT)
def chebyshev_regression(
    degree: int = 3, num_points: int = 20, width: int = 100, *, dtype: object = None
) -> Problem:
    """Regression of a Chebyshev polynomial by a tanh network with one hidden layer.

    The inputs are evenly spaced in [−1, 1], the targets T_k(x), and L = ½ mean (f − T_k)². The
    kernels start normal with Glorot's deviation √(2/(fan-in + fan-out)), the first one 1.9 times
    as large, and the biases of the hidden layer at 0. The output has no bias.

    Args:
      degree: k.
      num_points: of the inputs.
      width: hidden units.
      dtype: float32 or float64; by default that of jax.

    Returns:
      A Problem with a residual of shape (num_points,), marked as not scale-invariant.

    Raises:
      ValueError: a number out of range, or another dtype.

    Source: Cohen et al. 2021 (arXiv 2103.00065), whose public code names it ``regression`` on
      ``chebyshev-3-20`` and the like.
    """
    resolved = resolve_dtype(dtype)
    x = np.linspace(-1.0, 1.0, num_points)
    targets = Chebyshev.basis(degree)(x)
    return Problem(
        init=partial(_glorot, width=width, dtype=str(resolved)),
        residual=partial(_residual, activation="tanh"),
        scale_invariant=False,
        data={"x": x[:, None].astype(resolved), "y": targets[:, None].astype(resolved)},
    )


def _network(
    x: np.ndarray,
    labels: np.ndarray,
    num_classes: int,
    widths: Sequence[int],
    activation: str,
    dtype: object,
) -> Problem:
    resolved = resolve_dtype(dtype)
    x = x.reshape(len(x), -1).astype(resolved)
    y = one_hot(labels, np.arange(num_classes)).astype(resolved)
    return Problem(
        init=partial(_uniform, sizes=(x.shape[1], *widths, num_classes), dtype=str(resolved)),
        residual=partial(_residual, activation=activation),
        metrics={"train_accuracy": partial(_accuracy, activation=activation)},
        scale_invariant=False,
        data={"x": x, "y": y},
    )


# Module-level, as what follows: partials of them with equal keywords count as the same function,
# and problems that differ in their data alone then share what is compiled.
def _uniform(key: Array, data: Any, *, sizes: Sequence[int], dtype: str) -> Params:
    """Kernels and biases uniform in ±1/√fan-in."""
    del data
    params = {}
    for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        key, for_kernel, for_bias = jax.random.split(key, 3)
        draw = partial(jax.random.uniform, dtype=dtype, minval=-(fan_in**-0.5), maxval=fan_in**-0.5)
        params[f"layer_{layer}"] = {
            "kernel": draw(for_kernel, (fan_in, fan_out)),
            "bias": draw(for_bias, (fan_out,)),
        }
    return params


def _glorot(key: Array, data: Any, *, width: int, dtype: str) -> Params:
    del data
    hidden, output = jax.random.split(key)
    deviation = (2.0 / (1 + width)) ** 0.5
    kernel = 1.9 * deviation * jax.random.normal(hidden, (1, width), dtype)
    return {
        "layer_0": {"kernel": kernel, "bias": jnp.zeros(width, dtype)},
        "layer_1": {"kernel": deviation * jax.random.normal(output, (width, 1), dtype)},
    }


def _outputs(params: Params, x: Float[Array, "n d"], activation: str) -> Float[Array, "n c"]:
    for layer in range(len(params)):
        weights = params[f"layer_{layer}"]
        x = (ACTIVATIONS[activation](x) if layer else x) @ weights["kernel"]
        if "bias" in weights:
            x = x + weights["bias"][None, :]
    return x


def _residual(params: Params, data: Any, *, activation: str) -> Float[Array, " m"]:
    """(f − y)/√n, whose half square is ½ mean ‖f − y‖²."""
    error = _outputs(params, data["x"], activation) - data["y"]
    return error.ravel() / jnp.sqrt(jnp.asarray(len(error), error.dtype))


def _accuracy(params: Params, data: Any, *, activation: str) -> Float[Array, ""]:
    chosen = jnp.argmax(_outputs(params, data["x"], activation), axis=-1)
    return jnp.mean(chosen == jnp.argmax(data["y"], axis=-1), dtype=data["y"].dtype)

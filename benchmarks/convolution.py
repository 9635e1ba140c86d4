"""Convolutions with derivatives of our own beside those of jax, inside a compiled loop."""

import itertools
import statistics
import time
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.flatten_util import ravel_pytree

from sharpflow.experiments.checks import Check
from sharpflow.models.convolution import convolve

CHANNELS, STRIDES = (3, 16, 32, 64), (1, 2, 2)
IMAGES = 256
STEPS = 4  # of a scan
PART = f"gradient descent on {len(STRIDES)} convolutions, 3-16-32-64, {IMAGES} images, in a scan"
ONE = "one convolution, 32-64, 64 maps of 16 × 16, float32, beside XLA's"
PADDING = ((1, 1), (1, 1))

Kernels = tuple[Array, ...]
Convolution = Callable[..., Array]


def measure(repetitions: int = 3) -> list[Check]:
    """Time of a step of each, and how far value, gradient and Hessian product are apart."""
    random = np.random.default_rng(0)

    def normal(*shape: int) -> Array:
        return jnp.asarray(random.normal(size=shape), jnp.float32)

    images = normal(IMAGES, 32, 32, 3)
    kernels = tuple(normal(3, 3, *pair) for pair in itertools.pairwise(CHANNELS))
    losses = {"ours": partial(_loss, convolve, images), "XLA": partial(_loss, _by_xla, images)}
    compiled = {name: jax.jit(partial(_descended, loss)) for name, loss in losses.items()}

    def seconds(name: str) -> float:
        began = time.perf_counter()
        jax.block_until_ready(compiled[name](kernels))
        return (time.perf_counter() - began) / STEPS

    for name in compiled:
        seconds(name)  # compiles
    turns = [{name: seconds(name) for name in compiled} for _ in range(repetitions)]
    medians = {name: statistics.median(turn[name] for turn in turns) for name in compiled}
    ratios = ", ".join(f"{turn['XLA'] / turn['ours']:.1f}" for turn in turns)
    ratio = Check(PART, "XLA's time / ours", medians["XLA"] / medians["ours"], low=10.0,
                  note=f"in turns {ratios}")  # fmt: skip
    times = [Check(PART, f"ms of a step, {name}", 1e3 * medians[name]) for name in medians]
    return [ratio, *times, *_differences(normal)]


def _differences(normal: Callable[..., Array]) -> list[Check]:
    """Of one convolution: norm of the difference over the norm, in inputs and kernel together."""
    shapes = (64, 16, 16, 32), (3, 3, 32, 64)
    point, direction = (tuple(normal(*shape) for shape in shapes) for _ in range(2))
    ours, theirs = (_derivatives(f, point, direction) for f in (convolve, _by_xla))
    checks = []
    for what, found in ours.items():
        difference = float(jnp.linalg.norm(found - theirs[what]) / jnp.linalg.norm(theirs[what]))
        checks.append(Check(ONE, f"{what}: difference, relative", difference, high=1e-5))
    return checks


def _derivatives(
    convolution: Convolution, point: tuple[Array, Array], direction: tuple[Array, Array]
) -> dict[str, Array]:
    """Of Σ tanh y, y what the convolution puts out, whose Hessian is full."""

    def outputs(point: tuple[Array, Array]) -> Array:
        return convolution(*point, (1, 1), PADDING)

    gradient = jax.grad(lambda point: jnp.sum(jnp.tanh(outputs(point) / 17.0)))
    product = jax.jit(lambda p, v: jax.jvp(gradient, (p,), (v,))[1])(point, direction)
    return {
        "value": ravel_pytree(jax.jit(outputs)(point))[0],
        "gradient": ravel_pytree(jax.jit(gradient)(point))[0],
        "Hessian product": ravel_pytree(product)[0],
    }


def _loss(convolution: Convolution, images: Array, kernels: Kernels) -> Array:
    """Mean square of what normalized convolutions with softplus put out."""
    x = images
    for kernel, stride in zip(kernels, STRIDES, strict=True):
        x = convolution(x, kernel, (stride, stride), PADDING)
        x = x - jnp.mean(x, axis=(0, 1, 2), keepdims=True)
        x = jax.nn.softplus(x / jnp.sqrt(jnp.mean(jnp.square(x), axis=(0, 1, 2), keepdims=True)))
    return jnp.mean(jnp.square(jnp.mean(x, axis=(1, 2))))


def _descended(loss: Callable[[Kernels], Array], kernels: Kernels) -> Kernels:
    def step(kernels: Kernels, _: None) -> tuple[Kernels, None]:
        return jax.tree.map(lambda w, g: w - 0.1 * g, kernels, jax.grad(loss)(kernels)), None

    return lax.scan(step, kernels, None, length=STEPS)[0]


def _by_xla(x: Array, kernel: Array, strides: tuple[int, int], padding: object) -> Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=numbers)

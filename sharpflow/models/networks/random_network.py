"""Deep networks with Gaussian weights, as the theory of wide networks takes them."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from sharpflow.models.activations import ACTIVATIONS
from sharpflow.models.arguments import (
    COUNT,
    DATA,
    NOT_NEGATIVE,
    POSITIVE,
    SIZES,
    TEXT,
    array,
    checked,
    optional,
)
from sharpflow.models.inputs import resolve_dtype, validated_inputs
from sharpflow.models.normalization import Normalization, batch_normalize
from sharpflow.models.problem import Params, Problem
from sharpflow.models.representation import summarized


def _identity(x: Array) -> Array:
    return x


def _subtract_mean(x: Float[Array, "T C"]) -> Float[Array, "T C"]:
    return x - jnp.mean(x, axis=0, keepdims=True)


def _layer_normalize(x: Float[Array, "T M"]) -> Float[Array, "T M"]:
    normalized = Normalization("layer").apply({}, x)
    assert isinstance(normalized, jax.Array)  # and not a pair with updated variables
    return normalized


_OF_HIDDEN: dict[str, Callable[[Array], Array]] = {
    "none": _identity,
    "batch": batch_normalize,
    "layer": _layer_normalize,
}
_OF_OUTPUTS: dict[str, Callable[[Array], Array]] = {
    "none": _identity,
    "mean": _subtract_mean,
    "batch": batch_normalize,
}


@summarized
@dataclasses.dataclass(frozen=True)
class RandomNetwork:
    """A fully connected network, all of whose weights and biases are Gaussian and trained.

    u^l = h^{l−1} W^l + b^l, h^l = φ(u^l), h⁰ = x, f = u^L, with W^l of independent entries
    N(0, σ_w²/M_{l−1}) and b^l of N(0, σ_b²). The normalizations act on u^l; those over the
    batch are part of the function, as everywhere in this package.

    Attributes:
      widths: M_0, …, M_{L−1}, M_L: inputs first, outputs last.
      normalization: of the hidden layers: ``"none"``, ``"batch"`` over the batch or
        ``"layer"`` over the units of a layer.
      output_normalization: of the last layer: ``"none"``, ``"mean"`` subtracts the mean
        of every output over the batch, ``"batch"`` divides by its deviation too.
      activation: φ: ``"relu"``, ``"tanh"``, ``"softplus"`` or ``"gelu"``.
      weight_variance, bias_variance: σ_w² and σ_b². A ReLU keeps the size of signals at
        σ_w² = 2, σ_b² = 0.

    Raises:
      ValueError: fewer than two widths or one that is no positive integer, an unknown
        name, or a variance out of range.

    Source: Karakida, Akaho and Amari 2019, arXiv 1906.02926, and arXiv 1806.01316.
    """

    widths: tuple[int, ...]
    normalization: str = "none"
    output_normalization: str = "none"
    activation: str = "relu"
    weight_variance: float = 2.0
    bias_variance: float = 0.0

    def __post_init__(self) -> None:
        if not SIZES.fits(self.widths) or len(self.widths) < 2:
            raise ValueError(f"widths must be at least two positive integers, got {self.widths!r}")
        for name in ("normalization", "output_normalization", "activation"):
            TEXT.require(name, getattr(self, name))
        _require(_OF_HIDDEN, "normalization", self.normalization)
        _require(_OF_OUTPUTS, "output_normalization", self.output_normalization)
        _require(ACTIVATIONS, "activation", self.activation)
        if not (POSITIVE.fits(self.weight_variance) and NOT_NEGATIVE.fits(self.bias_variance)):
            raise ValueError(
                "weight_variance must be positive and bias_variance not negative, "
                f"got {self.weight_variance} and {self.bias_variance}"
            )

    def init(self, key: Key[Array, ""], dtype: Any = None) -> Params:
        """Weights and biases drawn from their Gaussians.

        Args:
          key: of the random numbers.
          dtype: float32 or float64; by default that of jax.

        Returns:
          A list of ``{"kernel": (M_{l−1}, M_l), "bias": (M_l,)}``.

        Raises:
          ValueError: another dtype, or float64 without x64.
        """
        dtype = resolve_dtype(dtype)
        # A key for every array: what is drawn from one key twice is not independent.
        keys = jax.random.split(key, (len(self.widths) - 1, 2))

        def normal(key: Array, shape: tuple[int, ...], variance: float) -> Array:
            return variance**0.5 * jax.random.normal(key, shape, dtype)

        return [
            {
                "kernel": normal(one, (fan_in, units), self.weight_variance / fan_in),
                "bias": normal(two, (units,), self.bias_variance),
            }
            for fan_in, units, (one, two) in zip(
                self.widths[:-1], self.widths[1:], keys, strict=True
            )
        ]

    def __call__(self, params: Params, x: Float[Array, "T M_0"]) -> Float[Array, "T C"]:
        """f(x) of all samples together, the batch that normalizations take statistics from."""
        phi, normalize = ACTIVATIONS[self.activation], _OF_HIDDEN[self.normalization]
        h = x
        for layer in params[:-1]:
            h = phi(normalize(_affine(layer, h)))
        return _OF_OUTPUTS[self.output_normalization](_affine(params[-1], h))


@checked(
    x=DATA,
    widths=SIZES,
    num_outputs=COUNT,
    y=optional(array(2)),
    normalization=TEXT,
    output_normalization=TEXT,
    activation=TEXT,
    weight_variance=POSITIVE,
    bias_variance=NOT_NEGATIVE,
)
def random_network(
    x: np.ndarray,
    widths: tuple[int, ...] = (512, 512),
    num_outputs: int = 10,
    *,
    y: np.ndarray | None = None,
    normalization: str = "none",
    output_normalization: str = "none",
    activation: str = "relu",
    weight_variance: float = 2.0,
    bias_variance: float = 0.0,
    dtype: object = None,
) -> Problem:
    """A ``RandomNetwork`` bound to its inputs, with a squared loss.

    Args:
      x: inputs, shape (T, M_0); the theory takes independent standard normal entries.
      widths: M_1, …, M_{L−1}, units of the hidden layers; two make depth L = 3.
      num_outputs: C.
      y: targets, shape (T, C), used as they are; by default zero.
      normalization, output_normalization, activation, weight_variance, bias_variance: as in
        ``RandomNetwork``.
      dtype: float32 or float64; by default that of jax, or float32 for float32 ``x``.

    Returns:
      A Problem with ``outputs`` of shape (T, C) and the criterion ½ mean_t ‖f(t) − y(t)‖²,
      marked as not scale-invariant. Where f = y its Hessian is the Fisher information matrix.

    Raises:
      ValueError: unusable inputs or targets, or what ``RandomNetwork`` refuses.
    """
    inputs = validated_inputs(x, resolve_dtype(dtype, x))
    if inputs.ndim != 2:
        raise ValueError(f"x must have shape (T, M_0), got {inputs.shape}")
    network = RandomNetwork(
        (inputs.shape[1], *widths, num_outputs),
        normalization,
        output_normalization,
        activation,
        weight_variance,
        bias_variance,
    )
    shape = (inputs.shape[0], num_outputs)
    targets = np.zeros(shape, inputs.dtype) if y is None else np.asarray(y, inputs.dtype)
    if targets.shape != shape or not np.all(np.isfinite(targets)):
        raise ValueError(f"y must be finite numbers of shape {shape}, got shape {targets.shape}")
    return Problem(
        init=partial(network.init, dtype=inputs.dtype),
        outputs=network,
        # With outputs and a criterion rather than a residual: the Fisher information is that of the
        # outputs, and needs them apart from the targets.
        criterion=HalfMeanSquare(jnp.asarray(targets)),
        scale_invariant=False,
        data=inputs,
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class HalfMeanSquare:
    """½ mean_t ‖f(t) − y(t)‖², which knows its residual form.

    Attributes:
      targets: y, shape (T, C).
    """

    targets: Float[Array, "T C"]

    def residual(self, outputs: Float[Array, "T C"]) -> Float[Array, " TC"]:
        """(f − y)/√T, flat."""
        return (outputs - self.targets).ravel() / self.targets.shape[0] ** 0.5

    def __call__(self, outputs: Float[Array, "T C"]) -> Float[Array, ""]:
        """The criterion, shape ()."""
        return 0.5 * jnp.sum(jnp.square(self.residual(outputs)))


def _affine(layer: Mapping[str, Array], h: Array) -> Array:
    return h @ layer["kernel"] + layer["bias"][None]


def _require(table: Mapping[str, Any], argument: str, name: str) -> None:
    if name not in table:
        raise ValueError(f"{argument} must be one of {tuple(table)}, got {name!r}")

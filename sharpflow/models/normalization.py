"""Normalization without affine parameters.

What each kind makes the loss invariant to, for a linear layer that it follows or, for the
last two, whose kernel it normalizes; exact with an epsilon of zero:

| kind | statistics | invariant to the scale of |
|---|---|---|
| ``"batch"`` | of a feature, over the batch and all positions | the kernel of every feature |
| ``"instance"`` | of a feature, over the positions of an example | the kernel of every feature |
| ``"group"`` | of a group of features, over the positions of an example | the kernels of a group, together |
| ``"layer"``, ``"rms"`` | of all features, at a position | the whole kernel |
| ``"weight"``, ``"standardized"`` | of the kernel of a feature | the kernel of every feature |

An epsilon ε beside a variance v divides by √(v + ε): scaling the kernel by c is scaling ε
by 1/c², and the outputs change by ε (1 − c⁻²)/(2v) relative. Networks in use have ε = 1e-5,
and affine parameters whose negative biases can shut a ReLU off for all inputs; then ε
keeps 0/0 away. Without affine parameters what has been centred has both signs, a ReLU leaves
a part of it, and a variance is zero only where inputs are.
"""  # noqa: E501

import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sharpflow.models.arguments import (
    COUNT,
    FUNCTION,
    NOT_NEGATIVE,
    NUMBERS,
    TEXT,
    Kind,
    checked,
)
from sharpflow.models.representation import summarized

OF_ACTIVATIONS = ("batch", "layer", "group", "instance", "rms")
OF_WEIGHTS = ("weight", "standardized")
NORMALIZATIONS = (*OF_ACTIVATIONS, *OF_WEIGHTS, "none")


@summarized
class Normalization(nn.Module):
    """Normalizes what a layer puts out, without affine parameters.

    Attributes:
      kind: one of ``OF_ACTIVATIONS``; what each makes the loss invariant to is in the
        table of this module.
      epsilon: added to the variance, or to the mean square. Anything but 0 breaks
        invariance. Values that all are 0, such as a black corner of an image gives, stay
        0 without it; but a feature that is constant over a batch is 0/0 for ``"batch"``.
      num_groups: of ``"group"``; it must divide the features.
    """

    kind: str = "batch"
    epsilon: float = 0.0
    num_groups: int = 4

    @nn.compact
    def __call__(self, x: Float[Array, "n *positions features"]) -> Array:
        """Of the shape of ``x``, examples first and features last.

        Raises:
          ValueError: an unknown kind, groups that do not divide the features, or
            statistics over one number, which leave nothing of it.
        """
        if self.kind not in OF_ACTIVATIONS:
            raise ValueError(f"kind must be one of {OF_ACTIVATIONS}, got {self.kind!r}")
        # The examples are among the axes for "batch" alone. With every other kind the loss is a
        # mean over examples that know nothing of each other.
        shape, positions, features = x.shape, tuple(range(1, x.ndim - 1)), x.ndim - 1
        if self.kind == "group":
            if shape[-1] % self.num_groups:
                raise ValueError(
                    f"num_groups must divide the {shape[-1]} features, got {self.num_groups}"
                )
            x = x.reshape(*shape[:-1], self.num_groups, -1)
        axes = {
            "batch": (0, *positions),
            "instance": positions,
            "group": (*positions, x.ndim - 1),
            "layer": (features,),
            "rms": (features,),
        }[self.kind]
        if math.prod(x.shape[axis] for axis in axes) == 1 and self.kind != "rms":
            raise ValueError(
                f"{self.kind} normalization of shape {shape} takes the mean and variance of "
                "single numbers, which leaves 0/0: use another kind, or more positions"
            )
        if self.kind == "batch":  # Flax's, whose statistics from_flax can take elsewhere
            return nn.BatchNorm(
                use_running_average=False,
                epsilon=self.epsilon,
                use_bias=False,
                use_scale=False,
                use_fast_variance=False,  # E x² − (E x)² cancels
                force_float32_reductions=False,  # statistics in the dtype of x
                dtype=x.dtype,
            )(x)
        centred = x if self.kind == "rms" else x - jnp.mean(x, axis=axes, keepdims=True)
        variance = jnp.mean(jnp.square(centred), axis=axes, keepdims=True) + self.epsilon
        # Both places of `where` are needed: the derivative of rsqrt at 0 is infinite, and 0 times
        # infinity in the unused branch would make the gradient NaN.
        nothing = variance == 0.0
        factor = jnp.where(nothing, 0.0, jax.lax.rsqrt(jnp.where(nothing, 1.0, variance)))
        return (centred * factor).reshape(shape)


class StandardizedWeights(nn.Module):
    """A linear layer with scaled weight standardization.

    Every output feature has a kernel of mean 0 and norm 1: (w − mean w)/‖w − mean w‖, so
    that inputs of variance v give outputs of variance v.

    Attributes:
      layer: for instance ``nn.Dense`` or ``nn.Conv``, its features last in its kernel.

    Source: Brock, De and Smith 2021, arXiv 2101.08692, equation 1.
    """

    layer: nn.Module

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """What the layer makes of ``x`` with its kernel standardised."""

        def standardized(path: Any, value: Array) -> Array:
            if path[-1].key != "kernel":
                return value
            axes = tuple(range(value.ndim - 1))
            centred = value - jnp.mean(value, axis=axes, keepdims=True)
            # The sum and not the mean of squares: with norm 1 instead of variance 1, inputs of
            # variance v give outputs of variance v whatever the fan-in is.
            return centred / jnp.sqrt(jnp.sum(jnp.square(centred), axis=axes, keepdims=True))

        call = nn.map_variables(
            lambda layer: layer(x),
            trans_in_fn=lambda variables: jax.tree_util.tree_map_with_path(standardized, variables),
            init=self.is_initializing(),
        )
        return call(self.layer)


@checked(layer=FUNCTION, kind=TEXT, epsilon=NOT_NEGATIVE, num_groups=COUNT)
def normalized(
    layer: nn.Module,
    kind: str,
    *,
    epsilon: float = 0.0,
    num_groups: int = 4,
) -> Callable[[Array], Array]:
    """A linear layer with its normalization, for use in a compact module.

    Args:
      layer: for instance ``nn.Dense(64, use_bias=False)``. A bias is not normalized by
        ``"weight"`` and ``"standardized"``, and breaks invariance in all others too.
      kind: one of ``NORMALIZATIONS``; ``"none"`` leaves the layer as it is.
      epsilon: as in ``Normalization``; of the weight normalizations none is needed.
      num_groups: of ``"group"``.

    Returns:
      A function of the layer's inputs. The parameters are those of the layer, under its
      own name.

    Raises:
      ValueError: an unknown kind.

    Source: Ioffe and Szegedy 2015 (batch), Ba, Kiros and Hinton 2016 (layer), Wu and He
    2018 (group), Ulyanov, Vedaldi and Lempitsky 2016 (instance), Zhang and Sennrich 2019
    (RMS), Salimans and Kingma 2016 (weight), Brock, De and Smith 2021 (standardized).
    """
    if kind not in NORMALIZATIONS:
        raise ValueError(f"kind: the normalization must be one of {NORMALIZATIONS}, got {kind!r}")
    if kind == "none":
        return layer
    if kind == "weight":
        # Flax's epsilon of 1e-12 would break the invariance, and its scale is a parameter that the
        # loss does depend on.
        return nn.WeightNorm(layer, use_scale=False, epsilon=0.0)
    if kind == "standardized":
        return StandardizedWeights(layer)
    after = Normalization(kind, epsilon, num_groups)
    return lambda x: after(layer(x))


BATCH = Kind(
    "an array of real numbers, examples first",
    lambda value: NUMBERS.fits(value) and np.ndim(value) >= 1 and len(value) > 0,
)


@checked(x=BATCH, epsilon=NOT_NEGATIVE)
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

    Raises:
      ValueError: no array with examples first, or a negative epsilon.

    Source: Ioffe and Szegedy 2015, without the affine map and the running average.
    """
    centred = x - jnp.mean(x, axis=0, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=0, keepdims=True)
    return centred / jnp.sqrt(variance + epsilon)

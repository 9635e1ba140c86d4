"""ResNet-20 for small images."""

from functools import partial
from typing import Unpack

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sharpflow.models.activations import ACTIVATIONS
from sharpflow.models.arguments import DATA, POSITIVE, TEXT, checked
from sharpflow.models.networks.network import (
    NormalizedNetwork,
    Options,
    network_problem,
    num_outputs,
    require_images,
)
from sharpflow.models.networks.scaling import scaled
from sharpflow.models.problem import Problem

# As published. Each stage has half the height and width and twice the features of the one before,
# so that all cost the same.
RESNET20 = (16, 32, 64)


class ResNet(NormalizedNetwork):
    """Blocks of two 3 × 3 convolutions around shortcuts without parameters.

    Attributes:
      channels: of each stage; the first convolution of a later stage halves the map.
      num_blocks: of each stage.
      num_outputs: of the dense layer behind the mean over all positions.
    """

    channels: tuple[int, ...] = RESNET20
    num_blocks: int = 3
    num_outputs: int = 10

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n outputs"]:
        """Outputs of shape (n, num_outputs) for images, channels last."""
        x = self.activated(self.normalized(self.conv(self.channels[0], x))(x))
        for stage, channels in enumerate(self.channels):
            for block in range(self.num_blocks):
                x = self._block(x, channels, stride=2 if stage and not block else 1)
        return self.outputs(jnp.mean(x, axis=(1, 2)), self.num_outputs)

    def _block(self, x: Array, channels: int, stride: int) -> Array:
        y = self.activated(self.normalized(self.conv(channels, x, stride))(x))
        y = self.normalized(self.conv(channels, y))(y)
        # plain: what is divided here, at every block, would grow from block to block
        return ACTIVATIONS[self.activation](y + _shortcut(x, channels, stride))


def _shortcut(x: Array, channels: int, stride: int) -> Array:
    """Every ``stride``-th position, and zeros for the features that are new."""
    # Option A of the paper. The others project by 1 × 1 convolutions, whose parameters would need a
    # normalization of their own to be scale-invariant.
    x = x[:, ::stride, ::stride]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, channels - x.shape[-1])))


@checked(x=DATA, y=DATA, normalization=TEXT, activation=TEXT, width=POSITIVE)
def resnet20(
    x: np.ndarray,
    y: np.ndarray,
    width: float = 1.0,
    normalization: str = "batch",
    activation: str = "softplus",
    **options: Unpack[Options],
) -> Problem:
    """ResNet-20, all of whose parameters are scale-invariant.

    Three stages of three blocks, each of two convolutions; shortcuts take every second
    position and add zeros for new features (option A). The original has ReLU, and an ε of
    1e-5 and affine parameters in its batch norm.

    Args:
      x: images, shape (n, h, w, c), h and w multiples of 4.
      y: integer classes, shape (n,), or targets, shape (n,) or (n, k).
      width: the published numbers of channels are multiplied by it; of group
        normalization they are rounded to multiples of the groups.
      normalization: as in ``mlp``, and ``"instance"``; ``"none"`` for the ablation.
      activation: as in ``mlp``; ``"relu"`` is the original.
      options: ``head``, ``num_groups``, ``loss``, ``label_smoothing``, ``logit_scale``,
        ``test``, ``micro_batch``, ``devices``, ``fixed_seed`` and ``dtype`` as in ``mlp``.

    Returns:
      A Problem, as of ``mlp``.

    Raises:
      ValueError: images of another size, a width that is not positive, or what ``mlp``
        refuses.

    Source: He, Zhang, Ren and Sun 2016, section 4.2.
    """
    require_images(x, multiple=2 ** (len(RESNET20) - 1))
    channels = scaled(RESNET20, width, normalization, options.get("num_groups", 4))
    network = partial(ResNet, channels=channels, num_outputs=num_outputs(y))
    return network_problem(network, x, y, normalization, activation, **options)

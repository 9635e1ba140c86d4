"""VGG-11 for small images, and others built as it is."""

from collections.abc import Sequence
from functools import partial
from typing import Unpack

import flax.linen as nn
import numpy as np
from jaxtyping import Array, Float

from sharpflow.models.arguments import DATA, LAYERS, POSITIVE, TEXT, checked
from sharpflow.models.networks.network import (
    NormalizedNetwork,
    Options,
    network_problem,
    num_outputs,
    require_images,
)
from sharpflow.models.networks.pooling import POOLINGS, pooled
from sharpflow.models.networks.scaling import scaled
from sharpflow.models.problem import Problem

# No convolution has 0 channels.
POOL = 0
# As published, for images of 32 × 32 pixels: five poolings leave one position.
VGG11 = (64, POOL, 128, POOL, 256, 256, POOL, 512, 512, POOL, 512, 512, POOL)


class VGG(NormalizedNetwork):
    """3 × 3 convolutions with pooling in between, and one dense layer.

    Attributes:
      channels: of each convolution; 0 stands for pooling.
      num_outputs: of the dense layer.
      pooling: ``"mean"`` or ``"max"``, of 2 × 2 positions.
    """

    channels: tuple[int, ...] = VGG11
    num_outputs: int = 10
    pooling: str = "mean"

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n outputs"]:
        """Outputs of shape (n, num_outputs) for images, channels last."""
        for channels in self.channels:
            if channels == POOL:
                x = pooled(x, self.pooling)
            else:
                x = self.activated(self.normalized(self.conv(channels, x))(x))
        return self.outputs(x.reshape(x.shape[0], -1), self.num_outputs)


@checked(x=DATA, y=DATA, normalization=TEXT, activation=TEXT, width=POSITIVE, pooling=TEXT)
def vgg11(
    x: np.ndarray,
    y: np.ndarray,
    width: float = 1.0,
    normalization: str = "batch",
    activation: str = "softplus",
    *,
    pooling: str = "mean",
    **options: Unpack[Options],
) -> Problem:
    """VGG-11, all of whose parameters are scale-invariant.

    Eight 3 × 3 convolutions without biases, each normalized, pooling between them and one
    dense layer, the form in which VGG is used on CIFAR. Softplus and mean pooling are
    smooth; the original has ReLU and max pooling, ``activation="relu", pooling="max"``.
    Batch norm is commonly put into it with an ε of 1e-5 and affine parameters.

    Args:
      x: images, shape (n, h, w, c), h and w multiples of 32.
      y: integer classes, shape (n,), or targets, shape (n,) or (n, k).
      width: the published numbers of channels are multiplied by it; of group
        normalization they are rounded to multiples of the groups.
      normalization: as in ``mlp``, and ``"instance"``; ``"none"`` for the ablation.
      activation: as in ``mlp``.
      pooling: ``"mean"`` or ``"max"``.
      options: ``head``, ``num_groups``, ``loss``, ``label_smoothing``, ``logit_scale``,
        ``test``, ``micro_batch``, ``devices``, ``fixed_seed`` and ``dtype`` as in ``mlp``.

    Returns:
      A Problem, as of ``mlp``.

    Raises:
      ValueError: images of another size, an unknown pooling, a width that is not
        positive, or what ``mlp`` refuses.

    Source: Simonyan and Zisserman 2015, table 1, column A.
    """
    channels = scaled(VGG11, width, normalization, options.get("num_groups", 4))
    return vgg(x, y, channels, normalization, activation, pooling=pooling, **options)


@checked(x=DATA, y=DATA, channels=LAYERS, normalization=TEXT, activation=TEXT, pooling=TEXT)
def vgg(
    x: np.ndarray,
    y: np.ndarray,
    channels: Sequence[int] = (16, POOL, 32, POOL, 64, POOL),
    normalization: str = "batch",
    activation: str = "softplus",
    *,
    pooling: str = "mean",
    **options: Unpack[Options],
) -> Problem:
    """A network built as VGG is, of any depth, all of whose parameters are scale-invariant.

    Args:
      x: images, shape (n, h, w, c), h and w multiples of 2 to the number of poolings.
      y: integer classes, shape (n,), or targets, shape (n,) or (n, k).
      channels: of each 3 × 3 convolution, in order; 0 stands for pooling.
      normalization, activation, pooling, options: as in ``vgg11``.

    Returns:
      A Problem, as of ``mlp``.

    Raises:
      ValueError: images of another size, an unknown pooling, or what ``mlp`` refuses.

    Source: Simonyan and Zisserman 2015.
    """
    if pooling not in POOLINGS:
        raise ValueError(f"pooling must be one of {tuple(POOLINGS)}, got {pooling!r}")
    channels = tuple(channels)
    require_images(x, multiple=2 ** channels.count(POOL))
    network = partial(VGG, channels=channels, num_outputs=num_outputs(y), pooling=pooling)
    return network_problem(network, x, y, normalization, activation, **options)

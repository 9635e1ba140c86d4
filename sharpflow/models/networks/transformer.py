"""Transformers for images: a small one, and ViT-small."""

from functools import partial
from typing import Unpack

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sharpflow.models.arguments import COUNT, DATA, POSITIVE, TEXT, checked
from sharpflow.models.networks.network import (
    NormalizedNetwork,
    Options,
    network_problem,
    num_outputs,
    require_images,
)
from sharpflow.models.problem import Problem

# As published: 22 million weights on ImageNet.
VIT_SMALL = {"width": 384, "num_heads": 6, "hidden_ratio": 4}


class Transformer(NormalizedNetwork):
    """Attention and dense layers on the patches of images, every projection normalized.

    Attributes:
      patch: height and width of a patch.
      width: features of a patch, a multiple of ``num_heads``.
      depth: number of blocks.
      num_heads: of the attention.
      hidden_ratio: units of the hidden dense layer of a block, as a multiple of ``width``.
      num_outputs: of the dense layer behind the mean over all patches.
    """

    patch: int = 4
    width: int = 64
    depth: int = 2
    num_heads: int = 4
    hidden_ratio: int = 2
    num_outputs: int = 10

    @nn.compact
    def __call__(self, x: Float[Array, "n h w c"]) -> Float[Array, "n outputs"]:
        """Outputs of shape (n, num_outputs) for images, channels last."""
        tokens = self._projected(_patches(x, self.patch), self.width)
        rows, columns = x.shape[1] // self.patch, x.shape[2] // self.patch
        tokens = tokens + jnp.asarray(_positions(rows, columns, self.width)[None], x.dtype)
        for _ in range(self.depth):
            # The sum itself is not normalized. Each summand is, which is enough for the scale of no
            # projection to reach the loss.
            tokens = tokens + self._attention(tokens)
            hidden = self.activated(self._projected(tokens, self.hidden_ratio * self.width))
            tokens = tokens + self._projected(hidden, self.width)
        # The mean over the tokens and no token of its own for the class, which would be trained and
        # normalized by nothing.
        return self.outputs(jnp.mean(tokens, axis=1), self.num_outputs)

    def _projected(self, x: Array, features: int) -> Array:
        return self.normalized(self.dense(features, x))(x)

    def _attention(self, tokens: Float[Array, "n t f"]) -> Float[Array, "n t f"]:
        """Softmax of ⟨q, k⟩/√(features of a head), of normalized queries, keys and values."""
        heads = (*tokens.shape[:2], self.num_heads, -1)
        query, key, value = (self._projected(tokens, self.width).reshape(heads) for _ in range(3))
        mixed = nn.dot_product_attention(query, key, value)
        return self._projected(mixed.reshape(tokens.shape), self.width)


@checked(
    x=DATA,
    y=DATA,
    normalization=TEXT,
    activation=TEXT,
    width=COUNT,
    depth=COUNT,
    num_heads=COUNT,
    hidden_ratio=COUNT,
    patch=COUNT,
)
def transformer(
    x: np.ndarray,
    y: np.ndarray,
    width: int = 64,
    normalization: str = "layer",
    activation: str = "gelu",
    *,
    depth: int = 2,
    num_heads: int = 4,
    hidden_ratio: int = 2,
    patch: int = 4,
    **options: Unpack[Options],
) -> Problem:
    """A small vision transformer, all of whose parameters are scale-invariant.

    Every projection is normalized, those to queries, keys and values too, and added to
    the tokens as it is. Positions are sines and cosines, the outputs come from the mean
    over the tokens; nothing but the projections is trained.

    Args:
      x: images, shape (n, h, w, c), h and w multiples of the patch.
      y: integer classes, shape (n,), or targets, shape (n,) or (n, k).
      width: features of a token, a multiple of 4 and of ``num_heads``.
      normalization: as in ``mlp``; ``"none"`` for the ablation. Batch statistics are over
        examples and tokens, those of groups over tokens.
      activation: of the dense layers, as in ``mlp``.
      depth: number of blocks.
      num_heads: of the attention.
      hidden_ratio: units of the hidden dense layer of a block, as a multiple of ``width``.
      patch: height and width of a patch.
      options: ``head``, ``num_groups``, ``loss``, ``label_smoothing``, ``logit_scale``,
        ``test``, ``micro_batch``, ``devices``, ``fixed_seed`` and ``dtype`` as in ``mlp``.

    Returns:
      A Problem, as of ``mlp``.

    Raises:
      ValueError: images of another size, numbers that are not positive or do not divide,
        or what ``mlp`` refuses.

    Source: Dosovitskiy et al. 2021 (patches), Beyer, Zhai and Kolesnikov 2022 (positions
    and mean).
    """
    if width % 4 or width % num_heads:
        raise ValueError(f"width must be a multiple of 4 and of num_heads={num_heads}, got {width}")
    if normalization == "instance":
        raise ValueError(
            "normalization='instance' takes the mean over tokens away, which leaves nothing of "
            "their features to the mean that the outputs come from: use another kind"
        )
    require_images(x, multiple=patch)
    network = partial(
        Transformer,
        patch=patch,
        width=width,
        depth=depth,
        num_heads=num_heads,
        hidden_ratio=hidden_ratio,
        num_outputs=num_outputs(y),
    )
    return network_problem(network, x, y, normalization, activation, **options)


@checked(
    x=DATA, y=DATA, width=POSITIVE, normalization=TEXT, activation=TEXT, depth=COUNT, patch=COUNT
)
def vit_small(
    x: np.ndarray,
    y: np.ndarray,
    width: float = 1.0,
    normalization: str = "layer",
    activation: str = "gelu",
    *,
    depth: int = 12,
    patch: int = 4,
    **options: Unpack[Options],
) -> Problem:
    """ViT-small for small images, all of whose parameters are scale-invariant.

    The published sizes: 12 blocks, tokens of 384 features, 6 heads and hidden layers of
    1,536 units. All else is as in ``transformer``. The original normalizes what enters
    attention and dense layers, in place of what every projection puts out; so its loss
    depends on the scale of its projections. It also has biases and affine parameters,
    trained positions, a token of its own for the class, and patches of 16 pixels, for
    images of 224.

    Args:
      x: images, shape (n, h, w, c), h and w multiples of the patch.
      y: integer classes, shape (n,), or targets, shape (n,) or (n, k).
      width: the published numbers of features are multiplied by it and rounded to multiples
        of 12, which the heads divide.
      normalization, activation: as in ``transformer``.
      depth: number of blocks.
      patch: height and width of a patch; 4 gives 64 tokens for images of 32 pixels.
      options: ``head``, ``num_groups``, ``loss``, ``label_smoothing``, ``logit_scale``,
        ``test``, ``micro_batch``, ``devices``, ``fixed_seed`` and ``dtype`` as in ``mlp``.

    Returns:
      A Problem, as of ``mlp``.

    Raises:
      ValueError: images of another size, or what ``transformer`` refuses.

    Source: Dosovitskiy et al. 2021, whose public code has these sizes as ViT-S/16; Touvron
    et al. 2021, table 1 (DeiT-S).
    """
    unit = 2 * VIT_SMALL["num_heads"]
    features = max(round(width * VIT_SMALL["width"] / unit), 1) * unit
    return transformer(
        x,
        y,
        features,
        normalization,
        activation,
        depth=depth,
        num_heads=VIT_SMALL["num_heads"],
        hidden_ratio=VIT_SMALL["hidden_ratio"],
        patch=patch,
        **options,
    )


def _patches(x: Float[Array, "n h w c"], patch: int) -> Float[Array, "n t f"]:
    n, h, w, c = x.shape
    x = x.reshape(n, h // patch, patch, w // patch, patch, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, -1, patch * patch * c)


def _positions(rows: int, columns: int, width: int) -> np.ndarray:
    """Sines and cosines of row and column at wavelengths up to 2π·10⁴, shape (t, width)."""
    # A quarter of the features for each of sine and cosine of row and column. The longest wave, 6e4
    # patches, is nearly constant over any image; it tells positions as little with 1e5.
    frequencies = 1e4 ** -np.linspace(0.0, 1.0, width // 4)
    row, column = np.indices((rows, columns)).reshape(2, -1, 1)
    waves = (row * frequencies, column * frequencies)
    return np.concatenate([f(wave) for wave in waves for f in (np.sin, np.cos)], axis=1)

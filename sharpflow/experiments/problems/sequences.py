"""Sorting short sequences of digits with a small transformer."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from sharpflow.models.arguments import COUNT, SEED, checked, count
from sharpflow.models.inputs import resolve_dtype
from sharpflow.models.problem import Params, Problem

_EPSILON = 1e-5  # under the root of layer normalization, as PyTorch has it


@checked(
    num_sequences=COUNT, length=COUNT, vocabulary=count(2), num_layers=COUNT, width=COUNT,
    num_heads=COUNT, seed=SEED,
)  # fmt: skip
def sorting(
    num_sequences: int = 1000,
    *,
    length: int = 8,
    vocabulary: int = 4,
    num_layers: int = 4,
    width: int = 32,
    num_heads: int = 4,
    seed: int = 0,
    dtype: object = None,
) -> Problem:
    """Transformer that reads a sequence and writes it sorted, as in the paper on central flows.

    A network of attention to earlier places and of dense layers with GELU, each added to what came
    in and layer-normed; learned embeddings, and sines for the places. Its last layer starts at 0,
    all other matrices uniform with Glorot's deviation. L = ½ mean ‖f − onehot‖² over the places of
    the sorted sequence, each predicted from what stands before it.

    Args:
      num_sequences: trained on.
      length: of what is to be sorted.
      vocabulary: the digits are 0 to ``vocabulary`` − 1.
      num_layers, width, num_heads: of the transformer; the dense layers have 4 · ``width`` units.
      seed: of the sequences.
      dtype: float32 or float64; by default that of jax.

    Returns:
      A Problem, marked as not scale-invariant, with the metric ``train_accuracy``, the share of
      places with the right digit.

    Raises:
      ValueError: a ``width`` that is odd or no multiple of ``num_heads``, or a number out of range.

    Source: Cohen et al. 2024 (arXiv 2410.24206), whose public code names it ``sorting``.
    """
    resolved = resolve_dtype(dtype)
    if width % num_heads or width % 2:
        raise ValueError(
            f"width must be even and a multiple of num_heads = {num_heads}, got {width}"
        )
    unsorted = np.random.default_rng(seed).integers(0, vocabulary, size=(num_sequences, length))
    sequences = np.concatenate([unsorted, np.sort(unsorted, axis=1)], axis=1)
    return Problem(
        init=partial(
            _init, num_layers=num_layers, width=width, vocabulary=vocabulary, dtype=str(resolved)
        ),
        residual=partial(_residual, num_heads=num_heads, length=length),
        metrics={"train_accuracy": partial(_accuracy, num_heads=num_heads, length=length)},
        scale_invariant=False,
        data=sequences.astype(np.int32),
    )


def _init(
    key: Array, data: Any, *, num_layers: int, width: int, vocabulary: int, dtype: str
) -> Params:
    del data
    keys = iter(jax.random.split(key, 1 + 6 * num_layers))

    def matrix(rows: int, columns: int) -> Array:
        bound = (6.0 / (rows + columns)) ** 0.5
        return jax.random.uniform(next(keys), (rows, columns), dtype, -bound, bound)

    def norm() -> Params:
        return {"scale": jnp.ones(width, dtype), "bias": jnp.zeros(width, dtype)}

    def layer() -> Params:
        attention = {name: matrix(width, width) for name in ("query", "key", "value", "out")}
        return {
            "attention": attention,
            "attention_norm": norm(),
            "up": {"kernel": matrix(width, 4 * width), "bias": jnp.zeros(4 * width, dtype)},
            "down": {"kernel": matrix(4 * width, width), "bias": jnp.zeros(width, dtype)},
            "dense_norm": norm(),
        }

    head = {"kernel": jnp.zeros((width, vocabulary), dtype), "bias": jnp.zeros(vocabulary, dtype)}
    layers = {f"layer_{number}": layer() for number in range(num_layers)}
    return {"embedding": matrix(vocabulary, width), "head": head, **layers}


def _logits(
    params: Params, tokens: Int[Array, "n t"], num_heads: int
) -> Float[Array, "n t vocabulary"]:
    embedding = params["embedding"]
    width = embedding.shape[1]
    x = embedding[tokens] * np.sqrt(width).astype(embedding.dtype)
    x = x + _places(tokens.shape[1], width).astype(x.dtype)[None]
    for number in range(len(params) - 2):
        layer = params[f"layer_{number}"]
        x = _normalized(x + _attention(layer["attention"], x, num_heads), layer["attention_norm"])
        hidden = x @ layer["up"]["kernel"] + layer["up"]["bias"][None, None]
        dense = jax.nn.gelu(hidden, approximate=False) @ layer["down"]["kernel"]
        x = _normalized(x + dense + layer["down"]["bias"][None, None], layer["dense_norm"])
    return x @ params["head"]["kernel"] + params["head"]["bias"][None, None]


def _attention(weights: Params, x: Float[Array, "n t w"], num_heads: int) -> Float[Array, "n t w"]:
    """Attention of each place to itself and to those before it."""

    def heads(name: str) -> Float[Array, "n t h d"]:
        return (x @ weights[name]).reshape(*x.shape[:2], num_heads, -1)

    query, key, value = heads("query"), heads("key"), heads("value")
    scores = jnp.einsum("nqhd,nkhd->nhqk", query, key) / np.sqrt(query.shape[-1]).astype(x.dtype)
    earlier = np.tri(x.shape[1], dtype=bool)
    shares = jax.nn.softmax(jnp.where(earlier[None, None], scores, -jnp.inf), axis=-1)
    return jnp.einsum("nhqk,nkhd->nqhd", shares, value).reshape(x.shape) @ weights["out"]


def _normalized(x: Float[Array, "n t w"], weights: Params) -> Float[Array, "n t w"]:
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    scale, bias = weights["scale"][None, None], weights["bias"][None, None]
    return centred * jax.lax.rsqrt(variance + _EPSILON) * scale + bias


def _places(number: int, width: int) -> np.ndarray:
    """Sines and cosines of the place with wavelengths from 2π to 10,000 · 2π, shape (t, w)."""
    angles = np.arange(number)[:, None] * 10_000.0 ** (-np.arange(0, width, 2) / width)
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(number, width)


def _sorted_part(
    params: Params, sequences: Int[Array, "n t"], num_heads: int, length: int
) -> tuple[Array, Array]:
    """Outputs at the places of the sorted sequence, and the digits that belong there."""
    logits = _logits(params, sequences[:, :-1], num_heads)[:, length - 1 :]
    return logits, sequences[:, length:]


def _residual(
    params: Params, sequences: Int[Array, "n t"], *, num_heads: int, length: int
) -> Float[Array, " m"]:
    logits, digits = _sorted_part(params, sequences, num_heads, length)
    error = logits - jax.nn.one_hot(digits, logits.shape[-1], dtype=logits.dtype)
    return error.ravel() / jnp.sqrt(jnp.asarray(digits.size, error.dtype))


def _accuracy(
    params: Params, sequences: Int[Array, "n t"], *, num_heads: int, length: int
) -> Float[Array, ""]:
    logits, digits = _sorted_part(params, sequences, num_heads, length)
    chosen = jnp.argmax(logits, axis=-1).astype(digits.dtype)
    return jnp.mean(chosen == digits, dtype=logits.dtype)

"""Low-rank matrix completion with batch norm over the observed entries."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sharpflow.models.arguments import (
    COUNT,
    DATA,
    FINITE,
    NUMBERS,
    POSITIVE,
    SEED,
    SIZES,
    Kind,
    checked,
    optional,
    require_within,
)
from sharpflow.models.inputs import resolve_dtype
from sharpflow.models.normalization import batch_normalize
from sharpflow.models.problem import Params, Problem

SHAPE = Kind(
    "two integers of at least 2",
    lambda value: SIZES.fits(value) and len(value) == 2 and min(value) >= 2,
)


@checked(
    matrix=optional(NUMBERS),
    observed=optional(DATA),
    shape=SHAPE,
    rank=COUNT,
    width=optional(COUNT),
    observed_fraction=FINITE,
    seed=SEED,
    init_scale=POSITIVE,
)
def matrix_completion(
    matrix: np.ndarray | None = None,
    observed: np.ndarray | None = None,
    *,
    shape: tuple[int, int] = (30, 30),
    rank: int = 2,
    width: int | None = None,
    observed_fraction: float = 0.5,
    seed: int = 0,
    init_scale: float = 1.0,
    dtype: object = None,
) -> Problem:
    """Complete a matrix by factors U Vᵀ, batch-normed over the observed entries.

    The predictions at the observed entries are normalised to mean 0 and standard
    deviation 1 over them, the targets likewise, and L = ½ mean square. The metric
    ``test_error`` is the mean square error on the unobserved entries, predictions
    and targets under those same statistics.

    Args:
      matrix: shape (rows, columns); by default a random one of ``shape`` and
        ``rank``, the product of two standard normal factors.
      observed: boolean mask of the same shape; by default a random one with
        ``observed_fraction`` of the entries.
      shape, rank, observed_fraction, seed: of the random matrix and mask.
      width: columns of U and V; by default the smaller side of the matrix.
      init_scale: standard deviation of an initial entry of U and V, times √width.
      dtype: float32 or float64; by default that of jax.

    Returns:
      A Problem with params ``{"u": (rows, width), "v": (columns, width)}`` and a
      residual with one component for each observed entry.

    Raises:
      ValueError: a matrix with NaN or infinite entries or one constant over the observed
        ones, a mask that leaves nothing to test or to train on, or numbers out of range.

    Source: Lyu, Li and Arora 2022, section 6.
    """
    resolved = resolve_dtype(dtype)
    random = np.random.default_rng(seed)
    if matrix is None:
        left, right = random.normal(size=(shape[0], rank)), random.normal(size=(shape[1], rank))
        matrix = left @ right.T
    matrix = np.asarray(matrix, np.float64)
    if matrix.ndim != 2:
        raise ValueError(f"matrix must have shape (rows, columns), got {matrix.shape}")
    if not np.all(np.isfinite(matrix)):
        raise ValueError("matrix has NaN or infinite entries; all must be finite")
    if observed is None:
        if not 0.0 < observed_fraction < 1.0:
            raise ValueError(f"observed_fraction must be in (0, 1), got {observed_fraction}")
        observed = np.zeros(matrix.size, bool)
        # So many entries exactly, and not each with that probability: two seeds then differ in
        # which entries are seen, and not also in how hard the problem is.
        observed[random.permutation(matrix.size)[: round(observed_fraction * matrix.size)]] = True
        observed = observed.reshape(matrix.shape)
    observed = np.asarray(observed)
    if observed.shape != matrix.shape or observed.dtype != bool:
        raise ValueError(
            f"observed must be a boolean mask of shape {matrix.shape}, "
            f"got {observed.dtype} of shape {observed.shape}"
        )
    if not 2 <= observed.sum() < observed.size:
        raise ValueError(
            "observed must mark at least two entries and leave one out, got "
            f"{observed.sum()} of {observed.size}"
        )
    # Of the observed entries alone: the loss may know nothing about the others.
    mean, deviation = matrix[observed].mean(), matrix[observed].std()
    # A mean of equal numbers is right to 2e-16 of their size, so that this leaves 5,000 roundings.
    # Targets that vary by less would keep fewer than four of their digits.
    if deviation <= 1e-12 * np.abs(matrix[observed]).max():
        raise ValueError("matrix is constant over the observed entries; they must vary")
    targets = ((matrix - mean) / deviation).astype(resolved)
    columns = min(matrix.shape) if width is None else width
    require_within(resolved, init_scale=init_scale / columns**0.5)
    return _problem(targets, observed, columns, init_scale)


def _problem(targets: np.ndarray, observed: np.ndarray, width: int, init_scale: float) -> Problem:
    seen, unseen = np.nonzero(observed), np.nonzero(~observed)
    return Problem(
        init=partial(_init, shape=targets.shape, width=width, scale=init_scale / np.sqrt(width)),
        residual=_residual,
        metrics={"test_error": _test_error},
        scale_invariant=True,
        data={
            "seen": seen,
            "unseen": unseen,
            "seen_targets": targets[seen],
            "unseen_targets": targets[unseen],
        },
    )


def _init(
    key: jax.Array, data: Mapping[str, Any], *, shape: tuple[int, int], width: int, scale: float
) -> Params:
    key_u, key_v = jax.random.split(key)
    dtype = data["seen_targets"].dtype
    entry_scale = np.asarray(scale, dtype)
    return {
        "u": entry_scale * jax.random.normal(key_u, (shape[0], width), dtype),
        "v": entry_scale * jax.random.normal(key_v, (shape[1], width), dtype),
    }


def _product(params: Params) -> jax.Array:
    return params["u"] @ params["v"].T


def _residual(params: Params, data: Mapping[str, Any]) -> jax.Array:
    targets = data["seen_targets"]
    root_count = math.sqrt(len(targets))
    return (batch_normalize(_product(params)[data["seen"]]) - targets) / root_count


def _test_error(params: Params, data: Mapping[str, Any]) -> jax.Array:
    entries = _product(params)
    seen = entries[data["seen"]]
    # In the units of the seen entries, as the targets are. Normalized by their own statistics,
    # unseen predictions that are all off by one factor would show no error.
    predictions = (entries[data["unseen"]] - jnp.mean(seen)) / jnp.std(seen)
    return jnp.mean(jnp.square(predictions - data["unseen_targets"]))

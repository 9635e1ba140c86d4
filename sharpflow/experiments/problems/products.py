"""Products of parameters: matrix factorization, and diagonal linear networks."""

import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sharpflow.models.arguments import COUNT, POSITIVE, SEED, Kind, checked, count, require_within
from sharpflow.models.inputs import resolve_dtype
from sharpflow.models.problem import Params, Problem

_SHAPE = Kind("two integers of at least 1", lambda value: _all_fit(value, COUNT, 2))
_SCALES = Kind("two positive numbers", lambda value: _all_fit(value, POSITIVE, 2))
_VALUES = Kind("positive numbers, at least one", lambda value: _all_fit(value, POSITIVE))


def _all_fit(value: Any, kind: Kind, length: int | None = None) -> bool:
    """Whether a value is a sequence of so many entries of a kind."""
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        return False
    return length in (None, len(value)) and all(map(kind.fits, value))


@checked(
    depth=count(2), scales=_SCALES, shape=_SHAPE, singular_values=_VALUES, width=COUNT, seed=SEED
)
def matrix_factorization(
    depth: int = 4,
    scales: tuple[float, float] = (2.8, 0.38),
    *,
    shape: tuple[int, int] = (1, 1),
    singular_values: tuple[float, ...] = (1.0,),
    width: int = 1,
    seed: int = 0,
    dtype: object = None,
) -> Problem:
    """Factorization of a given matrix, L = ½‖A − W₁W₂⋯W_k‖².

    Of one number and depth 4 it is L = ½ (1 − xyzw)², with starts x = z and y = w.

    Args:
      depth: k, the number of factors.
      scales: of the first, third, … factor at the start, and of the second, fourth, …: each factor
        is its scale times a matrix with orthonormal rows or columns, which the key draws; of one
        number it is the scale.
      shape: of A.
      singular_values: of A, whose singular vectors ``seed`` draws; the others are 0.
      width: inner dimension of the factors.
      seed: of A.
      dtype: float32 or float64; by default that of jax.

    Returns:
      A Problem with params ``factor_0`` to ``factor_{k−1}`` and a residual of shape
      (rows · columns,), marked as not scale-invariant.

    Raises:
      ValueError: more singular values than rows, columns or ``width``, or a number out of range.

    Source: Zhu et al. 2023 (arXiv 2210.03294), for one number and depth 2 and 4.
    """
    resolved = resolve_dtype(dtype)
    rank = len(singular_values)
    if rank > min(*shape, width):
        raise ValueError(
            f"singular_values must be at most {min(*shape, width)}, which is the least of shape "
            f"{shape} and width {width}, got {rank}"
        )
    require_within(resolved, scales=min(scales))
    random = np.random.default_rng(seed)
    left, right = (_orthonormal(random.normal(size=(side, rank)), np) for side in shape)
    target = (left * np.asarray(singular_values)) @ right.T
    sizes = (shape[0], *[width] * (depth - 1), shape[1])
    return Problem(
        init=partial(_factors, sizes=sizes, scales=(scales[0], scales[1])),
        residual=_factorization_error,
        scale_invariant=False,
        data=target.astype(resolved),
    )


@checked(num_points=COUNT, dimension=COUNT, sparsity=COUNT, scale=POSITIVE, seed=SEED)
def diagonal_network(
    scale: float = 0.1,
    *,
    num_points: int = 20,
    dimension: int = 30,
    sparsity: int = 3,
    seed: int = 0,
    dtype: object = None,
) -> Problem:
    """Sparse regression by a diagonal linear network, L = 1/(2n) ‖X(u∘v) − y‖².

    Inputs are standard normal and y = Xβ*, where β* has ``sparsity`` standard normal entries and
    zeros. The start is u = √2 α, v = 0. With g the gradient in β, a step multiplies u + v by
    1 − ηg and u − v by 1 + ηg, so that the product of the two falls by the gain
    Σ −log|1 − η²g²| that the metric ``gain`` reads off the parameters.

    Args:
      scale: α of the start.
      num_points, dimension: n, and of β.
      sparsity: the number of entries of β* that are not 0, at most ``dimension``.
      seed: of X and β*.
      dtype: float32 or float64; by default that of jax.

    Returns:
      A Problem with params ``u`` and ``v``, shape (dimension,), marked as not scale-invariant, and
      with the metrics ``test_error``, ‖u∘v − β*‖², which is the mean square error on new inputs,
      and ``gain``, the sum over the coordinates.

    Raises:
      ValueError: a ``sparsity`` above ``dimension``, or a number out of range.

    Source: Even et al. 2023 (arXiv 2302.08982), equations of the model and of the gain.
    """
    resolved = resolve_dtype(dtype)
    if sparsity > dimension:
        raise ValueError(f"sparsity must be at most dimension = {dimension}, got {sparsity}")
    require_within(resolved, scale=scale)
    random = np.random.default_rng(seed)
    beta = np.zeros(dimension)
    beta[:sparsity] = random.normal(size=sparsity)
    x = random.normal(size=(num_points, dimension))
    known = {"x": x, "y": x @ beta, "beta": beta, "scale": np.asarray(scale)}
    return Problem(
        init=_diagonal_start,
        residual=_diagonal_error,
        metrics={"test_error": _distance, "gain": _gain},
        scale_invariant=False,
        data={name: value.astype(resolved) for name, value in known.items()},
    )


def _orthonormal(matrix: Any, module: Any) -> Any:
    """Orthonormal columns, or rows where these are fewer; 1 of one number, whatever its sign."""
    if matrix.shape[0] < matrix.shape[1]:
        return _orthonormal(matrix.T, module).T
    q, r = module.linalg.qr(matrix)
    # QR leaves the signs open; without them a random matrix has no preferred direction.
    q = q * module.sign(module.diagonal(r))[None, :]
    return module.abs(q) if matrix.shape == (1, 1) else q


def _factors(
    key: Array, target: Array, *, sizes: Sequence[int], scales: tuple[float, float]
) -> Params:
    keys = jax.random.split(key, len(sizes) - 1)
    pairs = itertools.pairwise(sizes)
    return {
        f"factor_{place}": jnp.asarray(scale, target.dtype)
        * _orthonormal(jax.random.normal(keys[place], size, target.dtype), jnp)
        for place, (size, scale) in enumerate(zip(pairs, itertools.cycle(scales), strict=False))
    }


def _factorization_error(params: Params, target: Float[Array, "m n"]) -> Float[Array, " mn"]:
    product = params["factor_0"]
    for place in range(1, len(params)):
        product = product @ params[f"factor_{place}"]
    return (product - target).ravel()


def _diagonal_start(key: Array, data: Any) -> Params:
    del key
    beta = data["beta"]
    return {
        "u": jnp.full_like(beta, np.sqrt(2.0)) * data["scale"],
        "v": jnp.zeros_like(beta),
    }


def _diagonal_error(params: Params, data: Any) -> Float[Array, " n"]:
    error = data["x"] @ (params["u"] * params["v"]) - data["y"]
    return error / jnp.sqrt(jnp.asarray(len(error), error.dtype))


def _distance(params: Params, data: Any) -> Float[Array, ""]:
    return jnp.sum(jnp.square(params["u"] * params["v"] - data["beta"]))


def _gain(params: Params, data: Any) -> Float[Array, ""]:
    """Σ log(2α² / |u² − v²|), for at the start u² − v² = 2α²."""
    product = jnp.abs(jnp.square(params["u"]) - jnp.square(params["v"]))
    return jnp.sum(jnp.log(2.0 * jnp.square(data["scale"]) / product))

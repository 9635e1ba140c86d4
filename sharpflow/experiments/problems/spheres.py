"""A scale-invariant loss in closed form, for regimes of training on the sphere."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sharpflow.models.arguments import POSITIVE, Kind, checked
from sharpflow.models.inputs import resolve_dtype
from sharpflow.models.problem import Params, Problem


def _are_positive(value: Any) -> bool:
    several = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    return several and len(value) >= 2 and all(map(POSITIVE.fits, value))


@checked(weights=Kind("positive numbers, at least two", _are_positive))
def scale_invariant_groups(
    weights: tuple[float, ...] = (1.0, 2.0, 4.0), *, dtype: object = None
) -> Problem:
    """Pairs of parameters, each scale-invariant, L = ½ Σ_i α_i x_i²/(x_i² + y_i²).

    A layer of a network is such a group: its scale does not matter, but the scales share one
    sphere. At a minimum x = 0 the Hessian has the eigenvalues α_i/y_i², so that the sharpness on
    Γ is least where y_i² = α_i/Σα, and is Σα there.

    Args:
      weights: α_i, one for each group.
      dtype: float32 or float64; by default that of jax.

    Returns:
      A Problem with params ``x`` and ``y``, shape (number of groups,), and a residual of the same
      shape.

    Raises:
      ValueError: fewer than two weights, or one that is not positive.

    Source: after the toy example of Kodryan et al. 2022 (arXiv 2209.03695), section 4.
    """
    resolved = resolve_dtype(dtype)
    return Problem(
        init=partial(_start, dtype=str(resolved)),
        residual=_shares,
        scale_invariant=True,
        data=np.asarray(weights, resolved),
    )


def _start(key: Array, weights: Float[Array, " g"], *, dtype: str) -> Params:
    x, y = jax.random.normal(key, (2, len(weights)), dtype)
    return {"x": x, "y": y}


def _shares(params: Params, weights: Float[Array, " g"]) -> Float[Array, " g"]:
    x, y = params["x"], params["y"]
    return jnp.sqrt(weights) * x * jax.lax.rsqrt(jnp.square(x) + jnp.square(y))

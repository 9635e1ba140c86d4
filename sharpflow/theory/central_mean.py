"""Averages over the oscillation of the central flow."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sharpflow.models import Params
from sharpflow.models.precision import full_precision


@full_precision
def mean_over_oscillation(
    function: Callable[[Params], Any],
    params: Params,
    eigenvectors: Params,
    covariance: Float[Array, "T k k"],
) -> Any:
    """f(w) + ½⟨∇²f(w), C⟩ at each of T points.

    C = Σ_j x_j x_jᵀ with as many x_j as it has rows, so that the sum is one of second derivatives
    along them, and nothing is drawn at random.

    Args:
      function: f, from params to an array or a pytree of arrays.
      params: w, with a leading axis (T, ...).
      eigenvectors: of the basis of C, with leading axes (T, k, ...).
      covariance: C, shape (T, k, k).

    Returns:
      What ``function`` returns, with a leading axis (T,).

    Source: docs/theory.md, section 10.3.
    """

    def mean(row: tuple[Params, Params, Array]) -> Any:
        point, vectors, covariance = row
        variances, turn = jnp.linalg.eigh(covariance)
        # rounding makes an eigenvalue of zero negative; NaN, where C is unknown, stays
        mixing = turn * jnp.sqrt(jnp.maximum(variances, 0.0))[None]
        directions = jax.tree.map(lambda leaf: jnp.tensordot(mixing.T, leaf, 1), vectors)

        def second(direction: Params) -> Any:
            def slope(at: Params) -> Any:
                return jax.jvp(function, (at,), (direction,))[1]

            return jax.jvp(slope, (point,), (direction,))[1]

        curved = jax.vmap(second)(directions)
        return jax.tree.map(
            lambda value, parts: value + 0.5 * jnp.sum(parts, axis=0), function(point), curved
        )

    return jax.lax.map(mean, (params, eigenvectors, covariance))

"""What an iteration knows of the largest eigenvalues, and how well."""

import chex
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sharpflow.theory.scaling import underflows
from sharpflow.theory.status import Status


@chex.dataclass(frozen=True)
class RitzPairs:
    """What a Krylov space knows of the k largest eigenvalues.

    Attributes:
      values: Ritz values, descending, shape (k,).
      vectors: orthonormal Ritz vectors, shape (k, d).
      next_start: those and the next one, shape (k + 1, d): where to start at a nearby
        operator.
      residuals: ‖A v − θ v‖, shape (k,): each value is within it of an eigenvalue.
      errors: estimated |θ_i − λ_i|, shape (k,), at most the residuals.
      largest: largest modulus of a Ritz value, shape ().
      asymmetry: largest |⟨v_i, A v_j⟩ − ⟨A v_i, v_j⟩| met, shape (): rounding of the
        products, or an operator that is not symmetric.
      num_products: products A v made, shape ().
      converged: which pairs met the tolerance, shape (k,); none where a larger eigenvalue is not
        excluded.
      overlooked: bound on the probability that a larger eigenvalue was overlooked, shape ().
    """

    values: Float[Array, " k"]
    vectors: Float[Array, "k d"]
    next_start: Float[Array, "q d"]
    residuals: Float[Array, " k"]
    errors: Float[Array, " k"]
    largest: Float[Array, ""]
    asymmetry: Float[Array, ""]
    num_products: Int[Array, ""]
    converged: Bool[Array, " k"]
    overlooked: Float[Array, ""]


def ritz_status(pairs: RitzPairs, dimension: int) -> Int[Array, ""]:
    """The first of what is wrong with Ritz pairs; rounding shows in residuals and asymmetry alike.

    Args:
      pairs: the Ritz pairs.
      dimension: of the operator.

    Returns:
      A ``Status`` code, shape ().

    Source: docs/theory.md, section 8.
    """
    precision = jnp.finfo(pairs.values.dtype).eps
    worst = jnp.max(pairs.residuals)
    rounding = jnp.maximum(
        10.0 * dimension**0.5 * precision * pairs.largest, 10.0 * pairs.asymmetry
    )
    finite = jnp.all(jnp.isfinite(pairs.residuals)) & jnp.all(jnp.isfinite(pairs.values))
    return jnp.select(
        [
            ~finite,
            # 5e-7 in float64 and 2e-3 in float32, far above the rounding of products of deep
            # networks. An operator that is not symmetric, as from a loss with a derivative of its
            # own that is wrong, is off by parts of one.
            pairs.asymmetry > precision**0.4 * pairs.largest,
            underflows(pairs.largest),
            jnp.all(pairs.converged),
            worst <= rounding,
        ],
        [
            Status.NOT_FINITE,
            Status.NOT_SYMMETRIC,
            Status.PRECISION,
            Status.SUCCESS,
            Status.PRECISION,
        ],
        Status.NOT_CONVERGED,
    ).astype(jnp.int32)


def resolve_tolerance(tolerance: float | None, dtype: jnp.dtype) -> float:
    """A tolerance relative to the largest eigenvalue, by default one that is soon met.

    Args:
      tolerance: what the caller asked for; None takes 1e-8 in float64 and 1e-4 in float32.
      dtype: of the products.

    Returns:
      The tolerance.

    Raises:
      ValueError: below the precision of the dtype.
    """
    precision = float(jnp.finfo(dtype).eps)
    if tolerance is None:
        # Half of the digits, after which an eigenvalue, whose error is of the square of its
        # residual over the gap, is right to nearly all of them. What is finer takes more products
        # and tells no more.
        return 1e-8 if dtype == jnp.float64 else 1e-4
    if not tolerance >= precision:
        raise ValueError(
            f"tolerance must be at least {precision:.1e}, the precision of {dtype}, "
            f"got {tolerance!r}"
        )
    return float(tolerance)

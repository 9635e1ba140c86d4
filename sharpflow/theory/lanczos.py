"""The top of a symmetric operator's spectrum by thick-restart Lanczos."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Matvec = Callable[[Float[Array, " d"]], Float[Array, " d"]]

_MAX_CYCLES = 50


def lanczos(
    matvec: Matvec,
    start: Float[Array, " d"],
    k: int,
    *,
    tolerance: float,
    basis_size: int | None = None,
) -> tuple[
    Float[Array, " k"], Float[Array, "k d"], Float[Array, " k"], Float[Array, ""], Int[Array, ""]
]:
    """The k largest eigenvalues of a symmetric operator.

    Every new vector is orthogonalised twice against the whole basis. When the basis
    is full it is replaced by its best Ritz vectors and the last residual. A Krylov
    space that ends early, as on Γ, where the Hessian has low rank, goes on with a
    fresh orthogonal vector.

    Args:
      matvec: the operator, (d,) -> (d,).
      start: first vector, shape (d,), not zero.
      k: how many, at most d; a multiple eigenvalue is seen once, or as often as
        rounding lets it.
      tolerance: on the residuals ‖A v − λ v‖, relative to the largest |λ|.
      basis_size: vectors kept, at least k + 2 and at most d.

    Returns:
      Eigenvalues (k,) descending, eigenvectors (k, d), residuals (k,), the largest
      modulus of a Ritz value, and the number of products.

    Source: Wu and Simon 2000 (thick restart); Lanczos 1950.
    """
    dimension, dtype = start.shape[0], start.dtype
    size = min(dimension, max(3 * k + 20, 30) if basis_size is None else basis_size)
    kept = min(k + 5, size - 1)
    rounding = dimension**0.5 * jnp.finfo(dtype).eps
    fresh = jax.random.normal(jax.random.key(1), (dimension,), dtype)

    def orthogonal(vector: Array, basis: Array) -> tuple[Array, Array]:
        coefficients = basis @ vector
        vector = vector - coefficients @ basis
        correction = basis @ vector
        return vector - correction @ basis, coefficients + correction

    def extend(index: Array, state: tuple) -> tuple:
        basis, projected, _, _ = state
        image = matvec(basis[index])
        remainder, coefficients = orthogonal(image, basis)
        projected = projected.at[:, index].set(coefficients).at[index, :].set(coefficients)
        length = jnp.linalg.norm(remainder)
        ended = length <= rounding * jnp.linalg.norm(image)
        substitute, _ = orthogonal(jnp.roll(fresh, index), basis)
        following = jnp.where(ended, substitute, remainder)
        following = following / jnp.linalg.norm(following)
        basis = jnp.where(
            index + 1 < size, basis.at[jnp.minimum(index + 1, size - 1)].set(following), basis
        )
        return basis, projected, following, jnp.where(ended, 0.0, length)

    def ritz(state: tuple) -> tuple[Array, Array, Array]:
        _, projected, _, length = state
        values, coefficients = jnp.linalg.eigh(projected)
        values, coefficients = values[::-1], coefficients[:, ::-1]
        return values, coefficients, length * jnp.abs(coefficients[-1])

    def cycle(carry: tuple) -> tuple:
        state, cycles = carry
        basis, _, following, _ = state
        values, coefficients, _ = ritz(state)
        rows = coefficients[:, :kept].T @ basis
        basis = jnp.zeros_like(basis).at[:kept].set(rows).at[kept].set(following)
        projected = jnp.diag(jnp.where(jnp.arange(size) < kept, values, 0.0))
        state = (basis, projected, following, jnp.zeros((), dtype))
        return jax.lax.fori_loop(kept, size, extend, state), cycles + 1

    def unfinished(carry: tuple) -> Array:
        state, cycles = carry
        values, _, residuals = ritz(state)
        worst = jnp.max(residuals[:k])
        return (worst > tolerance * jnp.max(jnp.abs(values))) & (cycles < _MAX_CYCLES)

    basis = jnp.zeros((size, dimension), dtype).at[0].set(start / jnp.linalg.norm(start))
    state = (basis, jnp.zeros((size, size), dtype), basis[0], jnp.zeros((), dtype))
    state = jax.lax.fori_loop(0, size, extend, state)
    if size == dimension:
        cycles = jnp.zeros((), jnp.int32)
    else:
        state, cycles = jax.lax.while_loop(unfinished, cycle, (state, jnp.zeros((), jnp.int32)))
    values, coefficients, residuals = ritz(state)
    vectors = coefficients[:, :k].T @ state[0]
    products = size + cycles * (size - kept)
    return values[:k], vectors, residuals[:k], jnp.max(jnp.abs(values)), products

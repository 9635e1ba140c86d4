"""Eigenpairs of a symmetric matrix from those of one close by, by Davidson's method."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from sharpflow.theory.scaling import norm

# Eigenvectors followed for each one that is wanted. What couples to the wanted ones most is the
# spectrum just below them. With one for each there would be no gap below the last one, and with
# four the first iteration would take as many products as all the others.
_FOLLOWED = 2
# A step of the flow takes one to four iterations, each of which gains two or more digits. Where
# twenty do not help the two matrices are too far apart.
_MOST_ITERATIONS = 20


def num_followed(k: int, m: int) -> int | None:
    """Eigenvectors that are followed for k of m; None where the matrix is too small for that.

    Args:
      k: eigenvectors wanted.
      m: size of the matrix.
    """
    # The space grows to 3k vectors, which have to be independent.
    return _FOLLOWED * k if (_FOLLOWED + 1) * k <= m else None


def davidson(
    product: Callable[[Float[Array, "n m"]], Float[Array, "n m"]],
    eigenvalues: Float[Array, " m"],
    basis: Float[Array, "m m"],
    k: int,
    *,
    tolerance: float,
) -> tuple[Float[Array, " k"], Float[Array, "k m"]]:
    """The k largest eigenvalues of a matrix A and their eigenvectors, from those of one nearby.

    The space of the largest eigenvectors nearby is extended by what the remainders of the wanted
    ones become when they are divided by the distance of their eigenvalue to the others nearby,
    which are nearly those of A. An eigenvector that A has turned out of all of that space would
    be missed: from a matrix that is not close the result means nothing.

    Args:
      product: A on vectors in rows.
      eigenvalues: of the matrix nearby, descending, shape (m,).
      basis: its orthonormal eigenvectors, in columns, shape (m, m).
      k: so many that ``num_followed`` is not None.
      tolerance: of the eigenvalues, relative to the largest.

    Returns:
      Eigenvalues, descending, shape (k,), NaN where the iteration does not converge; and
      eigenvectors in rows, shape (k, m).

    Raises:
      ValueError: k is too large.

    Source: Davidson 1975; docs/theory.md, section 8.
    """
    m = basis.shape[0]
    q = num_followed(k, m)
    if q is None:
        raise ValueError(f"k must be at most a third of the size of the matrix, {m}, got {k}")

    def times(columns: Array) -> Array:
        """A on columns of coordinates in the basis."""
        return basis.T @ product((basis @ columns).T).T

    def ritz(space: Array, image: Array) -> tuple[Array, Array, Array]:
        values, turn = jnp.linalg.eigh(space.T @ image)
        values, turn = values[::-1][:q], turn[:, ::-1][:, :q]
        return values, space @ turn, image @ turn

    def remainders(state: tuple) -> Array:
        values, space, image, _ = state
        return image[:, :k] - space[:, :k] * values[None, :k]

    def converged(state: tuple) -> Bool[Array, ""]:
        # The error of an eigenvalue is the square of its remainder over the gap to what is not in
        # the space.
        values = state[0]
        square = jnp.max(jnp.sum(jnp.square(remainders(state)), axis=0))
        return square <= tolerance * values[0] * (values[k - 1] - values[q - 1])

    def unfinished(state: tuple) -> Bool[Array, ""]:
        return ~converged(state) & (state[-1] < _MOST_ITERATIONS)

    def extend(state: tuple) -> tuple:
        values, space, image, iteration = state
        distance = values[None, :k] - eigenvalues[q:, None]
        # where an eigenvalue nearby has moved past a wanted one the quotient would be large by
        # chance
        least = 0.1 * (values[k - 1] - values[q - 1])
        new = remainders(state)[q:] / jnp.maximum(distance, least)
        # along the eigenvectors that are followed nothing is new
        new = jnp.concatenate([jnp.zeros((q, k), new.dtype), new])
        new = new / norm(new, axis=0, keepdims=True)
        for _ in range(2):  # the second time removes what rounding left of the first
            new, _ = jnp.linalg.qr(new - space @ (space.T @ new))
        space = jnp.concatenate([space, new], axis=1)
        image = jnp.concatenate([image, times(new)], axis=1)
        return *ritz(space, image), iteration + 1

    space = jnp.eye(m, q, dtype=basis.dtype)
    state = (*ritz(space, times(space)), jnp.zeros((), jnp.int32))
    state = jax.lax.while_loop(unfinished, extend, state)
    values, space, _, _ = state
    return jnp.where(converged(state), values[:k], jnp.nan), (basis @ space[:, :k]).T

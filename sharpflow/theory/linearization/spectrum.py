"""What the linearizations share: the cut of a spectrum, and rows of vectors."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from sharpflow.theory.scaling import norm

# Entries of the Jacobian's rows that are held at once: 64 MiB in float64. A tenth would leave
# networks of a million parameters one row at a time, where matrix products are slowest.
_BATCH_ENTRIES = 2**23
# Rows at once. A network is as fast with 64 of them as with more, and memory of activations grows
# with them.
_MAX_BATCH = 64

# Of the rows of a matrix whose product with its transpose is formed.
_NUM_BLOCKS = 4
# Rows of such a block, below which a product is so fast that taking it apart gains nothing.
_SMALLEST_BLOCK = 32


def nonzero(eigenvalues: Float[Array, " q"]) -> Bool[Array, " q"]:
    """Which eigenvalues of JJᵀ, descending, count as nonzero: a relative cut at its rounding.

    Batch norm makes the Jacobian rank-deficient, so a plain inverse is no option. The
    errors of a matrix's entries add up like random numbers: its norm errs by √q eps.

    Source: docs/theory.md, section 8.
    """
    cut = 2.0 * eigenvalues.shape[0] ** 0.5 * jnp.finfo(eigenvalues.dtype).eps
    return eigenvalues > cut * eigenvalues[0]


def inverse_of(eigenvalues: Float[Array, " q"], kept: Bool[Array, " q"]) -> Float[Array, " q"]:
    """1/λ where an eigenvalue is kept, and 0 elsewhere."""
    return jnp.where(kept, 1.0 / jnp.where(kept, eigenvalues, 1.0), 0.0)


def unit_rows(vectors: Float[Array, "k d"], kept: Bool[Array, " k"]) -> Float[Array, "k d"]:
    """The rows that are kept at unit norm, and zeros in place of the others."""
    norms = norm(vectors, axis=1, keepdims=True)
    kept = kept[:, None]
    return jnp.where(kept, vectors / jnp.where(kept, norms, 1.0), 0.0)


def without_radial(
    vectors: Float[Array, "... d"], theta: Float[Array, " d"]
) -> Float[Array, "... d"]:
    """Vectors without their part along ``theta``, whatever its norm."""
    unit = theta / norm(theta)
    return vectors - jnp.tensordot(vectors @ unit, unit, axes=0)


def product_with_transpose(matrix: Float[Array, "q r"]) -> Float[Array, "q q"]:
    """A Aᵀ, of which only one triangle is computed, block by block.

    XLA has no product that knows of the symmetry. With four blocks five eighths of the work are
    left; with eight a tenth more is saved, and blocks of 240 rows are too small to be fast.
    """
    q = matrix.shape[0]
    size = -(-q // _NUM_BLOCKS)
    if size < _SMALLEST_BLOCK:
        return matrix @ matrix.T
    # columns of the lower triangle, with zeros above it
    columns = [
        jnp.pad(matrix[first:] @ matrix[first : first + size].T, ((first, 0), (0, 0)))
        for first in range(0, q, size)
    ]
    lower = jnp.tril(jnp.concatenate(columns, axis=1))
    return lower + jnp.tril(lower, -1).T


def gram_without(
    vectors: Float[Array, "p d"],
    stretched: Float[Array, "p m"],
    basis: Float[Array, "m m"],
    inverse: Float[Array, " m"],
    radial: Float[Array, " d"] | None,
) -> Float[Array, "p p"]:
    """⟨P x_a, P x_b⟩ for P = I − J⁺J, without a projection: by ‖P x‖² = ‖x‖² − ‖J⁺J x‖².

    The part in the range of Jᵀ is as long as its coordinates in the orthonormal eigenvectors of
    JᵀJ, which are products with Jx. The difference has the rounding of its terms, and that of
    JJᵀ where its eigenvalues are small, so this is for float64.

    Args:
      vectors: x_a, shape (p, d).
      stretched: J x_a, shape (p, m).
      basis, inverse: eigenvectors of JJᵀ, in columns, and the inverse of its eigenvalues, zero
        where they are cut.
      radial: θ, in whose direction J is zero, where P is to take that away too; or None.
    """
    coordinates = stretched @ (basis * jnp.sqrt(inverse)[None])
    gram = vectors @ vectors.T - coordinates @ coordinates.T
    if radial is None:
        return gram
    along = vectors @ (radial / norm(radial))
    return gram - jnp.outer(along, along)


def map_rows(
    one: Callable[[Array], Array], vectors: Float[Array, "... d"]
) -> Float[Array, "... d"]:
    """``one`` applied to every vector of shape (d,) in an array of shape (..., d)."""
    rows = vectors.reshape(-1, vectors.shape[-1])
    batch = batch_size(rows.shape[1], rows.shape[0])
    return jax.lax.map(one, rows, batch_size=batch).reshape(vectors.shape)


def batch_size(d: int, count: int) -> int:
    """How many vectors of length d are pushed through the network at once."""
    return max(1, min(_MAX_BATCH, _BATCH_ENTRIES // d, count))

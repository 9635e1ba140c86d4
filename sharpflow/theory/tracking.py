"""The top of a symmetric operator's spectrum, followed from a frame nearby."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sharpflow.theory.lanczos import Matvec

_BLOCKS = 3
_GUARDS = 2  # vectors beyond those wanted
_MAX_PASSES = 60


class Tracked(NamedTuple):
    """Eigenvalues (k,) descending, eigenvectors (n, d), the first k of them converged,
    the largest residual ‖A v − λ v‖ of those, the modulus of the largest Ritz value, and
    the number of products."""

    values: Float[Array, " k"]
    frame: Float[Array, "n d"]
    residual: Float[Array, ""]
    size: Float[Array, ""]
    num_products: Int[Array, ""]


def frame_size(k: int) -> int:
    """Rows of a frame from which k eigenvectors are followed."""
    return k + _GUARDS


def smallest_dimension(k: int) -> int:
    """The dimension from which ``follow_eigenpairs`` has room for its basis."""
    return _BLOCKS * frame_size(k)


def follow_eigenpairs(
    matvec: Matvec, frame: Float[Array, "n d"], k: int, *, tolerance: float | Array
) -> Tracked:
    """The k largest eigenvalues of A, multiple ones too, from vectors close to theirs.

    A block Krylov space of the frame, Rayleigh–Ritz in it, and again from its best
    vectors. A frame that the last point of a path has left takes a pass or two; a
    block sees as many of a cluster of eigenvalues as it has vectors, where a single
    vector may miss some without a word.

    Args:
      matvec: A, (d,) -> (d,), symmetric; it is mapped over the block.
      frame: linearly independent rows, ``frame_size(k)`` of them.
      k: how many.
      tolerance: on the residuals, relative to the largest Ritz value in modulus.

    Source: Golub and Underwood 1977, block Lanczos with restarts.
    """
    rows, dimension = frame.shape
    product = jax.vmap(matvec)

    def extend(index: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        basis, images = state
        image = product(basis[index])
        block = image
        for _ in range(2):
            flat = basis.reshape(-1, dimension)
            block = block - (block @ flat.T) @ flat
            block = jnp.linalg.qr((block - (block @ flat.T) @ flat).T)[0].T
        following = jnp.minimum(index + 1, _BLOCKS - 1)
        extended = basis.at[following].set(jnp.where(index + 1 < _BLOCKS, block, basis[following]))
        return extended, images.at[index].set(image)

    def renew(state: tuple[Tracked, Array]) -> tuple[Tracked, Array]:
        found, passes = state
        empty = jnp.zeros((_BLOCKS, rows, dimension), frame.dtype)
        start = jnp.linalg.qr(found.frame.T)[0].T
        basis, images = jax.lax.fori_loop(0, _BLOCKS, extend, (empty.at[0].set(start), empty))
        basis, images = basis.reshape(-1, dimension), images.reshape(-1, dimension)
        projected = basis @ images.T
        values, coefficients = jnp.linalg.eigh(0.5 * (projected + projected.T))
        values, best = values[::-1], coefficients[:, ::-1][:, :rows].T
        vectors = best @ basis
        errors = jnp.linalg.norm(best @ images - values[:rows, None] * vectors, axis=1)
        found = Tracked(
            values=values[:k],
            frame=vectors,
            residual=jnp.max(errors[:k]),
            size=jnp.max(jnp.abs(values)),
            num_products=found.num_products + _BLOCKS * rows,
        )
        return found, passes + 1

    def unfinished(state: tuple[Tracked, Array]) -> Array:
        found, passes = state
        return (found.residual > tolerance * found.size) & (passes < _MAX_PASSES)

    unknown = Tracked(
        values=jnp.zeros((k,), frame.dtype),
        frame=frame,
        residual=jnp.asarray(jnp.inf, frame.dtype),
        size=jnp.ones((), frame.dtype),
        num_products=jnp.zeros((), jnp.int32),
    )
    return jax.lax.while_loop(unfinished, renew, (unknown, jnp.zeros((), jnp.int32)))[0]

"""Gauss quadrature of the spectrum of a symmetric operator, by Lanczos' method from one vector."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sharpflow.theory.scaling import norm, power_of_two, unit_of

Matvec = Callable[[Float[Array, " d"]], Float[Array, " d"]]


class Tridiagonal(NamedTuple):
    """The operator in the basis that Lanczos' method makes of a vector.

    Attributes:
      diagonal: α, shape (m,).
      beside: β, shape (m − 1,); 0 where the Krylov space ended, and α is 0 from there on.
      asymmetry: largest |⟨v_i, A v_j⟩ − ⟨v_j, A v_i⟩| met, shape ().
    """

    diagonal: Float[Array, " m"]
    beside: Float[Array, " n"]
    asymmetry: Float[Array, ""]


class Quadrature(NamedTuple):
    """vᵀ f(A) v = Σ_j w_j f(θ_j), exact for polynomials of a degree below twice their number.

    Attributes:
      nodes: θ, shape (m,).
      weights: w, which add up to 1, shape (m,).
    """

    nodes: Float[Array, " m"]
    weights: Float[Array, " m"]


def tridiagonal(matvec: Matvec, start: Float[Array, " d"], degree: int) -> Tridiagonal:
    """Lanczos' method with each vector orthogonal to all before it.

    A Krylov space ends where the vector has parts of fewer eigenvalues than the degree, as with
    the null space of a network's Hessian. What follows is then set to zero, with weight 0. The
    library matfree (0.6.3) does not look: of a matrix with the six eigenvalues 0 to 5 its
    tridiagonal matrix of degree 30 had one of 1027.

    Args:
      matvec: v -> A v.
      start: v, of norm 1.
      degree: m, at most d.
    """
    precision = jnp.finfo(start.dtype).eps
    rows = jnp.arange(degree, dtype=jnp.int32)

    def step(carry: tuple, j: Array) -> tuple[tuple, tuple]:
        basis, vector, before, largest, asymmetry = carry
        basis = basis.at[j].set(vector)
        image = matvec(vector)
        unit = unit_of(image)
        row = (basis @ (image / unit)) * unit
        remainder = image - row @ basis
        beside = norm(remainder)
        largest = jnp.maximum(largest, norm(image))
        # of a symmetric operator nothing but the last two parts is left
        expected = jnp.where(rows == j, row, 0.0)
        expected = jnp.where(rows == j - 1, before, expected)
        asymmetry = jnp.maximum(asymmetry, jnp.max(jnp.abs(row - expected)))
        # below this it is what rounding has left of the products
        ends = ~(beside > 10.0 * precision * largest)
        following = remainder / jnp.where(ends, 1.0, beside)
        following = following - (basis @ following) @ basis  # twice is enough
        following = following / jnp.where(ends, 1.0, jnp.linalg.norm(following))
        following = jnp.where(ends, jnp.zeros_like(following), following)
        beside = jnp.where(ends, 0.0, beside)
        return (basis, following, beside, largest, asymmetry), (row[j], beside)

    zero = jnp.zeros((), start.dtype)
    first = (jnp.zeros((degree, start.shape[0]), start.dtype), start, zero, zero, zero)
    (*_, asymmetry), (diagonal, beside) = jax.lax.scan(step, first, rows)
    return Tridiagonal(diagonal, beside[:-1], asymmetry)


def quadrature(matrix: Tridiagonal, degree: int) -> Quadrature:
    """The quadrature of the first rows of a tridiagonal matrix.

    Args:
      matrix: of ``tridiagonal``.
      degree: how many rows.
    """
    diagonal, beside = matrix.diagonal[:degree], matrix.beside[: degree - 1]
    dense = jnp.diag(diagonal) + jnp.diag(beside, 1) + jnp.diag(beside, -1)
    unit = power_of_two(dense)
    nodes, vectors = jnp.linalg.eigh(dense / jnp.where(unit > 0, unit, 1.0))
    return Quadrature(unit * nodes, jnp.square(vectors[0]))

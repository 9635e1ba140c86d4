"""A linearization through the Gram matrix JJᵀ."""

import chex
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from sharpflow.models.precision import full_precision
from sharpflow.models.representation import summarized
from sharpflow.theory.linearization.iterative import IterativeLinearization
from sharpflow.theory.linearization.protocol import Residual
from sharpflow.theory.linearization.spectrum import (
    batch_size,
    gram_without,
    inverse_of,
    map_rows,
    nonzero,
    unit_rows,
    without_radial,
)


@summarized
@chex.dataclass(frozen=True)
class GramLinearization:
    """With JJᵀ decomposed, and products with J and Jᵀ: memory 2 m² instead of m d.

    Attributes:
      theta, residual: the point and r there.
      function: r, as a ``jax.tree_util.Partial``.
      eigenvalues: of JJᵀ, descending, shape (m,).
      basis: its orthonormal eigenvectors in the columns, shape (m, m).
    """

    theta: Float[Array, " d"]
    residual: Float[Array, " m"]
    function: Partial
    eigenvalues: Float[Array, " m"]
    basis: Float[Array, "m m"]

    @classmethod
    @full_precision
    def of(cls, function: Residual, theta: Float[Array, " d"]) -> "GramLinearization":
        value, push = jax.linearize(function, theta)
        pull = jax.linear_transpose(push, theta)
        m = value.shape[0]

        def column(index: Array) -> Array:
            (row,) = pull(jnp.zeros((m,), theta.dtype).at[index].set(1.0))
            return push(row)

        # Column by column, each from one product with Jᵀ and one with J, so that J is never held.
        gram = jax.lax.map(column, jnp.arange(m), batch_size=batch_size(theta.shape[0], m))
        # Its two halves come from different products and round otherwise; eigh reads one of them
        # only.
        eigenvalues, basis = jnp.linalg.eigh(0.5 * (gram + gram.T))
        return cls(
            theta=theta,
            residual=value,
            function=Partial(function),
            eigenvalues=eigenvalues[::-1],
            basis=basis[:, ::-1],
        )

    def nearby(self, theta: Float[Array, " d"]) -> "IterativeLinearization":
        """By products, with the Gram matrix here as its base."""
        base = (self.eigenvalues, self.basis)
        return IterativeLinearization.of(self.function.func, theta, base)

    def _inverse(self) -> Float[Array, " m"]:
        return inverse_of(self.eigenvalues, nonzero(self.eigenvalues))

    @full_precision
    def top_eigenpairs(
        self, k: int, start: Float[Array, "q d"] | None = None
    ) -> tuple[Float[Array, " k"], Float[Array, "k d"]]:
        _, pullback = jax.vjp(self.function, self.theta)
        (vectors,) = jax.vmap(pullback)(self.basis[:, :k].T)
        return self.eigenvalues[:k], unit_rows(vectors, self._inverse()[:k] > 0)

    @full_precision
    def solve(self, residual: Float[Array, " m"]) -> Float[Array, " d"]:
        _, pullback = jax.vjp(self.function, self.theta)
        return pullback(self.basis @ (self._inverse() * (self.basis.T @ residual)))[0]

    @full_precision
    def project(
        self, vectors: Float[Array, "... d"], *, on_sphere: bool = True
    ) -> Float[Array, "... d"]:
        def without_rows(_: int, vector: Array) -> Array:
            stretched = jax.jvp(self.function, (self.theta,), (vector,))[1]
            return vector - self.solve(stretched)

        def one(vector: Array) -> Array:
            # the second pass removes what rounding left of the first
            return jax.lax.fori_loop(0, 2, without_rows, vector)

        vectors = without_radial(vectors, self.theta) if on_sphere else vectors
        return map_rows(one, vectors)

    @full_precision
    def projected_gram(
        self, vectors: Float[Array, "p d"], *, on_sphere: bool = True
    ) -> Float[Array, "p p"]:
        if vectors.dtype != jnp.float64:
            projected = self.project(vectors, on_sphere=on_sphere)
            return projected @ projected.T
        _, push = jax.linearize(self.function, self.theta)
        batch = batch_size(vectors.shape[1], vectors.shape[0])
        stretched = jax.lax.map(push, vectors, batch_size=batch)
        radial = self.theta if on_sphere else None
        return gram_without(vectors, stretched, self.basis, self._inverse(), radial)

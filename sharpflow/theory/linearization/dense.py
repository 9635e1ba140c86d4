"""A linearization with the Jacobian itself."""

import chex
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float

from sharpflow.models.precision import full_precision
from sharpflow.models.representation import summarized
from sharpflow.theory.linearization.iterative import IterativeLinearization
from sharpflow.theory.linearization.protocol import Residual
from sharpflow.theory.linearization.spectrum import (
    gram_without,
    inverse_of,
    nonzero,
    product_with_transpose,
    unit_rows,
    without_radial,
)

# Below them a linearization is cheaper than the few iterations from one nearby. At 240 those take
# a fifth of its time, at 960 a twentieth.
FEWEST_RESIDUALS = 128


@summarized
@chex.dataclass(frozen=True)
class DenseLinearization:
    """With the Jacobian itself, and the eigenvectors of its smaller Gram matrix.

    Attributes:
      theta, residual: the point and r there.
      function: r, as a ``jax.tree_util.Partial``.
      jacobian: J, shape (m, d).
      eigenvalues: of JJᵀ or JᵀJ, whichever is smaller, descending, shape (q,), q = min(m, d).
      basis: its orthonormal eigenvectors in the columns, shape (q, q).
    """

    theta: Float[Array, " d"]
    residual: Float[Array, " m"]
    function: Partial
    jacobian: Float[Array, "m d"]
    eigenvalues: Float[Array, " q"]
    basis: Float[Array, "q q"]

    @classmethod
    @full_precision
    def of(cls, function: Residual, theta: Float[Array, " d"]) -> "DenseLinearization":
        value, pullback = jax.vjp(function, theta)
        m, d = value.shape[0], theta.shape[0]
        if m <= d:
            # Backwards where there are fewer residuals than parameters, forwards otherwise: as many
            # products as the smaller side has.
            (jacobian,) = jax.vmap(pullback)(jnp.eye(m, dtype=theta.dtype))
            gram = product_with_transpose(jacobian)
        else:
            jacobian = jax.jacfwd(function)(theta)
            gram = product_with_transpose(jacobian.T)
        eigenvalues, basis = jnp.linalg.eigh(gram)
        return cls(
            theta=theta,
            residual=value,
            function=Partial(function),
            jacobian=jacobian,
            eigenvalues=eigenvalues[::-1],
            basis=basis[:, ::-1],
        )

    def nearby(self, theta: Float[Array, " d"]) -> "DenseLinearization | IterativeLinearization":
        """By products, with the Gram matrix here as its base, where it is not small."""
        m, d = self.jacobian.shape
        if m > d or m < FEWEST_RESIDUALS:
            return self.of(self.function.func, theta)
        base = (self.eigenvalues, self.basis)
        return IterativeLinearization.of(self.function.func, theta, base)

    def kept(self) -> Bool[Array, " q"]:
        """Which eigenvalues count as nonzero."""
        return nonzero(self.eigenvalues)

    @full_precision
    def top_eigenpairs(
        self, k: int, start: Float[Array, "q d"] | None = None
    ) -> tuple[Float[Array, " k"], Float[Array, "k d"]]:
        m, d = self.jacobian.shape
        values, basis = self.eigenvalues[:k], self.basis[:, :k].T
        if m > d:
            return values, basis
        return values, unit_rows(basis @ self.jacobian, self.kept()[:k])

    @full_precision
    def solve(self, residual: Float[Array, " m"]) -> Float[Array, " d"]:
        inverse = inverse_of(self.eigenvalues, self.kept())
        m, d = self.jacobian.shape
        if m > d:
            return self.basis @ (inverse * (self.basis.T @ (self.jacobian.T @ residual)))
        return self.jacobian.T @ (self.basis @ (inverse * (self.basis.T @ residual)))

    @full_precision
    def project(
        self, vectors: Float[Array, "... d"], *, on_sphere: bool = True
    ) -> Float[Array, "... d"]:
        vectors = without_radial(vectors, self.theta) if on_sphere else vectors
        m, d = self.jacobian.shape
        if m > d:
            kept = jnp.where(self.kept()[None], self.basis, 0.0)
            return vectors - (vectors @ kept) @ kept.T
        inverse = inverse_of(self.eigenvalues, self.kept())
        for _ in range(2):  # the second pass removes what rounding left of the first
            # Through JJᵀ, which has been decomposed already. An SVD of J itself would be more
            # exact, and takes many times as long; the second pass makes up for it.
            coordinates = (vectors @ self.jacobian.T) @ (self.basis * inverse[None])
            vectors = vectors - (coordinates @ self.basis.T) @ self.jacobian
        return vectors

    @full_precision
    def projected_gram(
        self, vectors: Float[Array, "p d"], *, on_sphere: bool = True
    ) -> Float[Array, "p p"]:
        m, d = self.jacobian.shape
        if m > d or vectors.dtype != jnp.float64:
            projected = self.project(vectors, on_sphere=on_sphere)
            return projected @ projected.T
        inverse = inverse_of(self.eigenvalues, self.kept())
        radial = self.theta if on_sphere else None
        return gram_without(vectors, vectors @ self.jacobian.T, self.basis, inverse, radial)

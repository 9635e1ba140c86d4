"""A linearization by products with J and Jᵀ."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float

from sharpflow.models.precision import full_precision
from sharpflow.models.representation import summarized
from sharpflow.theory.lanczos import lanczos
from sharpflow.theory.least_squares import least_norm_solution
from sharpflow.theory.linearization.davidson import davidson, num_followed
from sharpflow.theory.linearization.protocol import Residual
from sharpflow.theory.linearization.spectrum import (
    inverse_of,
    map_rows,
    nonzero,
    unit_rows,
    without_radial,
)
from sharpflow.theory.scaling import norm


@summarized
@chex.dataclass(frozen=True)
class IterativeLinearization:
    """By products with J and Jᵀ alone: memory of a few vectors.

    J⁺ comes from ``least_norm_solution``, into which the directions that batch norm makes
    null never enter. With the eigenvectors U of JJᵀ at a nearby point, its base, it solves
    KᵀJ x = Kᵀr instead, K = US, where KKᵀ is the pseudo-inverse of JJᵀ there: that deflates what
    was null there and takes few steps, KᵀJ being nearly a partial isometry. The largest
    eigenvalues then come from those of the base, and from Lanczos' method otherwise.

    Attributes:
      theta, residual: the point and r there.
      function: r, as a ``jax.tree_util.Partial``.
      base: eigenvalues of a nearby JJᵀ, descending, shape (m,), and U, its orthonormal
        eigenvectors in columns, shape (m, m); or None.
    """

    theta: Float[Array, " d"]
    residual: Float[Array, " m"]
    function: Partial
    base: tuple[Float[Array, " m"], Float[Array, "m m"]] | None = None

    @classmethod
    @full_precision
    def of(
        cls,
        function: Residual,
        theta: Float[Array, " d"],
        base: tuple[Array, Array] | None = None,
    ) -> "IterativeLinearization":
        return cls(
            theta=theta,
            residual=function(theta),
            function=Partial(function),
            base=base,
        )

    def nearby(self, theta: Float[Array, " d"]) -> "IterativeLinearization":
        return self.of(self.function.func, theta, self.base)

    @full_precision
    def solve(self, residual: Float[Array, " m"]) -> Float[Array, " d"]:
        return self._solve(residual, self._tolerance())

    def _tolerance(self) -> float:
        """Relative, of conjugate gradients and of eigenvalues.

        A hundred units of rounding in float32, where a tenth would be out of reach for an
        ill-conditioned J. With ten times as much the error of a projection would come near that of
        a step of the flow. In float64 a point with a base is one for a few uses, of which a step
        asks for a thousandth of its own error.
        """
        if self.theta.dtype != jnp.float64:
            return 1e-5
        return 1e-10 if self.base is None else 1e-8

    def _solve(self, residual: Float[Array, " m"], tolerance: float | Array) -> Float[Array, " d"]:
        _, push = jax.linearize(self.function, self.theta)
        pull = jax.linear_transpose(push, self.theta)
        # Without rounding as many steps suffice as J has rows. Rounding makes conjugate gradients
        # repeat themselves, and ten times as many are what an ill-conditioned J may take.
        most = 10 * min(residual.shape[0], self.theta.shape[0]) + 100
        solution = partial(least_norm_solution, tolerance=tolerance, max_steps=most)
        if self.base is None:
            return solution(push, lambda u: pull(u)[0], residual)
        eigenvalues, basis = self.base
        scale = jnp.sqrt(inverse_of(eigenvalues, nonzero(eigenvalues)))
        return solution(
            lambda x: scale * (basis.T @ push(x)),
            lambda u: pull(basis @ (scale * u))[0],
            scale * (basis.T @ residual),
        )

    @full_precision
    def project(
        self, vectors: Float[Array, "... d"], *, on_sphere: bool = True
    ) -> Float[Array, "... d"]:
        """As of every linearization; NaN where conjugate gradients do not converge."""
        # the second pass tells and removes what the first left, down to rounding
        first = self._tolerance()
        passes = jnp.asarray([first, first**0.4], vectors.dtype)

        def one(vector: Array) -> Array:
            def without_rows(left: Array, tolerance: Array) -> tuple[Array, Array]:
                stretched = jax.jvp(self.function, (self.theta,), (left,))[1]
                removed = self._solve(stretched, tolerance)
                return left - removed, norm(removed)

            projected, removed = jax.lax.scan(without_rows, vector, passes)
            small = removed[-1] <= passes[-1] * norm(vector)
            return jnp.where(small, projected, jnp.nan)

        vectors = without_radial(vectors, self.theta) if on_sphere else vectors
        return map_rows(one, vectors)

    @full_precision
    def projected_gram(
        self, vectors: Float[Array, "p d"], *, on_sphere: bool = True
    ) -> Float[Array, "p p"]:
        projected = self.project(vectors, on_sphere=on_sphere)
        return projected @ projected.T

    @full_precision
    def top_eigenpairs(
        self, k: int, start: Float[Array, "q d"] | None = None
    ) -> tuple[Float[Array, " k"], Float[Array, "k d"]]:
        """As of every linearization; NaN where the method does not converge."""
        _, push = jax.linearize(self.function, self.theta)
        pull = jax.linear_transpose(push, self.theta)
        if self.base is not None and num_followed(k, self.residual.shape[0]) is not None:
            values, rows = davidson(
                lambda rows: map_rows(lambda row: push(pull(row)[0]), rows),
                *self.base,
                k,
                tolerance=self._tolerance(),
            )
            (vectors,) = jax.vmap(pull)(rows)
            return values, unit_rows(vectors, values > 0)
        if start is None:
            block = jnp.zeros((1, self.residual.shape[0]), self.theta.dtype)  # nothing is known
        else:
            block = jax.vmap(push)(start)
        ritz = lanczos(lambda u: push(pull(u)[0]), block, k, tolerance=self._tolerance())
        values = jnp.where(ritz.converged, ritz.values, jnp.nan)
        (vectors,) = jax.vmap(pull)(ritz.vectors)
        return values, unit_rows(vectors, values > 0)

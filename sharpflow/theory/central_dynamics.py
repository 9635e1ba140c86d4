"""What the central flow evaluates: gradients, the top of the Hessian, third derivatives."""

import dataclasses
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from sharpflow.models import Params, Problem
from sharpflow.theory.curvature import top_eigenpairs
from sharpflow.theory.edge import symmetric_weights
from sharpflow.theory.lanczos import lanczos
from sharpflow.theory.ritz import ritz_status

# Parameters up to which the Hessian is formed. Lanczos' method keeps 24 vectors or more and would
# span the whole space anyway; at 300 it takes a tenth of the products.
_DENSE_DIMENSION = 30
# For the growth of λ_1 within a step, relative to λ_1. Where it grows by more than a tenth, the
# step may be unstable, which its error shows. Along the edge of a digits network 1.0 takes 1 %
# fewer products, 2.0 takes 10 % more, and the result is the same.
_ROOM = 1.1


@dataclasses.dataclass(frozen=True)
class Dynamics:
    """GD+WD whose average is sought.

    Attributes:
      problem: gives the loss L.
      unravel: from flat parameters.
      k: eigenvalues that may share the edge.
      learning_rate, weight_decay: η and λ, shape (); within a step that of the step.
      tolerance: on the residuals of eigenpairs, relative to the largest, shape ().
      step_correction: whether the flow takes the length of GD's steps into account.
    """

    problem: Problem
    unravel: Callable[[Array], Params]
    k: int
    learning_rate: Float[Array, ""]
    weight_decay: Float[Array, ""]
    tolerance: Float[Array, ""]
    step_correction: bool = False

    @property
    def edge(self) -> Float[Array, ""]:
        """The largest stable eigenvalue of ∇²L(w), 2/η − λ."""
        return 2.0 / self.learning_rate - self.weight_decay

    def gradient(self, params: Float[Array, " d"]) -> Float[Array, " d"]:
        """∇L(w)."""
        return jax.grad(lambda flat: self.problem.loss_value(self.unravel(flat)))(params)

    def rate(self, pull: Float[Array, " d"]) -> Callable[[Array], Array]:
        """The map w -> −ηF, F = ∇L(w) + λw + pull; corrected, −η(F + ½η(∇²L + λ)F)."""

        def rate(params: Array) -> Array:
            force = self.gradient(params) + self.weight_decay * params + pull
            if self.step_correction:
                _, product = jax.linearize(self.gradient, params)
                force = self.corrected(force, product)
            return -self.learning_rate * force

        return rate

    def corrected(self, force: Array, product: Callable[[Array], Array]) -> Float[Array, " d"]:
        """F + ½η(∇²L + λ)F, along which a flow passes through the steps w − ηF."""
        return force + 0.5 * self.learning_rate * (product(force) + self.weight_decay * force)

    def fastest(self, point: "EdgePoint", *, corrected: bool) -> Float[Array, ""]:
        """The largest decay rate near a point, per unit t, of ``rate`` or of −ηF alone."""
        largest = _ROOM * jnp.maximum(point.eigenvalues[0], 0.0)
        decay = self.learning_rate * (largest + self.weight_decay)
        return decay + 0.5 * decay * decay if corrected else decay

    def counted_rates(self, counts: "Counts", number: Array) -> "Counts":
        """The counts after so many evaluations of ``rate``."""
        products = number if self.step_correction else 0
        return counts.plus(gradients=number, products=products)

    def edge_point(
        self, params: Array, counts: "Counts", near: Array | None
    ) -> tuple["EdgePoint", "Counts"]:
        """The point with its k largest eigenvalues, sought from a frame nearby."""
        dimension = params.shape[0]
        num_pairs = min(self.k + 1, dimension)
        if dimension <= _DENSE_DIMENSION:
            pairs = top_eigenpairs(self.problem, self.unravel(params), num_pairs, method="dense")
            values, status, products = pairs.values, pairs.status, pairs.num_products
            frame = jax.vmap(lambda vector: ravel_pytree(vector)[0])(pairs.vectors)
        else:
            if near is None:
                near = jnp.zeros((1, dimension), params.dtype)  # nothing is known
            _, product = jax.linearize(self.gradient, params)
            # another seed at every point, so that what one overlooks the next one finds
            ritz = lanczos(product, near, num_pairs, tolerance=self.tolerance, seed=counts.products)
            values, frame, products = ritz.values, ritz.next_start, ritz.num_products
            status = ritz_status(ritz, dimension)
        below = jnp.full((1,), -jnp.inf, params.dtype)
        point = EdgePoint(
            params=params,
            eigenvalues=values[: self.k],
            frame=frame,
            next_eigenvalue=jnp.concatenate([values, below])[self.k],
            status=status,
        )
        return point, counts.plus(products=products)

    def third_derivatives(
        self, params: Float[Array, " d"], frame: Float[Array, "k d"]
    ) -> Float[Array, "p d"]:
        """∇³L[v_a, v_b] for every pair of rows, in the coordinates of ``symmetric_to_vector``."""

        def third(first: Array, second: Array) -> Array:
            def product(point: Array) -> Array:
                return jax.jvp(self.gradient, (point,), (first,))[1]

            return jax.jvp(product, (params,), (second,))[1]

        rows, columns, weight = symmetric_weights(frame.shape[0], params.dtype)
        return jax.vmap(third)(frame[rows], frame[columns]) * weight[:, None]


@chex.dataclass(frozen=True)
class Counts:
    """What was evaluated: gradients, products ∇²L v, and vectors ∇³L[u, v]."""

    gradients: Int[Array, ""]
    products: Int[Array, ""]
    third: Int[Array, ""]

    def plus(
        self, gradients: Array | int = 0, products: Array | int = 0, third: Array | int = 0
    ) -> "Counts":
        """The counts with more added."""
        return Counts(
            gradients=self.gradients + gradients,
            products=self.products + products,
            third=self.third + third,
        )


@chex.dataclass(frozen=True)
class EdgePoint:
    """A point, and the top of the Hessian there.

    Attributes:
      params: w, shape (d,).
      eigenvalues: the k largest of ∇²L(w), descending, shape (k,).
      frame: orthonormal eigenvectors in rows, at least k, shape (n, d).
      next_eigenvalue: the (k+1)-th; minus infinity where there is none.
      status: of the eigenvalues.
    """

    params: Float[Array, " d"]
    eigenvalues: Float[Array, " k"]
    frame: Float[Array, "n d"]
    next_eigenvalue: Float[Array, ""]
    status: Int[Array, ""]

    @property
    def edge_frame(self) -> Float[Array, "k d"]:
        """The eigenvectors v_a of the k largest eigenvalues, in rows."""
        return self.frame[: self.eigenvalues.shape[0]]

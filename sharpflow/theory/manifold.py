"""The minimizer manifold Γ: its linearization, the retraction to it, its tangent space."""

from collections.abc import Callable
from functools import partial

import chex
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from sharpflow.models.problem import Params, Problem, validate_params
from sharpflow.theory.residuals import residual_form
from sharpflow.theory.status import Status

Residual = Callable[[Float[Array, " d"]], Float[Array, " m"]]

ACCEPTED_SLACK = 30.0  # times the tolerance aimed at: where rounding ends an iteration


@chex.dataclass(frozen=True)
class Linearization:
    """The residual and its Jacobian at a point, decomposed.

    Attributes:
      theta: the point, shape (d,).
      residual: r, shape (m,).
      jacobian: J, shape (m, d).
      eigenvalues: of JJᵀ or JᵀJ, whichever is smaller, descending, shape (q,), q = min(m, d).
      basis: its orthonormal eigenvectors in the columns, shape (q, q).
    """

    theta: Float[Array, " d"]
    residual: Float[Array, " m"]
    jacobian: Float[Array, "m d"]
    eigenvalues: Float[Array, " q"]
    basis: Float[Array, "q q"]

    def kept(self) -> Bool[Array, " q"]:
        """Which eigenvalues count as nonzero: a relative cut at the rounding of JJᵀ.

        Batch norm makes the Jacobian rank-deficient, so a plain inverse is no option.
        """
        size = max(self.jacobian.shape)
        cut = size * jnp.finfo(self.eigenvalues.dtype).eps
        return self.eigenvalues > cut * self.eigenvalues[0]

    def top_eigenpairs(self, k: int) -> tuple[Float[Array, " k"], Float[Array, "k d"]]:
        """The k largest eigenvalues of JᵀJ, descending, and unit eigenvectors in rows.

        Beyond the rank of J the vectors are zero.
        """
        m, d = self.jacobian.shape
        values, basis = self.eigenvalues[:k], self.basis[:, :k].T
        if m > d:
            return values, basis
        vectors = basis @ self.jacobian
        norms = jnp.linalg.norm(vectors, axis=1, keepdims=True)
        kept = self.kept()[:k, None]
        return values, jnp.where(kept, vectors / jnp.where(kept, norms, 1.0), 0.0)

    def solve(self, residual: Float[Array, " m"]) -> Float[Array, " d"]:
        """J⁺ r, the least-squares solution of least norm."""
        inverse = jnp.where(self.kept(), 1.0 / self.eigenvalues, 0.0)
        m, d = self.jacobian.shape
        if m > d:
            return self.basis @ (inverse * (self.basis.T @ (self.jacobian.T @ residual)))
        return self.jacobian.T @ (self.basis @ (inverse * (self.basis.T @ residual)))

    def project(
        self, vectors: Float[Array, "... d"], *, on_sphere: bool = True
    ) -> Float[Array, "... d"]:
        """P_Γ applied to vectors: I − J⁺J, and on the sphere without the radial part."""
        if on_sphere:
            unit = self.theta / jnp.linalg.norm(self.theta)
            vectors = vectors - jnp.tensordot(vectors @ unit, unit, axes=0)
        m, d = self.jacobian.shape
        if m > d:
            kept = jnp.where(self.kept()[None], self.basis, 0.0)
            return vectors - (vectors @ kept) @ kept.T
        inverse = jnp.where(self.kept(), 1.0 / self.eigenvalues, 0.0)
        for _ in range(2):  # the second pass removes what rounding left of the first
            coordinates = (vectors @ self.jacobian.T) @ (self.basis * inverse[None])
            vectors = vectors - (coordinates @ self.basis.T) @ self.jacobian
        return vectors


def linearize(residual: Residual, theta: Float[Array, " d"]) -> Linearization:
    """Linearize a residual on flat parameters, with the eigenvectors of its Gram matrix.

    On Γ the Hessian of L is JᵀJ, so its eigenpairs come along.

    Source: design 3.8.
    """
    value, pullback = jax.vjp(residual, theta)
    m, d = value.shape[0], theta.shape[0]
    if m <= d:
        (jacobian,) = jax.vmap(pullback)(jnp.eye(m, dtype=theta.dtype))
        gram = jacobian @ jacobian.T
    else:
        jacobian = jax.jacfwd(residual)(theta)
        gram = jacobian.T @ jacobian
    eigenvalues, basis = jnp.linalg.eigh(gram)
    return Linearization(
        theta=theta,
        residual=value,
        jacobian=jacobian,
        eigenvalues=eigenvalues[::-1],
        basis=basis[:, ::-1],
    )


def unit(vector: Float[Array, " d"]) -> Float[Array, " d"]:
    """The direction of a vector."""
    return vector / jnp.linalg.norm(vector)


def residual_tolerance(dtype: jnp.dtype) -> float:
    """‖r‖ at which a point counts as on Γ: residuals are of order one."""
    return float(jnp.finfo(dtype).eps) ** 0.75


def retract_flat(
    residual: Residual,
    theta: Float[Array, " d"],
    *,
    on_sphere: bool = True,
    tolerance: float | None = None,
    max_steps: int = 30,
) -> tuple[Float[Array, " d"], Int[Array, ""]]:
    """Gauss–Newton with minimum-norm steps, then unit norm; flat parameters.

    Returns:
      The point, shape (d,), and a status: ``Status.SUCCESS`` or
      ``Status.RETRACTION_FAILED``.
    """
    if tolerance is None:
        tolerance = residual_tolerance(theta.dtype)
    onto = unit if on_sphere else (lambda point: point)
    theta = onto(theta)

    def unfinished(state: tuple) -> Array:
        _, norm, previous, step = state
        improving = (step < 3) | (norm < 0.9 * previous)
        return (norm > tolerance) & improving & (step < max_steps)

    def iterate(state: tuple) -> tuple:
        point, norm, _, step = state
        at_point = linearize(residual, point)
        move = at_point.solve(at_point.residual)
        longest = 0.5 * jnp.linalg.norm(point)
        move = move * jnp.minimum(1.0, longest / jnp.maximum(jnp.linalg.norm(move), longest))
        moved = onto(point - move)
        return moved, jnp.linalg.norm(residual(moved)), norm, step + 1

    norm = jnp.linalg.norm(residual(theta))
    start = (theta, norm, jnp.full_like(norm, jnp.inf), jnp.zeros((), jnp.int32))
    point, norm, _, _ = jax.lax.while_loop(unfinished, iterate, start)
    accepted = norm <= ACCEPTED_SLACK * tolerance
    return point, jnp.where(accepted, Status.SUCCESS, Status.RETRACTION_FAILED).astype(jnp.int32)


def retract_with_status(
    problem: Problem, params: Params, *, on_sphere: bool = True
) -> tuple[Params, Int[Array, ""]]:
    """A point of Γ near ``params``, and whether it was reached; for use inside jit.

    Args:
      problem: a problem with a residual or an outputs/criterion form.
      params: where to start; only the direction counts on the sphere.
      on_sphere: False for losses that are not scale-invariant.

    Returns:
      The point, of unit norm on the sphere, and a ``Status`` code.

    Source: design 3.8. The point lies within O(dist²) of the nearest point of Γ and
    of the limit of the gradient flow; it is neither of them.
    """
    flat, unravel = ravel_pytree(params)
    theta, status = retract_flat(residual_form(problem, params), flat, on_sphere=on_sphere)
    return unravel(theta), status


@partial(jax.jit, static_argnames=("problem", "on_sphere"))
def _retract(
    problem: Problem, params: Params, *, on_sphere: bool
) -> tuple[Params, Int[Array, ""], Float[Array, ""]]:
    theta, status = retract_with_status(problem, params, on_sphere=on_sphere)
    residual = residual_form(problem, params)(ravel_pytree(theta)[0])
    return theta, status, jnp.linalg.norm(residual)


def retract(problem: Problem, params: Params, *, on_sphere: bool = True) -> Params:
    """Φ(params): a point of the minimizer manifold Γ near ``params``.

    Args:
      problem: a problem with a residual or an outputs/criterion form.
      params: where to start; only the direction counts on the sphere.
      on_sphere: False for losses that are not scale-invariant.

    Returns:
      The point, as ``params``; of unit norm on the sphere.

    Raises:
      ValueError: the Gauss–Newton iteration does not reach zero residual from
        ``params``, or the problem has no Γ.

    Source: design 3.8.
    """
    params = validate_params(problem, params)
    theta, status, norm = _retract(problem, params, on_sphere=on_sphere)
    if int(status) != Status.SUCCESS:
        leaf = jax.tree.leaves(params)[0]
        raise ValueError(
            f"params are too far from the minimizer manifold: the retraction stopped at "
            f"‖residual‖ = {float(norm):.2g}, at most "
            f"{ACCEPTED_SLACK * residual_tolerance(leaf.dtype):.0e} is allowed. "
            "Train further first"
        )
    return theta


def require_on_manifold(problem: Problem, theta0: Params, *, on_sphere: bool = True) -> None:
    """Refuse a point that does not lie on Γ.

    Raises:
      ValueError: theta0 is off the unit sphere or its residual is not near zero.
    """
    flat, _ = ravel_pytree(theta0)
    norm = float(jnp.linalg.norm(flat))
    if on_sphere and not abs(norm - 1.0) <= 1e3 * float(jnp.finfo(flat.dtype).eps):
        raise ValueError(
            f"theta0 must have unit norm on the sphere, got {norm:.6g}: pass it through "
            "sharpflow.theory.retract first"
        )
    size = float(jnp.linalg.norm(residual_form(problem, theta0)(flat)))
    allowed = max(1e-6, 100.0 * residual_tolerance(flat.dtype))
    if not size <= allowed:
        raise ValueError(
            f"theta0 must lie on the minimizer manifold: its residual has norm {size:.2g}, "
            f"{allowed:.0e} is allowed. Pass it through sharpflow.theory.retract first"
        )


@partial(jax.jit, static_argnames=("problem", "on_sphere"))
def tangent_projection(
    problem: Problem, theta: Params, vector: Params, *, on_sphere: bool = True
) -> Params:
    """P_Γ vector: the part of a vector along the tangent space of Γ at ``theta``.

    Args:
      problem: a problem with a residual or an outputs/criterion form.
      theta: a point of Γ.
      vector: a pytree like ``theta``.
      on_sphere: whether Γ is taken within the sphere.

    Returns:
      (I − J⁺J − θθᵀ) vector, as ``vector``; J⁺ has a relative cut.

    Source: design 3.8.
    """
    flat, unravel = ravel_pytree(theta)
    at_theta = linearize(residual_form(problem, theta), flat)
    return unravel(at_theta.project(ravel_pytree(vector)[0], on_sphere=on_sphere))

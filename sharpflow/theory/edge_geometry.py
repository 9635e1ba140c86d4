"""The edge space at a point of Γ, and how its eigenvalues change along Γ."""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sharpflow.theory.edge import EdgeSolution, solve_edge_program, symmetric_to_vector
from sharpflow.theory.linearization import Linearization
from sharpflow.theory.status import Status, failure_unless, first_failure

# Of log λ*, over which M at a point holds. It should be short beside the steps of the flow, and
# long beside what rounding makes of the distances to the edge, divided by it. Between those it
# hardly matters: tr M of a flow with rtol 1e-3 is right to 1.4e-3, with ten times as much to
# 0.7e-3, with a tenth to 1.7e-3.
_DECAY = 2e-3


@chex.dataclass(frozen=True)
class EdgeSpace:
    """The k largest eigenvalues of the Hessian at a point of Γ.

    Attributes:
      linearization: of the residual at the point.
      eigenvalues: descending, shape (k,).
      frame: their orthonormal eigenvectors v_a, in rows, shape (k, d).
      next_eigenvalue: the (k+1)-th, zero where there is none.
    """

    linearization: Linearization
    eigenvalues: Float[Array, " k"]
    frame: Float[Array, "k d"]
    next_eigenvalue: Float[Array, ""]

    @property
    def theta(self) -> Float[Array, " d"]:
        """ζ, the point of Γ at which the edge is looked at, shape (d,)."""
        return self.linearization.theta

    @property
    def status(self) -> Int[Array, ""]:
        """``EIGENPAIRS_FAILED`` where an eigenvalue was not found, the next one included.

        Without the next one nobody knows whether the edge has room.
        """
        known = jnp.all(jnp.isfinite(self.eigenvalues)) & jnp.isfinite(self.next_eigenvalue)
        return failure_unless(known, Status.EIGENPAIRS_FAILED)


def edge_space(
    linearization: Linearization, k: int, start: Float[Array, "k d"] | None = None
) -> EdgeSpace:
    """The edge space of dimension k at a point of Γ.

    Args:
      linearization: there.
      k: at most the number of residuals and of parameters.
      start: the frame of a nearby point.

    Returns:
      The edge space; usable under jit.
    """
    most = min(linearization.theta.shape[0], linearization.residual.shape[0])
    # One more than is asked for: whether the edge has room for another eigenvalue is seen by the
    # next one.
    values, frame = linearization.top_eigenpairs(min(k + 1, most), start)
    following = values[k] if k < most else jnp.zeros((), values.dtype)
    return EdgeSpace(
        linearization=linearization,
        eigenvalues=values[:k],
        frame=frame[:k],
        next_eigenvalue=following,
    )


def edge_gradients(space: EdgeSpace, *, on_sphere: bool = True) -> Float[Array, "p d"]:
    """P_Γ ∇³L[v_a, v_b] = P_Γ ∇⟨Jv_a, Jv_b⟩ for every pair, one jvp and one vjp each.

    Args:
      space: where, and the vectors v_a.
      on_sphere: whether Γ is taken within the sphere.

    Returns:
      Shape (p, d), p = k(k+1)/2: pairs in the coordinates of ``symmetric_to_vector``.

    Source: docs/theory.md, sections 4 and 8.
    """
    return space.linearization.project(unprojected_edge_gradients(space), on_sphere=on_sphere)


def unprojected_edge_gradients(space: EdgeSpace) -> Float[Array, "p d"]:
    """∇³L[v_a, v_b] for every pair, as ``edge_gradients`` but with the part normal to Γ."""
    residual, theta = space.linearization.function, space.theta
    # ∇⟨Jv_a, Jv_b⟩ = ⟨∇(Jv_a), Jv_b⟩ + ⟨Jv_a, ∇(Jv_b)⟩, of which one product gives one half. A
    # third derivative of the loss is never formed.
    stretched = jax.vmap(lambda vector: jax.jvp(residual, (theta,), (vector,))[1])(space.frame)

    def halves(vector: Array) -> Array:
        _, pullback = jax.vjp(lambda point: jax.jvp(residual, (point,), (vector,))[1], theta)
        return jax.vmap(pullback)(stretched)[0]

    half = jax.vmap(halves)(space.frame)
    return symmetric_to_vector(half + jnp.swapaxes(half, 0, 1))


def weighted_edge_gradient(
    space: EdgeSpace,
    weights: Float[Array, "k k"],
    *,
    on_sphere: bool = True,
) -> Float[Array, " d"]:
    """Σ_ab M_ab P_Γ ∇³L[v_a, v_b] for one symmetric M: k jvps and vjps instead of k².

    Args:
      space: where, and the vectors v_a.
      weights: M, shape (k, k).
      on_sphere: whether Γ is taken within the sphere.

    Returns:
      Shape (d,).
    """
    residual, theta = space.linearization.function, space.theta

    def stretched(point: Array) -> Array:
        return jax.vmap(lambda vector: jax.jvp(residual, (point,), (vector,))[1])(space.frame)

    values, pullback = jax.vjp(stretched, theta)
    (gradient,) = pullback(2.0 * weights @ values)
    return space.linearization.project(gradient, on_sphere=on_sphere)


@chex.dataclass(frozen=True)
class EdgeResponse:
    """How M moves a point of Γ, and with it the edge eigenvalues over the threshold.

    Attributes:
      space: the edge space at the point.
      log_threshold: s = log λ*, shape ().
      ratios: edge eigenvalues over λ*, descending, shape (k,).
      gradients: (1 + κ) ∇³L[v_a, v_b]/λ*, as ``unprojected_edge_gradients``, shape (p, d). They
        are not projected: a step asks for the projections of two sums of them, and 𝒢 of all of
        them costs less than their projections.
      gram: 𝒢, how fast M lowers the edge block by that motion, shape (p, p).
    """

    space: EdgeSpace
    log_threshold: Float[Array, ""]
    ratios: Float[Array, " k"]
    gradients: Float[Array, "p d"]
    gram: Float[Array, "p p"]

    def rate(self, covariance: Float[Array, "k k"], *, on_sphere: bool) -> Float[Array, " d"]:
        """Σ_ab M_ab ĝ_ab, of which dζ/dτ is the negative, shape (d,)."""
        total = symmetric_to_vector(covariance) @ self.gradients
        return self.space.linearization.project(total, on_sphere=on_sphere)

    @property
    def status(self) -> Int[Array, ""]:
        """Of the edge space, or ``PROJECTION_FAILED`` where 𝒢 is not finite."""
        projected = failure_unless(jnp.all(jnp.isfinite(self.gram)), Status.PROJECTION_FAILED)
        return first_failure(self.space.status, projected)


def edge_response(
    space: EdgeSpace,
    log_threshold: Float[Array, ""],
    *,
    kappa: Float[Array, ""] | float = 0.0,
    on_sphere: bool = True,
) -> EdgeResponse:
    """What M does at a point of Γ below a threshold.

    Args:
      space: where.
      log_threshold: s = log λ*.
      kappa: of IRE: motion along Γ is multiplied by 1 + κ, and so is 𝒢.
      on_sphere: whether Γ is taken within the sphere.

    Returns:
      The response; its gradients are k(k+1)/2 vectors of length d.

    Source: docs/theory.md, section 4, and with κ docs/flat-directions.md.
    """
    scale = jnp.exp(-log_threshold)
    gradients = scale * unprojected_edge_gradients(space)
    gram = space.linearization.projected_gram(gradients, on_sphere=on_sphere)
    return EdgeResponse(
        space=space,
        log_threshold=log_threshold,
        ratios=scale * space.eigenvalues,
        gradients=(1.0 + kappa) * gradients,
        gram=(1.0 + kappa) * gram,
    )


def covariance_window(b: Float[Array, ""] | float) -> Float[Array, ""] | float:
    """The flow time over which M at a point holds.

    Args:
      b: response of the threshold.
    """
    return _DECAY / b


def edge_covariance(
    response: EdgeResponse,
    b: Float[Array, ""],
    rtol: Float[Array, ""],
    log_rate_slope: Float[Array, ""] | None = None,
) -> EdgeSolution:
    """M over the next ``_DECAY``/b of flow time, in the basis of the eigenvectors.

    Eigenvalues within a few tolerances of the edge count as on it: divided by so short a
    step, what the last step left of their distance would pass for a rate.

    Args:
      response: of the point.
      b: response of the threshold.
      rtol: relative tolerance with which the point was reached.
      log_rate_slope: mean h of d log η/dτ over this time by a schedule; None without one.

    Returns:
      The solution of the edge program, whose covariance is M.

    Source: docs/theory.md, sections 4 and 9.
    """
    ratios = response.ratios
    identity = jnp.eye(ratios.shape[0], dtype=ratios.dtype)
    # Half of the step length above, below which a distance would be taken for a rate: at least
    # 1e-3, and more where the flow itself is less exact.
    ratios = jnp.where(ratios >= 1.0 - jnp.maximum(3.0 * rtol, 1e-3), 1.0, ratios)
    drive = b * (identity - (identity - jnp.diag(ratios)) / _DECAY)
    if log_rate_slope is not None:
        window = covariance_window(b)
        drive = drive - jnp.expm1(-log_rate_slope * window) / window * identity
    return solve_edge_program(response.gram, drive, b)


def continuing_turn(
    frame: Float[Array, "k d"], following: Float[Array, "k d"], distance: Float[Array, "k k"]
) -> Float[Array, "k k"]:
    """The rotation T for which the frame T · following continues another frame.

    Where eigenvalues coincide, as at the edge, eigenvectors turn freely among
    themselves from one point to the next, and T brings them back to the frame before.
    Where they are well apart each eigenvector is continued by itself, so that what
    belongs to it turns with it.

    Args:
      frame: eigenvectors at a point, in rows, shape (k, d).
      following: eigenvectors at the next point.
      distance: between the eigenvalues of ``frame`` (rows) and of ``following``
        (columns), in units of what counts as well apart.

    Returns:
      T, orthogonal, shape (k, k).

    Source: docs/theory.md, section 9.
    """
    # a weight that falls smoothly: a cut at some distance would make the flow jump where an
    # eigenvalue crosses it
    overlap = (frame @ following.T) * jnp.exp(-jnp.square(distance))
    left, _, right = jnp.linalg.svd(overlap)
    return left @ right

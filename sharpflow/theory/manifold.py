"""The minimizer manifold Γ: the retraction to it, and its tangent space."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from sharpflow.models import Params, Problem, validate_params
from sharpflow.theory.linearization import (
    Linearization,
    Method,
    Residual,
    linearize,
    resolve_method,
)
from sharpflow.theory.residuals import residual_form
from sharpflow.theory.status import Status

ACCEPTED_SLACK = 30.0  # times the tolerance aimed at: where rounding ends an iteration
_SHORTENING = 0.25  # a chord that gains less than this is followed by a new linearization


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
    method: Method = "auto",
    tolerance: float | Array | None = None,
    max_steps: int = 30,
) -> tuple[Float[Array, " d"], Int[Array, ""]]:
    """Gauss–Newton with minimum-norm steps, then unit norm; flat parameters.

    Where the Jacobian is not formed, one linearization serves as long as its steps
    (chords) shorten the residual to a quarter.

    Args:
      residual: r on flat parameters.
      theta: where to start, shape (d,).
      on_sphere: whether every iterate is brought to unit norm.
      method: how the Jacobian is handled, as in ``linearize``.
      tolerance: on ‖r‖; by default that of ``residual_tolerance``.
      max_steps: most linearizations.

    Returns:
      The point, shape (d,), and a status: ``Status.SUCCESS`` or
      ``Status.RETRACTION_FAILED``.
    """
    if tolerance is None:
        tolerance = residual_tolerance(theta.dtype)
    onto = unit if on_sphere else (lambda point: point)
    theta = onto(theta)
    value = residual(theta)
    chords = resolve_method(method, value.shape[0], theta.shape[0]) != "dense"

    def step(at_point: Linearization, point: Array, value: Array) -> tuple[Array, Array]:
        move = at_point.solve(value)
        longest = 0.5 * jnp.linalg.norm(point)
        move = move * jnp.minimum(1.0, longest / jnp.maximum(jnp.linalg.norm(move), longest))
        moved = onto(point - move)
        return moved, residual(moved)

    def unfinished(state: tuple) -> Array:
        _, value, previous, count = state
        norm = jnp.linalg.norm(value)
        improving = (count < 3) | (norm < 0.9 * previous)
        return (norm > tolerance) & improving & (count < max_steps)

    def iterate(state: tuple) -> tuple:
        point, value, _, count = state
        at_point, before = linearize(residual, point, method), jnp.linalg.norm(value)
        point, value = step(at_point, point, value)
        if chords:

            def gaining(chord: tuple) -> Array:
                _, value, previous = chord
                norm = jnp.linalg.norm(value)
                return (norm > tolerance) & (norm <= _SHORTENING * previous)

            def shorten(chord: tuple) -> tuple:
                point, value, _ = chord
                return *step(at_point, point, value), jnp.linalg.norm(value)

            point, value, _ = jax.lax.while_loop(gaining, shorten, (point, value, before))
        return point, value, before, count + 1

    start = (theta, value, jnp.full((), jnp.inf, theta.dtype), jnp.zeros((), jnp.int32))
    point, value, _, _ = jax.lax.while_loop(unfinished, iterate, start)
    accepted = jnp.linalg.norm(value) <= ACCEPTED_SLACK * tolerance
    return point, jnp.where(accepted, Status.SUCCESS, Status.RETRACTION_FAILED).astype(jnp.int32)


def retract_by_chords(
    base: Linearization,
    theta: Float[Array, " d"],
    tolerance: Float[Array, ""],
    *,
    on_sphere: bool = True,
    max_steps: int = 30,
) -> Float[Array, " d"]:
    """A point of Γ near ``theta``, with the Jacobian of a point close by in every iteration.

    On the way from it ``theta`` moves in the row space of that Jacobian alone, which is
    normal to Γ at ``base``.

    Args:
      base: at a point of Γ near ``theta``.
      theta: flat parameters.
      tolerance: on ‖r‖.
      on_sphere: whether every iterate is brought to unit norm.
      max_steps: most iterations.

    Returns:
      The point, NaN where ``theta`` was too far away.
    """
    residual = base.function
    onto = unit if on_sphere else (lambda point: point)

    def unfinished(state: tuple) -> Array:
        _, value, iteration = state
        return (jnp.linalg.norm(value) > tolerance) & (iteration < max_steps)

    def iterate(state: tuple) -> tuple:
        point, value, iteration = state
        point = onto(point - base.solve(value))
        return point, residual(point), iteration + 1

    theta = onto(theta)
    start = (theta, residual(theta), jnp.zeros((), jnp.int32))
    theta, value, _ = jax.lax.while_loop(unfinished, iterate, start)
    return jnp.where(jnp.linalg.norm(value) <= ACCEPTED_SLACK * tolerance, theta, jnp.nan)


def retract_with_status(
    problem: Problem, params: Params, *, on_sphere: bool = True, method: Method = "auto"
) -> tuple[Params, Int[Array, ""]]:
    """A point of Γ near ``params``, and whether it was reached; for use inside jit.

    Args:
      problem: a problem with a residual or an outputs/criterion form.
      params: where to start; only the direction counts on the sphere.
      on_sphere: False for losses that are not scale-invariant.
      method: how the Jacobian is handled: ``"dense"``, ``"gram"``, ``"iterative"``, or by
        size.

    Returns:
      The point, of unit norm on the sphere, and a ``Status`` code.

    Raises:
      ValueError: a loss alone, which has no Γ, or an unknown method.

    Source: docs/theory.md, section 8. The point lies within O(dist²) of the nearest
    point of Γ and of the limit of the gradient flow; it is neither of them.
    """
    flat, unravel = ravel_pytree(params)
    residual = residual_form(problem, params)
    theta, status = retract_flat(residual, flat, on_sphere=on_sphere, method=method)
    return unravel(theta), status


@partial(jax.jit, static_argnames=("problem", "on_sphere", "method"))
def _retract(
    problem: Problem, params: Params, *, on_sphere: bool, method: Method
) -> tuple[Params, Int[Array, ""], Float[Array, ""]]:
    theta, status = retract_with_status(problem, params, on_sphere=on_sphere, method=method)
    residual = residual_form(problem, params)(ravel_pytree(theta)[0])
    return theta, status, jnp.linalg.norm(residual)


def retract(
    problem: Problem, params: Params, *, on_sphere: bool = True, method: Method = "auto"
) -> Params:
    """Φ(params): a point of the minimizer manifold Γ near ``params``.

    Args:
      problem: a problem with a residual or an outputs/criterion form.
      params: where to start; only the direction counts on the sphere.
      on_sphere: False for losses that are not scale-invariant.
      method: how the Jacobian is handled: ``"dense"``, ``"gram"``, ``"iterative"``, or by
        size.

    Returns:
      The point, as ``params``; of unit norm on the sphere.

    Raises:
      ValueError: the Gauss–Newton iteration does not reach zero residual from
        ``params``, the problem has no Γ, or an unknown method.

    Source: docs/theory.md, section 8.
    """
    params = validate_params(problem, params)
    theta, status, norm = _retract(problem, params, on_sphere=on_sphere, method=method)
    if int(status) != Status.SUCCESS:
        leaf = jax.tree.leaves(params)[0]
        raise ValueError(
            f"params are too far from the minimizer manifold: the retraction stopped at "
            f"‖residual‖ = {float(norm):.2g}, at most "
            f"{ACCEPTED_SLACK * residual_tolerance(leaf.dtype):.0e} is allowed. "
            "Train further first"
        )
    return theta


@partial(jax.jit, static_argnames=("problem",))
def _residual_norm(problem: Problem, params: Params) -> Float[Array, ""]:
    return jnp.linalg.norm(residual_form(problem, params)(ravel_pytree(params)[0]))


def require_on_manifold(problem: Problem, theta0: Params, *, on_sphere: bool = True) -> None:
    """Refuse a point that does not lie on Γ.

    Args:
      problem: a problem with a residual or an outputs/criterion form.
      theta0: the point, as params.
      on_sphere: whether it must have unit norm.

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
    size = float(_residual_norm(problem, theta0))
    allowed = max(1e-6, 100.0 * residual_tolerance(flat.dtype))
    if not size <= allowed:
        raise ValueError(
            f"theta0 must lie on the minimizer manifold: its residual has norm {size:.2g}, "
            f"{allowed:.0e} is allowed. Pass it through sharpflow.theory.retract first"
        )


@partial(jax.jit, static_argnames=("problem", "on_sphere", "method"))
def tangent_projection(
    problem: Problem,
    theta: Params,
    vector: Params,
    *,
    on_sphere: bool = True,
    method: Method = "auto",
) -> Params:
    """P_Γ vector: the part of a vector along the tangent space of Γ at ``theta``.

    Args:
      problem: a problem with a residual or an outputs/criterion form.
      theta: a point of Γ.
      vector: a pytree like ``theta``.
      on_sphere: whether Γ is taken within the sphere.
      method: how the Jacobian is handled: ``"dense"``, ``"gram"``, ``"iterative"``, or by
        size.

    Returns:
      (I − J⁺J − θθᵀ) vector, as ``vector``; J⁺ has a relative cut. NaN where an iterative
      solution does not converge.

    Raises:
      ValueError: a loss alone, which has no Γ, or an unknown method.

    Source: docs/theory.md, section 8.
    """
    flat, unravel = ravel_pytree(theta)
    at_theta = linearize(residual_form(problem, theta), flat, method)
    return unravel(at_theta.project(ravel_pytree(vector)[0], on_sphere=on_sphere))

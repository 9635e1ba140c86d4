"""The minimizer manifold Γ: the retraction to it, and its tangent space."""

import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from sharpflow.models import Params, Problem, validate_params
from sharpflow.models.arguments import FLAG, PARAMS, checked, choice, require_alike
from sharpflow.models.compiled_function import special_values_allowed
from sharpflow.models.precision import compiled, full_precision
from sharpflow.models.problem import PROBLEM, require_fitting
from sharpflow.theory.linearization import METHODS, Method, linearize
from sharpflow.theory.residuals import residual_form
from sharpflow.theory.retraction import (
    ACCEPTED_SLACK,
    residual_tolerance,
    retract_flat,
    unit,
    usual_tolerance,
)
from sharpflow.theory.scaling import norm
from sharpflow.theory.status import Status


@checked(problem=PROBLEM, params=PARAMS, on_sphere=FLAG, method=choice(METHODS))
@full_precision
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
    require_fitting(problem, params)
    flat, unravel = ravel_pytree(params)
    residual = residual_form(problem, params)
    theta, status = retract_flat(residual, flat, on_sphere=on_sphere, method=method)
    return unravel(theta), status


@compiled(static_argnames=("on_sphere", "method"))
def _retract(
    problem: Problem, params: Params, *, on_sphere: bool, method: Method
) -> tuple[Params, Int[Array, ""], Float[Array, ""], Float[Array, ""]]:
    """A retraction; ‖r‖ where it ended, and the largest that is accepted."""
    theta, status = retract_with_status(problem, params, on_sphere=on_sphere, method=method)
    residual, flat = residual_form(problem, params), ravel_pytree(params)[0]
    allowed = ACCEPTED_SLACK * residual_tolerance(residual, unit(flat) if on_sphere else flat)
    return theta, status, norm(residual(ravel_pytree(theta)[0])), allowed


@special_values_allowed()
@checked(problem=PROBLEM, on_sphere=FLAG, method=choice(METHODS))
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
    theta, status, distance, allowed = _retract(problem, params, on_sphere=on_sphere, method=method)
    if int(status) != Status.SUCCESS:
        raise ValueError(
            f"params are too far from the minimizer manifold: the retraction stopped at "
            f"‖residual‖ = {float(distance):.2g}, at most {float(allowed):.0e} is allowed. "
            "Train further first"
        )
    return theta


@compiled
def _residual_norm(problem: Problem, params: Params) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """‖r‖, and the tolerance on it."""
    residual, flat = residual_form(problem, params), ravel_pytree(params)[0]
    return norm(residual(flat)), residual_tolerance(residual, flat)


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
    length = float(norm(flat))
    # The norm of a million numbers rounds to some tens of eps, and a point that was saved and read
    # in other digits is off by more. Ten times as much would be a step of the flow in float32.
    # The norm of a million numbers rounds to some tens of eps, and a point that was saved and read
    # in other digits is off by more. Ten times as much would be a step of the flow in float32.
    if on_sphere and not abs(length - 1.0) <= 1e3 * float(jnp.finfo(flat.dtype).eps):
        raise ValueError(
            f"theta0 must have unit norm on the sphere, got {length:.6g}: pass it through "
            "sharpflow.theory.retract first"
        )
    distance, tolerance = map(float, _residual_norm(problem, theta0))
    # 1e-6 of residuals of order one, to which float32 may have taken a point
    order = tolerance / usual_tolerance(flat.dtype)
    allowed = max(1e-6 * order, 100.0 * tolerance)
    if not distance <= allowed:
        raise ValueError(
            f"theta0 must lie on the minimizer manifold: its residual has norm {distance:.2g}, "
            f"{allowed:.0e} is allowed. Pass it through sharpflow.theory.retract first"
        )


@checked(problem=PROBLEM, theta=PARAMS, vector=PARAMS, on_sphere=FLAG, method=choice(METHODS))
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
      ValueError: a loss alone, which has no Γ, an unknown method, or a vector that has not the
        arrays of ``theta``.

    Source: docs/theory.md, section 8.
    """
    require_fitting(problem, theta, "theta")
    require_alike("vector", vector, "theta", theta)
    return _tangent_projection(problem, theta, vector, on_sphere=on_sphere, method=method)


@compiled(static_argnames=("on_sphere", "method"))
def _tangent_projection(
    problem: Problem, theta: Params, vector: Params, *, on_sphere: bool, method: Method
) -> Params:
    flat, unravel = ravel_pytree(theta)
    at_theta = linearize(residual_form(problem, theta), flat, method)
    return unravel(at_theta.project(ravel_pytree(vector)[0], on_sphere=on_sphere))

"""The minimizer manifold Γ: the retraction to it, and its tangent space."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from sharpflow.models import Params, Problem, validate_params
from sharpflow.models.arguments import FLAG, PARAMS, checked, choice, optional, require_alike
from sharpflow.models.compiled_function import special_values_allowed
from sharpflow.models.fitting import require_fitting
from sharpflow.models.precision import compiled, full_precision
from sharpflow.models.problem import PROBLEM
from sharpflow.models.progress import Display, progress_bar
from sharpflow.theory.linearization import METHODS, Method, linearize
from sharpflow.theory.pieces import Pace
from sharpflow.theory.residuals import residual_form
from sharpflow.theory.retraction import (
    ACCEPTED_SLACK,
    MOST_LINEARIZATIONS,
    Retraction,
    begin_retraction,
    go_on_retracting,
    residual_tolerance,
    retract_flat,
    usual_tolerance,
)
from sharpflow.theory.scaling import norm

# Of the first piece of a retraction, before anything is known of their time. Near the manifold one
# or two are enough; ten times as many, of seconds each, would end before anything is shown.
_FIRST_LINEARIZATIONS = 2


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


@compiled(static_argnames=("on_sphere",))
def _begin(
    problem: Problem, params: Params, *, on_sphere: bool
) -> tuple[Retraction, Float[Array, ""]]:
    """A retraction before its first step, and its tolerance on ‖r‖."""
    residual = residual_form(problem, params)
    return begin_retraction(residual, ravel_pytree(params)[0], on_sphere=on_sphere)


@compiled(static_argnames=("on_sphere", "method"))
def _go_on(
    problem: Problem,
    params: Params,
    start: Retraction,
    tolerance: Array,
    pause: Array,
    *,
    on_sphere: bool,
    method: Method,
) -> tuple[Retraction, Bool[Array, ""], Params, Float[Array, ""]]:
    """A retraction some steps further; whether it goes on; where it is, as params, and ‖r‖."""
    state, unfinished = go_on_retracting(
        residual_form(problem, params),
        start,
        tolerance,
        pause,
        on_sphere=on_sphere,
        method=method,
    )
    return state, unfinished, ravel_pytree(params)[1](state.point), norm(state.value)


class Retracted(NamedTuple):
    """Where a retraction ended.

    Attributes:
      theta: the point, as params.
      distance: ‖r‖ there.
      allowed: the largest ‖r‖ of a point that counts as on Γ.
    """

    theta: Params
    distance: float
    allowed: float

    @property
    def arrived(self) -> bool:
        """Whether the point is on Γ."""
        return self.distance <= self.allowed


def retract_in_pieces(
    problem: Problem, params: Params, *, on_sphere: bool, method: Method, display: Display
) -> Retracted:
    """A retraction of which the host sees every half second; the same point to the last bit.

    Args:
      problem, params, on_sphere, method: as of ``retract``.
      display: advanced by linearizations, of which there are at most ``MOST_LINEARIZATIONS``.
    """
    state, tolerance = _begin(problem, params, on_sphere=on_sphere)
    allowed = ACCEPTED_SLACK * float(tolerance)
    pace, count, going_on = Pace(_FIRST_LINEARIZATIONS), 0, True
    while going_on:
        pace.begin()
        state, unfinished, theta, distance = _go_on(
            problem,
            params,
            state,
            tolerance,
            np.int32(count + pace.count),
            on_sphere=on_sphere,
            method=method,
        )
        going_on, before, count = bool(unfinished), count, int(state.num_linearizations)
        pace.end()
        note = f", ‖r‖ = {float(distance):.1e}, at most {allowed:.0e} is on the manifold"
        display.advance(count - before, note)
    return Retracted(theta, float(distance), allowed)


@special_values_allowed()
@checked(problem=PROBLEM, on_sphere=FLAG, method=choice(METHODS), progress=optional(FLAG))
def retract(
    problem: Problem,
    params: Params,
    *,
    on_sphere: bool = True,
    method: Method = "auto",
    progress: bool | None = None,
) -> Params:
    """Φ(params): a point of the minimizer manifold Γ near ``params``.

    Args:
      problem: a problem with a residual or an outputs/criterion form.
      params: where to start; only the direction counts on the sphere.
      on_sphere: False for losses that are not scale-invariant.
      method: how the Jacobian is handled: ``"dense"``, ``"gram"``, ``"iterative"``, or by
        size.
      progress: a bar on a terminal, lines elsewhere; by default on a terminal only.

    Returns:
      The point, as ``params``; of unit norm on the sphere.

    Raises:
      ValueError: the Gauss–Newton iteration does not reach zero residual from
        ``params``, the problem has no Γ, or an unknown method.

    Source: docs/theory.md, section 8.
    """
    params = validate_params(problem, params)
    with progress_bar(
        MOST_LINEARIZATIONS, progress, "retraction", whole=f"{MOST_LINEARIZATIONS} linearizations"
    ) as display:
        reached = retract_in_pieces(
            problem, params, on_sphere=on_sphere, method=method, display=display
        )
    if not reached.arrived:
        raise ValueError(
            f"params are too far from the minimizer manifold: the retraction stopped at "
            f"‖residual‖ = {reached.distance:.2g}, at most {reached.allowed:.0e} is allowed. "
            "Train further first"
        )
    return reached.theta


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

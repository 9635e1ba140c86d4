"""Steps to the minimizer manifold Γ, on flat parameters."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sharpflow.theory.linearization import (
    Linearization,
    Method,
    Residual,
    is_costly,
    linearize,
)
from sharpflow.theory.scaling import norm
from sharpflow.theory.status import Status, failure_unless

# Times the tolerance aimed at, where rounding ends an iteration: the residual of a deep network
# rounds to some tens of units. A tenth would refuse points that are as near to Γ as rounding lets
# them be; ten times as much is still 5e-10 in float64, but 2e-3 in float32, where a step of the
# flow would see it.
ACCEPTED_SLACK = 30.0
# A chord that gains less than this factor is followed by a new linearization, which costs more than
# a chord, and squares the residual where a chord shortens it by a factor. At 0.025 few chords would
# do, and every other step would pay for a linearization.
_SHORTENING = 0.25
# Of a retraction. One that is on its way has arrived after ten; the rest wander.
MOST_LINEARIZATIONS = 30


def retract_flat(
    residual: Residual,
    theta: Float[Array, " d"],
    *,
    on_sphere: bool = True,
    method: Method = "auto",
    tolerance: float | Array | None = None,
    max_steps: int = MOST_LINEARIZATIONS,
) -> tuple[Float[Array, " d"], Int[Array, ""]]:
    """Gauss–Newton with minimum-norm steps, then unit norm; flat parameters.

    Where a linearization is costly, one serves as long as its steps (chords) shorten the
    residual to a quarter: without the Jacobian, and with 128 residuals or more.

    Args:
      residual: r on flat parameters.
      theta: where to start, shape (d,).
      on_sphere: whether every iterate is brought to unit norm.
      method: how the Jacobian is handled, as in ``linearize``.
      tolerance: on ‖r‖; by default that of ``residual_tolerance`` at ``theta``.
      max_steps: most linearizations.

    Returns:
      The point, shape (d,), and a status: ``Status.SUCCESS`` or
      ``Status.RETRACTION_FAILED``.
    """
    start, allowed = begin_retraction(residual, theta, on_sphere=on_sphere)
    tolerance = allowed if tolerance is None else tolerance
    end, _ = go_on_retracting(
        residual,
        start,
        tolerance,
        max_steps,
        on_sphere=on_sphere,
        method=method,
        max_steps=max_steps,
    )
    accepted = norm(end.value) <= ACCEPTED_SLACK * tolerance
    return end.point, failure_unless(accepted, Status.RETRACTION_FAILED)


class Retraction(NamedTuple):
    """Where a retraction stands, and all it needs to go on.

    Attributes:
      point: shape (d,).
      value: r there, shape (m,).
      previous: ‖r‖ before the last linearization, shape ().
      num_linearizations: so far, shape ().
    """

    point: Float[Array, " d"]
    value: Float[Array, " m"]
    previous: Float[Array, ""]
    num_linearizations: Int[Array, ""]


def begin_retraction(
    residual: Residual, theta: Float[Array, " d"], *, on_sphere: bool
) -> tuple[Retraction, Float[Array, ""]]:
    """A retraction before its first step, and its usual tolerance on ‖r‖.

    Args:
      residual, theta, on_sphere: as of ``retract_flat``.
    """
    theta = unit(theta) if on_sphere else theta
    farther = jnp.full((), jnp.finfo(theta.dtype).max, theta.dtype)
    start = Retraction(theta, residual(theta), farther, jnp.zeros((), jnp.int32))
    return start, residual_tolerance(residual, theta)


def go_on_retracting(
    residual: Residual,
    start: Retraction,
    tolerance: float | Array,
    pause: int | Array,
    *,
    on_sphere: bool,
    method: Method,
    max_steps: int = MOST_LINEARIZATIONS,
) -> tuple[Retraction, Bool[Array, ""]]:
    """Linearize and step until Γ is reached, no step helps, or it rests.

    Args:
      residual, on_sphere, method, max_steps: as of ``retract_flat``.
      start: where it stands.
      tolerance: on ‖r‖, shape ().
      pause: how many linearizations there are when it rests, shape ().

    Returns:
      Where it stands then, and whether more steps are to be made from there.
    """
    onto = unit if on_sphere else (lambda point: point)
    chords = is_costly(method, start.value.shape[0], start.point.shape[0])

    def step(at_point: Linearization, point: Array, value: Array) -> tuple[Array, Array]:
        move = at_point.solve(value)
        # far from Γ the linear model may ask for a move beyond its validity; half the norm still
        # lets the direction turn by 27° at once
        longest = 0.5 * norm(point)
        move = move * jnp.minimum(1.0, longest / jnp.maximum(norm(move), longest))
        moved = onto(point - move)
        return moved, residual(moved)

    def unfinished(state: Retraction) -> Array:
        distance = norm(state.value)
        # Gauss–Newton near Γ gains digits in every iteration; gaining less than a tenth it has met
        # rounding or no zero. The first three may lengthen r while the point finds its valley.
        improving = (state.num_linearizations < 3) | (distance < 0.9 * state.previous)
        return (distance > tolerance) & improving & (state.num_linearizations < max_steps)

    def iterate(state: Retraction) -> Retraction:
        point, value, _, count = state
        at_point, before = linearize(residual, point, method), norm(value)
        point, value = step(at_point, point, value)
        if chords:

            def gaining(chord: tuple) -> Array:
                _, value, previous = chord
                distance = norm(value)
                return (distance > tolerance) & (distance <= _SHORTENING * previous)

            def shorten(chord: tuple) -> tuple:
                point, value, _ = chord
                return *step(at_point, point, value), norm(value)

            point, value, _ = jax.lax.while_loop(gaining, shorten, (point, value, before))
        return Retraction(point, value, before, count + 1)

    state = jax.lax.while_loop(
        lambda state: unfinished(state) & (state.num_linearizations < pause), iterate, start
    )
    return state, unfinished(state)


def retract_by_chords(
    base: Linearization,
    theta: Float[Array, " d"],
    tolerance: Float[Array, ""],
    *,
    on_sphere: bool = True,
    max_steps: int = 30,
) -> tuple[Float[Array, " d"], Int[Array, ""]]:
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
      The point, NaN where ``theta`` was too far away, and a status: ``Status.SUCCESS`` or
      ``Status.RETRACTION_FAILED``.
    """
    residual = base.function
    onto = unit if on_sphere else (lambda point: point)

    def unfinished(state: tuple) -> Array:
        _, value, iteration = state
        return (norm(value) > tolerance) & (iteration < max_steps)

    def iterate(state: tuple) -> tuple:
        point, value, iteration = state
        point = onto(point - base.solve(value))
        return point, residual(point), iteration + 1

    theta = onto(theta)
    start = (theta, residual(theta), jnp.zeros((), jnp.int32))
    theta, value, _ = jax.lax.while_loop(unfinished, iterate, start)
    accepted = norm(value) <= ACCEPTED_SLACK * tolerance
    status = failure_unless(accepted, Status.RETRACTION_FAILED)
    # nothing that is computed from a point off Γ is of use, and with NaN its iterations end at once
    return jnp.where(accepted, theta, jnp.nan), status


def unit(vector: Float[Array, " d"]) -> Float[Array, " d"]:
    """The direction of a vector."""
    return vector / norm(vector)


def residual_tolerance(residual: Residual, theta: Float[Array, " d"]) -> Float[Array, ""]:
    """‖r‖ at which a point near ``theta`` counts as on Γ.

    Residuals are of order one where outputs fit standardised targets, and that is what the
    tolerance is relative to. Those of small data, such as lengths in metres, are smaller
    altogether, and would be below it anywhere: there it is relative to ‖J‖‖θ‖, of which they are a
    difference, or to ‖r(θ)‖. Larger ones never fall below the rounding of that difference.

    Args:
      residual: r on flat parameters.
      theta: a point, shape (d,).
    """
    value, pull = jax.vjp(residual, theta)
    # an estimate of the Frobenius norm from one product: its mean square is that of ‖J‖
    signs = jax.random.rademacher(jax.random.key(0), value.shape, value.dtype)
    (image,) = pull(signs)
    scale = jnp.maximum(norm(image) * norm(theta), norm(value))
    rounding = jnp.finfo(theta.dtype).eps * scale
    return jnp.maximum(usual_tolerance(theta.dtype) * jnp.minimum(scale, 1.0), rounding)


def usual_tolerance(dtype: jnp.dtype) -> float:
    """The tolerance of residuals of order one."""
    # 1.8e-12 in float64 and 6e-6 in float32: three quarters of the digits, above the rounding of a
    # network with sums over some thousand numbers, and far below what a step of the flow may err by
    return float(jnp.finfo(dtype).eps) ** 0.75

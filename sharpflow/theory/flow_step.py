"""One step of the sharpness-reduction flow, by a predictor and a corrector."""

import chex
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sharpflow.theory.edge import solve_edge_program, symmetric_to_vector, vector_to_symmetric
from sharpflow.theory.edge_geometry import (
    EdgeResponse,
    continuing_turn,
    edge_space,
    weighted_edge_gradient,
)
from sharpflow.theory.retraction import retract_by_chords, usual_tolerance
from sharpflow.theory.status import Status, failure_unless, first_failure


@chex.dataclass(frozen=True)
class Step:
    """The outcome of an attempted step.

    Attributes:
      theta: where it leads, NaN where that is not on Γ, shape (d,).
      log_threshold: s there, shape ().
      frame: edge eigenvectors near there, shape (k, d).
      covariance: M over the step, in the frame of its start, shape (k, k).
      error: of the first-order result, relative to ‖ζ‖ and in s, shape ().
      status: ``SUCCESS``, or the first part of the step that failed, shape ().
    """

    theta: Float[Array, " d"]
    log_threshold: Float[Array, ""]
    frame: Float[Array, "k d"]
    covariance: Float[Array, "k k"]
    error: Float[Array, ""]
    status: Int[Array, ""]


def attempt(
    start: EdgeResponse,
    step: Array,
    b: Array,
    kappa: Array,
    rtol: Array,
    tolerance: Array,
    *,
    on_sphere: bool,
) -> Step:
    """A step from a point of Γ after which no eigenvalue is above the threshold.

    Predictor and corrector each choose M so that the edge eigenvalues at the end of the
    step, as known so far, stay at or below λ*. The predictor knows them to first order and
    moves along the edge gradients at the start; the corrector has seen them at the
    predicted point, and moves along the mean of the gradients at both ends.

    Args:
      start: where it starts.
      step: Δτ.
      b, kappa, rtol, on_sphere: as in ``sharpness_flow``.
      tolerance: on ‖r‖ at the end of the step.

    Source: docs/theory.md, section 9.
    """
    base, k = start.space, start.ratios.shape[0]
    identity = jnp.eye(k, dtype=step.dtype)

    def threshold_after(covariance: Array) -> Array:
        return start.log_threshold + step * b * (2.0 * jnp.trace(covariance) - 1.0)

    drive = b * identity - (identity - jnp.diag(start.ratios)) / step
    program = solve_edge_program(start.gram, drive, b)
    covariance = program.covariance
    start_rate = symmetric_to_vector(covariance) @ start.gradients
    # residuals are of order one, unless their tolerance says that they are smaller
    order = tolerance / usual_tolerance(step.dtype)
    # The predicted point only has to be right to the error of the step, of which this is a
    # thousandth. It saves one or two chords; at ten times as much the chord would show in the error
    # estimate.
    rough = jnp.maximum(tolerance, 1e-3 * rtol * order)
    theta, retracted = retract_by_chords(
        base.linearization, base.theta - step * start_rate, rough, on_sphere=on_sphere
    )
    predicted = edge_space(base.linearization.nearby(theta), k, base.frame)
    predicted_threshold = threshold_after(covariance)
    predicted_scale = jnp.exp(-predicted_threshold)

    predicted_ratios = predicted.eigenvalues * predicted_scale
    distance = (start.ratios[:, None] - predicted_ratios[None, :]) / (b * step)
    turn = continuing_turn(base.frame, predicted.frame, distance)
    end_block = turn @ jnp.diag(predicted_ratios) @ turn.T
    drive = _lowering(start.gram, covariance, b) - (identity - end_block) / step
    second_program = solve_edge_program(start.gram, drive, b)
    covariance = second_program.covariance
    start_rate = symmetric_to_vector(covariance) @ start.gradients
    end_rate = ((1.0 + kappa) * predicted_scale) * weighted_edge_gradient(
        predicted, turn.T @ covariance @ turn, on_sphere=on_sphere
    )
    moved = base.theta - 0.5 * step * (start_rate + end_rate)
    theta, retracted_again = retract_by_chords(
        base.linearization, moved, tolerance, on_sphere=on_sphere
    )
    log_threshold = threshold_after(covariance)

    distance = jnp.linalg.norm(theta - predicted.theta) / jnp.linalg.norm(base.theta)
    return Step(
        theta=theta,
        log_threshold=log_threshold,
        frame=predicted.frame,
        covariance=covariance,
        error=jnp.maximum(distance, jnp.abs(log_threshold - predicted_threshold)),
        # in the order of the step: what one part leaves NaN, those after it fail on
        status=first_failure(
            program.status,
            retracted,
            predicted.status,
            second_program.status,
            failure_unless(jnp.all(jnp.isfinite(moved)), Status.PROJECTION_FAILED),
            retracted_again,
        ),
    )


def _lowering(gram: Array, covariance: Array, b: Array) -> Array:
    """𝒢M + 2b tr(M) I, the rate at which M lowers the edge block."""
    k = covariance.shape[0]
    lowered = vector_to_symmetric(gram @ symmetric_to_vector(covariance), k)
    return lowered + 2.0 * b * jnp.trace(covariance) * jnp.eye(k, dtype=covariance.dtype)

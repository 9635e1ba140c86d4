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

# Of the part of a step that is of second order, for what the flow errs by: the corrector keeps that
# part. A flow of a digits network with rtol 1e-3 takes 76 steps with this share and errs by up to
# 1.0e-3 of the distance moved; with 0.6 it takes 80 and errs by up to 0.7e-3.
_ERROR_SHARE = 0.55

# Of the bend of the motion over a step, by which a predictor may be off for its step to be called
# smooth. One without a trend is off by about once that, so that with 0.7 the flow seldom finds a
# trend again. Near two eigenvalues that hardly part a ratio of 100 is met; trends from such steps
# made a flow of 400 steps take 6,800.
_SMOOTH_LIMIT = 2.0
# Of rtol, to which the programs are solved. With rtol 1e-3 M is right to 3e-5 and tr M to 2e-7, and
# a third of the iterations are saved. With thirty times as much M is right to 2e-4, which is near
# the error of a step.
_PROGRAM_SHARE = 1e-5


@chex.dataclass(frozen=True)
class Trend:
    """How the rates of a step changed over it, from which the next step is predicted.

    Attributes:
      frame: edge eigenvectors at the point that the step predicted, in rows, shape (k, d).
      ratios: their eigenvalues over λ*, shape (k,).
      gradient_slope: Σ_ab M_ab dĝ_ab/dτ, shape (d,).
      covariance: M, in ``frame``, shape (k, k).
      edge_bend: the second derivative of the edge block less λ* I, over λ*, in ``frame``,
        shape (k, k).
    """

    frame: Float[Array, "k d"]
    ratios: Float[Array, " k"]
    gradient_slope: Float[Array, " d"]
    covariance: Float[Array, "k k"]
    edge_bend: Float[Array, "k k"]

    @classmethod
    def unknown(cls, edge_dimension: int, like: Float[Array, " d"]) -> "Trend":
        """Before the first step, whose predictor is of first order."""
        k, dtype = edge_dimension, like.dtype
        return cls(
            frame=jnp.zeros((k, like.shape[0]), dtype),
            ratios=jnp.zeros((k,), dtype),
            gradient_slope=jnp.zeros_like(like),
            covariance=jnp.zeros((k, k), dtype),
            edge_bend=jnp.zeros((k, k), dtype),
        )


@chex.dataclass(frozen=True)
class Step:
    """The outcome of an attempted step.

    Attributes:
      theta: where it leads, NaN where that is not on Γ, shape (d,).
      log_threshold: s there, shape ().
      trend: of the rates over the step.
      covariance: M over the step, in the frame of its start, shape (k, k).
      error: a share of the larger of two distances, shape (): from the predicted point to the
        corrected one, relative to ‖ζ‖ and in s, and from a move at the rate of the start.
      status: ``SUCCESS``, or the first part of the step that failed, shape ().
    """

    theta: Float[Array, " d"]
    log_threshold: Float[Array, ""]
    trend: Trend
    covariance: Float[Array, "k k"]
    error: Float[Array, ""]
    status: Int[Array, ""]


def attempt(
    start: EdgeResponse,
    trend: Trend,
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
    step, as known so far, stay at or below λ*. The predictor knows the edge gradients and
    the edge block at the start, and by the trend how they are changing; the corrector has seen
    them at the predicted point, and moves along the mean of the gradients at both ends.

    Args:
      start: where it starts.
      trend: of the step before.
      step: Δτ.
      b, kappa, rtol, on_sphere: as in ``sharpness_flow``.
      tolerance: on ‖r‖ at the end of the step.

    Source: docs/theory.md, section 9.
    """
    base, k = start.space, start.ratios.shape[0]
    identity = jnp.eye(k, dtype=step.dtype)

    def threshold_after(covariance: Array) -> Array:
        return start.log_threshold + step * b * (2.0 * jnp.trace(covariance) - 1.0)

    # Trend and start are the same edge, but for the turn of its eigenvectors.
    distance = (start.ratios[:, None] - trend.ratios[None, :]) / (b * step)
    turn = continuing_turn(base.frame, trend.frame, distance)
    edge_bend, before = (turn @ matrix @ turn.T for matrix in (trend.edge_bend, trend.covariance))
    # What M would change between eigenvalues that are well apart turns their eigenvectors, and the
    # frame with them: it does not show in the block. The weight is that of the frame.
    apart = start.ratios[:, None] - start.ratios[None, :]
    turning = 1.0 - jnp.exp(-jnp.square(apart / (b * step)))

    def turned(covariance: Array) -> Array:
        return turning * _applied(start.gram, covariance)

    # In units of the threshold at the start, so that the program needs no D ≈ I.
    below = (identity - jnp.diag(start.ratios)) / step
    drive = b * identity - below + 0.5 * step * edge_bend + turned(before)
    allowed = _PROGRAM_SHARE * rtol
    program = solve_edge_program(start.gram, drive, b, tolerance=allowed)
    covariance = program.covariance
    start_rate = start.rate(covariance, on_sphere=on_sphere)
    predicted_rate = start_rate + 0.5 * step * trend.gradient_slope
    # residuals are of order one, unless their tolerance says that they are smaller
    order = tolerance / usual_tolerance(step.dtype)
    # The predicted point only has to be right to the error of the step, of which this is a
    # thousandth. It saves one or two chords; at ten times as much the chord would show in the error
    # estimate.
    rough = jnp.maximum(tolerance, 1e-3 * rtol * order)
    predicted_move = step * predicted_rate
    theta, retracted = retract_by_chords(
        base.linearization, base.theta - predicted_move, rough, on_sphere=on_sphere
    )
    predicted = edge_space(base.linearization.nearby(theta), k, base.frame)
    predicted_threshold = threshold_after(covariance)
    predicted_scale = jnp.exp(-predicted_threshold)

    predicted_ratios = predicted.eigenvalues * predicted_scale
    distance = (start.ratios[:, None] - predicted_ratios[None, :]) / (b * step)
    turn = continuing_turn(base.frame, predicted.frame, distance)
    # The distance to the edge at the end, in units of the threshold at the start; and how far it
    # is from what the program of the predictor says without a trend.
    growth = jnp.exp(predicted_threshold - start.log_threshold)
    below_at_end = growth * (identity - turn @ jnp.diag(predicted_ratios) @ turn.T) / step
    lowering = _lowering(start.gram, covariance, b)
    missed = below + lowering - turned(covariance) - b * identity - below_at_end
    drive = lowering - below_at_end
    second_program = solve_edge_program(start.gram, drive, b, tolerance=allowed)
    covariance = second_program.covariance
    start_rate = start.rate(covariance, on_sphere=on_sphere)
    end_rate = ((1.0 + kappa) * predicted_scale) * weighted_edge_gradient(
        predicted, turn.T @ covariance @ turn, on_sphere=on_sphere
    )
    # From the predicted point, which is on Γ already: what is left to retract is the error of the
    # prediction, and takes half as many chords as the whole move.
    moved = predicted.theta + predicted_move - 0.5 * step * (start_rate + end_rate)
    theta, retracted_again = retract_by_chords(
        base.linearization, moved, tolerance, on_sphere=on_sphere
    )
    log_threshold = threshold_after(covariance)

    distance = jnp.linalg.norm(theta - predicted.theta) / jnp.linalg.norm(base.theta)
    bent = 0.5 * step * jnp.linalg.norm(end_rate - start_rate) / jnp.linalg.norm(base.theta)
    difference = jnp.maximum(distance, jnp.abs(log_threshold - predicted_threshold))
    # Where more than the bend of the motion was missed, an eigenvalue has arrived at the edge or
    # passes close by another one. What such a step shows is no trend.
    smooth = difference <= _SMOOTH_LIMIT * bent
    return Step(
        theta=theta,
        log_threshold=log_threshold,
        trend=Trend(
            frame=predicted.frame,
            ratios=predicted_ratios,
            gradient_slope=jnp.where(smooth, (end_rate - start_rate) / step, 0.0),
            covariance=jnp.where(smooth, turn.T @ covariance @ turn, 0.0),
            edge_bend=jnp.where(smooth, turn.T @ (2.0 / (growth * step) * missed) @ turn, 0.0),
        ),
        covariance=covariance,
        error=_ERROR_SHARE * jnp.maximum(difference, bent),
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
    identity = jnp.eye(covariance.shape[0], dtype=covariance.dtype)
    return _applied(gram, covariance) + 2.0 * b * jnp.trace(covariance) * identity


def _applied(gram: Array, covariance: Array) -> Array:
    """𝒢M."""
    return vector_to_symmetric(gram @ symmetric_to_vector(covariance), covariance.shape[0])

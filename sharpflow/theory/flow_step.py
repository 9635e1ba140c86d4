"""One step of the sharpness-reduction flow, by a predictor and a corrector."""

from typing import NamedTuple

import chex
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sharpflow.theory.edge import solve_edge_program, symmetric_to_vector, vector_to_symmetric
from sharpflow.theory.edge_geometry import (
    EdgeResponse,
    EdgeSpace,
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


# Of the change of log η in a step, whose trend the next step is to use. With more the terms of
# second order in it, which are those of the schedule alone, pass for a bend of the edge block.
_STEADY = 0.1


class Settings(NamedTuple):
    """What all steps of a flow share.

    Attributes:
      b, kappa, rtol, on_sphere: as in ``sharpness_flow``.
      tolerance: on ‖r‖ of a point of Γ, shape ().
      norm: ‖ζ‖ where the flow began, shape ().
    """

    b: Float[Array, ""]
    kappa: Float[Array, ""]
    rtol: Float[Array, ""]
    on_sphere: bool
    tolerance: Float[Array, ""]
    norm: Float[Array, ""]


@chex.dataclass(frozen=True)
class Trend:
    """How the rates of a step changed over it, from which the next step is predicted.

    Attributes:
      frame: edge eigenvectors at the point that the step predicted, in rows, shape (k, d).
      ratios: their eigenvalues over λ*, shape (k,).
      gradient_slope: Σ_ab M_ab dĝ_ab/dτ, shape (d,).
      covariance: M, in ``frame``, shape (k, k).
      edge_bend: B, the second derivative of the edge block less λ* I, over λ*, in ``frame``,
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

    def continued(self, start: EdgeResponse, well_apart: Array) -> "Trend":
        """The same in the frame of the point to which it led: the same edge, turned.

        Args:
          start: that point.
          well_apart: the distance of ratios that counts as that.
        """
        distance = (start.ratios[:, None] - self.ratios[None, :]) / well_apart
        turn = continuing_turn(start.space.frame, self.frame, distance)
        return Trend(
            frame=start.space.frame,
            ratios=start.ratios,
            gradient_slope=self.gradient_slope,
            covariance=turn @ self.covariance @ turn.T,
            edge_bend=turn @ self.edge_bend @ turn.T,
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
        corrected one, in ζ and in s, and from a move at the rate of the start. Those in ζ are
        relative to ‖ζ‖, or to its value where the flow began if that is larger.
      status: ``SUCCESS``, or the first part of the step that failed, shape ().
    """

    theta: Float[Array, " d"]
    log_threshold: Float[Array, ""]
    trend: Trend
    covariance: Float[Array, "k k"]
    error: Float[Array, ""]
    status: Int[Array, ""]


class _Predicted(NamedTuple):
    """What the predictor found.

    Attributes:
      covariance: M₀, in the frame of the start, shape (k, k).
      move: of ζ before the return to Γ, shape (d,).
      space: the edge at the predicted point.
      log_threshold: s₀ there, shape ().
      ratios: the eigenvalues there over λ* there, shape (k,).
      turn: from the frame there to that of the start, shape (k, k).
      below: (λ* I − edge block) / λ* of the start at the predicted point, over Δτ and in the
        frame of the start, shape (k, k).
      status: of its parts, in their order, shape ().
    """

    covariance: Float[Array, "k k"]
    move: Float[Array, " d"]
    space: EdgeSpace
    log_threshold: Float[Array, ""]
    ratios: Float[Array, " k"]
    turn: Float[Array, "k k"]
    below: Float[Array, "k k"]
    status: Int[Array, ""]


class _Corrected(NamedTuple):
    """What the corrector found.

    Attributes:
      covariance: M, in the frame of the start, shape (k, k).
      theta: where the step leads, NaN where that is not on Γ, shape (d,).
      log_threshold: s there, shape ().
      start_rate: Σ_ab M_ab ĝ_ab at the start, shape (d,).
      end_rate: the same at the predicted point.
      status: of its parts, in their order, shape ().
    """

    covariance: Float[Array, "k k"]
    theta: Float[Array, " d"]
    log_threshold: Float[Array, ""]
    start_rate: Float[Array, " d"]
    end_rate: Float[Array, " d"]
    status: Int[Array, ""]


def attempt(
    start: EdgeResponse,
    trend: Trend,
    step: Array,
    settings: Settings,
    log_rate_change: Float[Array, ""] | None = None,
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
      settings: of the flow.
      log_rate_change: of log η over the step, by a schedule; None without one.

    Source: docs/theory.md, sections 9 and 4.9.
    """
    trend = trend.continued(start, settings.b * step)
    change = log_rate_change
    predicted = _predict(start, trend, step, settings, change)
    corrected = _correct(start, predicted, step, settings, change)

    # Relative to the start of the flow where ζ has become shorter since: a flow without a sphere
    # that comes near the origin would otherwise take ever shorter steps.
    norm = jnp.maximum(jnp.linalg.norm(start.space.theta), settings.norm)
    distance = jnp.linalg.norm(corrected.theta - predicted.space.theta) / norm
    difference = jnp.maximum(distance, jnp.abs(corrected.log_threshold - predicted.log_threshold))
    bent = 0.5 * step * jnp.linalg.norm(corrected.end_rate - corrected.start_rate) / norm
    # Where more than the bend of the motion was missed, an eigenvalue has arrived at the edge or
    # passes close by another one. What such a step shows is no trend.
    smooth = difference <= _SMOOTH_LIMIT * bent
    if change is not None:
        smooth = smooth & (jnp.abs(change) <= _STEADY)
    return Step(
        theta=corrected.theta,
        log_threshold=corrected.log_threshold,
        trend=_trend(start, predicted, corrected, step, settings, smooth, change),
        covariance=corrected.covariance,
        error=_ERROR_SHARE * jnp.maximum(difference, bent),
        # in the order of the step: what one part leaves NaN, those after it fail on
        status=first_failure(predicted.status, corrected.status),
    )


def _predict(
    start: EdgeResponse, trend: Trend, step: Array, settings: Settings, change: Array | None
) -> _Predicted:
    """M and a move from what is known at the start and, by the trend, of the step."""
    base, b, rtol = start.space, settings.b, settings.rtol
    turning = _applied(start.gram, trend.covariance)
    turning = turning - _shown(start, turning, step, b)
    drive = b * _identity(start) - _below_at(start, step)
    if change is not None:
        drive = drive + _drift(change, step) * _identity(start)
    drive = drive + 0.5 * step * trend.edge_bend + turning
    program = solve_edge_program(start.gram, drive, b, tolerance=_PROGRAM_SHARE * rtol)
    rate = start.rate(program.covariance, on_sphere=settings.on_sphere)
    move = step * (rate + 0.5 * step * trend.gradient_slope)
    # residuals are of order one, unless their tolerance says that they are smaller
    order = settings.tolerance / usual_tolerance(step.dtype)
    # The predicted point only has to be right to the error of the step, of which this is a
    # thousandth. It saves one or two chords; at ten times as much the chord would show in the error
    # estimate.
    rough = jnp.maximum(settings.tolerance, 1e-3 * rtol * order)
    theta, retracted = retract_by_chords(
        base.linearization, base.theta - move, rough, on_sphere=settings.on_sphere
    )
    space = edge_space(base.linearization.nearby(theta), start.ratios.shape[0], base.frame)
    log_threshold = _threshold_after(start, program.covariance, step, b, change)
    ratios = space.eigenvalues * jnp.exp(-log_threshold)
    distance = (start.ratios[:, None] - ratios[None, :]) / (b * step)
    turn = continuing_turn(base.frame, space.frame, distance)
    growth = jnp.exp(log_threshold - start.log_threshold)
    return _Predicted(
        covariance=program.covariance,
        move=move,
        space=space,
        log_threshold=log_threshold,
        ratios=ratios,
        turn=turn,
        below=growth * (_identity(start) - turn @ jnp.diag(ratios) @ turn.T) / step,
        status=first_failure(program.status, retracted, space.status),
    )


def _correct(
    start: EdgeResponse,
    predicted: _Predicted,
    step: Array,
    settings: Settings,
    change: Array | None,
) -> _Corrected:
    """M and a move from what the predicted point shows."""
    base, space, on_sphere = start.space, predicted.space, settings.on_sphere
    drive = _lowering(start.gram, predicted.covariance, settings.b) - predicted.below
    program = solve_edge_program(
        start.gram, drive, settings.b, tolerance=_PROGRAM_SHARE * settings.rtol
    )
    covariance, turn = program.covariance, predicted.turn
    start_rate = start.rate(covariance, on_sphere=on_sphere)
    gradient = weighted_edge_gradient(space, turn.T @ covariance @ turn, on_sphere=on_sphere)
    end_rate = (1.0 + settings.kappa) * jnp.exp(-predicted.log_threshold) * gradient
    # From the predicted point, which is on Γ already: what is left to retract is the error of the
    # prediction, and takes half as many chords as the whole move.
    moved = space.theta + predicted.move - 0.5 * step * (start_rate + end_rate)
    theta, retracted = retract_by_chords(
        base.linearization, moved, settings.tolerance, on_sphere=on_sphere
    )
    return _Corrected(
        covariance=covariance,
        theta=theta,
        log_threshold=_threshold_after(start, covariance, step, settings.b, change),
        start_rate=start_rate,
        end_rate=end_rate,
        status=first_failure(
            program.status,
            failure_unless(jnp.all(jnp.isfinite(moved)), Status.PROJECTION_FAILED),
            retracted,
        ),
    )


def _trend(
    start: EdgeResponse,
    predicted: _Predicted,
    corrected: _Corrected,
    step: Array,
    settings: Settings,
    smooth: Bool[Array, ""],
    change: Array | None,
) -> Trend:
    """What the step has shown of how its rates change; nothing unless it was smooth."""
    b, turn = settings.b, predicted.turn
    # Without a bend the predictor takes the distance to the edge for this.
    lowering = _shown(start, _applied(start.gram, predicted.covariance), step, b)
    rise = b * (2.0 * jnp.trace(predicted.covariance) - 1.0) * _identity(start)
    if change is not None:
        rise = rise - _drift(change, step) * _identity(start)
    expected = _below_at(start, step) + lowering + rise
    growth = jnp.exp(predicted.log_threshold - start.log_threshold)
    edge_bend = 2.0 / (growth * step) * (expected - predicted.below)
    return Trend(
        frame=predicted.space.frame,
        ratios=predicted.ratios,
        gradient_slope=jnp.where(smooth, (corrected.end_rate - corrected.start_rate) / step, 0.0),
        covariance=jnp.where(smooth, turn.T @ corrected.covariance @ turn, 0.0),
        edge_bend=jnp.where(smooth, turn.T @ edge_bend @ turn, 0.0),
    )


def _identity(start: EdgeResponse) -> Float[Array, "k k"]:
    return jnp.eye(start.ratios.shape[0], dtype=start.ratios.dtype)


def _below_at(start: EdgeResponse, step: Array) -> Float[Array, "k k"]:
    """(I − D)/Δτ at the start: in units of the threshold there the program needs no D ≈ I."""
    return (_identity(start) - jnp.diag(start.ratios)) / step


def _threshold_after(
    start: EdgeResponse, covariance: Array, step: Array, b: Array, change: Array | None
) -> Float[Array, ""]:
    """s after a step with this M, and with this change of log η."""
    after = start.log_threshold + step * b * (2.0 * jnp.trace(covariance) - 1.0)
    return after if change is None else after - change


def _drift(change: Array, step: Array) -> Float[Array, ""]:
    """h = d log η/dτ over a step, as it lowers the threshold of the start: (1 − λ*_end/λ*)/Δτ.

    The whole of what a schedule does is known beforehand, also in second order.
    """
    return -jnp.expm1(-change) / step


def _shown(start: EdgeResponse, change: Array, step: Array, b: Array) -> Float[Array, "k k"]:
    """What a change of the edge block leaves of itself in the frame.

    Between eigenvalues that are well apart it turns their eigenvectors, and the frame follows
    them. The weight is that of the frame.
    """
    apart = start.ratios[:, None] - start.ratios[None, :]
    return jnp.exp(-jnp.square(apart / (b * step))) * change


def _lowering(gram: Array, covariance: Array, b: Array) -> Array:
    """𝒢M + 2b tr(M) I, the rate at which M lowers the edge block."""
    identity = jnp.eye(covariance.shape[0], dtype=covariance.dtype)
    return _applied(gram, covariance) + 2.0 * b * jnp.trace(covariance) * identity


def _applied(gram: Array, covariance: Array) -> Array:
    """𝒢M."""
    return vector_to_symmetric(gram @ symmetric_to_vector(covariance), covariance.shape[0])

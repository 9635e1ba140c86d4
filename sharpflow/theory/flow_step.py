"""One compiled run of the sharpness-reduction flow: steps, error control, output rows."""

from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from sharpflow.models import Params, Problem
from sharpflow.theory.edge import solve_edge_program, symmetric_to_vector, vector_to_symmetric
from sharpflow.theory.edge_geometry import (
    EdgeSpace,
    continuing_turn,
    edge_covariance,
    edge_gradients,
    edge_space,
    weighted_edge_gradient,
)
from sharpflow.theory.linearization import Method, linearize
from sharpflow.theory.residuals import residual_form
from sharpflow.theory.retraction import residual_tolerance, retract_by_chords
from sharpflow.theory.status import Status
from sharpflow.theory.step_control import next_proposal, step_growth, step_towards

_SMALLEST_STEP = 1e-9
_HOLDING = 1e-4  # of tr M, for an eigenvalue of M that holds something at the edge
_STEP_SHARE = 0.3  # of rtol, for the first-order error of a step


@chex.dataclass(frozen=True)
class FlowPoint:
    """Where an integration stands, and all it needs to go on.

    Attributes:
      theta: ζ, shape (d,).
      log_threshold: s = log λ*, shape ().
      time: τ, shape ().
      step: the next step in τ, shape ().
      num_steps, num_rejected: so far, shape ().
      status: a ``Status`` code, shape ().
    """

    theta: Float[Array, " d"]
    log_threshold: Float[Array, ""]
    time: Float[Array, ""]
    step: Float[Array, ""]
    num_steps: Int[Array, ""]
    num_rejected: Int[Array, ""]
    status: Int[Array, ""]


class Rows(NamedTuple):
    """The flow at T output times; NaN at those that were not reached or lie before the start.

    Attributes:
      theta: ζ, shape (T, d).
      log_threshold: s, shape (T,).
      eigenvalues: the largest of ∇²L(ζ), descending, shape (T, k).
      covariance: M in the basis of their eigenvectors, shape (T, k, k).
    """

    theta: Float[Array, "T d"]
    log_threshold: Float[Array, " T"]
    eigenvalues: Float[Array, "T k"]
    covariance: Float[Array, "T k k"]


class _State(NamedTuple):
    point: FlowPoint
    space: EdgeSpace


@partial(
    jax.jit,
    static_argnames=(
        "problem",
        "edge_dimension",
        "num_eigenvalues",
        "on_sphere",
        "method",
    ),
)
def integrate(
    problem: Problem,
    like: Params,
    start: FlowPoint,
    *,
    tau: Float[Array, " T"],
    num_outputs: Int[Array, ""],
    b: Array,
    kappa: Array,
    rtol: Array,
    step_size: Array,
    edge_dimension: int,
    num_eigenvalues: int,
    on_sphere: bool,
    max_steps: Array,
    method: Method,
) -> tuple[FlowPoint, Rows]:
    """Integrate from ``start`` to the last output time, or until something fails.

    Args:
      problem, like: the problem and params, for their structure.
      start: a point of Γ.
      tau: increasing output times, then repeats of the last one.
      num_outputs: how many are asked for; the rows of the repeats are NaN.
      b, kappa, rtol, on_sphere, max_steps: as in ``sharpness_flow``.
      step_size: a fixed step, or NaN for error control.
      edge_dimension: eigenvalues that may share the edge; the status is ``EDGE_FULL``
        when one more reaches it.
      num_eigenvalues: k of the rows, at least ``edge_dimension``.
      method: how the Jacobian is handled.
    """
    residual = residual_form(problem, ravel_pytree(like)[1](start.theta))
    fixed = jnp.isfinite(step_size)
    at_start = linearize(residual, start.theta, method)
    state = _State(start, edge_space(at_start, edge_dimension))

    def attempt(state: _State, until: Array) -> _State:
        point = state.point
        step, last = step_towards(until - point.time, point.step)
        moved, error, covariance = _step(state, step, b, kappa, rtol, on_sphere)
        ratio = error / (_STEP_SHARE * rtol)
        accepted = fixed | (ratio <= 1.0)
        proposal = next_proposal(step_growth(ratio, 2, largest=4.0), step, point.step)
        reached = jnp.where(accepted, jnp.where(last, until, point.time + step), point.time)
        edge = jnp.exp(moved.point.log_threshold)
        # a number too small for the edge shows in M, which then holds all of them there
        least = jnp.linalg.eigvalsh(covariance)[0] > _HOLDING * jnp.trace(covariance)
        near = moved.space.next_eigenvalue >= edge * (1.0 - jnp.maximum(1e-3, 3.0 * rtol))
        crowded = (least & near) | (moved.space.next_eigenvalue >= edge * (1.0 + rtol))
        used_up = point.num_steps + point.num_rejected + 1 >= max_steps
        failure = jnp.select(
            [
                accepted & crowded,
                ~accepted & (step < _SMALLEST_STEP),
                (reached < tau[-1]) & used_up,
            ],
            [Status.EDGE_FULL, Status.RETRACTION_FAILED, Status.MAX_STEPS],
            Status.SUCCESS,
        )
        chosen = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), moved, state)
        point = chosen.point.replace(
            time=reached,
            step=jnp.where(fixed, step_size, proposal),
            num_steps=point.num_steps + accepted.astype(jnp.int32),
            num_rejected=point.num_rejected + (~accepted).astype(jnp.int32),
            status=failure.astype(jnp.int32),
        )
        return _State(point, chosen.space)

    def row_at(state: _State) -> Rows:
        point, space = state
        covariance = edge_covariance(
            space, point.log_threshold, b, rtol, kappa=kappa, on_sphere=on_sphere
        )
        room = num_eigenvalues - edge_dimension
        if room:
            eigenvalues, _ = space.linearization.top_eigenpairs(num_eigenvalues, space.frame)
        else:
            eigenvalues = space.eigenvalues
        return Rows(point.theta, point.log_threshold, eigenvalues, jnp.pad(covariance, (0, room)))

    def no_row(state: _State) -> Rows:
        k, dtype = num_eigenvalues, state.point.theta.dtype
        theta, values, matrix = (
            jnp.full(shape, jnp.nan, dtype) for shape in (state.point.theta.shape, (k,), (k, k))
        )
        return Rows(theta, jnp.asarray(jnp.nan, dtype), values, matrix)

    def advance(state: _State, output: tuple[Array, Array]) -> tuple[_State, Rows]:
        until, index = output
        state = jax.lax.while_loop(
            lambda s: (s.point.time < until) & (s.point.status == Status.SUCCESS),
            lambda s: attempt(s, until),
            state,
        )
        missing = (state.point.status != Status.SUCCESS) | (state.point.time > until)
        known = (index < num_outputs) & ~missing
        return state, jax.lax.cond(known, row_at, no_row, state)

    state, rows = jax.lax.scan(advance, state, (tau, jnp.arange(tau.shape[0], dtype=jnp.int32)))
    return state.point, rows


def _step(
    state: _State, step: Array, b: Array, kappa: Array, rtol: Array, on_sphere: bool
) -> tuple[_State, Array, Array]:
    """One step from ``state``, by a predictor and a corrector; its error estimate; and M.

    Each chooses M so that the edge eigenvalues at the end of the step, as known so
    far, stay at or below λ*. The predictor knows them to first order and moves along
    the edge gradients at the start; the corrector has seen them at the predicted
    point, and moves along the mean of the gradients at both ends. Motion along Γ is
    1 + κ times as fast, and so is the answer of the edge block to it: 𝒢 becomes (1 + κ)𝒢.
    """
    base, k = state.space, state.space.eigenvalues.shape[0]
    before = state.point.log_threshold
    identity = jnp.eye(k, dtype=step.dtype)
    scale = jnp.exp(-before)
    gradients = scale * edge_gradients(base, on_sphere=on_sphere)
    faster = 1.0 + kappa
    gram = faster * (gradients @ gradients.T)
    exact = jnp.asarray(residual_tolerance(step.dtype), step.dtype)

    def threshold_after(covariance: Array) -> Array:
        return before + step * b * (2.0 * jnp.trace(covariance) - 1.0)

    ratios = base.eigenvalues * scale
    drive = b * identity - (identity - jnp.diag(ratios)) / step
    covariance = solve_edge_program(gram, drive, b).covariance
    start_rate = faster * (symmetric_to_vector(covariance) @ gradients)
    rough = jnp.maximum(exact, 1e-3 * rtol)
    theta = retract_by_chords(
        base.linearization, base.theta - step * start_rate, rough, on_sphere=on_sphere
    )
    predicted = edge_space(base.linearization.nearby(theta), k, base.frame)
    predicted_threshold = threshold_after(covariance)
    predicted_scale = jnp.exp(-predicted_threshold)

    predicted_ratios = predicted.eigenvalues * predicted_scale
    distance = (ratios[:, None] - predicted_ratios[None, :]) / (b * step)
    turn = continuing_turn(base.frame, predicted.frame, distance)
    end_block = turn @ jnp.diag(predicted_ratios) @ turn.T
    drive = _lowering(gram, covariance, b) - (identity - end_block) / step
    covariance = solve_edge_program(gram, drive, b).covariance
    start_rate = faster * (symmetric_to_vector(covariance) @ gradients)
    end_rate = (faster * predicted_scale) * weighted_edge_gradient(
        predicted, turn.T @ covariance @ turn, on_sphere=on_sphere
    )
    moved = base.theta - 0.5 * step * (start_rate + end_rate)
    theta = retract_by_chords(base.linearization, moved, exact, on_sphere=on_sphere)
    log_threshold = threshold_after(covariance)

    distance = jnp.linalg.norm(theta - predicted.theta) / jnp.linalg.norm(base.theta)
    error = jnp.maximum(distance, jnp.abs(log_threshold - predicted_threshold))
    space = edge_space(base.linearization.at(theta), k, predicted.frame)
    point = state.point.replace(theta=theta, log_threshold=log_threshold)  # type: ignore[attr-defined]
    return _State(point, space), error, covariance


def _lowering(gram: Array, covariance: Array, b: Array) -> Array:
    """(1 + κ)𝒢M + 2b tr(M) I, the rate at which M lowers the edge block."""
    k = covariance.shape[0]
    lowered = vector_to_symmetric(gram @ symmetric_to_vector(covariance), k)
    return lowered + 2.0 * b * jnp.trace(covariance) * jnp.eye(k, dtype=covariance.dtype)

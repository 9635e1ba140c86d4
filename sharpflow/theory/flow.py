"""The sharpness-reduction flow, with any number of eigenvalues at the edge."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from sharpflow.models.invariance import check_scale_invariance
from sharpflow.models.problem import Params, Problem, validate_params
from sharpflow.theory.edge import solve_edge_program, symmetric_to_vector, vector_to_symmetric
from sharpflow.theory.edge_geometry import (
    EdgeSpace,
    continuing_turn,
    edge_gradients,
    edge_space,
    weighted_edge_gradient,
)
from sharpflow.theory.manifold import (
    ACCEPTED_SLACK,
    Residual,
    require_on_manifold,
    residual_tolerance,
    unit,
)
from sharpflow.theory.residuals import residual_form
from sharpflow.theory.status import Status

_RETRACTION_STEPS = 30
_FIRST_STEP = 1e-3
_SMALLEST_STEP = 1e-9
_OUTPUT_DECAY = 2e-3  # of log λ*, over which an output's M holds
_STEP_SHARE = 0.3  # of rtol, for the first-order error of a step


@chex.dataclass(frozen=True)
class FlowSolution:
    """The predicted motion on the minimizer manifold at output times.

    Rows after a failure hold NaN. T output times, k tracked eigenvalues.

    Attributes:
      tau: flow time, shape (T,).
      theta: ζ(τ), pytree of arrays with a leading axis (T, ...).
      threshold: λ*(τ), shape (T,).
      eigenvalues: the k largest of ∇²L(ζ), descending, shape (T, k).
      edge_covariance: M(τ) in the basis of those eigenvectors, shape (T, k, k).
      status: a ``Status`` code, shape ().
      num_steps: accepted steps, shape ().
      num_rejected: rejected steps, shape ().
      b: response of the threshold, 2 for GD+WD.
      on_sphere: whether ζ moves on the unit sphere.
    """

    tau: Float[Array, " T"]
    theta: Params
    threshold: Float[Array, " T"]
    eigenvalues: Float[Array, "T k"]
    edge_covariance: Float[Array, "T k k"]
    status: Int[Array, ""]
    num_steps: Int[Array, ""]
    num_rejected: Int[Array, ""]
    b: float
    on_sphere: bool

    @property
    def edge_trace(self) -> Float[Array, " T"]:
        """tr M(τ), shape (T,)."""
        return jnp.trace(self.edge_covariance, axis1=-2, axis2=-1)


def sharpness_flow(
    problem: Problem,
    theta0: Params,
    tau: Float[Array | np.ndarray, " T"],
    *,
    threshold0: float | None = None,
    max_edge: int = 8,
    b: float = 2.0,
    on_sphere: bool = True,
    rtol: float = 1e-3,
    step_size: float | None = None,
    max_steps: int = 10_000,
    throw: bool = True,
) -> FlowSolution:
    """Integrate the sharpness-reduction flow from any point of the minimizer manifold.

    One integrator runs through the entry into the Edge of Stability and through
    every crossing of eigenvalues. Each step is implicit in M, which keeps the edge
    eigenvalues at or below λ* at the end of the step, and of second order.

    Args:
      problem: a problem with a residual or an outputs/criterion form.
      theta0: a point of Γ (``retract`` makes one); of unit norm on the sphere.
      tau: increasing output times, shape (T,); theta0 and threshold0 hold at tau[0].
      threshold0: λ* at tau[0]; by default λ_1(theta0), the edge. Below λ_1(theta0),
        where a trajectory rests before its oscillation has grown, the flow starts at
        the crossing of the edge, log(λ_1/threshold0)/b earlier: row 0 is then where
        an answer without delay would have led.
      max_edge: number k of eigenvalues that may share the edge.
      b: response of the threshold, 2 for GD+WD.
      on_sphere: False for losses that are not scale-invariant.
      rtol: tolerance on the difference of the first- and second-order results of a
        step, relative to the norm of ζ and to λ*.
      step_size: a fixed step in τ instead of error control.
      max_steps: largest number of accepted and rejected steps.
      throw: False returns a failure in ``status`` instead of raising it.

    Returns:
      The solution at ``tau``.

    Raises:
      ValueError: ``theta0`` is not on Γ, ``tau`` does not increase, an argument is
        out of range, or the loss is not scale-invariant though ``on_sphere``.
      RuntimeError: the integration fails; the message says how and where.

    Source: design 3.4; with a single eigenvalue at the edge, Lyu, Li and Arora 2022,
    equation (7) of Theorem 2.
    """
    theta0 = validate_params(problem, theta0, "theta0")
    times = _validated_times(tau)
    for name, value in (("rtol", rtol), ("b", b), ("step_size", step_size)):
        if value is not None and not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be positive and finite, got {value!r}")
    if max_edge < 1:
        raise ValueError(f"max_edge must be at least 1, got {max_edge}")
    if threshold0 is not None and not (np.isfinite(threshold0) and threshold0 > 0):
        raise ValueError(f"threshold0 must be positive and finite, got {threshold0!r}")
    if on_sphere:
        check_scale_invariance(problem, theta0)
    require_on_manifold(problem, theta0, on_sphere=on_sphere)
    flat, _ = ravel_pytree(theta0)
    solution = _integrate(
        problem,
        theta0,
        jnp.asarray(times, flat.dtype),
        jnp.asarray(np.nan if threshold0 is None else threshold0, flat.dtype),
        jnp.asarray(b, flat.dtype),
        jnp.asarray(rtol, flat.dtype),
        jnp.asarray(np.nan if step_size is None else step_size, flat.dtype),
        max_edge=max_edge,
        on_sphere=on_sphere,
        max_steps=max_steps,
    )
    if throw and int(solution.status) != Status.SUCCESS:
        _raise(Status(int(solution.status)), solution, max_edge, max_steps)
    return solution.replace(tau=jnp.asarray(times, flat.dtype), b=b, on_sphere=on_sphere)


@chex.dataclass(frozen=True)
class _State:
    """Where the integration stands: a point of Γ, s = log λ*, the time and the next step."""

    space: EdgeSpace
    log_threshold: Float[Array, ""]
    time: Float[Array, ""]
    step: Float[Array, ""]
    num_steps: Int[Array, ""]
    num_rejected: Int[Array, ""]
    status: Int[Array, ""]


@partial(jax.jit, static_argnames=("problem", "max_edge", "on_sphere", "max_steps"))
def _integrate(
    problem: Problem,
    theta0: Params,
    tau: Array,
    threshold0: Array,
    b: Array,
    rtol: Array,
    step_size: Array,
    *,
    max_edge: int,
    on_sphere: bool,
    max_steps: int,
) -> FlowSolution:
    flat, unravel = ravel_pytree(theta0)
    residual = residual_form(problem, theta0)
    num_residuals = jax.eval_shape(residual, flat).shape[0]
    k = min(max_edge, flat.shape[0], num_residuals)
    start = edge_space(residual, flat, k)
    edge = jnp.log(start.eigenvalues[0])
    level = jnp.where(jnp.isnan(threshold0), edge, jnp.log(threshold0))
    fixed = jnp.isfinite(step_size)
    zero = jnp.zeros((), jnp.int32)
    state = _State(
        space=start,
        log_threshold=jnp.maximum(level, edge),
        time=tau[0] - jnp.maximum(edge - level, 0.0) / b,
        step=jnp.where(fixed, step_size, _FIRST_STEP),
        num_steps=zero,
        num_rejected=zero,
        status=zero,
    )

    def attempt(state: _State, until: Array) -> _State:
        remaining = until - state.time
        count = jnp.maximum(jnp.ceil(remaining / state.step * (1.0 - 1e-6)), 1.0)
        step = remaining / count
        moved, error = _step(residual, state, step, b, rtol, on_sphere)
        ratio = error / (_STEP_SHARE * rtol)
        accepted = fixed | (ratio <= 1.0)
        growth = jnp.clip(0.9 * jax.lax.rsqrt(jnp.maximum(ratio, 1e-6)), 0.2, 4.0)
        growth = jnp.where(jnp.isfinite(ratio), growth, 0.2)
        # a step cut short to meet an output time says nothing against the longer one
        proposal = jnp.where(growth < 1.0, growth * step, jnp.maximum(state.step, growth * step))
        reached = jnp.where(accepted, jnp.where(count <= 1.0, until, state.time + step), state.time)
        unfinished = reached < tau[-1]
        crowded = moved.space.next_eigenvalue >= jnp.exp(moved.log_threshold) * (
            1.0 - jnp.maximum(1e-3, 3.0 * rtol)
        )
        failure = jnp.select(
            [
                accepted & crowded,
                ~accepted & (step < _SMALLEST_STEP),
                unfinished & (state.num_steps + state.num_rejected + 1 >= max_steps),
            ],
            [Status.EDGE_FULL, Status.RETRACTION_FAILED, Status.MAX_STEPS],
            Status.SUCCESS,
        )
        chosen = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), moved, state)
        return chosen.replace(
            time=reached,
            step=jnp.where(fixed, step_size, proposal),
            num_steps=state.num_steps + accepted.astype(jnp.int32),
            num_rejected=state.num_rejected + (~accepted).astype(jnp.int32),
            status=failure.astype(jnp.int32),
        )

    def advance(state: _State, until: Array) -> tuple[_State, tuple]:
        state = jax.lax.while_loop(
            lambda s: (s.time < until) & (s.status == Status.SUCCESS),
            lambda s: attempt(s, until),
            state,
        )
        space = state.space
        covariance = _covariance_at(residual, space, state.log_threshold, b, rtol, on_sphere)
        row = (space.theta, state.log_threshold, space.eigenvalues, covariance)
        failed = state.status != Status.SUCCESS
        return state, jax.tree.map(lambda leaf: jnp.where(failed, jnp.nan, leaf), row)

    state, (theta, log_threshold, eigenvalues, covariance) = jax.lax.scan(advance, state, tau)
    return FlowSolution(
        tau=tau,
        theta=jax.vmap(unravel)(theta),
        threshold=jnp.exp(log_threshold),
        eigenvalues=eigenvalues,
        edge_covariance=covariance,
        status=state.status,
        num_steps=state.num_steps,
        num_rejected=state.num_rejected,
        b=b,  # type: ignore[arg-type]  # a float again once out of jit
        on_sphere=on_sphere,
    )


def _step(
    residual: Residual, state: _State, step: Array, b: Array, rtol: Array, on_sphere: bool
) -> tuple[_State, Array]:
    """One step from ``state``, by a predictor and a corrector; and its error estimate.

    Each chooses M so that the edge eigenvalues at the end of the step, as known so
    far, stay at or below λ*. The predictor knows them to first order and moves along
    the edge gradients at the start; the corrector has seen them at the predicted
    point, and moves along the mean of the gradients at both ends.
    """
    base, k = state.space, state.space.eigenvalues.shape[0]
    identity = jnp.eye(k, dtype=step.dtype)
    scale = jnp.exp(-state.log_threshold)
    gradients = scale * edge_gradients(residual, base, on_sphere=on_sphere)
    gram = gradients @ gradients.T
    exact = jnp.asarray(residual_tolerance(step.dtype), step.dtype)

    def threshold_after(covariance: Array) -> Array:
        return state.log_threshold + step * b * (2.0 * jnp.trace(covariance) - 1.0)

    ratios = base.eigenvalues * scale
    drive = b * identity - (identity - jnp.diag(ratios)) / step
    covariance = solve_edge_program(gram, drive, b).covariance
    start_rate = symmetric_to_vector(covariance) @ gradients
    theta = _return_to_manifold(
        residual, base, base.theta - step * start_rate, jnp.maximum(exact, 1e-3 * rtol), on_sphere
    )
    predicted = edge_space(residual, theta, k)
    predicted_threshold = threshold_after(covariance)
    predicted_scale = jnp.exp(-predicted_threshold)

    predicted_ratios = predicted.eigenvalues * predicted_scale
    distance = (ratios[:, None] - predicted_ratios[None, :]) / (b * step)
    turn = continuing_turn(base.frame, predicted.frame, distance)
    end_block = turn @ jnp.diag(predicted_ratios) @ turn.T
    drive = _lowering(gram, covariance, b) - (identity - end_block) / step
    covariance = solve_edge_program(gram, drive, b).covariance
    start_rate = symmetric_to_vector(covariance) @ gradients
    end_rate = predicted_scale * weighted_edge_gradient(
        residual, predicted, turn.T @ covariance @ turn, on_sphere=on_sphere
    )
    theta = _return_to_manifold(
        residual, base, base.theta - 0.5 * step * (start_rate + end_rate), exact, on_sphere
    )
    log_threshold = threshold_after(covariance)

    distance = jnp.linalg.norm(theta - predicted.theta) / jnp.linalg.norm(base.theta)
    error = jnp.maximum(distance, jnp.abs(log_threshold - predicted_threshold))
    moved = state.replace(  # type: ignore[attr-defined]
        space=edge_space(residual, theta, k), log_threshold=log_threshold
    )
    return moved, error


def _lowering(gram: Array, covariance: Array, b: Array) -> Array:
    """𝒢M + 2b tr(M) I, the rate at which M lowers the edge block."""
    k = covariance.shape[0]
    lowered = vector_to_symmetric(gram @ symmetric_to_vector(covariance), k)
    return lowered + 2.0 * b * jnp.trace(covariance) * jnp.eye(k, dtype=covariance.dtype)


def _covariance_at(
    residual: Residual,
    space: EdgeSpace,
    log_threshold: Array,
    b: Array,
    rtol: Array,
    on_sphere: bool,
) -> Array:
    """M over the next ``_OUTPUT_DECAY``/b of flow time, in the basis of the eigenvectors.

    Eigenvalues within a few tolerances of the edge count as on it: divided by so short a
    step, what the last step left of their distance would pass for a rate.
    """
    scale = jnp.exp(-log_threshold)
    gradients = scale * edge_gradients(residual, space, on_sphere=on_sphere)
    identity = jnp.eye(space.eigenvalues.shape[0], dtype=scale.dtype)
    ratios = space.eigenvalues * scale
    ratios = jnp.where(ratios >= 1.0 - jnp.maximum(3.0 * rtol, 1e-3), 1.0, ratios)
    drive = b * (identity - (identity - jnp.diag(ratios)) / _OUTPUT_DECAY)
    return solve_edge_program(gradients @ gradients.T, drive, b).covariance


def _return_to_manifold(
    residual: Residual, base: EdgeSpace, theta: Array, tolerance: Array, on_sphere: bool
) -> Array:
    """Back to Γ from a step off ``base``, by chords: its Jacobian serves every iteration.

    Returns NaN where this does not converge: the step was too long.
    """
    onto = unit if on_sphere else (lambda point: point)

    def unfinished(state: tuple) -> Array:
        _, value, iteration = state
        return (jnp.linalg.norm(value) > tolerance) & (iteration < _RETRACTION_STEPS)

    def iterate(state: tuple) -> tuple:
        point, value, iteration = state
        point = onto(point - base.linearization.solve(value))
        return point, residual(point), iteration + 1

    theta = onto(theta)
    start = (theta, residual(theta), jnp.zeros((), jnp.int32))
    theta, value, _ = jax.lax.while_loop(unfinished, iterate, start)
    return jnp.where(jnp.linalg.norm(value) <= ACCEPTED_SLACK * tolerance, theta, jnp.nan)


def _validated_times(tau: object) -> np.ndarray:
    times = np.asarray(tau, np.float64)
    if times.ndim != 1 or times.size < 1 or not np.all(np.isfinite(times)):
        raise ValueError(f"tau must be a vector of finite output times, got shape {times.shape}")
    if np.any(np.diff(times) <= 0):
        index = int(np.argmax(np.diff(times) <= 0))
        raise ValueError(
            f"tau must increase strictly, but tau[{index + 1}] = {times[index + 1]:g} follows "
            f"tau[{index}] = {times[index]:g}"
        )
    return times


def _raise(status: Status, solution: FlowSolution, max_edge: int, max_steps: int) -> None:
    reached = np.isfinite(np.asarray(solution.threshold))
    last = float(np.asarray(solution.tau)[reached][-1]) if reached.any() else float("nan")
    detail = {
        Status.EDGE_FULL: f"max_edge = {max_edge} must grow",
        Status.MAX_STEPS: f"max_steps = {max_steps} must grow, or rtol",
    }.get(status, "the manifold may end or fold there")
    raise RuntimeError(
        f"the flow stopped after tau = {last:g}: {status.message}; {detail}. "
        "throw=False returns what was reached"
    )

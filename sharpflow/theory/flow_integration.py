"""One compiled run of the sharpness-reduction flow: steps, error control, output rows."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from sharpflow.models import Params, Problem
from sharpflow.models.precision import compiled
from sharpflow.theory.edge_geometry import (
    EdgeResponse,
    edge_covariance,
    edge_response,
    edge_space,
)
from sharpflow.theory.flow_step import attempt
from sharpflow.theory.linearization import Method, linearize
from sharpflow.theory.residuals import residual_form
from sharpflow.theory.retraction import residual_tolerance
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
    """Between two visits of points.

    Attributes:
      point: the point to be visited.
      frame: edge eigenvectors near it, shape (k, d).
      crowding: whether M of the step that led there used all its rows.
      rows: of the outputs before it.
      finished: whether the last output is among them.
    """

    point: FlowPoint
    frame: Float[Array, "k d"]
    crowding: Bool[Array, ""]
    rows: Rows
    finished: Bool[Array, ""]


@compiled(
    static_argnames=(
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
      tau: increasing output times, then repeats of the last one, whose rows are NaN.
      b, kappa, rtol, on_sphere, max_steps: as in ``sharpness_flow``.
      step_size: a fixed step, or NaN for error control.
      edge_dimension: eigenvalues that may share the edge; the status is ``EDGE_FULL``
        when one more reaches it.
      num_eigenvalues: k of the rows, at least ``edge_dimension``.
      method: how the Jacobian is handled.

    Source: docs/theory.md, section 9.
    """
    residual = residual_form(problem, ravel_pytree(like)[1](start.theta))
    tolerance = residual_tolerance(residual, start.theta)
    fixed = jnp.isfinite(step_size)

    def visit(state: _State) -> _State:
        """Take the measure of a point, note it where it is an output, and go on from there."""
        point, rows = state.point, state.rows
        space = edge_space(linearize(residual, point.theta, method), edge_dimension, state.frame)
        response = edge_response(space, point.log_threshold, kappa=kappa, on_sphere=on_sphere)
        next_ratio = space.next_eigenvalue * jnp.exp(-point.log_threshold)
        near = next_ratio >= 1.0 - jnp.maximum(1e-3, 3.0 * rtol)
        crowded = (state.crowding & near) | (next_ratio >= 1.0 + rtol)

        index = jnp.sum(tau < point.time, dtype=jnp.int32)
        is_output = (tau[index] == point.time) & ~crowded
        row = jax.lax.cond(
            is_output,
            lambda: row_at(point, response),
            lambda: jax.tree.map(lambda leaf: leaf[index], rows),
        )
        finished = is_output & (point.time >= tau[-1])
        used_up = point.num_steps + point.num_rejected >= max_steps
        status = jnp.select(
            [crowded, used_up & ~finished],
            [Status.EDGE_FULL, Status.MAX_STEPS],
            Status.SUCCESS,
        )
        later = jnp.sum(tau <= point.time, dtype=jnp.int32)
        until = tau[jnp.minimum(later, tau.shape[0] - 1)]
        here = (
            point.replace(status=status.astype(jnp.int32)),  # type: ignore[attr-defined]
            space.frame,
            state.crowding,
        )
        point, frame, crowding = jax.lax.cond(
            ~finished & (status == Status.SUCCESS),
            lambda: move(*here, response, until),
            lambda: here,
        )
        return _State(
            point=point,
            frame=frame,
            crowding=crowding,
            rows=jax.tree.map(lambda leaf, new: leaf.at[index].set(new), rows, row),
            finished=finished,
        )

    def row_at(point: FlowPoint, response: EdgeResponse) -> Rows:
        space, room = response.space, num_eigenvalues - edge_dimension
        eigenvalues = space.eigenvalues
        if room:
            eigenvalues, _ = space.linearization.top_eigenpairs(num_eigenvalues, space.frame)
        covariance = jnp.pad(edge_covariance(response, b, rtol), (0, room))
        return Rows(point.theta, point.log_threshold, eigenvalues, covariance)

    def move(
        point: FlowPoint, frame: Array, crowding: Array, response: EdgeResponse, until: Array
    ) -> tuple[FlowPoint, Array, Array]:
        """A step towards an output, or a shorter one to be tried."""
        step, last = step_towards(until - point.time, point.step)
        tried = attempt(response, step, b, kappa, rtol, tolerance, on_sphere=on_sphere)
        ratio = tried.error / (_STEP_SHARE * rtol)
        accepted = fixed | (ratio <= 1.0)
        proposal = next_proposal(step_growth(ratio, 2, largest=4.0), step, point.step)
        failed = ~accepted & (step < _SMALLEST_STEP)
        values = jnp.linalg.eigvalsh(tried.covariance)
        following = FlowPoint(
            theta=jnp.where(accepted, tried.theta, point.theta),
            log_threshold=jnp.where(accepted, tried.log_threshold, point.log_threshold),
            time=jnp.where(accepted, jnp.where(last, until, point.time + step), point.time),
            step=jnp.where(fixed, step_size, proposal),
            num_steps=point.num_steps + accepted.astype(jnp.int32),
            num_rejected=point.num_rejected + (~accepted).astype(jnp.int32),
            status=jnp.where(failed, Status.RETRACTION_FAILED, Status.SUCCESS).astype(jnp.int32),
        )
        # a number too small for the edge shows in M, which then holds all of them there
        holding = values[0] > _HOLDING * jnp.sum(values)
        return (
            following,
            jnp.where(accepted, tried.frame, frame),
            jnp.where(accepted, holding, crowding),
        )

    state = _State(
        point=start,
        frame=jnp.zeros((edge_dimension, start.theta.shape[0]), start.theta.dtype),  # unknown
        crowding=jnp.asarray(False),
        rows=_empty_rows(start.theta, tau.shape[0], num_eigenvalues),
        finished=jnp.asarray(False),
    )
    state = jax.lax.while_loop(
        lambda s: ~s.finished & (s.point.status == Status.SUCCESS), visit, state
    )
    return state.point, state.rows


def _empty_rows(theta: Array, num_outputs: int, num_eigenvalues: int) -> Rows:
    k = num_eigenvalues
    return Rows(
        *(
            jnp.full((num_outputs, *shape), jnp.nan, theta.dtype)
            for shape in (theta.shape, (), (k,), (k, k))
        )
    )

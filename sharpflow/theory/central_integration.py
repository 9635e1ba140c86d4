"""The compiled runs of the central flow: its stepper, and the rows that it fills."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from sharpflow.models import Params, Problem
from sharpflow.models.precision import compiled
from sharpflow.theory import integration
from sharpflow.theory.central_dynamics import Counts, Dynamics, EdgePoint
from sharpflow.theory.central_step import attempt
from sharpflow.theory.integration import Progress, Span, Trial
from sharpflow.theory.rates import Rates
from sharpflow.theory.scaling import norm
from sharpflow.theory.status import Status, failure_unless, first_failure

# Of ‖w‖, in the first step, which no error has measured yet. It is a guess that the control soon
# corrects: ten times as much costs one rejected step more, a tenth one step more, of some thirty.
_FIRST_MOVE = 1e-2
# Of a step of GD, of which the flow describes an average: nothing happens to it in a thousandth of
# one. A failure is met some ten attempts after the first, and at 1e-5 only one attempt sooner.
_SMALLEST_STEP = 1e-6
# Of an excess over the edge, per step of GD. A convention: what brings GD back is a burst, and the
# rate of that depends on its amplitude.
_RETURN_RATE = 1.0
# Of rtol, for the residuals of eigenpairs, whose error is then below that of a step. With ten times
# as much the error of a prediction grows from 3.7e-4 to 4.3e-4 for a sixth fewer products; a tenth
# costs a sixth more and changes nothing.
_EIGENVALUE_SHARE = 1e-2


@chex.dataclass(frozen=True)
class CentralPoint:
    """A point of the central flow, and what its last step has left.

    Attributes:
      edge_point: w, and the top of the Hessian there.
      covariance: C over the last step, in the frame of its end, shape (k, k).
      first_covariance: C over the first step, in the frame of its start, shape (k, k).
      touching: whether the next step looks for C, shape ().
      started: whether a step has been made, shape ().
      edge: the largest stable eigenvalue of ∇²L there, 2/η − λ, shape ().
      counts: of what was evaluated.
    """

    edge_point: EdgePoint
    covariance: Float[Array, "k k"]
    first_covariance: Float[Array, "k k"]
    touching: Bool[Array, ""]
    started: Bool[Array, ""]
    edge: Float[Array, ""]
    counts: Counts


class CentralPath(NamedTuple):
    """What the loop keeps of T output times; NaN at those that were not reached.

    Attributes:
      params: w, flat, shape (T, d).
      eigenvalues: the k largest of ∇²L(w), descending, shape (T, k); NaN where fewer were
        followed.
      covariance: C in the basis of their eigenvectors, shape (T, k, k).
      eigenvectors: in rows, shape (T, k, d), or (T, 0, d) where they are not kept.
    """

    params: Float[Array, "T d"]
    eigenvalues: Float[Array, "T k"]
    covariance: Float[Array, "T k k"]
    eigenvectors: Float[Array, "T n d"]


class CentralRows(NamedTuple):
    """The central flow at T output times; NaN at those that were not reached.

    Attributes:
      params: w, flat, shape (T, d).
      loss: L(w), shape (T,).
      mean_loss: L(w) + ½⟨∇²L(w), C⟩, shape (T,).
      eigenvalues, covariance, eigenvectors: as of ``CentralPath``.
      norm_squared: ‖w‖², shape (T,).
    """

    params: Float[Array, "T d"]
    loss: Float[Array, " T"]
    mean_loss: Float[Array, " T"]
    eigenvalues: Float[Array, "T k"]
    covariance: Float[Array, "T k k"]
    eigenvectors: Float[Array, "T n d"]
    norm_squared: Float[Array, " T"]


@dataclasses.dataclass(frozen=True)
class CentralStepper:
    """The central flow for the loop of ``integration``.

    Attributes:
      dynamics: what is averaged, with the rates of the beginning.
      rates: η and λ over the time.
      rtol: as in ``central_flow``, shape ().
      edge: whether eigenvalues are held at the edge, shape ().
      num_kept: of the eigenvectors at an output, k or none.
    """

    dynamics: Dynamics
    rates: Rates
    rtol: Float[Array, ""]
    edge: Bool[Array, ""]
    num_kept: int

    order = 3
    largest_growth = 3.0
    smallest_step = _SMALLEST_STEP

    def measure(self, point: CentralPoint) -> tuple[CentralPoint, Int[Array, ""]]:
        """The point itself, measured by the step that led there."""
        # A start above the edge is brought back to it by the first step, which is asked afterwards
        # whether it had room for all.
        crowded = point.started & self.edge & is_crowded(point, self.rtol)
        status = first_failure(
            failure_unless(point.edge_point.status == Status.SUCCESS, Status.EIGENPAIRS_FAILED),
            failure_unless(~crowded, Status.EDGE_FULL),
        )
        return point, status

    def row(
        self, measure: CentralPoint, time: Float[Array, ""]
    ) -> tuple[CentralPath, Int[Array, ""]]:
        """A point with its eigenvalues, and C over the last step."""
        del time
        edge_point = measure.edge_point
        row = CentralPath(
            edge_point.params,
            edge_point.eigenvalues,
            measure.covariance,
            edge_point.edge_frame[: self.num_kept],
        )
        return row, jnp.zeros((), jnp.int32)  # whether its eigenvalues are known, measure has said

    def attempt(
        self, measure: CentralPoint, step: Float[Array, ""], span: Span
    ) -> Trial[CentralPoint]:
        """A step that looks for C, or one that is repeated with it where it passes the edge."""
        point, edge = measure, self.rates.edge(span.end)
        learning_rate, weight_decay = self.rates.over(span.start, span.end)
        dynamics = dataclasses.replace(
            self.dynamics, learning_rate=learning_rate, weight_decay=weight_decay
        )
        excess = jnp.maximum(point.edge_point.eigenvalues[0] - point.edge, 0.0)
        target = edge + excess * jnp.exp(-_RETURN_RATE * step)
        target = jnp.where(self.edge, target, jnp.finfo(step.dtype).max)  # above every eigenvalue
        tried = attempt(dynamics, point.edge_point, point.touching, step, target, point.counts)
        missed = tried.above & ~point.touching & (tried.status == Status.SUCCESS)
        end = CentralPoint(
            edge_point=tried.end,
            covariance=tried.covariance,
            first_covariance=jnp.where(
                point.started, point.first_covariance, tried.first_covariance
            ),
            touching=jnp.trace(tried.covariance) > 0.0,
            started=jnp.asarray(True),
            edge=edge,
            counts=tried.counts,
        )
        start = point.replace(  # type: ignore[attr-defined]
            touching=point.touching | missed, counts=tried.counts
        )
        return Trial(end, start, error=tried.error, repeat=missed, status=tried.status)


def is_crowded(point: CentralPoint, rtol: Float[Array, ""]) -> Bool[Array, ""]:
    """Whether an eigenvalue that is not followed is at the edge, within a few tolerances."""
    margin = jnp.maximum(1e-3, 3.0 * rtol)
    return point.edge_point.next_eigenvalue >= (1.0 - margin) * point.edge


@compiled(static_argnames=("num_edge", "step_correction", "keep_eigenvectors"))
def begin(
    problem: Problem,
    params: Params,
    *,
    times: Array,
    rates: Rates,
    rtol: Array,
    step_size: Array,
    num_edge: int,
    step_correction: bool,
    keep_eigenvectors: bool,
) -> tuple[Progress[CentralPoint], CentralPath]:
    """An integration before its first step, and its outputs, of which none has been reached.

    Args:
      problem, params: as of ``integrate``.
      times, rates, rtol, step_size, num_edge, step_correction, keep_eigenvectors: as of
        ``integrate``.
    """
    flat, unravel = ravel_pytree(params)
    dynamics = _dynamics(problem, unravel, rates, rtol, num_edge, step_correction)
    zero = jnp.zeros((), jnp.int32)
    none = jnp.zeros((num_edge, num_edge), flat.dtype)
    edge_point, counts = dynamics.edge_point(
        flat, Counts(gradients=zero, products=zero, third=zero), None
    )
    learning_rate, weight_decay = rates.at(times[0])
    speed = learning_rate * norm(dynamics.gradient(flat) + weight_decay * flat)
    first_step = jnp.where(jnp.isfinite(step_size), step_size, _FIRST_MOVE * norm(flat) / speed)
    start = CentralPoint(
        edge_point=edge_point,
        covariance=none,
        first_covariance=none,
        touching=jnp.asarray(False),
        started=jnp.asarray(False),
        edge=rates.edge(times[0]),
        counts=counts.plus(gradients=1),
    )
    num_kept = num_edge if keep_eigenvectors else 0
    path = CentralPath(
        *(
            jnp.full((times.shape[0], *shape), jnp.nan, flat.dtype)
            for shape in (flat.shape, (num_edge,), none.shape, (num_kept, flat.shape[0]))
        )
    )
    return Progress.begun(start, time=times[0], step=first_step), path


@compiled(
    static_argnames=("num_edge", "step_correction", "keep_eigenvectors"), donate_argnames=("path",)
)
def integrate(
    problem: Problem,
    params: Params,
    start: Progress[CentralPoint],
    path: CentralPath,
    pause: Array,
    *,
    times: Array,
    rates: Rates,
    rtol: Array,
    step_size: Array,
    max_steps: Array,
    edge: Array,
    num_edge: int,
    step_correction: bool,
    keep_eigenvectors: bool,
) -> tuple[Progress[CentralPoint], CentralPath]:
    """Integrate from ``start`` to the last output time, a rest, or until something fails.

    Args:
      problem: gives the loss.
      params: w at the first output time, for its structure.
      start: of ``begin``, or of ``with_room``.
      path: what is known so far; its memory is reused.
      pause: how many steps and rejected steps there are when it rests, shape ().
      times: output times t, in steps of GD, shape (T,), increasing, but for repeats at the end.
      rates: η and λ over the time t.
      rtol, max_steps, edge: as in ``central_flow``, shape ().
      step_size: a fixed step in t, or NaN for error control, shape ().
      num_edge: eigenvalues k that are followed.
      step_correction, keep_eigenvectors: as in ``central_flow``.

    Returns:
      Where it ended, and the path.

    Source: docs/theory.md, section 10.
    """
    unravel = ravel_pytree(params)[1]
    dynamics = _dynamics(problem, unravel, rates, rtol, num_edge, step_correction)
    return integration.integrate(
        CentralStepper(dynamics, rates, rtol, edge, num_edge if keep_eigenvectors else 0),
        start,
        path,
        times,
        rtol=rtol,
        step_size=step_size,
        max_steps=max_steps,
        pause=pause,
    )


@compiled(static_argnames=("num_edge", "step_correction"))
def with_room(
    problem: Problem,
    params: Params,
    progress: Progress[CentralPoint],
    path: CentralPath,
    *,
    rates: Rates,
    rtol: Array,
    num_edge: int,
    step_correction: bool,
) -> tuple[Progress[CentralPoint], CentralPath]:
    """The same integration with more eigenvalues that are followed, ready to go on.

    Args:
      problem, params, rates, rtol, step_correction: as of ``integrate``.
      progress, path: where it stands.
      num_edge: eigenvalues that are followed from here on.
    """
    point = progress.point
    flat, unravel = point.edge_point.params, ravel_pytree(params)[1]
    dynamics = _dynamics(problem, unravel, rates, rtol, num_edge, step_correction)
    edge_point, counts = dynamics.edge_point(flat, point.counts, point.edge_point.frame)
    # The eigenvectors of the same eigenvalues, which Lanczos' method may give other signs, and turn
    # where eigenvalues coincide, as they do at the edge.
    turn = edge_point.edge_frame @ point.edge_point.edge_frame.T
    more = num_edge - point.covariance.shape[0]
    known = jnp.isfinite(path.params[:, 0])
    nothing = jnp.where(known, 0.0, jnp.nan).astype(flat.dtype)
    vectors = path.eigenvectors
    if vectors.shape[1]:
        room = jnp.broadcast_to(nothing[:, None, None], (vectors.shape[0], more, flat.shape[0]))
        vectors = jnp.concatenate([vectors, room], axis=1)
    padded = jnp.pad(path.covariance, ((0, 0), (0, more), (0, more)))
    started = CentralPoint(
        edge_point=edge_point,
        covariance=turn @ point.covariance @ turn.T,
        first_covariance=jnp.pad(point.first_covariance, ((0, more), (0, more))),
        touching=point.touching,
        started=point.started,
        edge=point.edge,
        counts=counts,
    )
    return progress._replace(point=started, status=jnp.zeros_like(progress.status)), CentralPath(
        params=path.params,
        eigenvalues=jnp.pad(path.eigenvalues, ((0, 0), (0, more)), constant_values=jnp.nan),
        covariance=jnp.where(known[:, None, None], padded, jnp.nan),
        eigenvectors=vectors,
    )


@compiled
def finished_rows(
    problem: Problem, params: Params, end: CentralPoint, path: CentralPath
) -> CentralRows:
    """What follows from the path of an integration.

    Args:
      problem, params: as of ``integrate``.
      end: where it ended.
      path: at the output times.
    """
    unravel = ravel_pytree(params)[1]
    # no step ends at the first output, so it shows the C of the step that starts there
    first = jnp.where(end.started, end.first_covariance, jnp.nan)
    covariance = path.covariance.at[0].set(first)
    loss = jax.lax.map(lambda point: problem.loss_value(unravel(point)), path.params)
    variances = jnp.diagonal(covariance, axis1=1, axis2=2)
    # an eigenvalue that was not followed is NaN, and nothing oscillates along its eigenvector
    parts = jnp.where(variances == 0.0, 0.0, path.eigenvalues * variances)
    return CentralRows(
        params=path.params,
        loss=loss,
        mean_loss=loss + 0.5 * jnp.sum(parts, axis=1),
        eigenvalues=path.eigenvalues,
        covariance=covariance,
        eigenvectors=path.eigenvectors,
        norm_squared=jnp.sum(jnp.square(path.params), axis=1),
    )


def _dynamics(
    problem: Problem,
    unravel: Callable[[Array], Params],
    rates: Rates,
    rtol: Array,
    num_edge: int,
    step_correction: bool,
) -> Dynamics:
    start = jnp.zeros((), rtol.dtype)
    learning_rate, weight_decay = rates.at(start)
    return Dynamics(
        problem=problem,
        unravel=unravel,
        k=num_edge,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        # 30 units of rounding are what products with the Hessian of a network can be trusted to
        tolerance=jnp.maximum(_EIGENVALUE_SHARE * rtol, 30 * jnp.finfo(rtol.dtype).eps),
        step_correction=step_correction,
    )

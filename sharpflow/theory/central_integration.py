"""One compiled run of the central flow: its stepper, and the rows that it fills."""

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
from sharpflow.theory.integration import Progress, Trial
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
      counts: of what was evaluated.
    """

    edge_point: EdgePoint
    covariance: Float[Array, "k k"]
    first_covariance: Float[Array, "k k"]
    touching: Bool[Array, ""]
    started: Bool[Array, ""]
    counts: Counts


class CentralPath(NamedTuple):
    """What the loop keeps of T output times; NaN at those that were not reached.

    Attributes:
      params: w, flat, shape (T, d).
      eigenvalues: the k largest of ∇²L(w), descending, shape (T, k).
      covariance: C in the basis of their eigenvectors, shape (T, k, k).
    """

    params: Float[Array, "T d"]
    eigenvalues: Float[Array, "T k"]
    covariance: Float[Array, "T k k"]


class CentralRows(NamedTuple):
    """The central flow at T output times; NaN at those that were not reached.

    Attributes:
      params: w, flat, shape (T, d).
      loss: L(w), shape (T,).
      mean_loss: L(w) + ½⟨∇²L(w), C⟩, shape (T,).
      eigenvalues: the k largest of ∇²L(w), descending, shape (T, k).
      covariance: C in the basis of their eigenvectors, shape (T, k, k).
      norm_squared: ‖w‖², shape (T,).
    """

    params: Float[Array, "T d"]
    loss: Float[Array, " T"]
    mean_loss: Float[Array, " T"]
    eigenvalues: Float[Array, "T k"]
    covariance: Float[Array, "T k k"]
    norm_squared: Float[Array, " T"]


@dataclasses.dataclass(frozen=True)
class CentralStepper:
    """The central flow for the loop of ``integration``.

    Attributes:
      dynamics: what is averaged.
      rtol: as in ``central_flow``, shape ().
    """

    dynamics: Dynamics
    rtol: Float[Array, ""]

    order = 3
    largest_growth = 3.0
    smallest_step = _SMALLEST_STEP

    def measure(self, point: CentralPoint) -> tuple[CentralPoint, Int[Array, ""]]:
        """The point itself, measured by the step that led there."""
        margin = jnp.maximum(1e-3, 3.0 * self.rtol)
        next_eigenvalue = point.edge_point.next_eigenvalue
        # A start above the edge is brought back to it by the first step, which is asked afterwards
        # whether it had room for all.
        crowded = point.started & (next_eigenvalue >= (1.0 - margin) * self.dynamics.edge)
        status = first_failure(
            failure_unless(point.edge_point.status == Status.SUCCESS, Status.EIGENPAIRS_FAILED),
            failure_unless(~crowded, Status.EDGE_FULL),
        )
        return point, status

    def row(self, measure: CentralPoint) -> tuple[CentralPath, Int[Array, ""]]:
        """A point with its eigenvalues, and C over the last step."""
        edge_point = measure.edge_point
        row = CentralPath(edge_point.params, edge_point.eigenvalues, measure.covariance)
        return row, jnp.zeros((), jnp.int32)  # whether its eigenvalues are known, measure has said

    def attempt(self, measure: CentralPoint, step: Float[Array, ""]) -> Trial[CentralPoint]:
        """A step that looks for C, or one that is repeated with it where it passes the edge."""
        point, dynamics = measure, self.dynamics
        excess = jnp.maximum(point.edge_point.eigenvalues[0] - dynamics.edge, 0.0)
        target = dynamics.edge + excess * jnp.exp(-_RETURN_RATE * step)
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
            counts=tried.counts,
        )
        start = point.replace(  # type: ignore[attr-defined]
            touching=point.touching | missed, counts=tried.counts
        )
        return Trial(end, start, error=tried.error, repeat=missed, status=tried.status)


@compiled(static_argnames=("max_edge", "step_correction"))
def begin(
    problem: Problem,
    params: Params,
    times: Array,
    learning_rate: Array,
    weight_decay: Array,
    rtol: Array,
    step_size: Array,
    *,
    max_edge: int,
    step_correction: bool,
) -> tuple[Progress[CentralPoint], CentralPath]:
    """An integration before its first step, and its outputs, of which none has been reached.

    Args:
      problem, params, times, learning_rate, weight_decay, rtol, step_size, max_edge,
        step_correction: as of ``integrate``.
    """
    flat, unravel = ravel_pytree(params)
    dynamics = _dynamics(
        problem, unravel, learning_rate, weight_decay, rtol, max_edge, step_correction
    )
    zero = jnp.zeros((), jnp.int32)
    none = jnp.zeros((max_edge, max_edge), flat.dtype)
    edge_point, counts = dynamics.edge_point(
        flat, Counts(gradients=zero, products=zero, third=zero), None
    )
    speed = learning_rate * norm(dynamics.gradient(flat) + weight_decay * flat)
    first_step = jnp.where(jnp.isfinite(step_size), step_size, _FIRST_MOVE * norm(flat) / speed)
    start = CentralPoint(
        edge_point=edge_point,
        covariance=none,
        first_covariance=none,
        touching=jnp.asarray(False),
        started=jnp.asarray(False),
        counts=counts.plus(gradients=1),
    )
    path = CentralPath(
        *(
            jnp.full((times.shape[0], *leaf.shape), jnp.nan, flat.dtype)
            for leaf in (flat, edge_point.eigenvalues, none)
        )
    )
    return Progress.begun(start, time=times[0], step=first_step), path


@compiled(static_argnames=("max_edge", "step_correction"), donate_argnames=("path",))
def integrate(
    problem: Problem,
    params: Params,
    start: Progress[CentralPoint],
    path: CentralPath,
    pause: Array,
    *,
    times: Array,
    learning_rate: Array,
    weight_decay: Array,
    rtol: Array,
    step_size: Array,
    max_steps: Array,
    max_edge: int,
    step_correction: bool,
) -> tuple[Progress[CentralPoint], CentralPath]:
    """Integrate from ``start`` to the last output time, a rest, or until something fails.

    Args:
      problem: gives the loss.
      params: w at the first output time, for its structure.
      start: of ``begin``, or where an integration rests.
      path: what is known so far; its memory is reused.
      pause: how many steps and rejected steps there are when it rests, shape ().
      times: output times t, in steps of GD, shape (T,), increasing, but for repeats at the end.
      learning_rate, weight_decay: η and λ, shape ().
      rtol, max_steps: as in ``central_flow``, shape ().
      step_size: a fixed step in t, or NaN for error control, shape ().
      max_edge, step_correction: as in ``central_flow``.

    Returns:
      Where it ended, and the path.

    Source: docs/theory.md, section 10.
    """
    unravel = ravel_pytree(params)[1]
    dynamics = _dynamics(
        problem, unravel, learning_rate, weight_decay, rtol, max_edge, step_correction
    )
    return integration.integrate(
        CentralStepper(dynamics, rtol),
        start,
        path,
        times,
        rtol=rtol,
        step_size=step_size,
        max_steps=max_steps,
        pause=pause,
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
    oscillation = jnp.einsum("ta,taa->t", path.eigenvalues, covariance)
    return CentralRows(
        params=path.params,
        loss=loss,
        mean_loss=loss + 0.5 * oscillation,
        eigenvalues=path.eigenvalues,
        covariance=covariance,
        norm_squared=jnp.sum(jnp.square(path.params), axis=1),
    )


def _dynamics(
    problem: Problem,
    unravel: Callable[[Array], Params],
    learning_rate: Array,
    weight_decay: Array,
    rtol: Array,
    max_edge: int,
    step_correction: bool,
) -> Dynamics:
    return Dynamics(
        problem=problem,
        unravel=unravel,
        k=max_edge,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        # 30 units of rounding are what products with the Hessian of a network can be trusted to
        tolerance=jnp.maximum(_EIGENVALUE_SHARE * rtol, 30 * jnp.finfo(rtol.dtype).eps),
        step_correction=step_correction,
    )

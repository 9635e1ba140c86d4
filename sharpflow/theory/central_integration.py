"""One compiled run of the central flow: steps, error control, output rows."""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from sharpflow.models import Params, Problem
from sharpflow.models.precision import compiled
from sharpflow.theory.central_dynamics import Counts, Dynamics, Place
from sharpflow.theory.central_step import Step, attempt
from sharpflow.theory.scaling import norm
from sharpflow.theory.status import Status
from sharpflow.theory.step_control import next_proposal, step_growth, step_towards

_FIRST_MOVE = 1e-2  # of ‖w‖, in the first step
_SMALLEST_STEP = 1e-6  # of a step of GD
_RETURN_RATE = 1.0  # of an excess over the edge, per step of GD
_STEP_SHARE = 0.3  # of rtol, for the error of a step
_EIGENVALUE_SHARE = 1e-2  # of rtol, for the residuals of eigenpairs


@chex.dataclass(frozen=True)
class CentralState:
    """Where the integration stands.

    Attributes:
      place: w, and the top of the Hessian there.
      covariance: C over the last step, in the frame of its end, shape (k, k).
      first_covariance: C over the first step, in the frame of its start, shape (k, k).
      touching: whether the next step looks for C.
      time: t, in steps of GD, shape ().
      step: the next step in t, shape ().
      num_steps, num_rejected: so far, shape ().
      counts: of what was evaluated.
      status: a ``Status`` code, shape ().
    """

    place: Place
    covariance: Float[Array, "k k"]
    first_covariance: Float[Array, "k k"]
    touching: Bool[Array, ""]
    time: Float[Array, ""]
    step: Float[Array, ""]
    num_steps: Int[Array, ""]
    num_rejected: Int[Array, ""]
    counts: Counts
    status: Int[Array, ""]


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


@compiled(static_argnames=("max_edge", "step_correction"))
def integrate(
    problem: Problem,
    params: Params,
    times: Array,
    learning_rate: Array,
    weight_decay: Array,
    rtol: Array,
    step_size: Array,
    max_steps: Array,
    *,
    max_edge: int,
    step_correction: bool,
) -> tuple[CentralState, CentralRows]:
    """Integrate from ``params`` to the last output time, or until something fails.

    Args:
      problem: gives the loss.
      params: w at the first output time.
      times: output times t, in steps of GD, shape (T,), increasing, but for repeats at the end.
      learning_rate, weight_decay: η and λ, shape ().
      rtol, max_steps: as in ``central_flow``, shape ().
      step_size: a fixed step in t, or NaN for error control, shape ().
      max_edge, step_correction: as in ``central_flow``.

    Returns:
      Where it ended, and the rows.

    Source: docs/theory.md, section 10.
    """
    flat, unravel = ravel_pytree(params)
    dynamics = Dynamics(
        problem=problem,
        unravel=unravel,
        k=max_edge,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        tolerance=jnp.maximum(_EIGENVALUE_SHARE * rtol, 30 * jnp.finfo(flat.dtype).eps),
        step_correction=step_correction,
    )
    fixed = jnp.isfinite(step_size)
    zero = jnp.zeros((), jnp.int32)
    none = jnp.zeros((max_edge, max_edge), flat.dtype)
    place, counts = dynamics.place(flat, Counts(gradients=zero, products=zero, third=zero), None)
    speed = learning_rate * norm(dynamics.gradient(flat) + weight_decay * flat)
    start = CentralState(
        place=place,
        covariance=none,
        first_covariance=none,
        touching=jnp.asarray(False),
        time=times[0],
        step=jnp.where(fixed, step_size, _FIRST_MOVE * norm(flat) / speed),
        num_steps=zero,
        num_rejected=zero,
        counts=counts.plus(gradients=1),
        status=place.status,
    )

    def advance(state: CentralState, until: Array) -> CentralState:
        step, last = step_towards(until - state.time, state.step)
        excess = jnp.maximum(state.place.eigenvalues[0] - dynamics.edge, 0.0)
        target = dynamics.edge + excess * jnp.exp(-_RETURN_RATE * step)
        tried = attempt(dynamics, state.place, state.touching, step, target, state.counts)
        ratio = tried.error / (_STEP_SHARE * rtol)
        missed = tried.above & ~state.touching  # the edge was not looked for: once more
        accepted = ~missed & jnp.where(fixed, jnp.isfinite(tried.error), ratio <= 1.0)
        growth = jnp.where(missed, 1.0, step_growth(ratio, 3, largest=3.0))
        proposal = next_proposal(growth, step, state.step)
        reached = jnp.where(accepted, jnp.where(last, until, state.time + step), state.time)
        attempts = state.num_steps + state.num_rejected + 1
        failure = jnp.select(
            [
                tried.place.status != Status.SUCCESS,
                accepted & _crowded(tried.place, dynamics, rtol),
                ~accepted & ~missed & (fixed | (step < _SMALLEST_STEP)),
                (reached < times[-1]) & (attempts >= max_steps),
            ],
            [tried.place.status, Status.EDGE_FULL, Status.DIVERGED, Status.MAX_STEPS],
            Status.SUCCESS,
        )
        state = state.replace(  # type: ignore[attr-defined]
            time=reached,
            step=jnp.where(fixed, step_size, proposal),
            touching=missed | (state.touching & ~accepted),
            num_steps=state.num_steps + accepted.astype(jnp.int32),
            num_rejected=state.num_rejected + (~accepted).astype(jnp.int32),
            counts=tried.counts,
            status=failure.astype(jnp.int32),
        )
        return jax.lax.cond(accepted, lambda: _accept(state, tried), lambda: state)

    def report(state: CentralState, until: Array) -> tuple[CentralState, tuple]:
        state = jax.lax.while_loop(
            lambda s: (s.time < until) & (s.status == Status.SUCCESS),
            lambda s: advance(s, until),
            state,
        )
        row = (state.place.params, state.place.eigenvalues, state.covariance)
        failed = state.status != Status.SUCCESS
        return state, jax.tree.map(lambda leaf: jnp.where(failed, jnp.nan, leaf), row)

    state, (path, eigenvalues, covariance) = jax.lax.scan(report, start, times)
    begun = jnp.where(state.num_steps > 0, state.first_covariance, jnp.nan)
    covariance = covariance.at[0].set(begun)
    loss = jax.lax.map(lambda point: problem.loss_value(unravel(point)), path)
    oscillation = jnp.einsum("ta,taa->t", eigenvalues, covariance)
    rows = CentralRows(
        params=path,
        loss=loss,
        mean_loss=loss + 0.5 * oscillation,
        eigenvalues=eigenvalues,
        covariance=covariance,
        norm_squared=jnp.sum(jnp.square(path), axis=1),
    )
    return state, rows


def _accept(state: CentralState, tried: Step) -> CentralState:
    first = jnp.where(state.num_steps == 1, tried.first_covariance, state.first_covariance)
    return state.replace(  # type: ignore[attr-defined]
        place=tried.place,
        covariance=tried.covariance,
        first_covariance=first,
        touching=jnp.trace(tried.covariance) > 0.0,
    )


def _crowded(place: Place, dynamics: Dynamics, rtol: Array) -> Array:
    """Whether an eigenvalue that is not tracked has reached the edge."""
    margin = jnp.maximum(1e-3, 3.0 * rtol)
    return place.next_eigenvalue >= (1.0 - margin) * dynamics.edge

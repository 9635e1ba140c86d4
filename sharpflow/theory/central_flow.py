"""The central flow: where the average of gradient descent with weight decay goes."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Int

from sharpflow.models.problem import Params, Problem, validate_params
from sharpflow.theory.central_dynamics import Counts, Dynamics, Place
from sharpflow.theory.central_step import Step, attempt
from sharpflow.theory.stability import validate_rates
from sharpflow.theory.status import Status
from sharpflow.theory.times import validated_times

_FIRST_MOVE = 1e-2  # of ‖w‖, in the first step
_SMALLEST_STEP = 1e-6  # of a step of GD
_RETURN_RATE = 1.0  # of an excess over the edge, per step of GD
_STEP_SHARE = 0.3  # of rtol, for the error of a step
_EIGENVALUE_SHARE = 1e-2  # of rtol, for the residuals of eigenpairs


@chex.dataclass(frozen=True)
class CentralFlowSolution:
    """The predicted average of GD+WD at output times.

    Rows after a failure hold NaN. T output times, k tracked eigenvalues.

    Attributes:
      tau: flow time, shape (T,).
      params: w(τ), pytree of arrays with a leading axis (T, ...).
      loss: L(w), shape (T,).
      mean_loss: L(w) + ½⟨∇²L(w), C⟩, the average over the oscillation, shape (T,).
      eigenvalues: the k largest of ∇²L(w), descending, shape (T, k).
      covariance: C, of the oscillation, in the basis of those eigenvectors, averaged
        over the step that ends at the output, and in row 0 over the first; (T, k, k).
      norm_squared: ‖w‖², shape (T,).
      edge: the largest stable eigenvalue, 2/η − λ, shape ().
      status: a ``Status`` code, shape ().
      num_steps: accepted steps, shape ().
      num_rejected: steps that were too long, or met the edge without having looked
        for it, and were repeated, shape ().
      num_gradients, num_products, num_third: evaluations of ∇L, of ∇²L v and of
        ∇³L[u, v], shape ().
    """

    tau: Float[Array, " T"]
    params: Params
    loss: Float[Array, " T"]
    mean_loss: Float[Array, " T"]
    eigenvalues: Float[Array, "T k"]
    covariance: Float[Array, "T k k"]
    norm_squared: Float[Array, " T"]
    edge: Float[Array, ""]
    status: Int[Array, ""]
    num_steps: Int[Array, ""]
    num_rejected: Int[Array, ""]
    num_gradients: Int[Array, ""]
    num_products: Int[Array, ""]
    num_third: Int[Array, ""]


def central_flow(
    problem: Problem,
    params: Params,
    learning_rate: float,
    weight_decay: float,
    tau: Float[Array | np.ndarray, " T"],
    *,
    max_edge: int = 8,
    intrinsic_rate: float | None = None,
    step_correction: bool = False,
    rtol: float = 1e-3,
    step_size: float | None = None,
    max_steps: int = 10_000,
    throw: bool = True,
) -> CentralFlowSolution:
    """Predict the average of GD+WD from any start, on any loss.

        dw/dt = −η (∇L(w) + λw + ½ ∇⟨∇²L(w), C⟩),      t in steps of GD, τ = ηλ t,

    C ⪰ 0 in the space of the top eigenvectors is the covariance of the oscillation,
    chosen so that no eigenvalue of ∇²L(w) passes the edge 2/η − λ. This is the flow
    of L + ½λ‖w‖² among the points where GD+WD is stable. It answers the edge without
    the delay and the burst of the discrete dynamics.

    Below the edge a step is a stabilised Runge–Kutta step of gradient flow, s stages
    for a length of order s²; at the edge C is constant in it and keeps the
    eigenvalues at its end, so that steps may be far longer than those of GD. A start
    above the edge returns to it by a factor e for each step of GD, a convention: GD
    itself answers with a burst, which no average describes.

    Args:
      problem: any problem, a loss alone too.
      params: w at tau[0].
      learning_rate: η.
      weight_decay: λ.
      tau: increasing output times, shape (T,).
      max_edge: number k of eigenvalues that may share the edge.
      intrinsic_rate: the τ of a step of GD; by default ηλ, and to be given without
        weight decay.
      step_correction: follow the steps of GD to second order in their length: with
        the right-hand side −ηF of above, −η(F + ½η(∇²L + λ)F). It matters where the
        loss falls fast, long before the edge, and costs a product ∇²L v with every
        gradient.
      rtol: tolerance on the error of a step, relative to ‖w‖ and to the edge.
      step_size: a fixed step in τ instead of error control.
      max_steps: largest number of accepted and rejected steps.
      throw: False returns a failure in ``status`` instead of raising it.

    Returns:
      The solution at ``tau``; its status is ``DIVERGED`` where no oscillation holds
      an eigenvalue at the edge, as above it on a quadratic loss, or where numbers
      stop being finite; ``EDGE_FULL`` where the edge has no room in ``max_edge``.

    Raises:
      ValueError: an argument is out of range, or ``tau`` does not increase.
      RuntimeError: the integration fails; the message says how and where.

    Source: Cohen, Damian, Talwalkar, Kolter and Lee 2024, arXiv 2410.24206, with
    weight decay and for steps of any length; the correction of the step, Hairer,
    Lubich and Wanner 2006, section IX.1.
    """
    params = validate_params(problem, params)
    times = _validated(learning_rate, weight_decay, tau, max_edge, rtol, step_size)
    clock = _validated_clock(learning_rate, weight_decay, intrinsic_rate)
    flat, _ = ravel_pytree(params)
    solution = _integrate(
        problem,
        params,
        jnp.asarray((times - times[0]) / clock, flat.dtype),
        jnp.asarray(learning_rate, flat.dtype),
        jnp.asarray(weight_decay, flat.dtype),
        jnp.asarray(rtol, flat.dtype),
        jnp.asarray(np.nan if step_size is None else step_size / clock, flat.dtype),
        jnp.asarray(max_steps, jnp.int32),
        max_edge=min(max_edge, flat.shape[0]),
        step_correction=step_correction,
    )
    solution = solution.replace(tau=jnp.asarray(times, flat.dtype))
    if throw and int(solution.status) != Status.SUCCESS:
        _raise(Status(int(solution.status)), solution, max_edge, max_steps)
    return solution


@chex.dataclass(frozen=True)
class _State:
    """Where the integration stands."""

    place: Place
    covariance: Float[Array, "k k"]
    first_covariance: Float[Array, "k k"]
    touching: Array
    time: Float[Array, ""]
    step: Float[Array, ""]
    num_steps: Int[Array, ""]
    num_rejected: Int[Array, ""]
    counts: Counts
    status: Int[Array, ""]


@partial(jax.jit, static_argnames=("problem", "max_edge", "step_correction"))
def _integrate(
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
) -> CentralFlowSolution:
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
    speed = learning_rate * jnp.linalg.norm(dynamics.gradient(flat) + weight_decay * flat)
    start = _State(
        place=place,
        covariance=none,
        first_covariance=none,
        touching=jnp.asarray(False),
        time=times[0],
        step=jnp.where(fixed, step_size, _FIRST_MOVE * jnp.linalg.norm(flat) / speed),
        num_steps=zero,
        num_rejected=zero,
        counts=counts.plus(gradients=1),
        status=place.status,
    )

    def advance(state: _State, until: Array) -> _State:
        remaining = until - state.time
        count = jnp.maximum(jnp.ceil(remaining / state.step * (1.0 - 1e-6)), 1.0)
        step = remaining / count
        excess = jnp.maximum(state.place.eigenvalues[0] - dynamics.edge, 0.0)
        target = dynamics.edge + excess * jnp.exp(-_RETURN_RATE * step)
        tried = attempt(dynamics, state.place, state.touching, step, target, state.counts)
        ratio = tried.error / (_STEP_SHARE * rtol)
        missed = tried.above & ~state.touching  # the edge was not looked for: once more
        accepted = ~missed & jnp.where(fixed, jnp.isfinite(tried.error), ratio <= 1.0)
        growth = jnp.clip(0.9 * jnp.maximum(ratio, 1e-6) ** (-1.0 / 3.0), 0.2, 3.0)
        growth = jnp.where(jnp.isfinite(ratio), growth, 0.2)
        # a step cut short to meet an output time says nothing against the longer one
        growth = jnp.where(missed, 1.0, growth)
        proposal = jnp.where(growth < 1.0, growth * step, jnp.maximum(state.step, growth * step))
        reached = jnp.where(accepted, jnp.where(count <= 1.0, until, state.time + step), state.time)
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

    def report(state: _State, until: Array) -> tuple[_State, tuple]:
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
    return CentralFlowSolution(
        tau=times,
        params=jax.vmap(unravel)(path),
        loss=loss,
        mean_loss=loss + 0.5 * oscillation,
        eigenvalues=eigenvalues,
        covariance=covariance,
        norm_squared=jnp.sum(jnp.square(path), axis=1),
        edge=dynamics.edge,
        status=state.status,
        num_steps=state.num_steps,
        num_rejected=state.num_rejected,
        num_gradients=state.counts.gradients,
        num_products=state.counts.products,
        num_third=state.counts.third,
    )


def _accept(state: _State, tried: Step) -> _State:
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


def _validated(
    learning_rate: float,
    weight_decay: float,
    tau: object,
    max_edge: int,
    rtol: float,
    step_size: float | None,
) -> np.ndarray:
    validate_rates(learning_rate, weight_decay)
    if max_edge < 1:
        raise ValueError(f"max_edge must be at least 1, got {max_edge}")
    for name, value in (("rtol", rtol), ("step_size", step_size)):
        if value is not None and not (np.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be positive and finite, got {value!r}")
    return validated_times(tau)


def _validated_clock(
    learning_rate: float, weight_decay: float, intrinsic_rate: float | None
) -> float:
    clock = learning_rate * weight_decay if intrinsic_rate is None else intrinsic_rate
    if intrinsic_rate is None and weight_decay == 0:
        raise ValueError(
            "intrinsic_rate must be given where weight_decay is 0: τ = ηλ t would stand still"
        )
    if not (np.isfinite(clock) and clock > 0):
        raise ValueError(f"intrinsic_rate must be positive and finite, got {intrinsic_rate!r}")
    return float(clock)


def _raise(status: Status, solution: CentralFlowSolution, max_edge: int, max_steps: int) -> None:
    reached = np.isfinite(np.asarray(solution.norm_squared))
    last = float(np.asarray(solution.tau)[reached][-1]) if reached.any() else float("nan")
    detail = {
        Status.EDGE_FULL: f"max_edge = {max_edge} must grow",
        Status.MAX_STEPS: f"max_steps = {max_steps} must grow, or rtol",
        Status.DIVERGED: "or no oscillation holds an eigenvalue at the edge, and GD diverges",
    }.get(status, "the eigenvalues of the Hessian could not be found")
    raise RuntimeError(
        f"the central flow stopped after tau = {last:g}: {status.message}; {detail}. "
        "throw=False returns what was reached"
    )

"""One step of the central flow: gradient descent's average, held at the edge."""

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sharpflow.theory.central_dynamics import Counts, Dynamics, EdgePoint
from sharpflow.theory.central_response import answers
from sharpflow.theory.edge import solve_edge_program, symmetric_to_vector, vector_to_symmetric
from sharpflow.theory.edge_geometry import continuing_turn
from sharpflow.theory.relaxation import num_stages, relax
from sharpflow.theory.scaling import norm
from sharpflow.theory.status import Status, failure_unless, first_failure

# Largest violation of the program's constraint, relative to its drive, with which C still holds the
# edge. Of random programs, solved ones violated it by nothing in float64 and by up to 4e-5 in
# float32, and those without a solution by more than 1. Anything between tells them apart.
_HELD = 1e-3


@chex.dataclass(frozen=True)
class Step:
    """The outcome of an attempted step.

    Attributes:
      end: where it leads.
      covariance: C over the step, in the frame of its end, shape (k, k).
      first_covariance: the same in the frame of its start.
      error: of the step relative to ‖w‖ and to the edge, shape ().
      above: whether it ends above the target, shape ().
      counts: so far.
      status: ``SUCCESS``; ``EIGENPAIRS_FAILED``, at the end of the step or where the predictor
        leads; ``DIVERGED`` where no C holds the edge or w is not finite; shape ().
    """

    end: EdgePoint
    covariance: Float[Array, "k k"]
    first_covariance: Float[Array, "k k"]
    error: Float[Array, ""]
    above: Bool[Array, ""]
    counts: Counts
    status: Int[Array, ""]


def attempt(
    dynamics: Dynamics, here: EdgePoint, touching: Array, step: Array, target: Array, counts: Counts
) -> Step:
    """A step of the central flow; if ``touching``, one that ends at or below the target.

    Args:
      dynamics: what is averaged.
      here: where it starts.
      touching: whether to look for C; otherwise C = 0.
      step: Δt, in steps of GD.
      target: for the largest eigenvalue of ∇²L at the end.
      counts: so far.
    """
    stages = num_stages(step * dynamics.fastest(here, corrected=dynamics.step_correction))
    hold = jax.lax.cond(
        touching,
        lambda: _hold(dynamics, here, step, stages, target, counts),
        lambda: _no_hold(here, counts),
    )
    params, error = _sweep(dynamics, here, step, stages, hold.pull)
    counts = dynamics.counted_rates(hold.counts, stages + 1)
    point, counts = dynamics.edge_point(params, counts, hold.frame)
    length = norm(here.params)
    corrected = norm(params - hold.predicted) / length
    excess = jnp.maximum(point.eigenvalues[0] - target, 0.0) / dynamics.edge
    held_error = jnp.maximum(jnp.maximum(error, corrected), excess)
    turn = _turn(here, point, hold.spread)
    return Step(
        end=point,
        covariance=turn.T @ hold.covariance @ turn,
        first_covariance=hold.covariance,
        error=jnp.where(touching, held_error, error),
        above=~(excess <= 0.0),
        counts=counts,
        status=first_failure(
            hold.status,
            failure_unless(jnp.all(jnp.isfinite(params)), Status.DIVERGED),
            failure_unless(point.status == Status.SUCCESS, Status.EIGENPAIRS_FAILED),
        ),
    )


@chex.dataclass(frozen=True)
class _Hold:
    """What keeps the edge block below the target over a step.

    Attributes:
      covariance: C, in the frame of the start, shape (k, k).
      pull: ½∇⟨∇²L, C⟩, the mean of both ends, shape (d,).
      predicted: the end of the step by the pull of the start, shape (d,).
      frame: there, shape (n, d).
      spread: of the edge block's change in the step; closer eigenvalues count as one.
      counts: so far.
      status: as of ``Step``, of what was done until here.
    """

    covariance: Float[Array, "k k"]
    pull: Float[Array, " d"]
    predicted: Float[Array, " d"]
    frame: Float[Array, "n d"]
    spread: Float[Array, ""]
    counts: Counts
    status: Int[Array, ""]


def _no_hold(here: EdgePoint, counts: Counts) -> _Hold:
    k, dtype = here.eigenvalues.shape[0], here.params.dtype
    return _Hold(
        covariance=jnp.zeros((k, k), dtype),
        pull=jnp.zeros_like(here.params),
        predicted=here.params,
        frame=here.frame,
        spread=jnp.ones((), dtype),
        counts=counts,
        status=jnp.zeros((), jnp.int32),
    )


def _hold(
    dynamics: Dynamics, here: EdgePoint, step: Array, stages: Array, target: Array, counts: Counts
) -> _Hold:
    """A predictor and a corrector, each with the C that its knowledge of the end asks for.

    The predictor knows the eigenvalues at the end to first order and takes the pull
    of the start; the corrector has seen them at the predicted point, and takes the
    mean pull of both ends.
    """
    k = dynamics.k
    target_block = target * jnp.eye(k, dtype=step.dtype)
    slopes = dynamics.third_derivatives(here.params, here.edge_frame)
    num_pairs = slopes.shape[0]
    force, response, num_products = answers(dynamics, here, step, stages, slopes)
    counts = counts.plus(gradients=1, products=num_products, third=num_pairs)
    lowering = 0.5 * response @ slopes.T
    lowering = 0.5 * (lowering + lowering.T)
    change = vector_to_symmetric(-response @ force, k)
    block = jnp.diag(here.eigenvalues) + change
    covariance, possible = _holding(lowering, block - target_block)
    pull = 0.5 * symmetric_to_vector(covariance) @ slopes
    predicted = relax(dynamics.rate(pull), here.params, step, stages)
    counts = dynamics.counted_rates(counts, stages)
    there, counts = dynamics.edge_point(predicted, counts, here.frame)
    rounding = jnp.finfo(step.dtype).eps * dynamics.edge
    spread = jnp.maximum(jnp.max(jnp.abs(change)), rounding)
    turn = _turn(here, there, spread)
    later_slopes = dynamics.third_derivatives(predicted, turn @ there.edge_frame)
    counts = counts.plus(third=num_pairs)
    mean_slopes = 0.5 * (slopes + later_slopes)

    # what was seen at the predicted point, what the pull of the end changes of it, and C lifted
    more = 0.5 * symmetric_to_vector(covariance) @ mean_slopes - pull
    block = turn @ jnp.diag(there.eigenvalues) @ turn.T - vector_to_symmetric(response @ more, k)
    block = block + vector_to_symmetric(lowering @ symmetric_to_vector(covariance), k)
    covariance, still_possible = _holding(lowering, block - target_block)
    return _Hold(
        covariance=covariance,
        pull=0.5 * symmetric_to_vector(covariance) @ mean_slopes,
        predicted=predicted,
        frame=there.frame,
        spread=spread,
        counts=counts,
        status=first_failure(
            failure_unless(possible & jnp.all(jnp.isfinite(predicted)), Status.DIVERGED),
            failure_unless(there.status == Status.SUCCESS, Status.EIGENPAIRS_FAILED),
            failure_unless(still_possible, Status.DIVERGED),
        ),
    )


def _turn(here: EdgePoint, there: EdgePoint, spread: Array) -> Float[Array, "k k"]:
    apart = (here.eigenvalues[:, None] - there.eigenvalues[None]) / spread
    return continuing_turn(here.edge_frame, there.edge_frame, apart)


def _sweep(
    dynamics: Dynamics, here: EdgePoint, step: Array, stages: Array, pull: Array
) -> tuple[Array, Array]:
    """The end of a step with a constant pull, and its error relative to ‖w‖."""
    rate, start = dynamics.rate(pull), here.params
    first_rate = rate(start)
    end = relax(rate, start, step, stages, first_rate)
    # Sommeijer, Shampine and Verwer 1998: the third derivative from both ends
    error = 0.8 * (start - end) + 0.4 * step * (first_rate + rate(end))
    return end, norm(error) / norm(start)


def _holding(lowering: Float[Array, "p p"], excess: Float[Array, "k k"]) -> tuple[Array, Array]:
    """The C that lowers the edge block by its excess; and whether there is one."""
    k = excess.shape[0]
    drive = jnp.linalg.eigvalsh(excess)[-1]
    strength = jnp.max(jnp.diag(lowering))

    def solve() -> tuple[Array, Array]:
        gram = lowering / strength
        covariance = solve_edge_program(gram, excess / drive, 0.0).covariance
        slack = vector_to_symmetric(gram @ symmetric_to_vector(covariance), k) - excess / drive
        return covariance * (drive / strength), jnp.linalg.eigvalsh(slack)[0] >= -_HELD

    nothing = (jnp.zeros_like(excess), jnp.asarray(True))
    needed = drive > 0
    possible = strength > jnp.finfo(excess.dtype).tiny
    covariance, held = jax.lax.cond(needed & possible, solve, lambda: nothing)
    return covariance, held & (possible | ~needed)

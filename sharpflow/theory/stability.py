"""Step sizes and stability on the sphere, and the entry into the Edge of Stability."""

import math
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from sharpflow.models import Params, Problem, validate_params
from sharpflow.models.arguments import (
    NOT_NEGATIVE,
    POSITIVE,
    array,
    checked,
    count,
    require_within,
    shown,
)
from sharpflow.models.leaves import is_concrete
from sharpflow.models.problem import PROBLEM
from sharpflow.models.representation import summarized
from sharpflow.theory.arguments import validate_rates
from sharpflow.theory.curvature import spherical_sharpness
from sharpflow.theory.flow import FLOW, FlowSolution
from sharpflow.theory.manifold import require_on_manifold

# of the host or of a device: numpy's stay in double precision, whatever jax is told
_Numbers = TypeVar("_Numbers", Array, np.ndarray)


@checked(
    norm_squared=array(above=0, missing=True),
    learning_rate=array(above=0, missing=True),
    weight_decay=array(least=0, missing=True),
)
def effective_learning_rate(
    norm_squared: ArrayLike, learning_rate: ArrayLike, weight_decay: ArrayLike
) -> Float[Array, "..."]:
    """Step size of GD+WD as seen on the unit sphere.

    Args:
      norm_squared: ‖w‖², shape (...).
      learning_rate, weight_decay: η and λ, scalars or shape (...).

    Returns:
      η̃ = η / ((1 − ηλ) ‖w‖²), shape (...).

    Raises:
      ValueError: numbers out of range.

    Source: Lyu, Li and Arora 2022, section 3.
    """
    eta, decay = jnp.asarray(learning_rate), jnp.asarray(weight_decay)
    if is_concrete(eta, decay) and np.any(np.asarray(eta) * np.asarray(decay) >= 1.0):
        raise ValueError(
            "learning_rate * weight_decay must be below 1, got "
            f"{shown(learning_rate)} * {shown(weight_decay)}"
        )
    return eta / ((1.0 - eta * decay) * jnp.asarray(norm_squared))


@checked(effective_rate=array(least=0, missing=True))
def threshold(effective_rate: ArrayLike) -> Float[Array, "..."]:
    """The spherical sharpness at which GD is marginally stable.

    Args:
      effective_rate: η̃, shape (...).

    Returns:
      λ* = 2/η̃, shape (...).

    Raises:
      ValueError: a rate that is negative or not finite.

    Source: docs/theory.md, section 2.
    """
    return 2.0 / jnp.asarray(effective_rate)


@checked(effective_rate=array(least=0, missing=True), sharpness=array(missing=True))
def edge_ratio(effective_rate: ArrayLike, sharpness: ArrayLike) -> Float[Array, "..."]:
    """The spherical sharpness over the threshold, which is 1 at the Edge of Stability.

    Args:
      effective_rate: η̃, shape (...).
      sharpness: λ_1(∇²L(θ)), shape (...).

    Returns:
      λ_1/λ* = η̃ λ_1/2, shape (...).

    Raises:
      ValueError: a rate that is negative, or numbers that are not finite.

    Source: docs/theory.md, section 2.
    """
    return 0.5 * jnp.asarray(effective_rate) * jnp.asarray(sharpness)


@checked(norm_squared=POSITIVE, sharpness=POSITIVE, step=count(0))
def edge_entry_step(
    norm_squared: float,
    sharpness: float,
    learning_rate: float,
    weight_decay: float,
    *,
    step: int = 0,
) -> float:
    """The step at which a trajectory resting on Γ crosses the edge.

    On Γ only the norm moves, N_t = (1−ηλ)^{2t} N_0, until 2 N_t (1−ηλ)/η = λ_1.

    Args:
      norm_squared: ‖w‖² at ``step``.
      sharpness: λ_1(∇²L(θ)) there.
      learning_rate, weight_decay: η and λ.
      step: when the norm was measured.

    Returns:
      The step, not rounded; before ``step`` where the edge is already passed, and
      infinite without weight decay.

    Raises:
      ValueError: a norm or sharpness that is not positive, or rates out of range.

    Source: docs/theory.md, section 2; Lyu, Li and Arora 2022, Theorem 1.
    """
    validate_rates(learning_rate, weight_decay)
    # log of 2 N (1−ηλ)/(η λ_1), of which no product overflows
    excess = math.log(2.0 * (1.0 - learning_rate * weight_decay)) + math.log(norm_squared)
    excess -= math.log(learning_rate) + math.log(sharpness)
    return step + steps_to_edge(excess, -2.0 * math.log1p(-learning_rate * weight_decay))


def steps_to_edge(excess: float, decay: float) -> float:
    """Steps in which a threshold that falls as at rest comes down to the sharpness.

    Args:
      excess: log λ*/λ_1 at the start; negative above the edge.
      decay: by how much log λ* falls in a step at rest, −2 log(1 − ηλ) for GD+WD.

    Returns:
      excess/decay, infinite where the threshold does not fall.

    Source: docs/theory.md, section 2.
    """
    return excess / decay if decay > 0 else math.inf


@summarized
class EntryDelay(NamedTuple):
    """How late the oscillation answers the crossing of the edge.

    Attributes:
      steps: from the crossing until the oscillation reaches its equilibrium size.
      overshoot: of the edge ratio above 1 by then.
    """

    steps: float
    overshoot: float


@checked(intrinsic_rate=POSITIVE, amplitude=POSITIVE, equilibrium_amplitude=POSITIVE, b=POSITIVE)
def entry_delay(
    intrinsic_rate: float, amplitude: float, equilibrium_amplitude: float, *, b: float = 2.0
) -> EntryDelay:
    """Delay and overshoot of the entry into the Edge of Stability.

    s steps after the crossing the edge ratio is 1 + bηλs and the oscillation has
    grown by exp(bηλs²), so from amplitude a it takes s = √(log(a_eq/a)/(bηλ)).

    Args:
      intrinsic_rate: ηλ, or η²/2 for quasi-RMSprop.
      amplitude: of the oscillation along v_1 at the crossing.
      equilibrium_amplitude: a_eq = √(ηλ tr M).
      b: response of the threshold, 2 for GD+WD.

    Returns:
      The delay in steps, and the overshoot.

    Raises:
      ValueError: an argument that is not positive, or no room to grow.

    Source: docs/theory.md, section 2.
    """
    if not equilibrium_amplitude > amplitude:
        raise ValueError(
            f"equilibrium_amplitude must exceed amplitude = {amplitude:g}, "
            f"got {equilibrium_amplitude:g}"
        )
    # In numbers of Python: the result is one number for people, and float32 would lose the small
    # rates.
    growth, rate = math.log(equilibrium_amplitude / amplitude), b * intrinsic_rate
    if not 0.0 < rate < math.inf:
        raise ValueError(
            f"b must be such that b times intrinsic_rate = {intrinsic_rate:g} is a positive "
            f"number, got {b:g}"
        )
    return EntryDelay(steps=math.sqrt(growth / rate), overshoot=math.sqrt(rate * growth))


@checked(flow=FLOW, intrinsic_rate=POSITIVE)
def predicted_loss(flow: FlowSolution, intrinsic_rate: float) -> Float[Array, " T"]:
    """Mean training loss at the Edge of Stability, L̄(τ) = ½ ηλ λ*(τ) tr M(τ).

    Args:
      flow: the predicted flow.
      intrinsic_rate: ηλ, or η²/2 for quasi-RMSprop.

    Returns:
      Shape (T,); zero before the entry.

    Raises:
      ValueError: an intrinsic rate that is not positive, or no flow.

    Source: docs/theory.md, section 5.
    """
    return edge_loss(intrinsic_rate, flow.threshold, flow.edge_trace)


@checked(flow=FLOW, intrinsic_rate=POSITIVE)
def predicted_step_angle(flow: FlowSolution, intrinsic_rate: float) -> Float[Array, " T"]:
    """Root mean square of the angle of a step at the Edge of Stability, 2 √(ηλ tr M(τ)).

    The oscillation crosses its valley with every step, so that a step is twice the displacement,
    whose mean square is ηλ tr M. Where the drift has come to rest tr M = ½ and the angle is
    √(2ηλ), the rotational equilibrium of scale-invariant weights. While it drifts the angle is
    smaller.

    Args:
      flow: the predicted flow.
      intrinsic_rate: ηλ, or η²/2 for quasi-RMSprop. Of a rule whose oscillation is another share
        of ηλM, as with momentum, that share times it.

    Returns:
      Radians, shape (T,); zero before the entry. Where the flow is not on the sphere it is the
      length of a step.

    Raises:
      ValueError: an intrinsic rate that is not positive, or no flow.

    Source: docs/theory.md, section 5; at rest Wan et al. 2021 (arXiv 2006.08419) and Kosson et al.
    2023 (arXiv 2305.17212).
    """
    return 2.0 * jnp.sqrt(intrinsic_rate * flow.edge_trace)


def edge_loss(intrinsic_rate: float, threshold: _Numbers, edge_trace: _Numbers | float) -> _Numbers:
    """The mean training loss of an oscillation of covariance ηλ M at the edge.

    Args:
      intrinsic_rate: ηλ, or η²/2 for quasi-RMSprop.
      threshold: λ*, shape (...).
      edge_trace: tr M, shape (...).

    Returns:
      ½ ηλ λ* tr M, shape (...).

    Source: docs/theory.md, section 5.
    """
    return 0.5 * intrinsic_rate * threshold * edge_trace


def edge_trace_integral(
    tau: np.ndarray, threshold: np.ndarray, b: float, *, log_rate: np.ndarray | None = None
) -> np.ndarray:
    """∫ tr M dτ from each time to the next, which the threshold tells exactly.

    Args:
      tau: increasing flow times, shape (T,).
      threshold: λ* at each, shape (T,).
      b: response of the threshold, 2 for GD+WD.
      log_rate: log η at each time by a schedule, up to a constant, shape (T,); None without one.

    Returns:
      ½ (Δ log(λ* η)/b + Δτ), shape (T − 1,), by d log λ*/dτ = b (2 tr M − 1) − d log η/dτ.

    Source: docs/theory.md, sections 4 and 4.9.
    """
    slow = np.log(threshold) if log_rate is None else np.log(threshold) + log_rate
    return 0.5 * (np.diff(slow) / b + np.diff(tau))


def edge_loss_integral(
    intrinsic_rate: float, tau: np.ndarray, threshold: np.ndarray, b: float
) -> np.ndarray:
    """∫ ½ ηλ λ* tr M dτ from each time to the next, with the M that the threshold implies.

    Args:
      intrinsic_rate: ηλ, or η²/2 for quasi-RMSprop.
      tau, threshold, b: as of ``edge_trace_integral``.

    Returns:
      Shape (T − 1,), with the mean of λ* at both ends.

    Source: docs/theory.md, section 5.
    """
    # The trapezium for λ*, which is smooth; tr M jumps where an eigenvalue reaches the edge, and
    # its integral is taken exactly.
    between = 0.5 * (threshold[1:] + threshold[:-1])
    return edge_loss(intrinsic_rate, between, edge_trace_integral(tau, threshold, b))


@checked(problem=PROBLEM, perturbation=NOT_NEGATIVE)
def start_at_edge(
    problem: Problem,
    theta0: Params,
    learning_rate: float,
    weight_decay: float,
    perturbation: float = 1e-4,
) -> Params:
    """Params of GD+WD that sit at the edge over a point of Γ, a little off it.

    The norm makes the threshold equal to λ_1(θ0). Exactly on Γ the gradient is zero
    and GD would never leave, so the start is moved along the top eigenvector.

    Args:
      problem: a scale-invariant problem.
      theta0: a point of Γ of unit norm.
      learning_rate, weight_decay: η and λ.
      perturbation: along v_1, relative to the norm.

    Returns:
      √(η λ_1/(2(1−ηλ))) (θ0 + perturbation · v_1), as ``theta0``.

    Raises:
      ValueError: rates out of range, theta0 not on Γ, or a loss alone, which has no Γ.
      RuntimeError: the top eigenvector was not found.

    Source: docs/theory.md, section 5.
    """
    validate_rates(learning_rate, weight_decay)
    theta0 = validate_params(problem, theta0, "theta0")
    require_within(
        jax.tree.leaves(theta0)[0].dtype,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        perturbation=perturbation,
    )
    require_on_manifold(problem, theta0)
    values, vectors = spherical_sharpness(problem, theta0)
    norm = jnp.sqrt(0.5 * learning_rate * values[0] / (1.0 - learning_rate * weight_decay))
    return jax.tree.map(
        lambda point, vector: norm * (point + perturbation * vector[0]), theta0, vectors
    )

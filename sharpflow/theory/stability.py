"""Step sizes and stability on the sphere, and the entry into the Edge of Stability."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from sharpflow.models import Params, Problem, validate_params
from sharpflow.theory.arguments import require_positive, validate_rates
from sharpflow.theory.curvature import spherical_sharpness
from sharpflow.theory.flow import FlowSolution
from sharpflow.theory.manifold import require_on_manifold


def effective_learning_rate(
    norm_squared: ArrayLike, learning_rate: ArrayLike, weight_decay: ArrayLike
) -> Float[Array, "..."]:
    """Step size of GD+WD as seen on the unit sphere.

    Args:
      norm_squared: ‖w‖², shape (...).
      learning_rate, weight_decay: η and λ, scalars or shape (...).

    Returns:
      η̃ = η / ((1 − ηλ) ‖w‖²), shape (...).

    Source: Lyu, Li and Arora 2022, section 3.
    """
    eta, decay = jnp.asarray(learning_rate), jnp.asarray(weight_decay)
    return eta / ((1.0 - eta * decay) * jnp.asarray(norm_squared))


def threshold(effective_rate: ArrayLike) -> Float[Array, "..."]:
    """The spherical sharpness at which GD is marginally stable.

    Args:
      effective_rate: η̃, shape (...).

    Returns:
      λ* = 2/η̃, shape (...).

    Source: docs/theory.md, section 2.
    """
    return 2.0 / jnp.asarray(effective_rate)


def edge_ratio(effective_rate: ArrayLike, sharpness: ArrayLike) -> Float[Array, "..."]:
    """The spherical sharpness over the threshold, which is 1 at the Edge of Stability.

    Args:
      effective_rate: η̃, shape (...).
      sharpness: λ_1(∇²L(θ)), shape (...).

    Returns:
      λ_1/λ* = η̃ λ_1/2, shape (...).

    Source: docs/theory.md, section 2.
    """
    return 0.5 * jnp.asarray(effective_rate) * jnp.asarray(sharpness)


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
    require_positive(norm_squared=norm_squared, sharpness=sharpness)
    if weight_decay == 0:
        return math.inf
    shrinkage = -2.0 * math.log1p(-learning_rate * weight_decay)
    excess = 2.0 * norm_squared * (1.0 - learning_rate * weight_decay) / (learning_rate * sharpness)
    return step + math.log(excess) / shrinkage


class EntryDelay(NamedTuple):
    """How late the oscillation answers the crossing of the edge.

    Attributes:
      steps: from the crossing until the oscillation reaches its equilibrium size.
      overshoot: of the edge ratio above 1 by then.
    """

    steps: float
    overshoot: float


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
    require_positive(intrinsic_rate=intrinsic_rate, amplitude=amplitude, b=b)
    if not equilibrium_amplitude > amplitude:
        raise ValueError(
            f"equilibrium_amplitude must exceed amplitude = {amplitude:g}, "
            f"got {equilibrium_amplitude:g}"
        )
    growth = math.log(equilibrium_amplitude / amplitude)
    return EntryDelay(
        steps=math.sqrt(growth / (b * intrinsic_rate)),
        overshoot=math.sqrt(b * intrinsic_rate * growth),
    )


def predicted_loss(flow: FlowSolution, intrinsic_rate: float) -> Float[Array, " T"]:
    """Mean training loss at the Edge of Stability, L̄(τ) = ½ ηλ λ*(τ) tr M(τ).

    Args:
      flow: the predicted flow.
      intrinsic_rate: ηλ, or η²/2 for quasi-RMSprop.

    Returns:
      Shape (T,); zero before the entry.

    Source: docs/theory.md, section 5.
    """
    return 0.5 * intrinsic_rate * flow.threshold * flow.edge_trace


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
    require_on_manifold(problem, theta0)
    values, vectors = spherical_sharpness(problem, theta0)
    norm = jnp.sqrt(0.5 * learning_rate * values[0] / (1.0 - learning_rate * weight_decay))
    return jax.tree.map(
        lambda point, vector: norm * (point + perturbation * vector[0]), theta0, vectors
    )

"""Gradient descent with momentum, as a moving average of the gradient."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from sharpflow.models import Params
from sharpflow.models.arguments import SHARE, checked, require_within
from sharpflow.simulator.rules.edge_rule import (
    EdgeDynamics,
    euclidean_step_size,
    norm_squared,
)
from sharpflow.simulator.rules.printed import printed_as
from sharpflow.simulator.rules.scheduled import RateSchedule, scheduled
from sharpflow.theory import effective_learning_rate
from sharpflow.theory.arguments import validate_rates


@checked(beta=SHARE)
def momentum(
    learning_rate: float | RateSchedule,
    weight_decay: float | RateSchedule = 0.0,
    *,
    beta: float = 0.9,
) -> optax.GradientTransformation:
    """Gradient descent along a moving average of the gradient, with decoupled weight decay.

    m_{t+1} = β m_t + (1 − β) ∇L(w_t), w_{t+1} = (1 − ηλ) w_t − η m_{t+1}. It is marginally
    stable where λ_1(∇²L) = (2/η − λ)(1 + β)/(1 − β). Heavy ball with the learning rate
    η(1 − β) is the same without weight decay.

    Args:
      learning_rate: η > 0; a number, or a schedule of optax, a function of the step.
      weight_decay: λ ≥ 0, with ηλ < 1; likewise. It does not pass through the average.
      beta: β in [0, 1), the weight of the past.

    Returns:
      An optax transformation whose state holds η, β, λ and m, with schedules those of the coming
      step; equal to a chain of
      ``optax.ema(beta, debias=False)``, ``optax.add_decayed_weights`` and ``optax.scale``.

    Raises:
      ValueError: rates or β out of range.

    Source: docs/other-dynamics.md, section 3.
    """
    if callable(learning_rate) or callable(weight_decay):
        rates = {"learning_rate": learning_rate, "weight_decay": weight_decay}
        return scheduled(momentum, **rates, beta=beta)
    validate_rates(learning_rate, weight_decay)

    def init(params: Params) -> MomentumState:
        dtype = jax.tree.leaves(params)[0].dtype
        require_within(dtype, learning_rate=learning_rate, weight_decay=weight_decay, beta=beta)
        return MomentumState(
            learning_rate=jnp.asarray(learning_rate, dtype),
            beta=jnp.asarray(beta, dtype),
            weight_decay=jnp.asarray(weight_decay, dtype),
            average=optax.tree.zeros_like(params),
        )

    rule = optax.GradientTransformation(init, _momentum_update)
    return printed_as(
        rule, "momentum", learning_rate=learning_rate, weight_decay=weight_decay, beta=beta
    )


class MomentumState(NamedTuple):
    """Hyperparameters of momentum and the average of the gradient."""

    learning_rate: Float[Array, ""]
    beta: Float[Array, ""]
    weight_decay: Float[Array, ""]
    average: Params

    @property
    def oscillation_share(self) -> Array:
        """(1 − β)/(1 + β), what an oscillation of period two feels of η, and its size with it."""
        return (1.0 - self.beta) / (1.0 + self.beta)

    def effective_learning_rate(self, params: Params) -> Array:
        """(1 − β)/(1 + β) · η / ((1 − ηλ) ‖w‖²)."""
        plain = effective_learning_rate(norm_squared(params), self.learning_rate, self.weight_decay)
        return self.oscillation_share * plain

    def edge_dynamics(self) -> EdgeDynamics:
        """The flow of GD+WD, at another threshold and with a smaller oscillation."""
        eta, decay, share = self.learning_rate, self.weight_decay, self.oscillation_share
        return EdgeDynamics(
            effective_learning_rate=self.effective_learning_rate,
            step_size=share * euclidean_step_size(eta, decay),
            stability_line=2.0 / (share * eta),
            # without the share: the average delays a slow motion, and does not change its speed
            intrinsic_rate=eta * decay,
            response=2.0,
            decay_at_rest=-2.0 * jnp.log1p(-eta * decay),
            oscillation_share=share,
            hyperparameters={"learning_rate": eta, "weight_decay": decay, "beta": self.beta},
        )


# Module-level, so that transformations with other numbers share compiled code.
def _momentum_update(
    updates: Params, state: MomentumState, params: Params | None = None
) -> tuple[Params, MomentumState]:
    if params is None:
        raise ValueError("momentum needs params: call update(gradients, state, params)")
    eta, decay = state.learning_rate, state.weight_decay
    average = optax.tree.update_moment(updates, state.average, state.beta, 1)
    # Weight decay is added to the average and not to the gradient within it: decoupled, it has no
    # memory, and ‖w‖² shrinks by (1 − ηλ)² in a step as under gradient descent.
    changes = jax.tree.map(lambda m, w: -eta * (m + decay * w), average, params)
    return changes, state._replace(average=average)

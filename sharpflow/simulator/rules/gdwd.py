"""Gradient descent with weight decay."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from sharpflow.models import Params
from sharpflow.models.arguments import checked, require_within
from sharpflow.simulator.rules.edge_rule import EdgeDynamics, euclidean_step_size, norm_squared
from sharpflow.simulator.rules.printed import printed_as
from sharpflow.simulator.rules.scheduled import RateSchedule, scheduled
from sharpflow.theory import effective_learning_rate
from sharpflow.theory.arguments import validate_rates


@checked()
def gdwd(
    learning_rate: float | RateSchedule, weight_decay: float | RateSchedule
) -> optax.GradientTransformation:
    """Gradient descent with weight decay, w_{t+1} = (1 − ηλ) w_t − η ∇L(w_t).

    Args:
      learning_rate: η > 0; a number, a traced scalar, or a schedule of optax, a function of the
        step.
      weight_decay: λ ≥ 0, with ηλ < 1; likewise.

    Returns:
      An optax transformation whose state holds η and λ; with a schedule those of the coming step.

    Raises:
      ValueError: rates out of range.

    Source: Lyu, Li and Arora 2022, equation (1); with schedules docs/theory.md, section 4.9.
    """
    if callable(learning_rate) or callable(weight_decay):
        return scheduled(gdwd, learning_rate=learning_rate, weight_decay=weight_decay)
    validate_rates(learning_rate, weight_decay)

    def init(params: Params) -> GDWDState:
        dtype = jax.tree.leaves(params)[0].dtype
        require_within(dtype, learning_rate=learning_rate, weight_decay=weight_decay)
        return GDWDState(
            learning_rate=jnp.asarray(learning_rate, dtype),
            weight_decay=jnp.asarray(weight_decay, dtype),
        )

    rule = optax.GradientTransformation(init, _gdwd_update)
    return printed_as(rule, "gdwd", learning_rate=learning_rate, weight_decay=weight_decay)


class GDWDState(NamedTuple):
    """Hyperparameters of GD+WD."""

    learning_rate: Float[Array, ""]
    weight_decay: Float[Array, ""]

    def effective_learning_rate(self, params: Params) -> Array:
        """η̃ = η / ((1 − ηλ) ‖w‖²)."""
        return effective_learning_rate(norm_squared(params), self.learning_rate, self.weight_decay)

    def edge_dynamics(self) -> EdgeDynamics:
        """The rule that the flow is derived for."""
        eta, decay = self.learning_rate, self.weight_decay
        return EdgeDynamics(
            effective_learning_rate=self.effective_learning_rate,
            step_size=euclidean_step_size(eta, decay),
            # of the gradient alone, as the usual picture has it: the edge at w is 2/η − λ
            stability_line=2.0 / eta,
            intrinsic_rate=eta * decay,
            response=2.0,
            decay_at_rest=-2.0 * jnp.log1p(-eta * decay),
            oscillation_share=1.0,
            hyperparameters=self._asdict(),
        )


# Module-level, so that transformations with other numbers share compiled code.
def _gdwd_update(
    updates: Params, state: GDWDState, params: Params | None = None
) -> tuple[Params, GDWDState]:
    if params is None:
        raise ValueError("gdwd needs params: call update(gradients, state, params)")
    eta, decay = state.learning_rate, state.weight_decay
    return jax.tree.map(lambda g, w: -eta * (g + decay * w), updates, params), state

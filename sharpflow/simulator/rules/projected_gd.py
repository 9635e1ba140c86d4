"""Projected gradient descent on the unit sphere."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from sharpflow.models import Params
from sharpflow.models.arguments import POSITIVE, checked, require_within
from sharpflow.simulator.rules.edge_rule import EdgeDynamics, norm_squared
from sharpflow.simulator.rules.printed import printed_as


@checked(effective_learning_rate=POSITIVE)
def projected_gd(effective_learning_rate: float) -> optax.GradientTransformation:
    """Gradient descent on the unit sphere with a fixed step, θ_{t+1} = unit(θ_t − η̃ ∇L(θ_t)).

    It is what GD+WD does to the direction of w, with η̃ held. Params of another norm are
    taken by their direction, with ∇L(θ) = ‖w‖ ∇L(w), and have unit norm after one step.

    Args:
      effective_learning_rate: η̃ > 0; the threshold is 2/η̃ throughout.

    Returns:
      An optax transformation whose state holds η̃.

    Raises:
      ValueError: η̃ not positive.

    Source: docs/other-dynamics.md, section 4.
    """

    def init(params: Params) -> ProjectedGDState:
        dtype = jax.tree.leaves(params)[0].dtype
        require_within(dtype, effective_learning_rate=effective_learning_rate)
        return ProjectedGDState(learning_rate=jnp.asarray(effective_learning_rate, dtype))

    rule = optax.GradientTransformation(init, _projected_gd_update)
    return printed_as(rule, "projected_gd", effective_learning_rate=effective_learning_rate)


class ProjectedGDState(NamedTuple):
    """The effective learning rate of projected gradient descent."""

    learning_rate: Float[Array, ""]

    def edge_dynamics(self) -> EdgeDynamics:
        """η̃ is held: nothing lowers the threshold, so nothing drives a flow."""
        return EdgeDynamics(
            effective_learning_rate=lambda params: self.learning_rate,
            step_size=self.learning_rate,
            stability_line=2.0 / self.learning_rate,
            intrinsic_rate=0.0,
            response=0.0,
            oscillation_share=1.0,
            hyperparameters=self._asdict(),
        )


# Module-level, so that transformations with other numbers share compiled code.
def _projected_gd_update(
    updates: Params, state: ProjectedGDState, params: Params | None = None
) -> tuple[Params, ProjectedGDState]:
    if params is None:
        raise ValueError("projected_gd needs params: call update(gradients, state, params)")
    norm = jnp.sqrt(norm_squared(params))
    stepped = jax.tree.map(lambda w, g: w / norm - state.learning_rate * norm * g, params, updates)
    shrink = jax.lax.rsqrt(norm_squared(stepped))
    return jax.tree.map(lambda new, old: shrink * new - old, stepped, params), state

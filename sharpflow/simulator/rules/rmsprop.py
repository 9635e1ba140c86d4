"""RMSprop with a step size for every coordinate."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from sharpflow.models import Params
from sharpflow.models.arguments import NOT_NEGATIVE, POSITIVE, SHARE, checked, require_within
from sharpflow.simulator.rules.edge_rule import EdgeDynamics
from sharpflow.simulator.rules.printed import printed_as


@checked(learning_rate=POSITIVE, decay=SHARE, epsilon=POSITIVE, initial_scale=NOT_NEGATIVE)
def rmsprop(
    learning_rate: float,
    decay: float = 0.99,
    *,
    epsilon: float = 1e-8,
    initial_scale: float = 0.0,
) -> optax.GradientTransformation:
    """Gradient descent with every coordinate divided by the root mean square of its gradient.

    ν_{t+1} = β₂ ν_t + (1 − β₂) ∇L(w_t)², w_{t+1} = w_t − η ∇L(w_t)/(√ν_{t+1} + ε), both by
    coordinate. With P = diag(√ν_{t+1} + ε) it is marginally stable where
    λ_1(P^{-1/2} ∇²L P^{-1/2}) = 2/η.

    Args:
      learning_rate: η > 0.
      decay: β₂ in [0, 1).
      epsilon: ε > 0, outside the root.
      initial_scale: ν at the start, the same for all coordinates.

    Returns:
      An optax transformation whose state holds η, β₂, ε and ν; equal to
      ``optax.rmsprop(..., eps_in_sqrt=False)``.

    Raises:
      ValueError: a number out of range.

    Source: Cohen et al. 2022, arXiv 2207.14484; docs/other-dynamics.md, section 2.
    """

    def init(params: Params) -> RMSpropState:
        dtype = jax.tree.leaves(params)[0].dtype
        require_within(
            dtype,
            learning_rate=learning_rate,
            decay=decay,
            epsilon=epsilon,
            initial_scale=initial_scale,
        )
        return RMSpropState(
            learning_rate=jnp.asarray(learning_rate, dtype),
            decay=jnp.asarray(decay, dtype),
            epsilon=jnp.asarray(epsilon, dtype),
            nu=optax.tree.full_like(params, initial_scale),
        )

    rule = optax.GradientTransformation(init, _rmsprop_update)
    return printed_as(
        rule,
        "rmsprop",
        learning_rate=learning_rate,
        decay=decay,
        epsilon=epsilon,
        initial_scale=initial_scale,
    )


class RMSpropState(NamedTuple):
    """Hyperparameters of RMSprop and the moving average of the squared gradient."""

    learning_rate: Float[Array, ""]
    decay: Float[Array, ""]
    epsilon: Float[Array, ""]
    nu: Params

    def preconditioner(self, gradient: Params) -> Params:
        """√ν_{t+1} + ε, with the gradient of the coming step within ν."""
        nu = optax.tree.update_moment(gradient, self.nu, self.decay, 2)
        return jax.tree.map(lambda mean: jnp.sqrt(mean) + self.epsilon, nu)

    def edge_dynamics(self) -> EdgeDynamics:
        """Its edge, in the coordinates that P scales; no flow is known."""
        return EdgeDynamics(
            stability_line=2.0 / self.learning_rate,
            preconditioner=self.preconditioner,
            hyperparameters={
                "learning_rate": self.learning_rate,
                "decay": self.decay,
                "epsilon": self.epsilon,
            },
        )


# Module-level, so that transformations with other numbers share compiled code.
def _rmsprop_update(
    updates: Params, state: RMSpropState, params: Params | None = None
) -> tuple[Params, RMSpropState]:
    del params
    # Made anew from the state, which optax allows, because its transformation keeps no numbers but
    # in this closure. The arithmetic is then optax's own to the bit.
    scale = optax.scale_by_rms(state.decay, state.epsilon, eps_in_sqrt=False)
    scaled, after = scale.update(updates, optax.ScaleByRmsState(nu=state.nu))
    changes = jax.tree.map(lambda part: -state.learning_rate * part, scaled)
    return changes, state._replace(nu=after.nu)

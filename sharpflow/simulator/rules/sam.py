"""Sharpness-aware minimization, its reach relative to the norm of the params."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from sharpflow.models import Params
from sharpflow.models.arguments import POSITIVE, checked, require_within
from sharpflow.simulator.rules.edge_rule import EdgeDynamics, euclidean_step_size, norm_squared
from sharpflow.simulator.rules.printed import printed_as
from sharpflow.theory import effective_learning_rate
from sharpflow.theory.arguments import validate_rates


@checked(rho=POSITIVE)
def sam(
    learning_rate: float, weight_decay: float = 0.0, *, rho: float = 0.05
) -> optax.GradientTransformationExtraArgs:
    """GD+WD with the gradient taken a little uphill, at w + ρ‖w‖ ∇L(w)/‖∇L(w)‖.

    The reach ρ is relative to ‖w‖, so that on a scale-invariant loss the direction of w
    feels the same ρ whatever the norm; at unit norm it is the ρ of Foret et al.

    Args:
      learning_rate: η > 0.
      weight_decay: λ ≥ 0, with ηλ < 1.
      rho: ρ > 0.

    Returns:
      An optax transformation whose state holds η, λ and ρ. Its update needs
      ``value_fn``, which ``simulate`` passes, and a second gradient.

    Raises:
      ValueError: rates or ρ out of range.

    Source: Foret et al. 2021, arXiv 2010.01412; docs/other-dynamics.md, section 5.
    """
    validate_rates(learning_rate, weight_decay)

    def init(params: Params) -> SAMState:
        dtype = jax.tree.leaves(params)[0].dtype
        require_within(dtype, learning_rate=learning_rate, weight_decay=weight_decay, rho=rho)
        return SAMState(
            learning_rate=jnp.asarray(learning_rate, dtype),
            weight_decay=jnp.asarray(weight_decay, dtype),
            rho=jnp.asarray(rho, dtype),
        )

    rule = optax.GradientTransformationExtraArgs(init, _sam_update)
    return printed_as(rule, "sam", learning_rate=learning_rate, weight_decay=weight_decay, rho=rho)


class SAMState(NamedTuple):
    """Hyperparameters of SAM."""

    learning_rate: Float[Array, ""]
    weight_decay: Float[Array, ""]
    rho: Float[Array, ""]

    def effective_learning_rate(self, params: Params) -> Array:
        """η̃ = η / ((1 − ηλ) ‖w‖²), as without the reach."""
        return effective_learning_rate(norm_squared(params), self.learning_rate, self.weight_decay)

    def edge_dynamics(self) -> EdgeDynamics:
        """The steps of GD+WD; ηλ is not their only clock, and its flow does not hold."""
        return EdgeDynamics(
            effective_learning_rate=self.effective_learning_rate,
            step_size=euclidean_step_size(self.learning_rate, self.weight_decay),
            hyperparameters=self._asdict(),
        )


# Module-level, so that transformations with other numbers share compiled code.
def _sam_update(
    updates: Params,
    state: SAMState,
    params: Params | None = None,
    *,
    value_fn: Callable[[Params], Array] | None = None,
    **extra: Any,
) -> tuple[Params, SAMState]:
    del extra
    if params is None or value_fn is None:
        raise ValueError("sam needs update(gradients, state, params, value_fn=loss)")
    size = norm_squared(updates)
    # where the gradient is zero there is no uphill, and SAM rests
    reach = state.rho * jnp.sqrt(norm_squared(params) / jnp.where(size > 0, size, 1.0))
    uphill = jax.tree.map(lambda w, g: w + reach * g, params, updates)
    # Weight decay at w itself, and not at the point uphill: so SAM has it, and the radial part of
    # the step is that of GD+WD.
    eta, decay = state.learning_rate, state.weight_decay
    changes = jax.tree.map(lambda g, w: -eta * (g + decay * w), jax.grad(value_fn)(uphill), params)
    return changes, state

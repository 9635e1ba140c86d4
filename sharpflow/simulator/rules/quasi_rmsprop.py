"""Quasi-RMSprop on the sphere, and scalar RMSprop off it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from sharpflow.models import Params
from sharpflow.models.arguments import (
    FLAG,
    POSITIVE,
    ArgumentError,
    checked,
    optional,
    require_within,
    shown,
)
from sharpflow.models.leaves import is_concrete
from sharpflow.simulator.rules.edge_rule import EdgeDynamics, norm_squared
from sharpflow.simulator.rules.printed import printed_as
from sharpflow.simulator.rules.scheduled import (
    RateSchedule,
    or_schedule,
    scheduled,
)


@checked(learning_rate=or_schedule(POSITIVE), b=POSITIVE, v0=optional(POSITIVE), on_sphere=FLAG)
def quasi_rmsprop(
    learning_rate: float | RateSchedule,
    b: float = 2.0,
    *,
    v0: float | None = None,
    on_sphere: bool = True,
) -> optax.GradientTransformation:
    """Gradient descent with the step size η/√v, v a moving average of ‖∇L‖².

    θ_{t+1} = unit(θ_t − η/√v_t ∇L(θ_t)), v_{t+1} = (1 − bη²) v_t + bη² ‖∇L(θ_t)‖²; with
    ``on_sphere=False`` without the normalisation, which is scalar RMSprop.

    Args:
      learning_rate: η > 0; a number, or a schedule of optax, a function of the step.
      b: sets the averaging time 1/(bη²); GD+WD corresponds to 2.
      v0: v at the start, 1 by default; (η λ_1/2)² starts at the edge.
      on_sphere: whether the params are kept at unit norm.

    Returns:
      An optax transformation whose state holds η, b and v; with a schedule η of the coming step.

    Raises:
      ValueError: η, b or v0 not positive, or bη² ≥ 1.

    Source: Lyu, Li and Arora 2022, section 4; docs/theory.md, section 7.
    """
    if callable(learning_rate):
        return scheduled(
            quasi_rmsprop, learning_rate=learning_rate, b=b, v0=v0, on_sphere=on_sphere
        )
    # a number of Python overflows in ** with an exception, and becomes infinite in a product
    if is_concrete(learning_rate, b) and not (share := b * learning_rate * learning_rate) < 1:
        got = f"{shown(b)} * {shown(learning_rate)}**2 = {share:g}"
        raise ArgumentError("b * learning_rate**2", "below 1", got)

    def init(params: Params) -> QuasiRMSpropState:
        dtype = jax.tree.leaves(params)[0].dtype
        require_within(dtype, learning_rate=learning_rate, b=b, v0=v0)
        return QuasiRMSpropState(
            learning_rate=jnp.asarray(learning_rate, dtype),
            b=jnp.asarray(b, dtype),
            v=jnp.asarray(1.0 if v0 is None else v0, dtype),
            on_sphere=jnp.asarray(on_sphere),
        )

    rule = optax.GradientTransformation(init, _quasi_rmsprop_update)
    return printed_as(
        rule, "quasi_rmsprop", learning_rate=learning_rate, b=b, v0=v0, on_sphere=on_sphere
    )


class QuasiRMSpropState(NamedTuple):
    """Hyperparameters of quasi-RMSprop and its moving average."""

    learning_rate: Float[Array, ""]
    b: Float[Array, ""]
    v: Float[Array, ""]
    on_sphere: Bool[Array, ""]

    def step_size(self) -> Array:
        """η/√v."""
        return self.learning_rate / jnp.sqrt(self.v)

    def edge_dynamics(self) -> EdgeDynamics:
        """The flow of GD+WD with another b: √v has the part of ‖w‖²."""
        step = self.step_size()
        return EdgeDynamics(
            effective_learning_rate=lambda params: step,
            step_size=step,
            stability_line=2.0 / step,
            intrinsic_rate=0.5 * jnp.square(self.learning_rate),
            response=self.b,
            # v shrinks by 1 − bη², and the threshold is 2√v/η
            decay_at_rest=-0.5 * jnp.log1p(-self.b * jnp.square(self.learning_rate)),
            oscillation_share=1.0,
            on_sphere=self.on_sphere,
            hyperparameters={"learning_rate": self.learning_rate, "b": self.b},
        )


# Module-level, so that transformations with other numbers share compiled code.
def _quasi_rmsprop_update(
    updates: Params, state: QuasiRMSpropState, params: Params | None = None
) -> tuple[Params, QuasiRMSpropState]:
    if params is None:
        raise ValueError("quasi_rmsprop needs params: call update(gradients, state, params)")
    rate = state.step_size()
    stepped = jax.tree.map(lambda w, g: w - rate * g, params, updates)
    shrink = jnp.where(state.on_sphere, jax.lax.rsqrt(norm_squared(stepped)), 1.0)
    moved = jax.tree.map(lambda new, old: shrink.astype(new.dtype) * new - old, stepped, params)
    share = state.b * jnp.square(state.learning_rate)
    # After the step: v_t knows the gradients up to t − 1, as ‖w_t‖² does in GD+WD. RMSprop takes in
    # the gradient of the step itself.
    v = (1.0 - share) * state.v + share * norm_squared(updates)
    return moved, state._replace(v=v)

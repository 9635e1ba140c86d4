"""Update rules as optax transformations that keep their hyperparameters in their state."""

import math
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from sharpflow.models.problem import Params
from sharpflow.theory.stability import effective_learning_rate, validate_rates


@runtime_checkable
class EdgeRule(Protocol):
    """What a state tells of the rule it belongs to, so that theory can be set beside it."""

    def effective_learning_rate(self, params: Params) -> Array:
        """η̃, the step size that θ feels, shape ()."""

    def step_size(self) -> Array:
        """η̃ where the loss is not scale-invariant and w itself moves, shape ()."""

    def intrinsic_rate(self) -> Array:
        """Flow time per step, shape ()."""

    def response(self) -> Array:
        """b, how strongly the threshold answers the oscillation, shape ()."""

    def stays_on_sphere(self) -> Array:
        """Whether the flow lives on the unit sphere, boolean, shape ()."""


class GDWDState(NamedTuple):
    """Hyperparameters of GD+WD."""

    learning_rate: Float[Array, ""]
    weight_decay: Float[Array, ""]

    def effective_learning_rate(self, params: Params) -> Array:
        """η̃ = η / ((1 − ηλ) ‖w‖²)."""
        return effective_learning_rate(_norm_squared(params), self.learning_rate, self.weight_decay)

    def step_size(self) -> Array:
        """η/(1 − ηλ/2), so that 2/η̃ = 2/η − λ: there −1 is an eigenvalue of a step."""
        return self.learning_rate / (1.0 - 0.5 * self.learning_rate * self.weight_decay)

    def intrinsic_rate(self) -> Array:
        """ηλ."""
        return self.learning_rate * self.weight_decay

    def response(self) -> Array:
        """2."""
        return jnp.full_like(self.learning_rate, 2.0)

    def stays_on_sphere(self) -> Array:
        """True: w moves freely, its direction on the sphere."""
        return jnp.ones((), bool)


class QuasiRMSpropState(NamedTuple):
    """Hyperparameters of quasi-RMSprop and its moving average."""

    learning_rate: Float[Array, ""]
    b: Float[Array, ""]
    v: Float[Array, ""]
    on_sphere: Bool[Array, ""]

    def effective_learning_rate(self, params: Params) -> Array:
        """η̃ = η/√v."""
        del params
        return self.step_size()

    def step_size(self) -> Array:
        """η/√v."""
        return self.learning_rate / jnp.sqrt(self.v)

    def intrinsic_rate(self) -> Array:
        """η²/2."""
        return 0.5 * jnp.square(self.learning_rate)

    def response(self) -> Array:
        """b."""
        return self.b

    def stays_on_sphere(self) -> Array:
        """As asked for."""
        return self.on_sphere


def gdwd(learning_rate: float, weight_decay: float) -> optax.GradientTransformation:
    """Gradient descent with weight decay, w_{t+1} = (1 − ηλ) w_t − η ∇L(w_t).

    Args:
      learning_rate: η > 0; a number or a traced scalar.
      weight_decay: λ ≥ 0, with ηλ < 1.

    Returns:
      An optax transformation whose state holds η and λ.

    Raises:
      ValueError: rates out of range.

    Source: Lyu, Li and Arora 2022, equation (1).
    """
    if _concrete(learning_rate, weight_decay):
        validate_rates(learning_rate, weight_decay)

    def init(params: Params) -> GDWDState:
        dtype = jax.tree.leaves(params)[0].dtype
        return GDWDState(
            learning_rate=jnp.asarray(learning_rate, dtype),
            weight_decay=jnp.asarray(weight_decay, dtype),
        )

    return optax.GradientTransformation(init, _gdwd_update)


def quasi_rmsprop(
    learning_rate: float, b: float = 2.0, *, v0: float | None = None, on_sphere: bool = True
) -> optax.GradientTransformation:
    """Gradient descent with the step size η/√v, v a moving average of ‖∇L‖².

    θ_{t+1} = unit(θ_t − η/√v_t ∇L(θ_t)), v_{t+1} = (1 − bη²) v_t + bη² ‖∇L(θ_t)‖²; with
    ``on_sphere=False`` without the normalisation, which is scalar RMSprop.

    Args:
      learning_rate: η > 0.
      b: sets the averaging time 1/(bη²); GD+WD corresponds to 2.
      v0: v at the start, 1 by default; (η λ_1/2)² starts at the edge.
      on_sphere: whether the params are kept at unit norm.

    Returns:
      An optax transformation whose state holds η, b and v.

    Raises:
      ValueError: η, b or v0 not positive, or bη² ≥ 1.

    Source: Lyu, Li and Arora 2022, section 4; docs/theory.md, section 7.
    """
    if _concrete(learning_rate, b):
        for name, value in (("learning_rate", learning_rate), ("b", b)):
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be positive and finite, got {value!r}")
        if not b * learning_rate**2 < 1:
            raise ValueError(f"b * learning_rate**2 must be below 1, got {b * learning_rate**2:g}")
    if v0 is not None and _concrete(v0) and not (v0 > 0 and math.isfinite(v0)):
        raise ValueError(f"v0 must be positive and finite, got {v0!r}")

    def init(params: Params) -> QuasiRMSpropState:
        dtype = jax.tree.leaves(params)[0].dtype
        return QuasiRMSpropState(
            learning_rate=jnp.asarray(learning_rate, dtype),
            b=jnp.asarray(b, dtype),
            v=jnp.asarray(1.0 if v0 is None else v0, dtype),
            on_sphere=jnp.asarray(on_sphere),
        )

    return optax.GradientTransformation(init, _quasi_rmsprop_update)


def find_rule(state: Any) -> EdgeRule | None:
    """The first state within an optimizer state that tells of its rule, or None."""
    if isinstance(state, EdgeRule):
        return state
    if isinstance(state, tuple):
        return next((rule for rule in map(find_rule, state) if rule is not None), None)
    return None


# Module-level functions, so that transformations with other numbers share compiled code.


def _gdwd_update(
    updates: Params, state: GDWDState, params: Params | None = None
) -> tuple[Params, GDWDState]:
    if params is None:
        raise ValueError("gdwd needs params: call update(gradients, state, params)")
    eta, decay = state.learning_rate, state.weight_decay
    return jax.tree.map(lambda g, w: -eta * (g + decay * w), updates, params), state


def _quasi_rmsprop_update(
    updates: Params, state: QuasiRMSpropState, params: Params | None = None
) -> tuple[Params, QuasiRMSpropState]:
    if params is None:
        raise ValueError("quasi_rmsprop needs params: call update(gradients, state, params)")
    rate = state.effective_learning_rate(params)
    stepped = jax.tree.map(lambda w, g: w - rate * g, params, updates)
    shrink = jnp.where(state.on_sphere, jax.lax.rsqrt(_norm_squared(stepped)), 1.0)
    moved = jax.tree.map(lambda new, old: shrink.astype(new.dtype) * new - old, stepped, params)
    share = state.b * jnp.square(state.learning_rate)
    v = (1.0 - share) * state.v + share * _norm_squared(updates)
    return moved, state._replace(v=v)


def _norm_squared(tree: Params) -> Array:
    return sum((jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)), start=0.0)  # type: ignore[return-value]


def _concrete(*values: object) -> bool:
    return not any(isinstance(value, jax.core.Tracer) for value in values)

"""What an update rule tells of itself, and what the rules share."""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from sharpflow.models import Params
from sharpflow.models.arguments import SHARE, Kind

OPTIMIZER = Kind(
    "an optax transformation, with init and update",
    lambda value: (
        callable(getattr(value, "init", None)) and callable(getattr(value, "update", None))
    ),
)


@runtime_checkable
class EdgeRule(Protocol):
    """What a state tells of the rule it belongs to, so that theory can be set beside it.

    Any optimizer state with these methods is one; nothing is to be inherited. A state may
    also have ``oscillation_share()``, the covariance of the oscillation at the edge over
    rate × M of the flow, which is 1 where no state tells it.

    Source: docs/howto-optimizer.md.
    """

    def effective_learning_rate(self, params: Params) -> Array:
        """η̃, the step size that θ feels, shape ().

        Args:
          params: w, where the step begins.
        """

    def step_size(self) -> Array:
        """η̃ where the loss is not scale-invariant and w itself moves, shape ()."""

    def intrinsic_rate(self) -> Array:
        """Flow time per step, shape ()."""

    def response(self) -> Array:
        """b, how strongly the threshold answers the oscillation, shape ()."""

    def stays_on_sphere(self) -> Array:
        """Whether the flow lives on the unit sphere, boolean, shape ()."""


@runtime_checkable
class PreconditionedRule(Protocol):
    """What the state of a rule tells that divides each coordinate of the gradient."""

    def preconditioner(self, gradient: Params) -> Params:
        """P of the step that this gradient makes, w ← w − ηP⁻¹∇L; diagonal, as the params."""

    def stability_line(self) -> Array:
        """λ_1(P^{-1/2} ∇²L P^{-1/2}) at which a step is marginally stable, shape ()."""


def find_rule(state: Any) -> EdgeRule | None:
    """The first state within an optimizer state that tells of its rule, or None.

    A rule within another that changes its steps, as ``optax.MultiSteps`` does, tells nothing. Nor
    does one in a chain with others, such as ``optax.scale``: their states do not say what they do.
    """
    return _first(state, EdgeRule)


def find_rule_within(state: Any) -> "EdgeRule | PreconditionedRule | None":
    """The first state that tells of its rule, whatever is done with the steps that it makes."""
    return _first(state, (EdgeRule, PreconditionedRule), its_steps=False)


def find_preconditioned_rule(state: Any) -> PreconditionedRule | None:
    """The first state within an optimizer state that tells a preconditioner, or None."""
    return _first(state, PreconditionedRule)


@runtime_checkable
class OscillatingRule(Protocol):
    """What the state of a rule tells whose oscillation is not of the size that M gives."""

    def oscillation_share(self) -> Array:
        """Covariance of the oscillation at the edge over rate × M of the flow, shape ()."""


def find_oscillation_share(state: Any) -> Array:
    """The share that the first state within an optimizer state tells; 1 where none does."""
    found = _first(state, OscillatingRule)
    return jnp.ones(()) if found is None else found.oscillation_share()


# Rules that hold another and do not make its steps as it tells them: every so many calls only,
# from other params, or of another size. What the inner one tells is then not true of a step.
_NOT_ITS_STEPS = (
    optax.MultiStepsState,
    optax.LookaheadState,
    optax.contrib.MechanicState,
    optax.contrib.SAMState,
    optax.contrib.ScheduleFreeState,
    optax.MaskedState,  # the other parameters make no step
    optax.ConditionallyTransformState,
)


def _first(state: Any, kind: Any, *, its_steps: bool = True) -> Any:
    """The first state of a kind; with ``its_steps`` only where nothing else changes its steps."""
    if isinstance(state, kind):
        return state
    if not isinstance(state, tuple) or (its_steps and _changes_steps(state)):
        return None
    found = (_first(part, kind, its_steps=its_steps) for part in state)
    return next((rule for rule in found if rule is not None), None)


def _changes_steps(state: tuple) -> bool:
    """Whether a rule within may make other steps than it tells. A chain has a plain tuple."""
    return isinstance(state, _NOT_ITS_STEPS) or (type(state) is tuple and len(state) > 1)


@runtime_checkable
class TangentRule(Protocol):
    """What the state of a rule tells that changes the motion along Γ of the one within it."""

    def tangent_kappa(self) -> Array:
        """κ: motion along Γ is 1 + κ times as fast; NaN where it is not known; shape ()."""


def find_tangent_kappa(state: Any) -> Array:
    """κ of the first state within an optimizer state that tells of one; 0 where none does."""
    if isinstance(state, TangentRule):
        return state.tangent_kappa()
    if isinstance(state, tuple):
        return sum(map(find_tangent_kappa, state), start=jnp.zeros(()))
    return jnp.zeros(())


def norm_squared(tree: Params) -> Array:
    """Sum of the squares of all entries, shape ()."""
    return sum((jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)), start=0.0)  # type: ignore[return-value]


def euclidean_step_size(learning_rate: Array, weight_decay: Array) -> Array:
    """Step size of GD+WD where w itself moves and not its direction alone.

    Args:
      learning_rate, weight_decay: η and λ, shape ().

    Returns:
      η̃ = η/(1 − ηλ/2), shape (); at λ_1(∇²L) = 2/η̃ = 2/η − λ a step has the eigenvalue −1.

    Source: docs/theory.md, sections 5 and 10.
    """
    return learning_rate / (1.0 - 0.5 * learning_rate * weight_decay)


def require_share(name: str, value: float) -> None:
    """Refuse a weight of a moving average that is not in [0, 1); a traced one passes.

    Args:
      name: what to call it in the error.
      value: the weight of the past.

    Raises:
      ValueError: names it.
    """
    SHARE.require(name, value)

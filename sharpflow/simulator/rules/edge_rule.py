"""What an update rule tells of itself, and what the rules share."""

import dataclasses
import math
import warnings
from collections import ChainMap
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from sharpflow.models import Params
from sharpflow.models.arguments import FUNCTION, Kind, shown
from sharpflow.models.representation import summarized

OPTIMIZER = Kind(
    "an optax transformation, with init and update",
    lambda value: (
        callable(getattr(value, "init", None)) and callable(getattr(value, "update", None))
    ),
    lambda value: (
        "call the function with its rates, as sharpflow.gdwd(learning_rate, weight_decay)"
        if callable(value)
        else ""
    ),
)
MAKE_OPTIMIZER = FUNCTION.with_remedy(
    lambda value: (
        "give the function that makes the transformation, as optimizer=sharpflow.gdwd: a grid "
        "calls it with the rates of each point"
        if OPTIMIZER.fits(value)
        else ""
    )
)


@summarized
@dataclasses.dataclass(frozen=True, kw_only=True)
class EdgeDynamics:
    """How an update rule acts at the Edge of Stability, as far as that is derived.

    What is None is not known, and whatever would need it is left out, NaN or refused: no number
    of gradient descent stands in for that of another rule.

    Attributes:
      effective_learning_rate: params -> η̃, the step size that θ feels from there, shape ().
      step_size: η̃ where the loss is not scale-invariant and w itself moves, shape (): 2/η̃ is
        the edge at w.
      stability_line: λ_1(∇²L(w)) at which the gradient part of a step is marginally stable,
        shape (), for the picture of ``hessian_sharpness``; with a preconditioner
        λ_1(P^{-1/2} ∇²L P^{-1/2}), for that of ``preconditioned_sharpness``.
      intrinsic_rate: flow time per step, shape ().
      response: b, the rate at which the threshold falls per unit of flow time where there is no
        oscillation, shape (): d log λ*/dτ = b (2 tr M − 1); 2 for GD+WD.
      decay_at_rest: by how much log λ* falls in a step while the gradient is zero, shape (): to
        leading order response × intrinsic rate, which stands in for it where it is None.
      oscillation_share: covariance of the oscillation at the edge over intrinsic rate × M of the
        flow, shape (); 1 for GD+WD.
      on_sphere: whether the flow lives on the unit sphere, shape ().
      kappa: κ: motion along Γ is 1 + κ times as fast, shape (); NaN where no flow is known.
      preconditioner: gradient -> P of the step that it makes, w ← w − ηP⁻¹∇L; diagonal, as the
        params. Theory knows no flow with one.
      hyperparameters: numbers of the rule by name, shape () each, which no step changes. They
        become attributes of a trajectory, and only a rule with the same numbers goes on from it.

    Raises:
      ValueError: a number with another shape than (), or no function where one is needed.

    Source: docs/theory.md, section 4; docs/howto-optimizer.md.
    """

    effective_learning_rate: Callable[[Params], Array] | None = None
    step_size: Array | None = None
    stability_line: Array | None = None
    intrinsic_rate: Array | float | None = None
    response: Array | float | None = None
    decay_at_rest: Array | float | None = None
    oscillation_share: Array | float | None = None
    on_sphere: Array | bool = True
    kappa: Array | float = 0.0
    preconditioner: Callable[[Params], Params] | None = None
    hyperparameters: Mapping[str, Array | float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value in (vars(self) | dict(self.hyperparameters)).items():
            if isinstance(value, (jax.Array, np.ndarray)) and value.shape != ():
                raise ValueError(f"{name} must be a number of shape (), got shape {value.shape}")
        for name in ("effective_learning_rate", "preconditioner"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise ValueError(f"{name} must be a function or None, got {shown(value)}")

    def effective_rate(self, params: Params, *, scale_invariant: bool) -> Array | None:
        """η̃ at params, or None where it is not known.

        Args:
          params: w.
          scale_invariant: whether the direction of w is what moves, or w itself.

        Returns:
          Shape ().
        """
        if not scale_invariant:
            return self.step_size
        tell = self.effective_learning_rate
        return None if tell is None else tell(params)

    @property
    def of_step(self) -> bool:
        """Whether it tells of a step, and not merely κ of what changes the steps of others."""
        step = self.effective_learning_rate, self.step_size, self.stability_line
        return any(known is not None for known in (*step, self.intrinsic_rate, self.preconditioner))


@runtime_checkable
class EdgeRule(Protocol):
    """An optimizer state that tells how its rule acts at the edge; nothing is to be inherited.

    Source: docs/howto-optimizer.md.
    """

    def edge_dynamics(self) -> EdgeDynamics:
        """What is known of the rule, with the numbers of the step that begins here."""


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


def edge_dynamics(state: Any) -> EdgeDynamics:
    """What an optimizer state tells of the steps that its rule makes.

    Args:
      state: of any optax transformation, ours or not.

    Returns:
      What is known. Of a rule within another that changes its steps, as ``optax.MultiSteps`` does,
      it is κ and the hyperparameters alone, as whatever else it tells may not be true of a step.
      So it is in a chain with others, such as ``optax.scale``: their states do not tell what they
      do.

    Raises:
      ValueError: a method ``edge_dynamics`` that returns something else.
    """
    if isinstance(state, EdgeRule):
        dynamics = state.edge_dynamics()
        if not isinstance(dynamics, EdgeDynamics):
            raise ValueError(
                f"{type(state).__name__}.edge_dynamics must return a "
                f"sharpflow.simulator.EdgeDynamics, got {shown(dynamics)}"
            )
        return dynamics
    if all(hasattr(state, name) for name in _FORMER_METHODS):
        return _former_dynamics(state)
    parts = [edge_dynamics(part) for part in state] if isinstance(state, tuple) else []
    # a chain has a plain tuple, and what holds one rule beside numbers of its own a named one
    # What is not known is left out. To guess that the rest of a chain changes nothing would give a
    # threshold that is wrong by the factor of an optax.scale.
    changed = isinstance(state, _NOT_ITS_STEPS) or (type(state) is tuple and len(state) > 1)
    of_step = [part for part in parts if part.of_step and not changed]
    return dataclasses.replace(
        of_step[0] if of_step else EdgeDynamics(),
        # Enhancements around one another multiply.
        kappa=math.prod(1.0 + part.kappa for part in parts) - 1.0,
        hyperparameters=dict(ChainMap(*(dict(part.hyperparameters) for part in parts))),
    )


_FORMER_METHODS = (
    "effective_learning_rate", "step_size", "intrinsic_rate", "response", "stays_on_sphere",
)  # fmt: skip
_FORMER_NUMBERS = ("learning_rate", "weight_decay", "b", "beta", "decay", "epsilon", "rho")


def _former_dynamics(state: Any) -> EdgeDynamics:
    """What a state tells that has the five methods in place of one."""
    warnings.warn(
        f"{type(state).__name__} tells of its rule by {', '.join(_FORMER_METHODS)}; give it the "
        "one method edge_dynamics, which returns a sharpflow.simulator.EdgeDynamics: from "
        "sharpflow 0.2 on nothing else is asked",
        FutureWarning,
        stacklevel=2,
    )
    return EdgeDynamics(
        effective_learning_rate=state.effective_learning_rate,
        step_size=state.step_size(),
        stability_line=state.stability_line() if hasattr(state, "stability_line") else None,
        intrinsic_rate=state.intrinsic_rate(),
        response=state.response(),
        oscillation_share=getattr(state, "oscillation_share", lambda: 1.0)(),
        on_sphere=state.stays_on_sphere(),
        hyperparameters={n: getattr(state, n) for n in _FORMER_NUMBERS if hasattr(state, n)},
    )


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

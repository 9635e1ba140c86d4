"""Steps of an integration: how they meet an output time, and how the next one is chosen."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

_SAFETY = 0.9
_SMALLEST_RATIO = 1e-6  # of error and tolerance: below, the growth is at its limit anyway


def step_towards(
    remaining: Float[Array, ""], proposed: Float[Array, ""]
) -> tuple[Float[Array, ""], Bool[Array, ""]]:
    """The longest step up to the one proposed of which a whole number meets the next output.

    Args:
      remaining: time to the output, shape ().
      proposed: the step that the error allows, shape ().

    Returns:
      The step, and whether it is the last before the output, both of shape ().
    """
    # a step that is longer by rounding alone is no reason for two
    count = jnp.maximum(jnp.ceil(remaining / proposed * (1.0 - 1e-6)), 1.0)
    return remaining / count, count <= 1.0


def step_growth(
    ratio: Float[Array, ""], order: int, *, smallest: float = 0.2, largest: float
) -> Float[Array, ""]:
    """The factor by which a step may grow, or must shrink.

    Args:
      ratio: error over tolerance, O(step^order), shape (); NaN or infinite where the step
        failed.
      order: of the error estimate in the step.
      smallest, largest: bounds of the factor.

    Returns:
      0.9 ratio^{−1/order} within the bounds, shape ().

    Source: Hairer, Nørsett and Wanner 1993, section II.4; docs/theory.md, sections 9 and 10.6.
    """
    growth = _SAFETY * jnp.maximum(ratio, _SMALLEST_RATIO) ** (-1.0 / order)
    return jnp.where(jnp.isfinite(ratio), jnp.clip(growth, smallest, largest), smallest)


def next_proposal(
    growth: Float[Array, ""], step: Float[Array, ""], proposed: Float[Array, ""]
) -> Float[Array, ""]:
    """The step to propose next.

    A step cut short to meet an output time says nothing against the longer one.

    Args:
      growth: of ``step_growth``, shape ().
      step: that was made, shape ().
      proposed: what had been proposed, at least ``step``, shape ().

    Returns:
      Shape ().
    """
    return jnp.where(growth < 1.0, growth * step, jnp.maximum(proposed, growth * step))

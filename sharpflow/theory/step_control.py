"""Steps of an integration: how they meet an output time, and how the next one is chosen."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

# Of the step that the last error suggests, because the next error differs a little from the last.
# With 1 a flow of 20 steps takes 18 and one rejected one, and errs by 1.5 times as much; with 0.5
# it takes 32.
_SAFETY = 0.9
# Of error and tolerance. An error of zero would make the growth infinite; at 1e-6 it is above every
# limit, with ten or a thousand times as much it would not be at order 3.
_SMALLEST_RATIO = 1e-6


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
    # A proposal that falls short of the output by rounding alone, as 0.1 · 3 of 0.3, is no reason
    # for two steps of half the length. 1e-6 is above the rounding of float32 and below every error.
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
      smallest, largest: bounds of the factor. An estimate that is far off, as the first one may be,
        then changes the step by no more than one factor.

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

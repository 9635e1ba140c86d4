"""A stabilised explicit Runge–Kutta step, for decay rates that spread over decades."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

Rate = Callable[[Float[Array, "*shape"]], Float[Array, "*shape"]]


def num_stages(decay: Float[Array, ""]) -> Int[Array, ""]:
    """Stages that keep a step stable, (s² + s − 2)/2 ≥ ``decay`` and s ≥ 3.

    Args:
      decay: step times the largest decay rate, shape ().

    Returns:
      s, shape ().

    Source: Meyer, Balsara and Aslam 2014, RKL2; docs/theory.md, section 10.6.
    """
    stages = jnp.ceil(0.5 * (jnp.sqrt(9.0 + 8.0 * jnp.maximum(decay, 0.0)) - 1.0))
    # two stages reach no farther than two Euler steps, and the recurrence starts from the third
    return jnp.maximum(stages, 3.0).astype(jnp.int32)


def relax(
    rate: Rate,
    start: Float[Array, "*shape"],
    step: Array,
    stages: Array,
    first_rate: Float[Array, "*shape"] | None = None,
) -> Float[Array, "*shape"]:
    """One second-order step of dy/dt = rate(y) that is stable for fast decay.

    The s stages follow the recurrence of Legendre polynomials: their stability
    reaches decay rates of (s² + s − 2)/(2 · step), where s Euler steps would reach
    2s/step. What decays fast shrinks to two thirds or less in a step.

    Args:
      rate: of the autonomous equation.
      start: y, any shape.
      step: length of the step, shape ().
      stages: s, at least 3, shape ().
      first_rate: ``rate(start)`` where it is known, as ``start``.

    Returns:
      y at the end of the step, as ``start``.

    Source: Meyer, Balsara and Aslam 2014, RKL2, equations (16) and (17).
    """
    first = step.astype(start.dtype) * (rate(start) if first_rate is None else first_rate)
    count = stages.astype(start.dtype)
    # The coefficients follow from the number of stages while the program runs: the stiffness
    # changes from step to step, and a table would hold one number of stages each.
    width = 4.0 / (count * count + count - 2.0)

    def weight(stage: Array) -> Array:
        stage = jnp.maximum(stage, 2.0)
        return (stage * stage + stage - 2.0) / (2.0 * stage * (stage + 1.0))

    def advance(index: Array, pair: tuple[Array, Array]) -> tuple[Array, Array]:
        before, latest = pair
        j = index.astype(start.dtype)
        follow = (2.0 * j - 1.0) / j * weight(j) / weight(j - 1.0)
        recall = -(j - 1.0) / j * weight(j) / weight(j - 2.0)
        change = step.astype(start.dtype) * rate(latest) - (1.0 - weight(j - 1.0)) * first
        following = (
            follow * latest
            + recall * before
            + (1.0 - follow - recall) * start
            + follow * width * change
        )
        return latest, following

    opening = (start, start + weight(jnp.ones((), start.dtype)) * width * first)
    return jax.lax.fori_loop(2, stages + 1, advance, opening)[1]

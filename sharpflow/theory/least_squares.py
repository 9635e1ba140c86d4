"""Least-norm solutions of J x = r from products with J and Jᵀ."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sharpflow.theory.scaling import unit_of

Product = Callable[[Array], Array]


def least_norm_solution(
    push: Product,
    pull: Product,
    target: Float[Array, " m"],
    *,
    tolerance: float | Float[Array, ""],
    max_steps: int,
) -> Float[Array, " d"]:
    """x = J⁺ r by conjugate gradients on JᵀJ x = Jᵀ r, from zero.

    The iterates stay in the range of Jᵀ, so null directions of J never enter, and what
    of r lies outside the range of J does no harm. The iteration ends where Jᵀ(r − Jx)
    has fallen by the tolerance or to the rounding of Jᵀ itself: going on from there
    would amplify null directions, which is what the conjugate gradients of
    ``jax.scipy`` do.

    Args:
      push: x -> J x.
      pull: r -> Jᵀ r.
      target: r, shape (m,).
      tolerance: on ‖Jᵀ(r − Jx)‖ relative to ‖Jᵀ r‖.
      max_steps: products with J at most.

    Returns:
      x, shape (d,).

    Source: Björck 1996, section 7.4 (CGLS); the second stop is that of Paige and
    Saunders 1982, section 6.
    """
    # r and J in units of their own: squares of small or of huge numbers would decide the stops
    of_target = unit_of(target)
    target = target / of_target
    gradient = pull(target)
    of_operator = unit_of(gradient)
    gradient = gradient / of_operator

    # Some units, since a product with Jᵀ adds up many numbers. A tenth would go on into rounding,
    # where null directions grow; ten times as much would end a unit of precision too soon in
    # float32.
    rounding = 10.0 * jnp.finfo(target.dtype).eps
    first = jnp.sum(jnp.square(gradient))

    def unfinished(state: dict) -> Array:
        floor = rounding**2 * state["norm_squared"] * jnp.sum(jnp.square(state["remainder"]))
        goal = jnp.maximum(tolerance**2 * first, floor)
        return (state["square"] > goal) & (state["count"] < max_steps)

    def iterate(state: dict) -> dict:
        direction, square = state["direction"], state["square"]
        stretched = push(direction) / of_operator
        curvature = jnp.sum(jnp.square(stretched))
        length = square / curvature
        remainder = state["remainder"] - length * stretched
        gradient = pull(remainder) / of_operator
        following = jnp.sum(jnp.square(gradient))
        return {
            "x": state["x"] + length * direction,
            "remainder": remainder,
            "direction": gradient + (following / square) * direction,
            "square": following,
            # The largest stretching met so far bounds ‖J‖ from below, for nothing: to compute ‖J‖
            # would take an iteration of its own.
            "norm_squared": jnp.maximum(
                state["norm_squared"], curvature / jnp.sum(jnp.square(direction))
            ),
            "count": state["count"] + 1,
        }

    state = {
        "x": jnp.zeros_like(gradient),
        "remainder": target,
        "direction": gradient,
        "square": first,
        "norm_squared": jnp.zeros((), target.dtype),  # ‖J‖², from below
        "count": jnp.zeros((), jnp.int32),
    }
    x = jax.lax.while_loop(unfinished, iterate, state)["x"]
    return x / of_operator * of_target

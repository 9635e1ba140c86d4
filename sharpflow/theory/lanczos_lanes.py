"""Lanczos' method for many operators side by side, of which none waits for the slowest."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sharpflow.theory.lanczos import (
    LanczosMethod,
    Space,
    Stop,
    small_parts_where,
)
from sharpflow.theory.ritz import RitzPairs
from sharpflow.theory.witness import prepared_start

# Lanes that go on are gathered when this part of them is left. Each gathering compiles the
# iteration once more, and until the next one up to three of four lanes may go along for nothing.
_COMPACTION = 4
# Lanes that are gathered no further: what 16 waste is little beside the rest, and a gathering of 4
# would compile the iteration once more for it.
_NARROWEST = 16

Operators = Callable[[Float[Array, "w d"]], Float[Array, "w d"]]


def lanczos_of_lanes(
    products: Callable[[Int[Array, " w"]], Operators],
    start: Float[Array, "lanes q d"],
    k: int,
    *,
    wanted: Bool[Array, " lanes"],
    tolerance: float | Array,
    stop: Stop = "residual",
    basis_size: int | None = None,
    seed: Int[Array, " lanes"],
) -> RitzPairs:
    """The k largest eigenvalues of every operator, as ``lanczos`` finds them.

    All lanes go on together until only a quarter has not ended. That is gathered and goes on
    in arrays a quarter as long, and so on: what is spent is little more than each operator's
    own products. A lane that has ended changes no more.

    Args:
      products: lanes -> their operators side by side.
      start: as of ``lanczos``, for each lane.
      wanted: which lanes are looked at at all.
      k, tolerance, stop, basis_size: as of ``lanczos``.
      seed: likewise, for each lane.

    Returns:
      The Ritz pairs with a leading axis of lanes; none has converged where it was not wanted.
    """
    start, loudness = jax.vmap(prepared_start, in_axes=(0, None, 0))(start, k, seed)
    method = LanczosMethod.of(start.shape[1:], k, tolerance, stop, basis_size)
    spaces = jax.vmap(method.first_space)(start, loudness)._replace(done=~wanted)
    width = start.shape[0]
    all_lanes = jnp.arange(width, dtype=jnp.int32)
    start_and_seed = (start, seed)
    spaces = _advanced(method, products(all_lanes), start_and_seed, spaces, least=_narrower(width))
    while width > _NARROWEST:
        width = _narrower(width)
        # those that go on come first
        ended = ~jax.vmap(method.is_unfinished)(spaces)
        # By sorting and not by a mask: a program has arrays of fixed lengths, and a quarter of the
        # lanes must be a quarter of the memory and time.
        lanes = jnp.argsort(ended, stable=True)[:width].astype(jnp.int32)
        gathered, own = jax.tree.map(lambda leaf: leaf[lanes], (spaces, start_and_seed))  # noqa: B023
        gathered = _advanced(method, products(lanes), own, gathered, least=_narrower(width))
        spaces = jax.tree.map(lambda leaf, part: leaf.at[lanes].set(part), spaces, gathered)  # noqa: B023
    return jax.vmap(method.pairs)(spaces)


def _narrower(width: int) -> int:
    """Lanes of the next gathering; none after the last."""
    return -(-width // _COMPACTION) if width > _NARROWEST else 0


def _advanced(
    method: LanczosMethod,
    operators: Operators,
    start_and_seed: tuple[Float[Array, "w q d"], Int[Array, " w"]],
    spaces: Space,
    *,
    least: int,
) -> Space:
    """Lanes side by side until at most ``least`` of them have not ended."""
    start, seed = start_and_seed
    unfinished = jax.vmap(method.is_unfinished)

    def growing(spaces: Space) -> Bool[Array, " w"]:
        return unfinished(spaces) & jax.vmap(method.has_room)(spaces)

    def extend(spaces: Space) -> Space:
        grows = growing(spaces)
        remainder, remains = jax.vmap(method.remainder)(spaces)
        lost = grows & ~remains
        remainder = jax.lax.cond(
            jnp.any(lost),
            lambda: jnp.where(lost[:, None], jax.vmap(method.substitute)(spaces, seed), remainder),
            lambda: remainder,
        )
        with_witness = jax.vmap(method.heard)(spaces, remainder, remains)
        spaces = jax.vmap(small_parts_where)(grows, with_witness, spaces)
        vectors = jax.vmap(method.next_vector)(spaces, remainder)
        return jax.vmap(method.grown)(spaces, start, vectors, operators(vectors), grows)

    def examine(spaces: Space) -> Space:
        active = unfinished(spaces)
        full = active & (spaces.num_vectors == method.size)
        spaces = jax.lax.cond(
            jnp.any(full), lambda s: _where(full, jax.vmap(method.compressed)(s), s), _same, spaces
        )
        spaces = jax.lax.while_loop(lambda s: jnp.any(growing(s)), extend, spaces)
        examined = jax.vmap(method.examined)(spaces)
        return jax.vmap(small_parts_where)(active, examined, spaces)

    return jax.lax.while_loop(lambda s: jnp.sum(unfinished(s)) > least, examine, spaces)


def _same(spaces: Space) -> Space:
    return spaces


def _where(lanes: Bool[Array, " w"], new: Space, old: Space) -> Space:
    def chosen(after: Array, before: Array) -> Array:
        return jnp.where(lanes.reshape(-1, *(1,) * (after.ndim - 1)), after, before)

    return jax.tree.map(chosen, new, old)

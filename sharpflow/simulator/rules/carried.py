"""What another rule takes over of the state that an optimizer was left in."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sharpflow.models.stored_tree import StoredLeaves
from sharpflow.simulator.rules.scheduled import scheduled_states
from sharpflow.simulator.rules.wrapped import buffers, is_accumulating

# what names of arrays begin with that hold buffers, and the attribute that tells their classes
STATE = "optimizer_state"

_NUMBERS = "numbers"  # the field of the state of a rule with schedules
# By how many of its last bits a number may differ that two programs compute by one schedule: else a
# fork had the bits of its run by chance. Along a cosine down to a tenth they are up to 3, and more
# where the terms of a schedule cancel. No rate that somebody changes is so close to the one before.
_ROUNDINGS = 64


def remembered(state: Any) -> Any:
    """What an optimizer state remembers: its buffers, counts of them, and numbers of a schedule.

    Args:
      state: of any optax transformation.

    Returns:
      The state with None in place of all else, such as its hyperparameters; None where nothing is
      left, as of GD+WD, and of ``optax.MultiSteps``, which no snapshot is gone on from with.
    """
    names = [] if is_accumulating(state) else buffers(state)
    names += [_NUMBERS] if scheduled_states(state) else []
    if not names:
        return None
    paths_and_leaves, structure = jax.tree_util.tree_flatten_with_path(state)
    places = {place for path, _ in paths_and_leaves if (place := _place(path, names)) is not None}
    leaves = [
        _as_numbers(leaf) if _place(path, names) or _counts_for(path, places) else None
        for path, leaf in paths_and_leaves
    ]
    return jax.tree.unflatten(structure, leaves)


def carried(kept: Any, fresh: Any) -> tuple[Any, list[str]]:
    """A fresh optimizer state with the buffers of one that was kept, if they are of one structure.

    The numbers of the fresh one stay: its hyperparameters, and its schedules at their step, but for
    the bits of those that are the same up to rounding. All or nothing, because a buffer means what
    it does by its rule: the second moment of one rule under the name that another has for it would
    be taken for something else.

    Args:
      kept: of the rule before, the whole or what is ``remembered`` of it, with its classes or as
        ``StoredLeaves``; None where none was kept.
      fresh: of the rule to go on with, at its step.

    Returns:
      The state, and the buffers in it that begin as at a start, by name.
    """
    own = remembered(fresh)
    if own is None or kept is None:
        return fresh, buffers(fresh)
    stored, part = StoredLeaves.of(kept), StoredLeaves.of(own)
    if not stored.fits(part) and not stored.fits(fresh):
        return fresh, buffers(fresh)
    before = dict(zip(stored.paths, stored.leaves, strict=True))
    paths_and_leaves, structure = jax.tree_util.tree_flatten_with_path(fresh)
    names = [jax.tree_util.keystr(path) for path, _ in paths_and_leaves]
    leaves = [
        as_like(before[name], leaf)
        if name in part.paths and (not _place(path, [_NUMBERS]) or _is_same(before[name], leaf))
        else leaf
        for name, (path, leaf) in zip(names, paths_and_leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, leaves), []


def as_like(leaf: Any, like: Any) -> Any:
    """An array in the dtype of another one, a copy.

    Args:
      leaf: of a file, perhaps with the bytes of a dtype that numpy does not know; or the numbers of
        a key of jax.random.
      like: the array whose dtype it gets.
    """
    if _is_key(like):
        return jnp.copy(leaf) if _is_key(leaf) else _as_key(leaf, like)
    leaf, dtype = np.asarray(leaf), np.dtype(jnp.result_type(like))
    return leaf.view(dtype) if leaf.dtype.kind == "V" else leaf.astype(dtype)


def _is_same(number: Any, other: Any) -> bool:
    """Whether two numbers of a schedule are one, which programs round to different last bits."""
    slack = _ROUNDINGS * float(jnp.finfo(jnp.result_type(other)).eps)
    return bool(abs(float(number) - float(other)) <= slack * abs(float(other)))


def _as_numbers(leaf: Any) -> Any:
    """An array that arrays of numbers can be stacked with and written to files."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _as_key(numbers: Any, like: Any) -> Any:
    return jax.random.wrap_key_data(
        jnp.asarray(numbers, jnp.uint32), impl=jax.random.key_impl(like)
    )


def _is_key(leaf: Any) -> bool:
    return bool(jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key))


def _place(path: tuple, names: list[str]) -> tuple | None:
    """Where a buffer is, with its own name last; None for what is no buffer."""
    attributes = [index for index, key in enumerate(path) if _is_field(key)]
    if not attributes or path[attributes[-1]].name not in names:
        return None
    return path[: attributes[-1] + 1]


def _counts_for(path: tuple, places: set[tuple]) -> bool:
    """Whether this tells how many gradients are in averages beside it, as Adam's count does.

    The count of a schedule stands by itself, and the step is what it counts.
    """
    *before, last = path
    beside = {place[:-1] for place in places}
    return _is_field(last) and last.name == "count" and tuple(before) in beside


def _is_field(key: Any) -> bool:
    return isinstance(key, jax.tree_util.GetAttrKey)

"""What another rule takes over of the state that an optimizer was left in."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sharpflow.models.stored_tree import StoredLeaves
from sharpflow.simulator.rules.wrapped import buffers


def carried(kept: Any, fresh: Any) -> tuple[Any, list[str]]:
    """A fresh optimizer state with the buffers of one that was kept, if they are of one structure.

    The numbers of the fresh one stay: its hyperparameters, and its schedules at their step. All or
    nothing, because a buffer means what it does by its rule: the second moment of one rule under
    the name that another has for it would be taken for something else.

    Args:
      kept: of the rule before, with its classes or as ``StoredLeaves``; None where none was kept.
      fresh: of the rule to go on with, at its step.

    Returns:
      The state, and the buffers in it that begin as at a start, by name.
    """
    anew = buffers(fresh)
    stored = StoredLeaves.of(kept)
    if not anew or kept is None or not stored.fits(fresh):
        return fresh, anew
    paths_and_leaves, structure = jax.tree_util.tree_flatten_with_path(fresh)
    places = {place for path, _ in paths_and_leaves if (place := _place(path, anew)) is not None}
    leaves = [
        as_like(old, new) if _place(path, anew) or _counts_for(path, places) else new
        for old, (path, new) in zip(stored.leaves, paths_and_leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, leaves), []


def as_like(leaf: Any, like: Any) -> Any:
    """An array in the dtype of another one, a copy.

    Args:
      leaf: of a file, perhaps with the bytes of a dtype that numpy does not know.
      like: the array whose dtype it gets.
    """
    if jnp.issubdtype(jnp.result_type(like), jax.dtypes.prng_key):
        return jnp.copy(leaf)
    leaf, dtype = np.asarray(leaf), np.dtype(jnp.result_type(like))
    return leaf.view(dtype) if leaf.dtype.kind == "V" else leaf.astype(dtype)


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

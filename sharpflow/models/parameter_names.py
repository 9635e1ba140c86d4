"""What the arrays of params are called, in words and in a dataset, and their dimensions."""

from collections.abc import Sequence

import jax
import numpy as np

from sharpflow.models.problem import Params

_ESCAPED = {"%": "%25", ".": "%2E"}


def parameter_names(params: Params, prefix: str) -> list[str]:
    """The variable of every leaf, ``prefix.path``, different from those of all others.

    A path is the keys on the way to the leaf with dots between them, as ``Dense_0.kernel``. Where
    that would not tell the leaves apart, because keys are empty or hold dots themselves, dots and
    percent signs within keys are written ``%2E`` and ``%25``, and an empty key as ``%``.

    Args:
      params: a pytree; of params that are one array the name is ``prefix``.
      prefix: ``"params"`` for snapshots, ``"final_params"`` for the last ones,
        ``"optimizer_state"`` for the buffers of an optimizer.

    Returns:
      A name for every leaf, in their order.
    """
    paths = [
        [jax.tree_util.keystr((key,), simple=True) for key in path]
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    names = [".".join([prefix, *path]) for path in paths]
    # Escaped only where it is needed, so that the names of nearly all networks read as Flax has
    # them.
    plain = len(set(names)) == len(names)
    if plain and all(key and key == key.strip(".") for path in paths for key in path):
        return names
    names = [".".join([prefix, *map(_escaped, path)]) for path in paths]
    # keys of another kind than text may be written alike, and a number tells those apart
    return [
        name if names.index(name) == index else f"{name}%{index}"
        for index, name in enumerate(names)
    ]


def parameter_dimensions(
    params: Params, ranks: Sequence[int], names: Sequence[str], prefix: str = "params"
) -> list[tuple[str, ...]]:
    """The dimensions of every leaf, none of which is called like one of the variables.

    Args:
      params: the pytree.
      ranks: dimensions that each leaf has.
      names: of the variables in the same dataset: xarray takes a variable with the name of a
        dimension for its labels, and a leaf ``a_0`` would be that beside a leaf ``a``.
      prefix: with which the names of dimensions begin.

    Returns:
      Names for every leaf, in their order: ``params.path_0`` and so on, with more underscores
      where one is too few.
    """
    leaves, separator = parameter_names(params, prefix), "_"
    while True:
        dimensions = [
            tuple(f"{leaf}{separator}{axis}" for axis in range(rank))
            for leaf, rank in zip(leaves, ranks, strict=True)
        ]
        if not {name for some in dimensions for name in some} & set(names):
            return dimensions
        separator += "_"


def _escaped(key: str) -> str:
    return "".join(_ESCAPED.get(character, character) for character in key) or "%"


def parameter_paths(params: Params, separator: str = "/") -> list[str]:
    """Where each leaf of a pytree stands, as ``"Dense_0/kernel"``.

    Args:
      params: the pytree.
      separator: between the keys of a path.

    Returns:
      A path for every leaf, in their order; empty for params that are one array.
    """
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    return [jax.tree_util.keystr(path, simple=True, separator=separator) for path in paths]


def parameter_rows(params: Params) -> np.ndarray:
    """A path of params as the rows of a matrix.

    Args:
      params: a pytree with a leading axis (T, ...), d entries each.

    Returns:
      Shape (T, d), on the host.
    """
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)

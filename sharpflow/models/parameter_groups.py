"""Groups of the arrays of params, such as the layers of a network, by their paths."""

import fnmatch
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from sharpflow.models.arguments import ArgumentError, Kind, shown
from sharpflow.models.parameter_names import parameter_names
from sharpflow.models.problem import Params

Patterns = str | Sequence[str]


def _are_patterns(value: object) -> bool:
    several = [value] if isinstance(value, str) else value
    return (
        isinstance(several, (list, tuple))
        and bool(several)
        and all(isinstance(each, str) and each for each in several)
    )


GROUPS = Kind(
    'a dictionary of patterns of paths by the names of groups, as {"first": "Dense_0.*"}',
    lambda value: (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(name, str) and name for name in value)
        and all(map(_are_patterns, value.values()))
    ),
)


def parameter_groups(
    params: Params, groups: Mapping[str, Patterns] | None = None
) -> dict[str, tuple[int, ...]]:
    """Which arrays of params each group holds.

    Args:
      params: a pytree of arrays.
      groups: by name a pattern of paths, or several, in which ``*`` stands for any characters; a
        path is the keys on the way to an array with dots between them, as ``Dense_0.kernel``. By
        default each array of two or more dimensions is a group, the kernels of a network, under
        its path; where there is none, each array.

    Returns:
      The numbers of the arrays among the leaves, by the names of the groups. An array may be in
      several groups.

    Raises:
      ValueError: a pattern that fits no path; it says which paths there are.
    """
    paths = [name.partition(".")[2] or name for name in parameter_names(params, "params")]
    if groups is None:
        ranks = [np.ndim(leaf) for leaf in jax.tree.leaves(params)]
        kernels = [index for index, rank in enumerate(ranks) if rank >= 2] or range(len(ranks))
        return {paths[index]: (index,) for index in kernels}
    chosen = {}
    for name, patterns in groups.items():
        places: set[int] = set()
        for pattern in (patterns,) if isinstance(patterns, str) else patterns:
            fitting = [i for i, path in enumerate(paths) if fnmatch.fnmatchcase(path, pattern)]
            if not fitting:
                allowed = f"a pattern that fits one of the paths {', '.join(paths)}"
                raise ArgumentError(f"groups[{name!r}]", allowed, shown(pattern))
            places.update(fitting)
        chosen[name] = tuple(sorted(places))
    return chosen

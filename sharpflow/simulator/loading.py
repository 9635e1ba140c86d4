"""Read what ``save`` wrote."""

import os
from typing import Any

import jax
import numpy as np

from sharpflow.models import Params
from sharpflow.models.arguments import PARAMS, PATH, checked, optional
from sharpflow.models.saving import read
from sharpflow.models.stored_tree import has_stored_leaves, stored_parts
from sharpflow.simulator.program import LoopState
from sharpflow.simulator.trajectory import CLASSES, Trajectory
from sharpflow.theory import CentralFlowSolution, FlowSolution

_CLASSES = CLASSES | {kind.__name__: kind for kind in (FlowSolution, CentralFlowSolution)}
_PARAMS = {
    Trajectory: ("params", "final_params"),
    LoopState: ("params", "previous"),
    FlowSolution: ("theta",),
    CentralFlowSolution: ("params",),
}


@checked(path=PATH, like=optional(PARAMS))
def load(
    path: str | os.PathLike[str], *, like: Params | None = None
) -> Trajectory | FlowSolution | CentralFlowSolution:
    """Read a trajectory or a flow that its method ``save`` wrote.

    Every field has the bits, dtypes and structure that it had. ``simulate`` goes on from a
    trajectory as from the one in memory. Nothing that the file names is imported or called.

    Args:
      path: of the netCDF file or the Zarr folder.
      like: params of the same structure, as ``problem.init`` makes them; needed only where they
        are of classes other than dictionaries, lists and tuples, which no file names.

    Returns:
      The trajectory or the flow, of the class that was saved.

    Raises:
      ValueError: there is no such file, it is something else, of a newer version, or damaged; it
        holds float64 and x64 is not enabled; or ``like`` is needed, or does not fit.
    """
    return _with_params(read(path, _CLASSES), like)


def _with_params(value: Any, like: Params | None) -> Any:
    """The object with the classes of the params, where the file lacks them."""
    changed = {}
    for name in _PARAMS.get(type(value), ()):
        params = getattr(value, name)
        if not has_stored_leaves(params):
            continue
        if like is None:
            kinds = ", ".join(sorted({part.structure for part in stored_parts(params)}))
            raise ValueError(
                f"like must be given: the params are of classes that a file does not hold, "
                f"{kinds[:200]}; pass params of the same structure, as problem.init(key)"
            )
        changed[name] = _as(params, like)
    state = getattr(value, "final_state", None)
    if state is not None and state is not value:
        changed["final_state"] = _with_params(state, like)
    return value.replace(**changed) if changed else value


def _as(params: Params, like: Params) -> Params:
    leaves, expected = jax.tree.leaves(params), jax.tree.leaves(like)
    shapes = [np.shape(leaf) for leaf in expected]
    fit = len(leaves) == len(expected) and all(
        np.shape(leaf)[np.ndim(leaf) - len(shape) :] == shape
        for leaf, shape in zip(leaves, shapes, strict=True)
    )
    if not fit:
        raise ValueError(
            f"like must be params as the file has them, with arrays of shapes "
            f"{[np.shape(leaf) for leaf in leaves]}, the snapshots first; got {shapes}"
        )
    return jax.tree.unflatten(jax.tree.structure(like), leaves)

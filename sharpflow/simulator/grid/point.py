"""A point of a grid, as the trajectory that it is."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from sharpflow.models import Params, Problem
from sharpflow.models.arguments import Kind, checked, real, shown
from sharpflow.models.parameter_names import parameter_names
from sharpflow.models.problem import PROBLEM
from sharpflow.models.stored_tree import StoredLeaves
from sharpflow.simulator.axes import BASE, BY_POSITION, keywords_of
from sharpflow.simulator.clock import clock_of
from sharpflow.simulator.program import MakeOptimizer, rule_at
from sharpflow.simulator.quantities import quantity_of
from sharpflow.simulator.rules import gdwd
from sharpflow.simulator.rules.carried import STATE, remembered
from sharpflow.simulator.rules.edge_rule import MAKE_OPTIMIZER
from sharpflow.simulator.rules.scheduled import schedules_in_words
from sharpflow.simulator.store.arrays import PENDING
from sharpflow.simulator.trajectory import Trajectory, rule_fields
from sharpflow.theory import Status

if TYPE_CHECKING:
    import xarray

_CLOCK = ("clock_step", "clock_tau")
_NOT_COLUMNS = ("status", "final_step", "num_steps", "intrinsic_rate", "step", "tau", *_CLOCK)


GRID = Kind(
    "a dataset of a grid, as simulate_grid and open_run return it",
    lambda value: all(
        name in getattr(value, "variables", ()) for name in ("status", "step", "final_step")
    ),
)


@checked(grid=GRID, problem=PROBLEM, optimizer=MAKE_OPTIMIZER)
def grid_point(
    grid: "xarray.Dataset", problem: Problem, *, optimizer: MakeOptimizer = gdwd, **point: Any
) -> Trajectory:
    """One point of a grid, for ``predict``, ``compare`` and ``measure_oscillation``.

    Args:
      grid: what ``simulate_grid`` or ``open_run`` returned.
      problem: what was trained at this point.
      optimizer: of the grid.
      **point: the label of every axis with more than one value, as ``seed=0``; rates to six
        digits.

    Returns:
      The trajectory as far as the grid recorded it; it cannot be gone on with.

    Raises:
      ValueError: an unknown or missing axis, a label that is not there, or a point that has
        not run.
    """
    axes = [str(name) for name in grid["status"].dims]
    at = grid.isel({name: place_of(grid, name, point) for name in axes})
    unknown = sorted(set(point) - set(axes))
    if unknown:
        raise ValueError(f"point names {unknown}; the axes of this grid are {axes}")
    if int(at["status"]) == PENDING:
        raise ValueError(f"the point {point} has not run yet")
    labels = {name: at[name].item() for name in axes}
    final_step = int(at["final_step"])
    step = np.atleast_1d(at["step"].values)
    diverged = int(at["status"]) == Status.DIVERGED
    rows = np.flatnonzero(step <= final_step if diverged else step < final_step)
    time = at["step"].dims[0]
    example = jax.eval_shape(problem.init, jax.random.key(0))
    columns = {
        str(name): at[name].values[rows]
        for name in at.data_vars
        if name not in _NOT_COLUMNS and at[name].dims[:1] == (time,)
    }
    # of a grid with further axes the start may choose the shapes by one of them
    others = [name for name in axes if name not in BASE]
    params, buffers, snapshot_row = None, None, np.zeros(0, int)
    taken = (*BASE[1:], *keywords_of(optimizer, others, BY_POSITION["optimizer"]))
    rates = {name: labels[name] for name in taken}
    rule = rule_at(optimizer, rates)
    state = rule.init(jax.tree.map(_ones, example))
    if "snapshot" in at.dims:
        # labelled by steps or by records
        kept = at["snapshot"].values
        snapshot_row = np.searchsorted(step, kept) if time == "step" else kept
        existing = np.isin(snapshot_row, rows)
        snapshot_row = snapshot_row[existing]
        params = params_of(at, example, "params", existing, as_drawn=not others)
        buffers = buffers_of(at, state, existing)
    has_last = all(name in at for name in parameter_names(example, "final_params"))
    return Trajectory(
        step=step[rows],
        columns=columns,
        params=params,
        buffers=buffers,
        snapshot_row=snapshot_row,
        final_step=final_step,
        final_params=params_of(at, example, "final_params", ..., as_drawn=not others)
        if has_last
        else None,
        final_state=None,
        status=Status(int(at["status"])),
        **rule_fields(problem, state),
        clock=clock_of(
            rule.update,
            state,
            int(at["clock_step"]) if "clock_step" in at else 0,
            max(int(at["num_steps"]), final_step),
        ),
        **{name: at[name].item() for name in _CLOCK if name in at},
        attributes=dict(grid.attrs) | labels | schedules_in_words(rule.update),
        quantities={name: quantity_of(name, grid[name].attrs) for name in columns},
    )


def place_of(grid: "xarray.Dataset", axis: str, point: Mapping[str, Any]) -> int:
    """Index of the label of an axis.

    Args:
      grid: as of ``grid_point``.
      axis: of the grid.
      point: labels by axis.

    Raises:
      ValueError: it has no such label, or none is given of several.
    """
    labels = grid[axis].values
    if axis not in point:
        if len(labels) > 1:
            raise ValueError(f"point must say which {axis}: one of {labels.tolist()}")
        return 0
    wanted = point[axis]
    if not np.issubdtype(labels.dtype, np.number):
        places = np.flatnonzero(labels == str(wanted))
    else:
        places = _same_number(labels, real(wanted))
    if not places.size:
        raise ValueError(f"{axis} must be one of {labels.tolist()}, got {shown(wanted)}")
    return int(places[0])


def _same_number(labels: np.ndarray, wanted: float | None) -> np.ndarray:
    """Where a label is a number: the very same or, of floats, the one that rounds to it.

    A rate of a grid in float32 may be asked for as 0.1, and one that was computed as it prints.
    """
    if wanted is None:
        return np.zeros(0, int)
    same = np.flatnonzero(labels == wanted)
    if same.size or not np.issubdtype(labels.dtype, np.floating):
        return same
    close = np.flatnonzero(np.isclose(labels.astype(float), wanted, rtol=1e-6, atol=0.0))
    return close if close.size == 1 else np.zeros(0, int)


def params_of(
    at: "xarray.Dataset", example: Params, prefix: str, kept: Any, *, as_drawn: bool
) -> Params:
    """The arrays of params at a point.

    Args:
      at: a grid at one point.
      example: params of the problem.
      prefix: ``"params"`` or ``"final_params"``.
      kept: which snapshots.
      as_drawn: whether they must have the shapes of the example.

    Raises:
      ValueError: there are no such arrays, or they have other shapes.
    """
    names = parameter_names(example, prefix)
    missing = [name for name in names if name not in at]
    if missing:
        raise ValueError(f"problem is not the one of this grid, which has no arrays {missing}")
    leaves = [at[name].values for name in names]
    for name, leaf, like in zip(names, leaves, jax.tree.leaves(example), strict=True):
        shape = leaf.shape[leaf.ndim - len(like.shape) :]  # snapshots come first
        if as_drawn and shape != like.shape:
            raise ValueError(
                f"problem is not the one of this grid: {name} has the shape {shape} there, and "
                f"{like.shape} by its init"
            )
    return jax.tree.unflatten(jax.tree.structure(example), [leaf[kept] for leaf in leaves])


def buffers_of(at: "xarray.Dataset", state: Any, kept: Any) -> StoredLeaves | None:
    """What the optimizer remembered at snapshots of a point; None where that was not kept.

    Args:
      at: a grid at one point.
      state: of the rule that goes on, whose buffers are looked for.
      kept: which snapshots.
    """
    own = remembered(state)
    names = parameter_names(own, STATE)
    classes = at["snapshot"].attrs.get(STATE)
    if own is None or classes is None or any(name not in at for name in names):
        return None
    leaves = tuple(at[name].values[kept] for name in names)
    return StoredLeaves(leaves, classes, StoredLeaves.of(own).paths)


def _ones(like: jax.ShapeDtypeStruct) -> np.ndarray:
    return np.ones(like.shape, like.dtype)

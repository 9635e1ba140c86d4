"""A chunk of lanes, compiled once and spread over devices."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from sharpflow.models.problem import Params
from sharpflow.simulator.loop import (
    Hyperparameters,
    LoopState,
    Program,
    Rows,
    padded_rows,
    run_rows,
)

_AXIS = "points"
_LANES = PartitionSpec(_AXIS)
_AFTER_ROWS = PartitionSpec(None, _AXIS)
_EVERYWHERE = PartitionSpec()
_ROWS = Rows(gaps=_AFTER_ROWS, observe=_EVERYWHERE, snapshot=_AFTER_ROWS, count=_EVERYWHERE)  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class Lanes:
    """Devices, and the lanes on each of them.

    Attributes:
      devices: of this process.
      groups: on each device, one after the other.
      width: lanes in a group, side by side.
    """

    devices: tuple[jax.Device, ...]
    groups: int
    width: int

    @property
    def count(self) -> int:
        """Of all lanes."""
        return len(self.devices) * self.groups * self.width

    @property
    def mesh(self) -> Mesh:
        """The devices along one axis."""
        return Mesh(np.array(self.devices), (_AXIS,), axis_types=(AxisType.Auto,))

    def place(self, tree: Any) -> Any:
        """Arrays with a leading axis of lanes, on the devices."""
        return jax.device_put(tree, NamedSharding(self.mesh, _LANES))


class CompiledChunk:
    """``run_rows`` over lanes on several devices.

    A group whose lanes all rest costs nothing. The devices do not wait for each other
    within a chunk, and nothing goes to the host.

    Attributes:
      lanes: how many, and where.
      num_rows: R, most rows of a chunk.
      memory_bytes: what a device holds while the chunk runs.
    """

    def __init__(
        self,
        program: Program,
        lanes: Lanes,
        num_rows: int,
        state: LoopState,
        hyperparameters: Hyperparameters,
    ) -> None:
        def of_device(
            state: LoopState, hyperparameters: Hyperparameters, rows: Rows
        ) -> tuple[LoopState, dict[str, Array], Params | None]:
            return _groups_in_turn(program, lanes.groups, state, hyperparameters, rows)

        spread = jax.shard_map(
            of_device,
            mesh=lanes.mesh,
            in_specs=(_LANES, _LANES, _ROWS),
            out_specs=(_LANES, _AFTER_ROWS, _AFTER_ROWS),
            check_vma=False,
        )
        self.lanes, self.num_rows = lanes, num_rows
        resting = self.rows(np.zeros((1, lanes.count), np.int32))
        lowered = jax.jit(spread, donate_argnums=0).lower(
            lanes.place(state), lanes.place(hyperparameters), self._placed(resting)
        )
        self._compiled = lowered.compile()
        found = self._compiled.memory_analysis()
        self.memory_bytes = 0 if found is None else found.peak_memory_in_bytes

    def __call__(
        self, state: LoopState, hyperparameters: Hyperparameters, rows: Rows
    ) -> tuple[LoopState, dict[str, Array], Params | None]:
        """Run a chunk; ``state`` and ``hyperparameters`` come from ``lanes.place``."""
        return self._compiled(state, hyperparameters, self._placed(rows))

    def rows(
        self,
        gaps: np.ndarray,
        observe: np.ndarray | bool = True,
        snapshot: np.ndarray | bool = False,
    ) -> Rows:
        """Rows padded to R.

        Args:
          gaps: shape (r, lanes).
          observe, snapshot: shapes (r,) and (r, lanes), or one flag for all.
        """
        return padded_rows(gaps, observe, snapshot, self.num_rows)

    def _placed(self, rows: Rows) -> Rows:
        mesh = self.lanes.mesh
        return jax.tree.map(
            lambda leaf, spec: jax.device_put(leaf, NamedSharding(mesh, spec)), rows, _ROWS
        )


def stacked(trees: Sequence[Any]) -> Any:
    """States or hyperparameters of single points side by side, as numpy arrays."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(x) for x in leaves]), *trees)


def _groups_in_turn(
    program: Program,
    groups: int,
    state: LoopState,
    hyperparameters: Hyperparameters,
    rows: Rows,
) -> tuple[LoopState, dict[str, Array], Params | None]:
    if groups == 1:
        return run_rows(program, state, hyperparameters, rows)

    def split(leaf: Array, axis: int = 0) -> Array:
        shape = (*leaf.shape[:axis], groups, leaf.shape[axis] // groups, *leaf.shape[axis + 1 :])
        return jnp.moveaxis(leaf.reshape(shape), axis, 0)

    def joined(leaf: Array, axis: int = 0) -> Array:
        leaf = jnp.moveaxis(leaf, 0, axis)
        return leaf.reshape(*leaf.shape[:axis], -1, *leaf.shape[axis + 2 :])

    def of_group(group: tuple) -> tuple:
        state, hyperparameters, gaps, snapshot = group
        own = Rows(gaps=gaps, observe=rows.observe, snapshot=snapshot, count=rows.count)
        idle = own.replace(count=jnp.where(jnp.any(gaps > 0), rows.count, 0))  # type: ignore[attr-defined]
        return run_rows(program, state, hyperparameters, idle)

    group = (
        jax.tree.map(split, (state, hyperparameters)),
        split(jnp.asarray(rows.gaps), 1),
        split(jnp.asarray(rows.snapshot), 1),
    )
    state, columns, snapshots = jax.lax.map(of_group, (*group[0], *group[1:]))
    return (
        jax.tree.map(joined, state),
        jax.tree.map(lambda leaf: joined(leaf, 1), columns),
        jax.tree.map(lambda leaf: joined(leaf, 1), snapshots),
    )

"""The example axis of a batch, spread over devices."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from sharpflow.models.leaves import is_concrete, on_device

AXIS = "examples"


@dataclasses.dataclass(frozen=True)
class ExampleSharding:
    """Where the examples of a batch live: on one device, or spread over several.

    Attributes:
      mesh: one axis, named ``"examples"``; None leaves everything where it is.
    """

    mesh: Mesh | None = None

    @property
    def num_devices(self) -> int:
        """Over how many devices the examples are spread."""
        return 1 if self.mesh is None else self.mesh.size

    def place(self, rows: np.ndarray, axis: int = 0) -> jax.Array:
        """An array on the devices, its ``axis`` spread; the axis must divide evenly."""
        if self.mesh is None:
            return on_device(rows)
        spec = PartitionSpec(*(None,) * axis, AXIS)
        return on_device(rows, NamedSharding(self.mesh, spec))

    def replicated(self, tree: Any) -> Any:
        """Arrays on all devices, each whole; traced ones and those without a mesh as they are."""
        if self.mesh is None or not is_concrete(*jax.tree.leaves(tree)):
            return tree
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec()))

    def constrain(self, rows: jax.Array) -> jax.Array:
        """The same array, its first axis spread over the devices in compiled code too."""
        if self.mesh is None:
            return rows
        return jax.lax.with_sharding_constraint(rows, NamedSharding(self.mesh, PartitionSpec(AXIS)))


def example_sharding(devices: Sequence[jax.Device] | None) -> ExampleSharding:
    """Spread examples over devices.

    Args:
      devices: distinct jax devices, or None.

    Raises:
      ValueError: an empty sequence, something that is no device, or one twice.
    """
    if devices is None:
        return ExampleSharding()
    several = list(devices) if isinstance(devices, Sequence) else []
    if not several or not all(isinstance(device, jax.Device) for device in several):
        raise ValueError(f"devices must be a sequence of jax devices, got {devices!r}")
    if len(set(several)) != len(several):
        raise ValueError(f"devices must be distinct, got {devices!r}")
    # With Auto the compiler finds how what follows from the inputs is spread. With Explicit every
    # operation of a user's module would have to say so where jax cannot tell.
    return ExampleSharding(Mesh(np.array(several), (AXIS,), axis_types=(AxisType.Auto,)))


def padded(rows: np.ndarray, length: int) -> np.ndarray:
    """Rows with copies of the last one up to ``length``: finite wherever the rows are."""
    if length == len(rows):
        return rows
    return np.concatenate([rows, np.repeat(rows[-1:], length - len(rows), axis=0)])

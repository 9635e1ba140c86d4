"""What was recorded along a trajectory."""

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import chex
import jax
import numpy as np

from sharpflow.models import Params, Problem
from sharpflow.models.arguments import checked, instance
from sharpflow.simulator.columns import dimensions
from sharpflow.simulator.labels import parameter_dimensions, parameter_names
from sharpflow.simulator.observables import how_to_get
from sharpflow.simulator.program import LoopState
from sharpflow.simulator.quantities import described, quantity_of
from sharpflow.simulator.quantity import Quantity
from sharpflow.simulator.rules import edge_dynamics
from sharpflow.theory import Status

if TYPE_CHECKING:
    import xarray


@chex.dataclass(frozen=True, mappable_dataclass=False)
class Trajectory:
    """What was recorded along a trajectory; row i is the state before update ``step[i]``.

    Attributes:
      step: recorded steps t, shape (T,).
      columns: recorded quantities by name, arrays of shape (T, ...); docs/quantities.md says
        what each of them is.
      params: snapshots, a pytree with leading axis (S, ...), or None.
      snapshot_row: row of each snapshot, shape (S,).
      final_step: updates made.
      final_params: params after the last of them; None where a grid did not keep them.
      final_state: all that is needed to go on; None for a point of a grid.
      status: ``Status.SUCCESS``, or ``DIVERGED``: then the last rows repeat the state
        in which the trajectory was frozen, at ``final_step``.
      intrinsic_rate: flow time per step, ηλ or η²/2; NaN for other rules.
      response: b of the rule; NaN for other rules.
      decay_at_rest: by how much log λ* falls in a step at rest; NaN where the rule tells none.
      kappa: κ of IRE around the rule, 0 without it; NaN where no flow is known.
      on_sphere: whether the flow of this rule and problem lives on the unit sphere.
      oscillation_share: covariance of the oscillation over intrinsic rate × M of the flow: 1
        for GD+WD, (1 − β)/(1 + β) with momentum; NaN for other rules.
      attributes: how it was made.
      quantities: what the columns are, by name, as their observables say.
    """

    step: np.ndarray
    columns: dict[str, np.ndarray]
    params: Params | None
    snapshot_row: np.ndarray
    final_step: int
    final_params: Params | None
    final_state: LoopState | None
    status: Status
    intrinsic_rate: float
    response: float
    on_sphere: bool
    attributes: dict[str, Any]
    kappa: float = 0.0
    oscillation_share: float = 1.0
    decay_at_rest: float = math.nan
    quantities: dict[str, Quantity] = dataclasses.field(default_factory=dict)

    def __getitem__(self, name: str) -> np.ndarray:
        """The column ``name``, shape (T, ...)."""
        if name not in self.columns:
            raise KeyError(
                f"{name!r} was not recorded; there are {sorted(self.columns)}{how_to_get(name)}"
            )
        return self.columns[name]

    def __contains__(self, name: str) -> bool:
        """Whether the column ``name`` was recorded."""
        return name in self.columns

    def quantity(self, name: str) -> Quantity:
        """What a column is: its label, definition and unit.

        Args:
          name: of the column.
        """
        return self.quantities.get(name) or quantity_of(name)

    @property
    def tau(self) -> np.ndarray:
        """Flow time τ = intrinsic rate × step of every row, shape (T,)."""
        return self.intrinsic_rate * self.step

    @property
    def snapshot_step(self) -> np.ndarray:
        """Step of every snapshot, shape (S,)."""
        return self.step[self.snapshot_row]

    def to_dataset(self) -> "xarray.Dataset":
        """The columns with dimension ``step``, coordinate ``tau``, and how they were made.

        Snapshots become variables ``params.<path>`` with dimension ``snapshot``. The attributes of
        every array say what it holds: ``long_name``, ``units`` and ``definition``.
        """
        import xarray

        variables: dict[str, Any] = {
            name: (("step", *dimensions(name, values.ndim - 1)), _storable(values))
            for name, values in self.columns.items()
        }
        coords: dict[str, Any] = {"step": self.step}
        if np.isfinite(self.intrinsic_rate):
            coords["tau"] = ("step", self.tau)
        if self.params is not None:
            coords["snapshot"] = self.snapshot_step
            names = parameter_names(self.params, "params")
            leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(self.params)]
            own = parameter_dimensions(self.params, [leaf.ndim - 1 for leaf in leaves], names)
            for name, dims, leaf in zip(names, own, leaves, strict=True):
                variables[name] = (("snapshot", *dims), leaf)
        attributes = self.attributes | {
            "status": self.status.name,
            "intrinsic_rate": self.intrinsic_rate,
        }
        dataset = xarray.Dataset(variables, coords, attributes)
        return described(
            dataset, {str(name): self.quantity(str(name)) for name in dataset.variables}
        )


def _storable(values: np.ndarray) -> np.ndarray:
    """An array of a dtype that netCDF has: bfloat16, which numpy does not know, as float32."""
    return values.astype(np.float32) if values.dtype.kind == "V" else values


TRAJECTORY = instance(Trajectory, "a Trajectory, as simulate returns it")


@checked(first=TRAJECTORY, second=TRAJECTORY)
def concatenate(first: Trajectory, second: Trajectory) -> Trajectory:
    """A trajectory and the one that went on from its end, as one.

    Args:
      first, second: ``second`` from ``simulate(problem, first, ...)``.

    Returns:
      All rows and snapshots of both; all else is that of ``second``.

    Raises:
      ValueError: the second does not start where the first ends, or recorded other
        columns, or one of them alone has snapshots.
    """
    if first.final_step != int(second.step[0]):
        raise ValueError(
            f"second starts at step {int(second.step[0])}, but first ends at {first.final_step}"
        )
    if first.columns.keys() != second.columns.keys():
        raise ValueError(
            f"first recorded {sorted(first.columns)}, but second {sorted(second.columns)}"
        )
    if (first.params is None) != (second.params is None):
        raise ValueError("first and second must both have snapshots, or neither")
    return dataclasses.replace(
        second,
        step=np.concatenate([first.step, second.step]),
        columns={n: np.concatenate([first.columns[n], second.columns[n]]) for n in first.columns},
        params=None
        if first.params is None
        else jax.tree.map(lambda *leaves: np.concatenate(leaves), first.params, second.params),
        snapshot_row=np.concatenate([first.snapshot_row, len(first.step) + second.snapshot_row]),
    )


def recorded_snapshots(trajectory: Trajectory) -> tuple[Params, np.ndarray]:
    """The snapshots of a trajectory, and the threshold at each.

    Args:
      trajectory: with snapshots and the column ``threshold``.

    Returns:
      The params, a pytree with leading axis (S, ...), and λ*, shape (S,).

    Raises:
      ValueError: one of them was not recorded.
    """
    if trajectory.params is None:
        raise ValueError("trajectory has no snapshots: simulate with snapshot_every=...")
    if "threshold" not in trajectory:
        raise ValueError(
            "trajectory has no column 'threshold': record it, and for a rule of your own pass "
            "effective_learning_rate= to simulate"
        )
    return trajectory.params, trajectory["threshold"][trajectory.snapshot_row]


def rule_fields(problem: Problem, optimizer_state: Any) -> dict[str, Any]:
    """The fields of a trajectory that its update rule tells, NaN where it does not."""
    rule = edge_dynamics(optimizer_state)
    numbers = {
        "intrinsic_rate": rule.intrinsic_rate,
        "response": rule.response,
        "decay_at_rest": rule.decay_at_rest,
        "oscillation_share": rule.oscillation_share,
        "kappa": rule.kappa,
    }
    known = {name: math.nan if value is None else float(value) for name, value in numbers.items()}
    return known | {"on_sphere": problem.scale_invariant and bool(rule.on_sphere)}

"""What was recorded along a trajectory."""

import dataclasses
import math
import os
from typing import TYPE_CHECKING, Any

import chex
import jax
import numpy as np

from sharpflow.models import Params, Problem
from sharpflow.models.arguments import (
    DATASET,
    INTEGER,
    PATH,
    checked,
    instance,
    optional,
    remedies,
)
from sharpflow.models.parameter_names import parameter_dimensions, parameter_names
from sharpflow.models.representation import (
    Summary,
    course,
    number,
    of_params,
    span,
    summarized,
)
from sharpflow.models.saving import save
from sharpflow.models.stored_tree import StoredLeaves
from sharpflow.simulator.clock import Clock
from sharpflow.simulator.columns import dimensions
from sharpflow.simulator.observables import how_to_get
from sharpflow.simulator.program import LoopState
from sharpflow.simulator.quantities import described, quantity_of
from sharpflow.simulator.quantity import Quantity
from sharpflow.simulator.rules import edge_dynamics
from sharpflow.simulator.rules.scheduled import scheduled_states
from sharpflow.theory import Status

if TYPE_CHECKING:
    import xarray

ANCESTRY = "forked_from"  # an attribute of trajectories and of runs
THEN = "; then "


@summarized
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
      intrinsic_rate: flow time per step, ηλ or η²/2; NaN for other rules, and for one that follows
        a schedule, whose flow time per step changes.
      response: b of the rule; NaN for other rules.
      decay_at_rest: by how much log λ* falls in a step at rest; NaN where the rule tells none.
      kappa: κ of IRE around the rule, 0 without it; NaN where no flow is known.
      on_sphere: whether the flow of this rule and problem lives on the unit sphere.
      oscillation_share: covariance of the oscillation over intrinsic rate × M of the flow: 1
        for GD+WD, (1 − β)/(1 + β) with momentum; NaN for other rules.
      attributes: how it was made.
      quantities: what the columns are, by name, as their observables say.
      rule_on_sphere: whether the flow of this rule lives on the sphere, whatever the problem.
      clock_step, clock_tau: the step at which this rule began to be followed, and τ there: 0, but
        after a fork, where another rule takes up the clock of the one before.
      clock: flow time and rates of a rule that follows a schedule, from ``clock_step`` on; None for
        other rules.
      buffers: what the rule remembers at each snapshot, such as averages of gradients: the leaves
        of its state, with leading axis (S, ...), but for its hyperparameters; None of a rule that
        remembers nothing.
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
    rule_on_sphere: bool = True
    clock_step: int = 0
    clock_tau: float = 0.0
    clock: Clock | None = None
    buffers: StoredLeaves | None = None

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
        """Flow time τ of every row, shape (T,): intrinsic rate × step, and on after a fork.

        With a schedule it is the sum of the intrinsic rates of the steps before, Σ η_s λ_s.
        """
        return self.tau_at(self.step)

    def tau_at(self, step: np.ndarray | int) -> np.ndarray:
        """Flow time τ at any steps, shape (...).

        Args:
          step: numbers of updates, shape (...).
        """
        if self.clock is not None:
            return np.asarray(self.clock_tau + self.clock.tau_at(step))
        return np.asarray(self.clock_tau + self.intrinsic_rate * (step - self.clock_step))

    def rate_at(self, step: np.ndarray | int) -> np.ndarray:
        """Flow time that some steps take, shape (...).

        Args:
          step: numbers of updates, shape (...).
        """
        if self.clock is not None:
            return self.clock.rate_at(step)
        return np.full(np.shape(step), self.intrinsic_rate)

    def log_rate_after(self, step: int) -> tuple[np.ndarray, np.ndarray] | None:
        """What a schedule adds to −log λ* over flow time, as ``sharpness_flow`` takes it.

        Args:
          step: from which on it must be known.

        Returns:
          Flow times and log η̃ at a fixed w at each, shape (n,) both; None without a schedule.

        Raises:
          ValueError: a rate of 0 between this step and the last snapshot.
        """
        if self.clock is None:
            return None
        tau, log_rate = self.clock.log_rate_around(step, int(self.snapshot_step[-1]))
        return self.clock_tau + tau, log_rate

    @property
    def has_clock(self) -> bool:
        """Whether its rule tells a flow time."""
        return self.clock is not None or bool(np.isfinite(self.intrinsic_rate))

    @property
    def snapshot_tau(self) -> np.ndarray:
        """Flow time τ of every snapshot, shape (S,)."""
        return self.tau_at(self.snapshot_step)

    @property
    def snapshot_step(self) -> np.ndarray:
        """Step of every snapshot, shape (S,)."""
        return self.step[self.snapshot_row]

    @checked(step=optional(INTEGER))
    def snapshot(self, step: int | None = None) -> "Snapshot":
        """The params at a step, to go on from with any rule: ``simulate`` counts the steps on.

        Args:
          step: of a snapshot, one of ``snapshot_step``; by default ``final_step``, the end.

        Returns:
          The params with step and flow time, and the buffers of the optimizer, which another rule
          of the same kind takes over; at the end of a trajectory its whole state.

        Raises:
          ValueError: no snapshot of this step.
        """
        if step is None or step == self.final_step:
            params = self.final_params
            state = None if self.final_state is None else self.final_state.optimizer_state
            if params is None:
                raise ValueError(
                    "step must be one of snapshot_step: the grid of this point did not keep its "
                    "last params, which final_params=True does"
                )
        else:
            # a trajectory that diverged was frozen, and its later rows are of no step that was made
            rows = np.flatnonzero((self.snapshot_step == step) & (step <= self.final_step))
            if self.params is None or not rows.size:
                raise ValueError(f"step must be {self._snapshots_in_words()}, got {step}")
            params, state = jax.tree.map(lambda leaf: leaf[rows[0]], (self.params, self.buffers))
        at = self.final_step if step is None else int(step)
        return Snapshot(
            params=params,
            step=at,
            tau=float(self.tau_at(at)),
            intrinsic_rate=self.intrinsic_rate,
            clock_step=self.clock_step,
            clock_tau=self.clock_tau,
            previous_loss=self._loss_before(at),
            optimizer_state=state,
            ancestry=(*self.ancestry, self._until(at)),
        )

    @property
    def ancestry(self) -> tuple[str, ...]:
        """What it was forked from, in words, the first trajectory first; empty of no fork."""
        told = self.attributes.get(ANCESTRY, "")
        return tuple(told.split(THEN)) if told else ()

    def _until(self, step: int) -> str:
        """The trajectory up to a step, in words."""
        first = int(self.step[0]) if len(self.step) else 0
        rates = [
            f"{name} {self.attributes[name]:g}"
            for name in ("learning_rate", "weight_decay")
            if isinstance(self.attributes.get(name), float)
        ]
        run = self.attributes.get("created", "an unknown date")
        return ", ".join([f"steps {first} to {step} of {run}", *rates])

    def _loss_before(self, step: int) -> float:
        """L(w_{t−1}) at a step t, NaN where it is not known."""
        if step == self.final_step and self.final_state is not None:
            return float(self.final_state.previous_loss)
        rows = np.flatnonzero(self.step == step - 1)
        return float(self["loss"][rows[0]]) if rows.size and "loss" in self else math.nan

    def _snapshots_in_words(self) -> str:
        if self.params is None:
            return (
                f"the last one, {self.final_step}, as there are no snapshots: simulate with "
                "snapshot_every=... keeps some"
            )
        steps = self.snapshot_step[self.snapshot_step <= self.final_step]
        told = steps.tolist() if len(steps) <= 8 else [*steps[:4].tolist(), "...", int(steps[-1])]
        return f"that of a snapshot, of {', '.join(map(str, told))}, or {self.final_step}, the last"

    @checked(path=PATH)
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trajectory to a file, every bit of it; ``sharpflow.load`` reads it.

        The file holds the dataset of ``to_dataset`` for all who read without this package, and
        beside it what is needed to go on. It is there as a whole or not at all. One that is there
        already is replaced.

        Args:
          path: ending in ``.nc`` for a netCDF file, in ``.zarr`` for a Zarr folder.

        Raises:
          ValueError: another ending, a folder that holds something else, or attributes or states
            that are no numbers, text or arrays.
        """
        state = self.final_state
        if state is not None:
            # what the rule and the observables remember has classes of theirs, which whoever goes
            # on has too
            state = dataclasses.replace(
                state,
                optimizer_state=StoredLeaves.of(state.optimizer_state),
                memories=StoredLeaves.of(state.memories),  # type: ignore[arg-type]
            )
        save(dataclasses.replace(self, final_state=state), self.to_dataset(), path, CLASSES)

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
        if self.has_clock:
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

    def _summary(self) -> Summary:
        rule = f"ηλ = {self.intrinsic_rate:g}, b = {self.response:g}"
        lines = [
            ("step t", span(self.step)),
            ("flow time τ", span(self.tau) if self.has_clock else "none known"),
        ]
        if self.clock_step:
            lines.append(("forked", f"at step {self.clock_step}, τ = {self.clock_tau:g}"))
        lines += [("from", told) for told in self.ancestry]
        if self.clock is not None:
            rates = span(self.rate_at(self.step))
            lines.append(("rule", f"ηλ by a schedule, {rates}; b = {self.response:g}"))
        if np.isfinite(self.intrinsic_rate):
            lines.append(("rule", rule + (f", κ = {self.kappa:g}" if self.kappa else "")))
        kept = "none" if self.params is None else of_params(self.params, "snapshots")
        lines.append(("params", kept))
        lines += [(name, course(self.columns[name])) for name in self._columns_in_order()]
        first = int(self.step[0]) if len(self.step) else 0
        made = f"after {self.final_step - first:,} steps"
        whence = f", from {first:,} to {self.final_step:,}" if first else ""  # of a fork
        return Summary(f"Trajectory: {self.status.name} {made}{whence}", lines)

    def _columns_in_order(self) -> list[str]:
        """Losses, each column with what it is compared with, and the rest.

        A printed trajectory has room for few of them: of a sharpness alone nobody can tell whether
        it is at the edge.
        """
        beside = {name: self.quantity(name).reference for name in self.columns}
        pairs = {name: other for name, other in beside.items() if other in self.columns}
        losses = [name for name in ("loss", "loss_mean") if name in self.columns]
        compared = [name for pair in pairs.items() for name in pair]
        return list(dict.fromkeys([*losses, *compared, *self.columns]))


@summarized
@chex.dataclass(frozen=True, mappable_dataclass=False)
class Snapshot:
    """The params of a trajectory at one step, from which ``simulate`` goes on with any rule.

    Attributes:
      params: as of the problem.
      step: updates made before.
      tau: flow time there; NaN after a rule that tells none.
      intrinsic_rate: flow time per step of the rule before.
      clock_step, clock_tau: as of the trajectory.
      previous_loss: L(w_{t−1}), which tells whether the first step raises the loss; NaN where the
        trajectory does not know it, because it did not record its loss one step before.
      optimizer_state: of the rule before: all of it at the end of its trajectory, the buffers at a
        snapshot; None where none was kept. ``simulate`` takes over the buffers if they fit.
      ancestry: what it is a part of, in words, the first trajectory first.
    """

    params: Params
    step: int
    tau: float
    intrinsic_rate: float = math.nan
    clock_step: int = 0
    clock_tau: float = 0.0
    previous_loss: float = math.nan
    optimizer_state: Any = None
    ancestry: tuple[str, ...] = ()

    def _summary(self) -> Summary:
        # clock and previous loss are for simulate, and tell a reader nothing
        return Summary(
            "Snapshot of a trajectory",
            [
                ("step", number(self.step)),
                ("flow time τ", number(self.tau)),
                ("intrinsic rate ηλ", number(self.intrinsic_rate)),
                ("params", of_params(self.params)),
            ],
        )

    @property
    def attributes(self) -> dict[str, str]:
        """What a trajectory that goes on from here keeps of those before it."""
        return {ANCESTRY: THEN.join(self.ancestry)} if self.ancestry else {}

    def clock(self, intrinsic_rate: float) -> dict[str, Any]:
        """The fields ``clock_step`` and ``clock_tau`` of a trajectory that goes on from here.

        Args:
          intrinsic_rate: of its rule. Where it is the same, the clock is the same, and τ has the
            bits that it would have without a break. After a rule without a clock τ counts from
            here.
        """
        if intrinsic_rate == self.intrinsic_rate:
            return {"clock_step": self.clock_step, "clock_tau": self.clock_tau}
        tau = self.tau if math.isfinite(self.tau) else 0.0
        return {"clock_step": self.step, "clock_tau": tau}


# what the file of a trajectory may hold
CLASSES = {
    kind.__name__: kind for kind in (Trajectory, Clock, Snapshot, LoopState, Quantity, Status)
}


def _storable(values: np.ndarray) -> np.ndarray:
    """An array of a dtype that netCDF has: bfloat16, which numpy does not know, as float32."""
    return values.astype(np.float32) if values.dtype.kind == "V" else values


TRAJECTORY = instance(Trajectory, "a Trajectory, as simulate returns it").with_remedy(
    remedies(
        (instance(Snapshot, ""), "give the trajectory from which the snapshot was taken"),
        (
            DATASET,
            "sharpflow.simulator.grid_point(grid, problem, seed=...) makes one of a grid's point",
        ),
        (PATH, "sharpflow.load(path) reads one that its method save wrote"),
    )
)


@checked(first=TRAJECTORY, second=TRAJECTORY)
def concatenate(first: Trajectory, second: Trajectory) -> Trajectory:
    """A trajectory and the one that went on from its end, as one.

    Args:
      first, second: ``second`` from ``simulate(problem, first, ...)``.

    Returns:
      All rows and snapshots of both; all else is that of ``second``.

    Raises:
      ValueError: the second does not start where the first ends, or recorded other
        columns, or one of them alone has snapshots, or the second has another rule.
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
    same_clock = _same_clock(first, second)
    if not same_clock or not np.array_equal(_numbers(first), _numbers(second), equal_nan=True):
        raise ValueError(
            "second was forked from first with another rule, so that they are two trajectories; "
            "draw or compare each by itself"
        )
    return dataclasses.replace(
        second,
        step=np.concatenate([first.step, second.step]),
        columns={n: np.concatenate([first.columns[n], second.columns[n]]) for n in first.columns},
        params=None
        if first.params is None
        else jax.tree.map(lambda *leaves: np.concatenate(leaves), first.params, second.params),
        snapshot_row=np.concatenate([first.snapshot_row, len(first.step) + second.snapshot_row]),
        buffers=_joined_buffers(first.buffers, second.buffers),
    )


def _joined_buffers(first: StoredLeaves | None, second: StoredLeaves | None) -> StoredLeaves | None:
    """Of both, or None where one of them kept none, as in a file of an earlier version."""
    if first is None or second is None or first.paths != second.paths:
        return None
    parts = zip(first.leaves, second.leaves, strict=True)
    return dataclasses.replace(second, leaves=tuple(map(np.concatenate, parts)))


def _same_clock(first: Trajectory, second: Trajectory) -> bool:
    """Whether the steps of the first have the same τ by the clock of the second."""
    if first.clock is None and second.clock is None:
        return np.array_equal(first.tau, second.tau_at(first.step), equal_nan=True)
    if first.clock is None or second.clock is None or first.clock_step != second.clock_step:
        return False
    # knots tell τ to a hundredth of a step, and a longer run may have others
    slack = 0.1 * first.rate_at(first.step)
    return bool(np.all(np.abs(first.tau - second.tau_at(first.step)) <= slack))


def _numbers(trajectory: Trajectory) -> list[float]:
    """What is known of a rule in numbers, by which two of them differ."""
    rates = [
        trajectory.attributes.get(name, math.nan) for name in ("learning_rate", "weight_decay")
    ]
    share, decay = trajectory.oscillation_share, trajectory.decay_at_rest
    return [*map(float, rates), trajectory.response, share, decay, trajectory.kappa]


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
    if scheduled_states(optimizer_state):
        # those of the last step only, which a schedule changes
        numbers |= {"intrinsic_rate": None, "decay_at_rest": None}
    known = {name: math.nan if value is None else float(value) for name, value in numbers.items()}
    return known | {
        "on_sphere": problem.scale_invariant and bool(rule.on_sphere),
        "rule_on_sphere": bool(rule.on_sphere),
    }

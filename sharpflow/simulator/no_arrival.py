"""Why no snapshot of a trajectory is near the minimizer manifold, and what helps."""

import contextlib
import dataclasses
import decimal
from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from sharpflow.models import Params, Problem, check_scale_invariance
from sharpflow.simulator.trajectory import Trajectory
from sharpflow.theory import spherical_sharpness

# Of the loss halfway: a loss that falls by less than this in the second half of a run hardly falls
# any more. On the way to the manifold it falls exponentially, and by far more.
_FALLING = 0.5
# With fewer snapshots than this the time between two of them is a good part of the run.
_FEW_SNAPSHOTS = 8

# Snapshots of which the edge ratio is looked at in a round: each takes an iteration for an
# eigenvalue, and at the edge the ratio stays about 1. Each round looks between two neighbours of
# the one before, so that three rounds tell the first of a thousand snapshots.
_LOOKED_AT = 8


@dataclasses.dataclass
class Search:
    """What the search for an arrival has seen.

    Attributes:
      largest_distance: that counts as arrived.
      count: snapshots that there are.
      closest: least distance of a snapshot; infinite as long as the retraction has reached the
        manifold from none.
      closest_step: of that snapshot.
      failed: snapshots from which the retraction did not reach the manifold.
      distances: of the snapshots in their order, NaN where the retraction failed.
    """

    largest_distance: float
    count: int
    closest: float = np.inf
    closest_step: int = 0
    failed: int = 0
    distances: list[float] = dataclasses.field(default_factory=list)

    def see(self, distance: float, step: int) -> bool:
        """Note a snapshot; whether it has arrived.

        Args:
          distance: from the manifold, NaN where the retraction failed.
          step: of the snapshot.
        """
        self.distances.append(distance)
        if not np.isfinite(distance):
            self.failed += 1
        elif distance < self.closest:
            self.closest, self.closest_step = distance, step
        return bool(distance <= self.largest_distance)

    @property
    def in_words(self) -> str:
        """How near the snapshots have come, in digits that tell it from the largest distance."""
        if not np.isfinite(self.closest):
            return "the retraction has reached the manifold from none of them"
        return f"the closest, of step {self.closest_step}, is {self._closest_in_words} away from it"

    @property
    def accepting(self) -> float:
        """The closest distance, rounded up to two digits: one that accepts its snapshot."""
        context = decimal.Context(prec=2, rounding=decimal.ROUND_CEILING)
        return float(context.create_decimal_from_float(float(self.closest)))

    @property
    def _closest_in_words(self) -> str:
        for digits in range(2, 17):
            told = f"{self.closest:.{digits}g}"
            if float(told) > self.largest_distance:
                return told
        return repr(float(self.closest))


def refusal(problem: Problem, trajectory: Trajectory, search: Search) -> str:
    """Why a trajectory is not predicted, of which no snapshot is near the manifold.

    Args:
      problem, trajectory: as of ``predict``.
      search: of all its snapshots.

    Returns:
      What is the case, the reasons with what helps against each, the likeliest first. A loss that
      is not invariant is told before all else: what follows from it helps nobody.
    """
    seen = (
        f"no snapshot lies within arrival_distance = {search.largest_distance:g} of the minimizer "
        f"manifold: {search.in_words}."
    )
    if trajectory.on_sphere:
        try:
            check_scale_invariance(problem, _snapshot(trajectory, 0))
        except ValueError as error:
            return f"a manifold on the sphere needs an invariant loss, but {error} So {seen}"
    return " ".join([seen, *_reasons(problem, trajectory, search)])


class _Edge(NamedTuple):
    """Where a trajectory is first seen at the edge.

    Attributes:
      snapshot: its number, not the first: a start above the edge is thrown below it by its first
        steps, and tells nothing alone.
      ratio: the edge ratio there.
      start: the edge ratio at the first snapshot.
    """

    snapshot: int
    ratio: float
    start: float


def _reasons(problem: Problem, trajectory: Trajectory, search: Search) -> Iterator[str]:
    """At least one sentence."""
    reachable = search.failed < search.count
    edge = _first_at_edge(problem, trajectory) if trajectory.on_sphere else None
    # Where the retraction finds a minimizer, the data can be fitted: the edge is the reason. What
    # the loss does there says nothing, and what would help else, longer training, does not help.
    if edge is not None and reachable:
        yield f"The {_of_edge(problem, trajectory, search, edge)}"
        yield _acceptance(trajectory, search, edge)
        return
    told = list(_of_loss(problem, trajectory, search, at_edge=edge is not None))
    yield from told
    if edge is not None:
        # A network that cannot fit its data comes to the edge as well, and no rate helps it.
        said = _of_edge(problem, trajectory, search, edge)
        yield f"Else the edge is the reason: the {said}" if told else f"The {said}"
        return
    if search.count < _FEW_SNAPSHOTS:
        yield (
            f"There are {search.count} snapshots, and the trajectory may have been "
            "near between two of them: give simulate a smaller snapshot_every."
        )
    if search.failed and jax.tree.leaves(trajectory.params)[0].dtype == np.float32:
        yield (
            f"The retraction fails from {search.failed} of {search.count} snapshots. They "
            "are float32, whose rounding may be the cause: make the problem in float64, with "
            "jax_enable_x64."
        )
    elif not reachable and not told:
        yield (
            "The loss is near its infimum, and the retraction fails all the same. Kinks, as those "
            "of relu, may be the cause: softplus, gelu and tanh have none."
        )
    if reachable:
        yield _acceptance(trajectory, search, None)


def _snapshot(trajectory: Trajectory, index: int) -> Params:
    return jax.tree.map(lambda leaf: leaf[index], trajectory.params)


def _excess(problem: Problem, trajectory: Trajectory, index: int) -> float:
    """The loss above its infimum at a snapshot."""
    loss = float(problem.loss_value(_snapshot(trajectory, index)))
    return loss - float(problem.loss_infimum)


def _above_infimum(problem: Problem) -> str:
    return f"above its infimum {float(problem.loss_infimum):.3g} " if problem.loss_infimum else ""


def _of_loss(
    problem: Problem, trajectory: Trajectory, search: Search, *, at_edge: bool
) -> Iterator[str]:
    """That the loss is far from its infimum, and whether it still falls; nothing where it is not.

    Args:
      problem, trajectory, search: as of ``refusal``.
      at_edge: whether the trajectory comes to the edge, where a loss that falls will not go on so.
    """
    before, halfway, after = (
        _excess(problem, trajectory, index) for index in (0, search.count // 2, search.count - 1)
    )
    hardly = after > _FALLING * halfway
    # near the manifold the loss falls with the square of the distance
    if after <= search.largest_distance**2 * before or (at_edge and not hardly):
        return
    above = _above_infimum(problem)
    yield f"The loss {above}is {before:.2g} at the first snapshot and {after:.2g} at the last."
    if hardly:
        if f"{after:.2g}" == f"{halfway:.2g}":
            since = f"It was {halfway:.2g} halfway already."
        else:
            fell = "rose" if after > halfway else "hardly fell"
            since = f"It {fell} from {halfway:.2g} halfway."
        slow = "" if at_edge else " If training is slow, train longer."
        yield (
            f"{since} If it stays there, the network cannot fit its data: give it more parameters "
            f"or fewer data.{slow}"
        )
    else:
        yield "It still falls: train longer."


def _of_edge(problem: Problem, trajectory: Trajectory, search: Search, edge: _Edge) -> str:
    """That a trajectory comes to the edge too early, when, and what delays it; after "The"."""
    step = trajectory.snapshot_step
    said = "trajectory is at the edge before it comes near the manifold: its edge ratio "
    if edge.start >= 1.0:
        return (
            f"{said}is {edge.start:.3g} at the start, step {step[0]}, and {edge.ratio:.3g} at step "
            f"{step[edge.snapshot]}. Lower learning_rate, so that training begins below the edge."
        )
    last = edge.snapshot - 1
    loss, distance = _excess(problem, trajectory, last), search.distances[last]
    # Near the manifold the loss falls with the square of the distance. From afar, where the
    # retraction fails, the length of the parameters stands for the distance.
    afar = not np.isfinite(distance)
    near = search.largest_distance**2 * (
        _excess(problem, trajectory, 0) if afar else loss / distance**2
    )
    return (
        f"{said}reaches 1 by step {step[edge.snapshot]}. Lower weight_decay first: the steps "
        "before the edge grow like 1/weight_decay. A lower learning_rate helps less. At step "
        f"{step[last]}, the last snapshot before, the loss {_above_infimum(problem)}is {loss:.2g}; "
        f"to be near enough it has to fall to about {near:.1g} there."
    )


def _first_at_edge(problem: Problem, trajectory: Trajectory) -> _Edge | None:
    """The first snapshot after the start that is seen at the edge; None where none is."""
    first, ratio = None, np.nan
    begin, end = 0, len(trajectory.snapshot_row)
    while end - begin > 1:
        among = np.linspace(begin + 1, end - 1, min(end - begin - 1, _LOOKED_AT)).astype(int)
        for index in among:
            here = _edge_ratio(problem, trajectory, index)
            if here >= 1.0:
                first, ratio, end = int(index), here, int(index)
                break
            begin = int(index)
    return None if first is None else _Edge(first, ratio, _edge_ratio(problem, trajectory, 0))


def _edge_ratio(problem: Problem, trajectory: Trajectory, index: int) -> float:
    """λ₁/λ* at a snapshot; NaN where the eigenvalue is not found, which tells nothing."""
    row = trajectory.snapshot_row[index]
    if "edge_ratio_iterate" in trajectory:
        recorded = float(trajectory["edge_ratio_iterate"][row])
        if np.isfinite(recorded):
            return recorded
    with contextlib.suppress(RuntimeError):
        sharpness = spherical_sharpness(problem, _snapshot(trajectory, index))[0][0]
        return float(sharpness) / float(trajectory["threshold"][row])
    return np.nan


def _acceptance(trajectory: Trajectory, search: Search, edge: _Edge | None) -> str:
    """What may be accepted all the same, and what is lost by it."""
    said = (
        f"arrival_distance={search.accepting:g} accepts the snapshot of step "
        f"{search.closest_step}, and so does arrival_step={search.closest_step}: the prediction "
        "then starts as wrong as that"
    )
    if edge is not None and search.closest_step >= trajectory.snapshot_step[edge.snapshot]:
        said += ", and after the entry into the edge, so that no entry is predicted"
    return f"{said}."

"""A grid whose points go on from those of a run."""

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from sharpflow.models import Params
from sharpflow.models.arguments import MAPPING, PATH, count, optional
from sharpflow.models.caller import warn_caller
from sharpflow.models.files import digest
from sharpflow.models.parameter_names import parameter_names
from sharpflow.models.representation import Summary, summarized
from sharpflow.models.stored_tree import StoredLeaves
from sharpflow.simulator.axes import Axes
from sharpflow.simulator.grid.point import buffers_of, params_of, place_of
from sharpflow.simulator.program import LoopState
from sharpflow.simulator.rules.carried import as_like, carried
from sharpflow.simulator.rules.wrapped import at_step
from sharpflow.simulator.store.arrays import PENDING
from sharpflow.simulator.store.folder import RunFolder
from sharpflow.simulator.store.reading import open_run
from sharpflow.simulator.store.states import State
from sharpflow.simulator.trajectory import ANCESTRY, THEN
from sharpflow.theory import Status

if TYPE_CHECKING:
    import xarray


@summarized
@dataclasses.dataclass(frozen=True)
class Fork:
    """The run from which the points of a grid go on.

    A point goes on from that of the run with the same labels. An axis along which the run has one
    value is not asked about: all rates of the grid go on from it.

    Attributes:
      run: its folder.
      at: the step of a snapshot there, updates before it counted; by default the end of each point,
        which a run keeps with ``final_state``, or its params alone with ``final_params``.
      point: by axis of the run a label that all points go on from, where those of the grid are not
        among its own.

    Raises:
      ValueError: an argument of another kind.
    """

    run: str | os.PathLike[str]
    at: int | None = None
    point: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        PATH.require("run", self.run)
        optional(count(0)).require("at", self.at)
        MAPPING.require("point", self.point)

    def _summary(self) -> Summary:
        at = "its end" if self.at is None else str(self.at)
        given = [(name, str(label)) for name, label in self.point.items()]
        return Summary("Fork", [("run", os.fspath(self.run)), ("at", at), *given])


class _Begin(NamedTuple):
    """Where a point goes on.

    Attributes:
      place: of the point of the run, along each of its axes.
      step: updates made before.
      snapshot: index of the snapshot; None at the end.
    """

    place: dict[str, int]
    step: int
    snapshot: int | None


class Origin:
    """What the points of a grid take from the run that they go on from.

    Args:
      fork: the run, and where in it.
      axes: of the grid that goes on.

    Attributes:
      steps: updates that each point has behind it, shape (points,).
      description: what the folder of the new run keeps of this, in plain numbers and strings.

    Raises:
      ValueError: points that are not in the run, or that it did not keep.
    """

    def __init__(self, fork: Fork, axes: Axes) -> None:
        self.run = RunFolder.at(fork.run)
        self._grid, self._axes, self._warned = open_run(self.run), axes, False
        self._ends = {
            name: np.asarray(self._grid[name])
            for name in ("status", "final_step", "num_steps", "step")
        }
        places = parent_places(self._grid, axes, fork.point, str(self.run.path))
        known: dict[tuple, _Begin] = {}
        for place in places:
            key = tuple(place.values())
            if key not in known:
                known[key] = self._begin(place, fork.at)
        self._begins = [known[tuple(place.values())] for place in places]
        self.steps = np.array([begin.step for begin in self._begins], np.int64)
        self.description = self._described(fork)

    @property
    def attributes(self) -> dict[str, str]:
        """What a launch of the new run notes, and its points are told to be forked from."""
        return {ANCESTRY: THEN.join(self.description["ancestry"])}

    def clocks(self, rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """From where each point counts its flow time: the step, and τ there, shapes (points,).

        Args:
          rates: flow time per step of each point, NaN where nothing tells it and where its rule
            follows a schedule, shape (points,).

        Raises:
          ValueError: a run with a schedule neither recorded the step of the fork nor kept its τ.
        """
        clocks = [self._clock(*each) for each in zip(self._begins, rates, strict=True)]
        steps, taus = zip(*clocks, strict=True)
        return np.array(steps, np.int64), np.array(taus, np.float64)

    def params(self, point: int, like: Params) -> Params:
        """Where a point goes on.

        Args:
          point: its number.
          like: as ``init`` draws them; the dtype of the new run is theirs.

        Raises:
          ValueError: the run has params of other names or shapes, or none of this point.
        """
        begin = self._begins[point]
        if (kept := self._kept(begin)) is not None:
            if not kept["params"].fits(like):
                raise ValueError(
                    f"problem has other params than the run {self.run.path}: "
                    f"{', '.join(parameter_names(like, 'params'))} have other names or shapes there"
                )
            params = kept["params"].like(like)
        else:
            at = self._grid.isel(begin.place)
            at = at if begin.snapshot is None else at.isel(snapshot=begin.snapshot)
            prefix = "final_params" if begin.snapshot is None else "params"
            params = params_of(at, like, prefix, ..., as_drawn=True)
        cast = jax.tree.map(as_like, params, like)
        if not all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(cast)):
            raise ValueError(
                f"fork: the run {self.run.path} has no finite params at step {begin.step} of the "
                f"point {self._in_words(begin.place)}, which has not come there, or diverged"
            )
        return cast

    def state(self, point: int, begun: LoopState, update: Any) -> LoopState:
        """A point before its first update.

        Args:
          point: its number.
          begun: as a start from ``params`` would begin, in numpy arrays.
          update: of its rule, whose schedules come to the step.
        """
        begin = self._begins[point]
        kept = self._kept(begin) or {}
        rule = begun.optimizer_state
        rule = at_step(rule, begin.step, update) if begin.step else rule
        held = kept.get("optimizer_state")
        if begin.snapshot is not None:
            at = self._grid.isel(begin.place).isel(snapshot=begin.snapshot)
            held = buffers_of(at, rule, ...)
        rule, anew = carried(held, rule)
        if begin.step and anew and not self._warned:
            self._warned = True
            had = "kept none" if held is None else "has other ones"
            warn_caller(
                f"{anew} of the optimizer begin as at a start, since the run {self.run.path} "
                f"{had} at step {begin.step}: a run keeps them with its snapshots, and at its end "
                "with final_state"
            )
        before, loss = begun.previous_loss, self._loss_before(begin, kept)
        changes = {
            "step": np.asarray(begin.step, begun.step.dtype),
            "optimizer_state": rule,
            "previous_loss": before if math.isnan(loss) else np.asarray(loss, before.dtype),
        }
        for name in ("previous", "memories"):
            if name in kept and kept[name].fits(getattr(begun, name)):
                fresh = getattr(begun, name)
                changes[name] = jax.tree.map(as_like, kept[name].like(fresh), fresh)
        state: LoopState = begun.replace(**changes)  # type: ignore[attr-defined]
        return state

    def _begin(self, place: dict[str, int], at: int | None) -> _Begin:
        status, made, end = (
            int(self._ends[name][tuple(place.values())])
            for name in ("status", "final_step", "num_steps")
        )
        if at is None or at == end:
            if status == PENDING:
                self._refuse(place, "has not ended", "end it by --resume (resume=True), or give a "
                             f"step as at: {self._steps_in_words(place)}")  # fmt: skip
            self._require_reached(place, end, status, made)
            if not (self.run.has_state(self._number(place)) or self._has_final_params):
                self._refuse(place, "kept neither its last state nor its last params", "a run with "
                             "final_state = true (final_state=True) keeps the state; or give a "
                             f"step as at: {self._steps_in_words(place)}")  # fmt: skip
            return _Begin(place, end, None)
        found = np.flatnonzero(self._snapshot_steps(place) == at)
        if not found.size:
            self._refuse(place, f"has no snapshot at step {at}", "at must be a step of a snapshot: "
                         f"{self._steps_in_words(place)}")  # fmt: skip
        self._require_reached(place, at, status, made)
        return _Begin(place, at, int(found[0]))

    def _require_reached(self, place: dict[str, int], step: int, status: int, made: int) -> None:
        if status == Status.DIVERGED and step >= made:
            self._refuse(place, f"diverged at step {made}", "give an earlier step as at, or leave "
                         "this point out")  # fmt: skip

    def _refuse(self, place: dict[str, int], what: str, remedy: str) -> None:
        raise ValueError(
            f"fork: the point {self._in_words(place)} of the run {self.run.path} {what}: {remedy}"
        )

    @property
    def _has_final_params(self) -> bool:
        names = map(str, self._grid.variables)
        return any(name.partition(".")[0] == "final_params" for name in names)

    def _snapshot_steps(self, place: dict[str, int]) -> np.ndarray:
        """Of the point of the run, increasing."""
        if "snapshot" not in self._grid.dims:
            return np.zeros(0, int)
        labels = self._grid["snapshot"].values
        step = self._grid["step"].isel(place, missing_dims="ignore").values
        return labels if self._grid["step"].dims == ("step",) else step[labels]

    def _steps_in_words(self, place: dict[str, int]) -> str:
        steps = self._snapshot_steps(place).tolist()
        if not steps:
            return "it has none, which snapshot_every keeps"
        told = steps if len(steps) <= 8 else [*steps[:4], "...", steps[-1]]
        return ", ".join(map(str, told))

    def _number(self, place: dict[str, int]) -> int:
        return int(np.ravel_multi_index(tuple(place.values()), self._ends["status"].shape))

    def _in_words(self, place: dict[str, int]) -> str:
        return ", ".join(f"{name}={self._grid[name].values[at]}" for name, at in place.items())

    def _kept(self, begin: _Begin) -> State | None:
        number = self._number(begin.place)
        if begin.snapshot is not None or not self.run.has_state(number):
            return None
        return self.run.read_state(number)

    def _loss_before(self, begin: _Begin, kept: Mapping[str, StoredLeaves]) -> float:
        """L(w_{t−1}), NaN where the run does not know it."""
        if kept:
            return float(kept["previous_loss"].leaves[0])
        if "loss" not in self._grid:
            return math.nan
        at = self._grid.isel(begin.place)
        rows = np.flatnonzero(at["step"].values == begin.step - 1)
        return float(at["loss"].values[rows[0]]) if rows.size else math.nan

    def _clock(self, begin: _Begin, rate: float) -> tuple[int, float]:
        at = self._grid.isel(begin.place)
        before = float(at["intrinsic_rate"]) if "intrinsic_rate" in at else math.nan
        step = int(at["clock_step"]) if "clock_step" in at else 0
        tau = float(at["clock_tau"]) if "clock_tau" in at else 0.0
        if rate == before:
            return step, tau
        there = tau + before * (begin.step - step)
        if not math.isfinite(before) and "tau" in at.coords:
            there = self._recorded_tau(begin, at)
        return begin.step, there if math.isfinite(there) else 0.0

    def _recorded_tau(self, begin: _Begin, at: "xarray.Dataset") -> float:
        """τ where a point goes on whose rule followed a schedule; NaN where its rule told none."""
        if kept := (self._kept(begin) or {}).get("tau"):
            return float(kept.leaves[0])
        tau = at["tau"].values
        rows = np.flatnonzero(at["step"].values == begin.step)
        if not rows.size and np.any(np.isfinite(tau)):
            self._refuse(begin.place, "follows a schedule, and its flow time at step "
                         f"{begin.step} was not recorded", "give the step of a snapshot as at: "
                         f"{self._steps_in_words(begin.place)}")  # fmt: skip
        return float(tau[rows[0]]) if rows.size else math.nan

    def _described(self, fork: Fork) -> dict[str, Any]:
        first, least, most = int(self._ends["step"].min()), self.steps.min(), self.steps.max()
        to = f"{least}" if least == most else f"{least} to {most}"
        identity = digest(self.run.path / "run.json")
        before = self.run.description.get("fork") or {}
        told = f"steps {first} to {to} of {self.run.path} (sha256 {identity[:12]})"
        return {
            "run": str(self.run.path),
            "sha256": identity,
            "at": fork.at,
            "point": {name: _plain(label) for name, label in fork.point.items()},
            "ancestry": [*before.get("ancestry", []), told],
        }


def parent_places(
    grid: "xarray.Dataset", axes: Axes, chosen: Mapping[str, Any], run: str
) -> list[dict[str, int]]:
    """The point of a run that each point of a grid goes on from, as its place along each axis.

    Args:
      grid: of the run.
      axes: of the grid that goes on.
      chosen: as ``Fork.point``.
      run: what to call it in errors.

    Raises:
      ValueError: labels that the run does not have, every axis with some told at once.
    """
    names = [str(name) for name in grid["status"].dims]
    unknown = [name for name in chosen if name not in names]
    if unknown:
        raise ValueError(f"fork: point has {unknown}, and the axes of the run {run} are {names}")
    places: dict[str, dict[Any, int]] = {}
    wrong = []
    for name in names:
        if name not in chosen and grid.sizes[name] == 1:
            places[name] = dict.fromkeys(axes.values.get(name, (None,)), 0)
        elif name in chosen or name in axes.values:
            labels = axes.values.get(name, (None,))
            found, missing = _matched(grid, name, labels, chosen)
            places[name] = found
            if missing:
                wrong.append(f"{name} has {missing[0]} here, and {_few(grid[name].values)} there")
        else:
            wrong.append(f"{name} is no axis here, and has {_few(grid[name].values)} there")
    if wrong:
        raise ValueError(
            f"fork: points cannot be matched with those of the run {run}: {'; '.join(wrong)}. Give "
            "labels of the run, or the one to go on from at all points: fork.point, as in --set "
            "fork.point.learning_rate=0.1"
        )
    points = map(axes.at, range(axes.num_points))
    return [{name: places[name][at.get(name)] for name in names} for at in points]


def _matched(
    grid: "xarray.Dataset", name: str, labels: Sequence[Any], chosen: Mapping[str, Any]
) -> tuple[dict[Any, int], list[Any]]:
    """Places along an axis of the run by the labels of the grid, and labels that have none."""
    found, missing = {}, []
    for label in labels:
        wanted = chosen.get(name, label)
        try:
            found[label] = place_of(grid, name, {name: wanted})
        except ValueError:
            missing.append(wanted)
    return found, missing


def _few(labels: np.ndarray) -> str:
    told = [str(label) for label in labels.tolist()]
    return f"[{', '.join(told if len(told) <= 6 else [*told[:5], '...', told[-1]])}]"


def _plain(label: Any) -> Any:
    return label.item() if isinstance(label, np.generic) else label

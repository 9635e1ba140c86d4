"""The runs that a fork goes on from, as far as their folders are at hand."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sharpflow.experiments.grid_summary import time_dimension
from sharpflow.experiments.report.points import Records, records
from sharpflow.models.files import digest
from sharpflow.simulator import open_run
from sharpflow.simulator.axes import Axes
from sharpflow.simulator.grid.fork import parent_places
from sharpflow.simulator.store.folder import RunFolder


@dataclasses.dataclass(frozen=True)
class Before:
    """What was recorded along one point before it was forked.

    Attributes:
      step, tau: of the records, shapes (T,); ``tau`` None where a run has no flow time.
      columns: by name, shapes (T,); NaN in runs that did not record one.
    """

    step: np.ndarray
    tau: np.ndarray | None
    columns: dict[str, np.ndarray]


def records_before(run: RunFolder, points: Records) -> tuple[list[Before] | None, list[str]]:
    """The records before those of a fork, and why there are no earlier ones.

    A run is known by its digest: another one at the same place, as after it was made again, is not
    what the fork went on from.

    Args:
      run: of the fork, or any other.
      points: of it.

    Returns:
      One for each point; None where the run is no fork or the run before is not at hand.
    """
    asked: Mapping[str, Any] = run.description
    parts, notes = [], []
    numbers = np.arange(points.count)
    begins, axes = points.step[:, 0], _axes(asked)
    while fork := asked.get("fork"):
        try:
            earlier, asked, places = _run_before(fork, axes)
        except (OSError, ValueError, KeyError, TypeError) as error:
            said = " ".join(str(error).split())
            notes.append(f"What was recorded before the fork is not drawn: {said}")
            break
        numbers = np.asarray(places)[numbers]
        ends = zip(numbers.tolist(), begins.tolist(), strict=True)
        parts.append([_until(earlier, number, step) for number, step in ends])
        begins, axes = earlier.step[numbers, 0], _axes(asked)
    if not parts:
        return None, notes
    return [_joined(list(reversed(pieces))) for pieces in zip(*parts, strict=True)], notes


def _run_before(
    fork: Mapping[str, Any], axes: Axes
) -> tuple[Records, Mapping[str, Any], list[int]]:
    """The records of a run, what was asked for, and its point for each of those that went on."""
    parent = RunFolder(Path(fork["run"]))
    if not parent.exists:
        raise ValueError(f"{parent.path} holds no run any more")
    if digest(parent.path / "run.json") != fork["sha256"]:
        raise ValueError(f"{parent.path} holds another run than the one that was forked")
    dataset, asked = open_run(parent), parent.description
    places = parent_places(dataset, axes, fork["point"], str(parent.path))
    shape = dataset["status"].shape
    numbers = [int(np.ravel_multi_index(tuple(place.values()), shape)) for place in places]
    return records(dataset, time_dimension(dataset), asked.get("axes", {})), asked, numbers


def _axes(asked: Mapping[str, Any]) -> Axes:
    return Axes({name: tuple(map(_label, values)) for name, values in asked["axes"].items()})


def _label(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _until(earlier: Records, point: int, step: int) -> Before:
    """The records of a point before a step."""
    rows = earlier.step[point] < step
    return Before(
        step=earlier.step[point][rows],
        tau=None if earlier.tau is None else earlier.tau[point][rows],
        columns={name: values[point][rows] for name, values in earlier.columns.items()},
    )


def _joined(pieces: list[Before]) -> Before:
    """Records one after the other."""
    names = dict.fromkeys(name for piece in pieces for name in piece.columns)
    taus = [piece.tau for piece in pieces if piece.tau is not None]
    return Before(
        step=np.concatenate([piece.step for piece in pieces]),
        tau=np.concatenate(taus) if len(taus) == len(pieces) else None,
        columns={
            name: np.concatenate(
                [piece.columns.get(name, np.full(len(piece.step), np.nan)) for piece in pieces]
            )
            for name in names
        },
    )

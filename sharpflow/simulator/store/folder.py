"""A run is a folder: what was asked for, how it was made, labelled arrays and checkpoints."""

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sharpflow.models.caller import warn_caller
from sharpflow.models.files import (
    PARTIAL,
    digest,
    read_json,
    read_sealed,
    remove_partial,
    write_atomically,
    write_json,
    write_sealed,
)
from sharpflow.models.paths import user_path
from sharpflow.simulator.store.arrays import (
    Variable,
    create_zarr,
    open_zarr,
)
from sharpflow.simulator.store.checkpoint import (
    Checkpoint,
    newest_positions,
    read_newest,
    remove_checkpoints,
    write_checkpoint,
)
from sharpflow.simulator.store.chunks import REMEDY, ArrayFiles, read_arrays
from sharpflow.simulator.store.description import (
    Description,
    read_description,
    write_description,
)
from sharpflow.simulator.store.ended import note_ended, read_ended
from sharpflow.simulator.store.errors import RunError, storage_errors
from sharpflow.simulator.store.lock import alone
from sharpflow.simulator.store.states import State, has_state, read_state, write_state

CONFIG_FILE = "config.toml"


class RunFolder:
    """The files of a run.

    ``run.json`` is what was asked for, with the digests of ``config.toml`` and of the metadata of
    the arrays, ``provenance.json`` how each launch was made, ``data.zarr`` the labelled arrays,
    ``layouts`` how each batch of points was laid out, ``checkpoints`` the points in flight,
    ``ended`` those that have ended, ``states`` where they did, and ``locks`` who is writing.

    Attributes:
      path: of the folder.
      config: text of the config that a new run is begun with, or None where there is none.
    """

    def __init__(self, path: str | os.PathLike[str], config: str | None = None) -> None:
        # a run goes on where it began, wherever the program goes meanwhile
        self.path = user_path(path).absolute()
        self.config = config

    @classmethod
    def at(cls, place: "str | os.PathLike[str]") -> "RunFolder":
        """The run in a folder, or the run itself."""
        return place if isinstance(place, cls) else cls(place)

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def data(self) -> Path:
        """The Zarr group."""
        return self.path / "data.zarr"

    @property
    def exists(self) -> bool:
        """Whether there is a run here."""
        return (self.path / "run.json").is_file()

    def require_unused(self) -> None:
        """Make sure that a new run may be written here.

        Raises:
          RunError: the folder holds a run, or other files.
        """
        if self.exists:
            raise RunError(
                f"{self.path} holds a run already; resume it (resume=True, --resume) or choose "
                "another folder"
            )
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file; a run needs a folder: choose another name")
        names = {path.name for path in self.path.glob("*") if path.suffix != PARTIAL}
        # a launch that was killed before the run was described leaves arrays beside its locks
        others = names - {CONFIG_FILE} - ({"locks", "data.zarr"} if "locks" in names else set())
        if others:
            raise RunError(
                f"{self.path} is not empty: it holds {', '.join(sorted(others)[:3])}; choose "
                "another folder"
            )

    def create(
        self,
        description: Mapping[str, Any],
        variables: Mapping[str, Variable],
        attributes: Mapping[str, Any],
    ) -> None:
        """Begin a run; its description is written last."""
        with storage_errors(self.path):
            if self.data.exists():
                shutil.rmtree(self.data)
            create_zarr(self.data, variables, attributes)
            written = None
            if self.config is not None:
                written = self._write_config(self.config)
            # The description is written last and has this digest: a launch that was killed earlier
            # leaves no run, and metadata that somebody changed are found.
            arrays = digest(self.data / "zarr.json")
            write_description(self.path / "run.json", description, arrays, written)

    def require_same(self, description: Mapping[str, Any]) -> None:
        """Make sure that a launch asks for what this run is.

        Raises:
          RunError: it asks for something else; the message has every difference.
        """
        stored = self.description
        now = json.loads(json.dumps(description))
        different = [
            f"  {key}: the run has {_short(stored.get(key))}, now it is {_short(now.get(key))}"
            for key in sorted(stored.keys() | now.keys())
            if not _same(key, stored.get(key), now.get(key))
        ]
        if different:
            raise RunError(
                "\n".join([f"{self.path} was started with other arguments:", *different])
            )

    @property
    def described(self) -> Description:
        """``run.json``; raises as ``description``."""
        return read_description(self.path / "run.json")

    @property
    def description(self) -> dict[str, Any]:
        """What was asked for.

        Raises:
          RunError: no run here, a damaged one, or one of another format.
        """
        return self.described.grid

    def read_config(self) -> str | None:
        """The text of the config that the run was begun with, or None where it has none.

        Raises:
          RunError: the file is not the one that the run was begun with, or cannot be read.
        """
        path = self.path / CONFIG_FILE
        if not path.is_file():
            return None
        described = self.described
        try:
            content = path.read_bytes()
            if described.sealed and described.config != hashlib.sha256(content).hexdigest():
                raise ValueError("it is not the one that the run was begun with")
            return content.decode("utf-8")
        except (OSError, ValueError) as error:
            raise RunError(
                f"{path} cannot be used: {error}; put it back from a copy of the run, or remove it"
            ) from error

    def restore_config(self) -> None:
        """Put the config back where it is missing, if the one at hand is that of the run.

        Raises:
          RunError: another one is there.
        """
        if self.read_config() is None and self.config is not None:
            described = self.described
            right = hashlib.sha256(self.config.encode()).hexdigest()
            if not described.sealed or described.config == right:
                with storage_errors(self.path):
                    self._write_config(self.config)

    def add_launch(self, made: Mapping[str, Any]) -> None:
        """Note how a launch was made."""
        self._write_launches([*self.launches(), dict(made)])

    def add_to_launch(self, facts: Mapping[str, Any]) -> None:
        """Note what is known of the last launch since it began, in place of what was noted."""
        *before, last = self.launches()
        if not facts.items() <= last.items():
            self._write_launches([*before, last | dict(facts)])

    def launches(self) -> list[dict[str, Any]]:
        """How each launch was made, the first one first.

        Raises:
          RunError: the file that says it is damaged.
        """
        path = self.path / "provenance.json"
        try:
            launches = read_json(path)["launches"] if path.is_file() else []
            return [dict(launch) for launch in launches]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} cannot be read: {error}; resume without it") from error

    def _write_launches(self, launches: Sequence[Mapping[str, Any]]) -> None:
        with storage_errors(self.path):
            write_json(self.path / "provenance.json", {"launches": launches})

    def open_arrays(self, *, read_only: bool = False) -> dict[str, Any]:
        """The labelled arrays, to write to or to read only.

        Raises:
          RunError: they are damaged.
        """
        arrays = self.arrays()
        try:
            return open_zarr(self.data, arrays, read_only=read_only)
        except RunError:
            raise
        except (OSError, ValueError, KeyError) as error:
            raise RunError(f"{self.data} cannot be read: {error}") from error

    def arrays(self) -> dict[str, ArrayFiles]:
        """How the arrays lie in files.

        Raises:
          RunError: they are damaged, or not ours.
        """
        described, path = self.described, self.data / "zarr.json"
        arrays = read_arrays(self.data)
        if described.arrays is not None and digest(path) != described.arrays:
            raise RunError(f"{path} is damaged: its digest is another one; {REMEDY}")
        return arrays

    def ended(self, points: int) -> np.ndarray:
        """Which points are noted to have ended, shape (points,)."""
        return read_ended(self.path / "ended", points)

    def positions(self) -> Iterator[tuple[dict[int, int], int]]:
        """Of each process the rows that its points in flight have done, and rows to a record."""
        for folder in sorted((self.path / "checkpoints").glob("[0-9]*/*")):
            layout = self.layout(int(folder.parent.name))
            if layout is not None:
                yield newest_positions(folder), int(layout["pieces"])

    def clean(self) -> None:
        """Remove what killed processes left half written, and what nobody can use."""
        with storage_errors(self.path):
            remove_partial(self.path)
            for folder in (self.path / "checkpoints").glob("[0-9]*"):
                # without a layout nobody knows what a row was
                if self.layout(int(folder.name)) is None:
                    warn_caller(
                        f"the layout of batch {folder.name} in {self.path} is damaged or missing: "
                        "its points that had not ended begin again",
                    )
                    shutil.rmtree(folder)

    def layout(self, batch: int) -> dict[str, Any] | None:
        """How a batch of points is laid out, once that is known."""
        with contextlib.suppress(OSError, ValueError):
            return read_sealed(self._layout(batch))
        return None

    def settle_layout(
        self, batch: int, layout: Mapping[str, Any], before: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """Keep how a batch is laid out, unless another process was first; what counts.

        Args:
          batch: number of it.
          layout: to keep.
          before: the layout that it takes the place of, or None where there is none.
        """
        with storage_errors(self.path):
            self._layout(batch).parent.mkdir(exist_ok=True)
            with alone(self.path):
                settled = self.layout(batch)
                if settled is None or settled == before:
                    settled = dict(layout)
                    write_sealed(self._layout(batch), settled)
        return settled

    def replace_layout(self, batch: int, layout: Mapping[str, Any]) -> None:
        """Change how a batch is laid out, since a device ran out of memory."""
        with storage_errors(self.path), alone(self.path):
            write_sealed(self._layout(batch), dict(layout))

    def save_checkpoint(
        self, batch: int, process: int, positions: Mapping[int, int], leaves: Sequence[np.ndarray]
    ) -> None:
        """Keep where the points in flight are."""
        with storage_errors(self.path):
            write_checkpoint(self._checkpoints(batch) / str(process), positions, leaves)

    def read_checkpoints(self, batch: int) -> tuple[Checkpoint, list[str]]:
        """Of every point the furthest state that is whole, and what was damaged."""
        positions: dict[int, int] = {}
        states: dict[int, list[np.ndarray]] = {}
        damaged: list[str] = []
        for folder in sorted(self._checkpoints(batch).glob("*")):
            checkpoint, wrong = read_newest(folder)
            damaged += wrong
            for point, rows in checkpoint.positions.items() if checkpoint else ():
                # A point may be in the checkpoints of two processes, where a launch with another
                # number of processes took it over.
                if rows > positions.get(point, -1):
                    positions[point], states[point] = rows, checkpoint.states[point]  # type: ignore[union-attr]
        return Checkpoint(positions, states), damaged

    def remove_checkpoints(self, batch: int, process: int) -> None:
        """Remove those of one process, whose points have all ended."""
        with storage_errors(self.path):
            remove_checkpoints(self._checkpoints(batch) / str(process))

    def note_ended(self, process: int, ended: np.ndarray) -> None:
        """Keep which points have ended, as one process knows it, shape (points,)."""
        with storage_errors(self.path):
            note_ended(self.path / "ended", process, ended)

    def save_state(self, point: int, state: State) -> None:
        """Keep the last state of a point, from which another run may go on."""
        with storage_errors(self.path):
            write_state(self.path / "states", point, state)

    def has_state(self, point: int) -> bool:
        """Whether the last state of a point was kept."""
        return has_state(self.path / "states", point)

    def read_state(self, point: int) -> State:
        """The last state of a point.

        Raises:
          RunError: it is damaged.
        """
        try:
            return read_state(self.path / "states", point)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(
                f"the last state of point {point} in {self.path / 'states'} cannot be read: "
                f"{error}; put it back from a copy of the run"
            ) from error

    def finish(self) -> None:
        """Remove what is left of the checkpoints of a run whose points have all ended."""
        shutil.rmtree(self.path / "checkpoints", ignore_errors=True)

    def _write_config(self, text: str) -> str:
        """Write the config as a whole; its digest."""
        content = text.encode()
        write_atomically(self.path / CONFIG_FILE, lambda file: file.write(content))
        return hashlib.sha256(content).hexdigest()

    def _layout(self, batch: int) -> Path:
        return self.path / "layouts" / f"{batch}.json"

    def _checkpoints(self, batch: int) -> Path:
        return self.path / "checkpoints" / str(batch)


def _short(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _same(key: str, stored: Any, now: Any) -> bool:
    """Equal; a measured loss up to the rounding of another machine."""
    if key == "loss_at_start" and isinstance(stored, float) and isinstance(now, float):
        both_nan = math.isnan(stored) and math.isnan(now)
        # The loss at the start tells other data of the same shapes. Rounding on another machine
        # changes it by 1e-6 of itself in float32; other data rarely agree so far.
        return both_nan or math.isclose(stored, now, rel_tol=1e-4)
    return bool(stored == now)

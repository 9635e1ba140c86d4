"""A run is a folder: what was asked for, how it was made, labelled arrays and checkpoints."""

import contextlib
import json
import math
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sharpflow.models.arguments import PATH, checked
from sharpflow.simulator.store.arrays import (
    Variable,
    create_zarr,
    open_zarr,
    zarr_dataset,
)
from sharpflow.simulator.store.checkpoint import (
    Checkpoint,
    read_newest,
    remove_checkpoints,
    write_checkpoint,
)
from sharpflow.simulator.store.errors import RunError, storage_errors
from sharpflow.simulator.store.files import (
    PARTIAL,
    read_sealed,
    remove_partial,
    write_json,
    write_sealed,
)
from sharpflow.simulator.store.lock import alone

if TYPE_CHECKING:
    import xarray

FORMAT = 1


class RunFolder:
    """The files of a run.

    ``run.json`` is what was asked for, ``provenance.json`` how each launch was made,
    ``data.zarr`` the labelled arrays, ``layouts`` how each batch of points was laid out,
    ``checkpoints`` the points in flight and ``locks`` who is writing.

    Attributes:
      path: of the folder.
    """

    def __init__(self, path: str | Path) -> None:
        # a run goes on where it began, wherever the program goes meanwhile
        self.path = Path(path).absolute()

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
        others = names - {"config.toml"} - ({"locks", "data.zarr"} if "locks" in names else set())
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
            write_json(self.path / "run.json", {"format": FORMAT, "grid": dict(description)})

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
    def description(self) -> dict[str, Any]:
        """What was asked for.

        Raises:
          RunError: no run here, or one of another format.
        """
        try:
            stored = json.loads((self.path / "run.json").read_text())
        except FileNotFoundError:
            raise RunError(f"{self.path} holds no run: there is no run.json in it") from None
        except (OSError, ValueError) as error:
            raise RunError(f"{self.path / 'run.json'} cannot be read: {error}") from error
        if not isinstance(stored, dict) or stored.get("format") != FORMAT:
            raise RunError(f"{self.path} is a run of another version of sharpflow")
        return stored["grid"]

    def add_launch(self, made: Mapping[str, Any]) -> None:
        """Note how a launch was made."""
        path = self.path / "provenance.json"
        try:
            launches = json.loads(path.read_text())["launches"] if path.is_file() else []
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} cannot be read: {error}; resume without it") from error
        with storage_errors(self.path):
            write_json(path, {"launches": [*launches, dict(made)]})

    def open_arrays(self) -> dict[str, Any]:
        """The labelled arrays, to write to.

        Raises:
          RunError: they are damaged.
        """
        try:
            return open_zarr(self.data)
        except (OSError, ValueError, KeyError) as error:
            raise RunError(f"{self.data} cannot be read: {error}") from error

    def clean(self) -> None:
        """Remove what killed processes left half written, and what nobody can use."""
        with storage_errors(self.path):
            remove_partial(self.path)
            for folder in (self.path / "checkpoints").glob("[0-9]*"):
                # without a layout nobody knows what a row was
                if self.layout(int(folder.name)) is None:
                    warnings.warn(
                        f"the layout of batch {folder.name} in {self.path} is damaged or missing: "
                        "its points that had not ended begin again",
                        stacklevel=2,
                    )
                    shutil.rmtree(folder)

    def layout(self, batch: int) -> dict[str, Any] | None:
        """How a batch of points is laid out, once that is known."""
        with contextlib.suppress(OSError, ValueError):
            return read_sealed(self._layout(batch))
        return None

    def settle_layout(self, batch: int, layout: Mapping[str, Any]) -> dict[str, Any]:
        """Keep how a batch is laid out, unless another process was first; what counts."""
        with storage_errors(self.path):
            self._layout(batch).parent.mkdir(exist_ok=True)
            with alone(self.path):
                found = self.layout(batch)
                if found is None:
                    found = dict(layout)
                    write_sealed(self._layout(batch), found)
        return found

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
            found, wrong = read_newest(folder)
            damaged += wrong
            for point, rows in found.positions.items() if found else ():
                if rows > positions.get(point, -1):
                    positions[point], states[point] = rows, found.states[point]  # type: ignore[union-attr]
        return Checkpoint(positions, states), damaged

    def remove_checkpoints(self, batch: int, process: int) -> None:
        """Remove those of one process, whose points have all ended."""
        with storage_errors(self.path):
            remove_checkpoints(self._checkpoints(batch) / str(process))

    def finish(self) -> None:
        """Remove what is left of the checkpoints of a run whose points have all ended."""
        shutil.rmtree(self.path / "checkpoints", ignore_errors=True)

    def _layout(self, batch: int) -> Path:
        return self.path / "layouts" / f"{batch}.json"

    def _checkpoints(self, batch: int) -> Path:
        return self.path / "checkpoints" / str(batch)


@checked(folder=PATH)
def open_run(folder: str | Path) -> "xarray.Dataset":
    """The labelled arrays of a run, finished or not.

    Args:
      folder: of the run, as given to ``simulate_grid(out=...)`` or ``sharpflow run --out``.

    Returns:
      A dataset as ``simulate_grid`` gives it. Values are read from the disk when they are
      used; points that have not ended have the status ``PENDING``.

    Raises:
      RunError: a ValueError: no run in this folder, or its arrays are damaged.
    """
    run = RunFolder(folder)
    run.description  # noqa: B018  raises where there is no run
    try:
        return zarr_dataset(run.data)
    except (OSError, ValueError, KeyError) as error:
        raise RunError(f"{run.data} cannot be read: {error}") from error


def _short(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _same(key: str, stored: Any, now: Any) -> bool:
    """Equal; a measured loss up to the rounding of another machine."""
    if key == "loss_at_start" and isinstance(stored, float) and isinstance(now, float):
        both_nan = math.isnan(stored) and math.isnan(now)
        return both_nan or math.isclose(stored, now, rel_tol=1e-4)
    return bool(stored == now)

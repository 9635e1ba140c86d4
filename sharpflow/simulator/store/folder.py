"""A run is a folder: what was asked for, how it was made, labelled arrays and checkpoints."""

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sharpflow.simulator.store.arrays import (
    Variable,
    create_zarr,
    open_zarr,
    remove_partial,
    zarr_dataset,
)
from sharpflow.simulator.store.checkpoint import (
    Checkpoint,
    read_newest,
    write_checkpoint,
    write_json,
)

if TYPE_CHECKING:
    import xarray

FORMAT = 1


class RunError(ValueError):
    """A folder that cannot be used as it was asked for."""


class StorageError(OSError):
    """The disk did not take what had to be written; the run can be resumed."""


class RunFolder:
    """The files of a run.

    ``run.json`` is what was asked for, ``provenance.json`` how each launch was made,
    ``data.zarr`` the labelled arrays, ``layouts`` how each batch of points was laid out,
    ``checkpoints`` the points in flight and ``locks`` who is writing.

    Attributes:
      path: of the folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

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
        # a launch that was killed before the run was described leaves these
        others = {path.name for path in self.path.glob("*")} - {"locks", "data.zarr", "config.toml"}
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
        launches = json.loads(path.read_text())["launches"] if path.is_file() else []
        with storage_errors(self.path):
            write_json(path, {"launches": [*launches, dict(made)]})

    def open_arrays(self) -> dict[str, Any]:
        """The labelled arrays, to write to; leftovers of a killed process are removed."""
        return open_zarr(self.data)

    def clean(self) -> None:
        """Remove what killed processes left half written."""
        remove_partial(self.path)

    def layout(self, batch: int) -> dict[str, int] | None:
        """How a batch of points was laid out, once that is known."""
        with contextlib.suppress(OSError, ValueError):
            return json.loads((self.path / "layouts" / f"{batch}.json").read_text())
        return None

    def save_layout(self, batch: int, layout: Mapping[str, int]) -> None:
        """Keep how a batch is laid out."""
        with storage_errors(self.path):
            (self.path / "layouts").mkdir(exist_ok=True)
            write_json(self.path / "layouts" / f"{batch}.json", dict(layout))

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
        shutil.rmtree(self._checkpoints(batch) / str(process), ignore_errors=True)

    def _checkpoints(self, batch: int) -> Path:
        return self.path / "checkpoints" / str(batch)


@contextlib.contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Say what to do where the disk is full.

    Raises:
      StorageError: in place of any error of the operating system.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise StorageError(
            error.errno,
            f"cannot write to {path}: {reason}; what was written before is whole: make space and "
            "resume the run",
        ) from error


def open_run(folder: str | Path) -> "xarray.Dataset":
    """The labelled arrays of a run, finished or not.

    Args:
      folder: of the run, as given to ``simulate_grid(out=...)`` or ``sharpflow run --out``.

    Returns:
      A dataset as ``simulate_grid`` gives it. Values are read from the disk when they are
      used; points that have not ended have the status ``PENDING``.

    Raises:
      ValueError: no run in this folder.
    """
    run = RunFolder(folder)
    run.description  # noqa: B018  raises where there is no run
    return zarr_dataset(run.data)


def _short(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _same(key: str, stored: Any, now: Any) -> bool:
    """Equal; a measured loss up to the rounding of another machine."""
    if key == "loss_at_start" and isinstance(stored, float) and isinstance(now, float):
        return abs(stored - now) <= 1e-4 * max(abs(stored), abs(now))
    return bool(stored == now)

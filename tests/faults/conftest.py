"""What the tests of faults share: where their helpers lie, and a loop that is compiled once."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import jax
import pytest
import xarray

import sharpflow as sf
from sharpflow.simulator.grid import engine
from sharpflow.simulator.host import Host, watched

sys.path.insert(0, str(Path(__file__).parent))

from filesystem import Tree, states_between_changes, write_tree
from scenarios import SCENARIOS, Arguments, cut_short


@pytest.fixture(autouse=True)
def interrupts_count() -> Iterator[None]:
    """Interrupts act as usual; a shell lets what it starts in the background ignore them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def soaking() -> bool:
    """Whether the long versions were asked for, by ``make soak``."""
    return bool(os.environ.get("SHARPFLOW_SOAK"))


@pytest.fixture
def say(capsys: pytest.CaptureFixture) -> Callable[[str], None]:
    """Print a line of figures through pytest's capture."""

    def say(line: str) -> None:
        with capsys.disabled():
            print(f"\n{line}", flush=True)

    return say


@pytest.fixture
def many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of few rows, and records whose updates are split over two of them."""
    cut_short(monkeypatch.setattr)


_compiled: dict[tuple, Any] = {}


@pytest.fixture
def compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reuse compiled chunks of equal programs, for tests that resume a run many times."""
    compile_chunk = engine.CompiledChunk

    def kept(program: Any, devices: Any, num_rows: int, state: Any, keywords: Any) -> Any:
        shapes = tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(program))
        key = (jax.tree.structure(program), shapes, devices, num_rows, state.step.shape)
        if key not in _compiled:
            _compiled[key] = compile_chunk(program, devices, num_rows, state, keywords)
        return _compiled[key]

    monkeypatch.setattr(engine, "CompiledChunk", kept)


class Scenario:
    """A grid of ``scenarios``, and its result without a folder."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.arguments = name, SCENARIOS[name]()
        self.result = sf.simulate_grid(**self.arguments)
        self.updates = int(self.result["final_step"].sum())
        self._folder = folder / name

    def run(self, out: Path | str, *, resume: bool = True, **changes: Any) -> xarray.Dataset:
        """Run or resume it in a folder."""
        arguments: Arguments = self.arguments | changes
        return sf.simulate_grid(**arguments, out=out, resume=resume)

    @cached_property
    def states(self) -> list[Tree]:
        """What a kill can leave behind, in the order in which that happens."""
        return states_between_changes(self._folder, lambda: self.run(self._folder))

    def midway(self, folder: Path, checkpoints: int = 2, batch: int = 0) -> None:
        """A folder as a kill leaves it in the middle of a batch, between two chunks."""

        def between_chunks(tree: Tree) -> bool:
            names = [name for name in tree if name.startswith(f"checkpoints/{batch}/0/")]
            whole = len(names) == 2 * checkpoints
            return whole and not any(name.endswith(".partial") for name in tree)

        states = [tree for tree in self.states if between_chunks(tree)]
        write_tree(folder, states[len(states) // 2])


@pytest.fixture(scope="session")
def scenarios(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Scenario]:
    """Scenarios by name, each simulated once."""
    folder = tmp_path_factory.mktemp("watched")
    return cache(lambda name: Scenario(name, folder))


@pytest.fixture
def short(many_chunks: None, compiled_once: None, scenarios: Callable[[str], Scenario]) -> Scenario:
    """Two points and one column, in several chunks."""
    return scenarios("short")


@pytest.fixture
def every_kind(
    many_chunks: None, compiled_once: None, scenarios: Callable[[str], Scenario]
) -> Scenario:
    """Two batches in flow time, with snapshots, memories and a point that diverges."""
    return scenarios("every_kind")


class Updates(list):
    """Updates that each chunk made.

    Attributes:
      stop_after: chunks after which an interrupt comes, or None.
    """

    stop_after: int | None = None


@pytest.fixture
def updates_made() -> Iterator[Updates]:
    """Updates that each chunk makes from now on."""
    made = Updates()

    def count(event: str, host: Host) -> None:
        if event == "written":
            made.append(host.made)
            if len(made) == made.stop_after:
                signal.raise_signal(signal.SIGINT)

    with watched(count):
        yield made

"""A device that runs out of memory gets fewer points side by side, and the run goes on."""

import contextlib
import time

import jax
import numpy as np
import pytest

import sharpflow as sf
from sharpflow.simulator.chunk import CompiledChunk
from sharpflow.simulator.grid import engine, execute
from sharpflow.simulator.host import watched
from sharpflow.simulator.interrupt import Interrupted
from sharpflow.simulator.store.folder import RunFolder

GRID = {
    "seeds": range(8),
    "learning_rates": 0.3,
    "weight_decays": 0.01,
    "num_steps": 60,
    "record_every": 2,
    "observables": ("loss", "norm_squared"),
    "lanes": "side_by_side",
}


@pytest.fixture(scope="module")
def problem():
    return sf.models.matrix_completion(shape=(6, 5), rank=1, width=3)


@pytest.fixture(scope="module")
def expected(problem):
    return sf.simulate_grid(problem, **GRID, group_width=2)


def _limited(monkeypatch, widest: int, first: int = 0) -> list[int]:
    """Chunks wider than ``widest`` find no memory from the ``first`` call on; widths called."""
    run, widths = CompiledChunk.run, []

    def limited(self, *arguments):
        widths.append(self.width)
        if self.width > widest and len(widths) > first:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return run(self, *arguments)

    monkeypatch.setattr(CompiledChunk, "run", limited)
    return widths


def test_the_width_is_halved_until_it_fits_before_a_run_begins(problem, expected, monkeypatch):
    widths = _limited(monkeypatch, widest=2)
    with pytest.warns(UserWarning, match="ran out of memory with 8 points .* going on with 4"):
        found = sf.simulate_grid(problem, **GRID, group_width=8)
    assert {8, 4, 2} == set(widths)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-10)
    assert np.all(found.status == sf.Status.SUCCESS)


@pytest.mark.parametrize("in_folder", [False, True])
def test_a_run_that_runs_out_in_the_middle_goes_on(
    problem, expected, monkeypatch, tmp_path, in_folder
):
    monkeypatch.setattr(engine, "chunk_rows", lambda *_: 4)  # many chunks
    first = 12  # after the calls that time the chunk
    widths = _limited(monkeypatch, widest=4, first=first)
    out = {"out": tmp_path / "run"} if in_folder else {}
    out["devices"] = jax.local_devices()[:1]  # on which the calls are counted in their order
    with pytest.warns(UserWarning, match="out of memory with 8 points .* group_width=4 begins"):
        found = sf.simulate_grid(problem, **GRID, group_width=8, **out)
    assert widths[first - 1] == widths[first] == 8 and set(widths[first + 1 :]) == {4}
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-10)
    np.testing.assert_allclose(found.norm_squared, expected.norm_squared, rtol=1e-10)
    assert np.all(found.final_step == 60)
    if in_folder:
        assert RunFolder(out["out"]).layout(0)["width"] == 4


def test_one_point_that_does_not_fit_is_an_error(problem, monkeypatch):
    _limited(monkeypatch, widest=0)
    with pytest.warns(UserWarning), pytest.raises(jax.errors.JaxRuntimeError, match="EXHAUSTED"):
        sf.simulate_grid(problem, **GRID, group_width=2)


def test_other_errors_of_a_device_stay_what_they_are(problem, monkeypatch):
    def broken(self, *arguments):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(CompiledChunk, "run", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        sf.simulate_grid(problem, **GRID, group_width=2)


def test_a_plan_tells_what_a_device_held_where_it_can(problem, monkeypatch):
    assert sf.simulator.plan_grid(problem, **GRID).peak_bytes is None  # a CPU
    monkeypatch.setattr("sharpflow.simulator.grid.run.peak_memory", lambda devices: 12345)
    found = sf.simulator.plan_grid(problem, **GRID)
    assert found.peak_bytes == 12345 and found.memory_bytes > 0


def _init(key, data):
    return jax.random.normal(key, (50,), data.dtype)


def _residual(w, data):
    return data @ w


DATA = np.random.default_rng(0).normal(size=(2, 500, 50))


def _linear(part=0):
    """A problem that is compiled in no time."""
    return sf.Problem(init=_init, residual=_residual, data=DATA[part], scale_invariant=False)


SHORT = GRID | {"seeds": range(2), "num_steps": 4, "observables": ("loss",)}


def test_a_run_in_a_folder_notes_what_was_predicted_and_measured(monkeypatch, tmp_path):
    monkeypatch.setattr(execute, "peak_memory", lambda devices: 12345)  # a CPU tells nothing
    predicted = sf.simulator.plan_grid(_linear(), **SHORT).memory_bytes
    noted = {"predicted_memory_bytes": predicted, "peak_memory_bytes": 12345}
    run = tmp_path / "run"
    found = sf.simulate_grid(_linear(), **SHORT, out=run)
    assert predicted > DATA[0].nbytes and noted.items() <= found.attrs.items()
    (launch,) = RunFolder(run).launches()
    assert noted.items() <= launch.items() and launch["processes"] == 1
    # a launch that finds nothing to do has nothing to tell
    again = sf.simulate_grid(_linear(), **SHORT, out=run, resume=True)
    assert noted.items() <= again.attrs.items()
    assert not noted.keys() & RunFolder(run).launches()[1].keys()


def test_every_launch_that_computes_notes_its_seconds(tmp_path):
    def stop(event, host):
        if event == "chunk":
            raise Interrupted("as if by a signal", 15)

    run, taken = tmp_path / "run", []
    for launch in range(2):
        began = time.perf_counter()
        halted = watched(stop) if launch == 0 else contextlib.nullcontext()
        with halted, contextlib.suppress(Interrupted):
            sf.simulate_grid(_linear(), **SHORT, out=run, resume=True)
        taken.append(time.perf_counter() - began)
    launches = RunFolder(run).launches()
    # what is left out is what comes before the folder is opened
    assert all(0.0 < made["seconds"] < took for made, took in zip(launches, taken, strict=True))
    assert sf.simulate_grid(_linear(), **SHORT).attrs["seconds"] > 0.0


def test_a_launch_that_is_cut_short_leaves_its_memory(monkeypatch, tmp_path):
    def stop(event, host):
        if event == "chunk":
            raise Interrupted("as if by a signal", 15)

    peaks = iter((1000, 2000))  # as the batch is compiled, and as the launch ends
    monkeypatch.setattr(execute, "peak_memory", lambda devices: next(peaks))
    run = tmp_path / "run"
    with watched(stop), pytest.raises(Interrupted):
        sf.simulate_grid(_linear(), **SHORT, out=run)
    assert sf.open_run(run).attrs["peak_memory_bytes"] == 2000
    # what no launch can have written is left out, and what is damaged hides no number
    RunFolder(run).add_to_launch({"predicted_memory_bytes": "much", "peak_memory_bytes": -1})
    assert not {"predicted_memory_bytes", "peak_memory_bytes"} & sf.open_run(run).attrs.keys()
    (run / "provenance.json").write_text("{")
    assert sf.open_run(run).sizes["seed"] == 2


def test_a_lane_has_its_own_copy_of_data_that_differ_and_shares_those_that_do_not():
    """As the page on GPUs states it of ``predicted_memory_bytes``."""

    def predicted(width, parts):
        keywords = SHORT | {"axes": {"part": parts}, "group_width": width}
        return sf.simulator.plan_grid(_linear, **keywords).memory_bytes / DATA[0].nbytes

    for width, parts, copies in ((1, (0, 1), 1), (4, (0, 1), 4), (4, (0,), 1)):
        assert copies <= predicted(width, parts) < copies + 0.2

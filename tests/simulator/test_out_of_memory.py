"""A device that runs out of memory gets fewer points side by side, and the run goes on."""

import jax
import numpy as np
import pytest

import sharpflow as sf
from sharpflow.simulator.grid import layout as laid
from sharpflow.simulator.grid.compiled import CompiledChunk
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
    monkeypatch.setattr(laid, "chunk_rows", lambda *_: 4)  # many chunks
    first = 12  # after the calls that time the chunk
    widths = _limited(monkeypatch, widest=4, first=first)
    out = {"out": tmp_path / "run"} if in_folder else {}
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
    monkeypatch.setattr("sharpflow.simulator.grid.plan.peak_memory", lambda devices: 12345)
    found = sf.simulator.plan_grid(problem, **GRID)
    assert found.peak_bytes == 12345 and found.memory_bytes > 0

"""A run can be read by plain xarray, while it is written and after."""

import json
import os
import subprocess
import sys
import warnings

import numpy as np
import xarray
from filesystem import write_tree
from launches import finished, launched
from scenarios import differences

import sharpflow as sf

_READER = """
import json, sys, warnings
import xarray

with warnings.catch_warnings():
    warnings.simplefilter("error")
    found = xarray.open_zarr(sys.argv[1])
    found.to_netcdf(sys.argv[2], engine="h5netcdf")
print(json.dumps([sorted(found.coords), {name: found[name].dims for name in found}]))
assert not [name for name in sys.modules if name.startswith(("sharpflow", "jax"))]
"""


def test_plain_xarray_reads_a_run_and_writes_netcdf(every_kind, tmp_path):
    run, file = tmp_path / "run", tmp_path / "run.nc"
    found = every_kind.run(run)
    read = subprocess.run(
        [sys.executable, "-c", _READER, str(run / "data.zarr"), str(file)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )
    assert read.returncode == 0, read.stderr
    coordinates, dims = json.loads(read.stdout)
    points = ["seed", "learning_rate", "weight_decay", "target"]
    cells = points[1:]
    assert coordinates == sorted(
        [*points, "record", "step", "tau", "intrinsic_rate", "num_steps", "snapshot"]
    )
    assert found["step"].dims == found["tau"].dims == (*cells, "record")
    assert dims == {
        "status": points,
        "final_step": points,
        "loss": [*points, "record"],
        "loss_mean": [*points, "record"],
        "angle": [*points, "record"],
        "swing": [*points, "record"],
        "params": [*points, "snapshot", "params_0"],
        "final_params": [*points, "params_0"],
    }
    with xarray.open_dataset(file, engine="h5netcdf") as back:
        for name in found.variables:
            np.testing.assert_array_equal(back[name], every_kind.result[name], err_msg=name)
        assert back.attrs["dtype"] == "float64" and back.attrs["sharpflow_version"]


def test_a_reader_finds_a_whole_dataset_whenever_it_looks(short, tmp_path):
    states = [state for state in short.states if "run.json" in state]
    assert len(states) > 50
    for number, state in enumerate(states[::4]):
        write_tree(tmp_path / str(number), state)
        _check_unfinished(tmp_path / str(number), short.result)


def test_a_reader_does_not_disturb_a_run_nor_a_run_its_readers(short, tmp_path):
    run, reads = tmp_path / "run", 0
    with launched("short", run, rows=1, slow=0.05) as process:
        while process.poll() is None:
            if (run / "run.json").exists():
                _check_unfinished(run, short.result)
                reads += 1
        assert finished(process) == ""
    assert reads > 5
    assert differences(sf.open_run(run), short.result) == []


def _check_unfinished(run, expected):
    """Every value is either not there yet or the one that stays."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with xarray.open_zarr(run / "data.zarr") as found:
            found.load()
    assert found.sizes == expected.sizes and set(found.coords) == set(expected.coords)
    loss, status = found["loss"].values, found["status"].values
    there = ~np.isnan(loss)
    np.testing.assert_array_equal(loss[there], expected["loss"].values[there])
    # a point that has ended has all its records
    assert np.all(there[status != -1])
    assert set(np.unique(status)) <= {-1, int(sf.Status.SUCCESS)}


def test_values_are_read_when_they_are_used(short, tmp_path):
    run = tmp_path / "run"
    short.midway(run)
    found = sf.open_run(run)
    short.run(run)
    np.testing.assert_array_equal(found["loss"], short.result["loss"])

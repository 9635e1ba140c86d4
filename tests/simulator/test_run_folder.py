"""The files of a run: who may begin it, who goes on with it, and what its errors say."""

import errno
import json
import os
import warnings

import numpy as np
import pytest

import sharpflow as sf
from sharpflow.simulator import RunError, RunLockedError, StorageError
from sharpflow.simulator.store.arrays import Variable, known
from sharpflow.simulator.store.errors import storage_errors
from sharpflow.simulator.store.folder import RunFolder
from sharpflow.simulator.store.lock import announce, announced, launch_lock

LAYOUT = {"width": 1, "groups": 2, "devices": 1, "rows": 4, "capacity": 12, "pieces": 2}


@pytest.fixture
def run(tmp_path):
    """A run that was begun, with one variable over two points."""
    found = RunFolder(tmp_path / "run")
    variables = {
        "seed": known(("seed",), np.array([3, 4])),
        "loss": Variable(("seed", "step"), (2, 3), np.dtype(np.float64), chunks=(1, 3)),
        "name": known(("seed",), np.array(["eins", "zwei"])),
    }
    found.path.mkdir()
    with launch_lock(found.path, 0, "first"):
        found.create({"axes": {"seed": [3, 4]}, "num_steps": 3}, variables, {"made": "here"})
    return found


def test_a_run_is_an_open_dataset_from_the_start(run):
    found = sf.open_run(run.path)
    assert found.attrs == {"made": "here"} and set(found.coords) == {"seed", "name"}
    assert found["name"].values.tolist() == ["eins", "zwei"]
    assert np.all(np.isnan(found["loss"]))
    run.open_arrays()["loss"][1] = [1.0, 2.0, 3.0]
    np.testing.assert_array_equal(sf.open_run(run.path)["loss"][1], [1.0, 2.0, 3.0])


def test_a_run_is_described_by_what_was_asked_for(run):
    assert run.exists and run.description == {"axes": {"seed": [3, 4]}, "num_steps": 3}
    run.require_same({"num_steps": 3, "axes": {"seed": (3, 4)}})
    with pytest.raises(RunError) as refused:
        run.require_same({"num_steps": 4, "axes": {"seed": [3]}, "tau": 1.0})
    assert str(refused.value).splitlines() == [
        f"{run.path} was started with other arguments:",
        '  axes: the run has {"seed": [3, 4]}, now it is {"seed": [3]}',
        "  num_steps: the run has 3, now it is 4",
        "  tau: the run has nothing, now it is 1.0",
    ]


@pytest.mark.parametrize(
    ("stored", "now", "same"),
    [
        (1.0, 1.0 + 1e-6, True),  # rounded otherwise on another machine
        (1.0, 1.01, False),
        (0.0, 0.0, True),
        (float("inf"), float("inf"), True),
        (float("nan"), float("nan"), True),
        (float("nan"), 1.0, False),
        (float("inf"), 1.0, False),
    ],
)
def test_the_loss_at_the_start_is_compared_up_to_rounding(tmp_path, stored, now, same):
    run = RunFolder(tmp_path)
    with launch_lock(run.path, 0, "first"):
        run.create({"loss_at_start": stored}, {}, {})
    if same:
        run.require_same({"loss_at_start": now})
    else:
        with pytest.raises(RunError, match="loss_at_start"):
            run.require_same({"loss_at_start": now})


def test_long_differences_are_cut(tmp_path):
    run = RunFolder(tmp_path)
    with launch_lock(run.path, 0, "first"):
        run.create({"axes": list(range(1000))}, {}, {})
    with pytest.raises(RunError) as refused:
        run.require_same({"axes": list(range(1001))})
    assert max(map(len, str(refused.value).splitlines())) < 400


def test_each_launch_is_noted(run):
    run.add_launch({"date": "monday"})
    run.add_launch({"date": "tuesday", "processes": 2})
    launches = json.loads((run.path / "provenance.json").read_text())["launches"]
    assert launches == [{"date": "monday"}, {"date": "tuesday", "processes": 2}]


def test_the_first_layout_counts_for_every_process(run):
    assert run.layout(0) is None
    assert run.settle_layout(0, LAYOUT) == LAYOUT
    assert run.settle_layout(0, LAYOUT | {"pieces": 7}) == LAYOUT
    assert RunFolder(run.path).layout(0) == LAYOUT and run.layout(1) is None
    (run.path / "layouts" / "0.json").write_text("{")
    assert run.layout(0) is None
    assert run.settle_layout(0, LAYOUT | {"pieces": 7})["pieces"] == 7


def test_of_several_processes_the_furthest_state_of_a_point_counts(run):
    run.settle_layout(0, LAYOUT)
    run.save_checkpoint(0, 0, {0: 4, 1: 4}, [np.array([0.4, 1.4])])
    run.save_checkpoint(0, 2, {1: 6, 2: 1}, [np.array([1.6, 2.1])])
    run.save_checkpoint(1, 0, {5: 9}, [np.array([5.9])])
    found, damaged = run.read_checkpoints(0)
    assert damaged == [] and found.positions == {0: 4, 1: 6, 2: 1}
    assert {point: float(state[0]) for point, state in found.states.items()} == {
        0: 0.4,
        1: 1.6,
        2: 2.1,
    }
    run.remove_checkpoints(0, 2)
    assert run.read_checkpoints(0)[0].positions == {0: 4, 1: 4}
    run.finish()
    assert run.read_checkpoints(1)[0].positions == {} and not (run.path / "checkpoints").exists()


def test_checkpoints_of_an_unknown_layout_are_told_and_removed(run):
    run.settle_layout(0, LAYOUT)
    for batch in (0, 1):
        run.save_checkpoint(batch, 0, {batch: 4}, [np.array([0.4])])
    with pytest.warns(UserWarning, match=f"layout of batch 1 in {run.path} .* begin again"):
        run.clean()
    assert run.read_checkpoints(0)[0].positions == {0: 4}
    assert run.read_checkpoints(1)[0].positions == {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.clean()


def test_a_new_run_may_begin_beside_what_a_killed_launch_left(tmp_path):
    run = RunFolder(tmp_path)
    run.require_unused()
    with launch_lock(tmp_path, 0, "first"):
        (tmp_path / "data.zarr").mkdir()
        (tmp_path / "run.json.12ab.partial").touch()
        (tmp_path / "config.toml").touch()
        run.require_unused()
        run.create({}, {"seed": known(("seed",), np.array([1]))}, {})
    with pytest.raises(RunError, match="holds a run already"):
        run.require_unused()


@pytest.mark.parametrize("name", ["data.zarr", "run.txt", "checkpoints", ".hidden"])
def test_files_of_somebody_else_are_not_touched(tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(RunError, match=f"is not empty: it holds {name}"):
        RunFolder(tmp_path).require_unused()


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(RunError, match=f"{tmp_path} holds no run: there is no run.json"):
        sf.open_run(tmp_path)
    with pytest.raises(ValueError, match="holds no run"):
        sf.open_run(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left"), "No space left; .* make space and resume"),
        (OSError(errno.EDQUOT, "Quota exceeded"), "Quota exceeded; .* make space and resume"),
        (PermissionError(errno.EACCES, "Denied"), "Denied; .* mend that and resume"),
        (OSError("just words"), "just words; .* mend that and resume"),
    ],
)
def test_errors_of_the_disk_say_what_to_do(tmp_path, error, message):
    with (
        pytest.raises(StorageError, match=f"cannot write to {tmp_path}: {message}") as found,
        storage_errors(tmp_path),
    ):
        raise error
    assert found.value.errno == error.errno and isinstance(found.value, OSError)
    with pytest.raises(StorageError) as again, storage_errors(tmp_path / "other"):
        raise found.value
    assert again.value is found.value


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(RunError, match="not of the disk"), storage_errors(tmp_path):
        raise RunError("not of the disk")


def test_one_launch_holds_a_run_with_all_its_processes(tmp_path):
    with launch_lock(tmp_path, 0, "a"):
        announce(tmp_path, "a", [1, 2])
        assert announced(tmp_path, "a") == [1, 2]
        with launch_lock(tmp_path, 1, "a"):
            second = launch_lock(tmp_path, 0, "b")
            with pytest.raises(RunLockedError, match="another process"), second:
                pass
    with launch_lock(tmp_path, 0, "b"):
        pass
    with launch_lock(tmp_path, 1, "a"):  # the first of the launch ended, the second has not
        third = launch_lock(tmp_path, 0, "c")
        with pytest.raises(RunLockedError, match="another process"), third:
            pass
    with launch_lock(tmp_path, 0, "c"):
        pass
    assert sorted(os.listdir(tmp_path / "locks")) == ["0.lock", "1.lock", "launch.json"]


def test_an_error_within_a_launch_is_not_changed_and_frees_the_run(tmp_path):
    with pytest.raises(OSError, match="of mine") as mine, launch_lock(tmp_path, 0, "a"):
        raise OSError("of mine")
    assert not isinstance(mine.value, StorageError)
    with launch_lock(tmp_path, 0, "b"):
        pass

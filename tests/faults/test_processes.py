"""Processes that share a grid do not depend on each other, and end with the bits of one."""

from contextlib import ExitStack

import numpy as np
import pytest
from filesystem import before_changes
from launches import finished, free_port, launched, wait_for
from scenarios import cut_short, differences

import sharpflow as sf
from sharpflow.simulator.processes import Processes, join_processes
from sharpflow.simulator.store import lock
from sharpflow.simulator.store.folder import RunFolder


def _together(stack, count, run, gates=None):
    """Processes of one launch; those with a gate stop at it."""
    address, gates = f"127.0.0.1:{free_port()}", gates or {}
    # each would cut its chunks otherwise, as a machine that is faster or slower does
    return [
        stack.enter_context(
            launched(
                "every_kind",
                run,
                join=[address, count, index],
                gate=gates.get(index),
                pieces=2 + index,
                rows=4 + index,
            )
        )
        for index in range(count)
    ]


@pytest.mark.parametrize(("killed", "then"), [(0, 3), (1, 1)])
def test_the_loss_of_a_process_stops_no_other_and_its_points_are_resumed(
    every_kind, updates_made, tmp_path, killed, then
):
    run, gate = tmp_path / "run", tmp_path / "gate"
    with ExitStack() as stack:
        both = _together(stack, 2, run, {killed: str(gate)})
        wait_for(gate.exists, both[killed])
        both[killed].kill()
        both[killed].wait()
        assert finished(both[1 - killed]) == ""
    with sf.open_run(run) as left:
        status = left["status"].values.ravel()
    lost = _shares(every_kind) == killed
    np.testing.assert_array_equal(status[~lost], every_kind.result["status"].values.ravel()[~lost])
    np.testing.assert_array_equal(status[lost], -1)
    if then == 1:
        updates_made.clear()
        every_kind.run(run)
        assert 0 < sum(updates_made) < every_kind.result["final_step"].values.ravel()[lost].sum()
    else:
        with ExitStack() as stack:
            for process in _together(stack, then, run):
                assert finished(process) == ""
    assert differences(sf.open_run(run), every_kind.result) == []
    assert not (run / "checkpoints").exists()


def _shares(scenario):
    """Which of two processes takes each point: longest first, by turns, in each batch."""
    steps = scenario.result["num_steps"].values.ravel()
    batches = np.arange(steps.size) % 2
    shares = np.zeros(steps.size, int)
    for batch in (0, 1):
        points = np.flatnonzero(batches == batch)
        order = sorted(points, key=lambda point: (-steps[point], point))
        shares[order] = np.arange(len(order)) % 2
    return shares


def test_processes_share_a_grid_bit_for_bit(every_kind, tmp_path):
    run = tmp_path / "run"
    with ExitStack() as stack:
        for process in _together(stack, 2, run):
            assert finished(process) == ""
    assert differences(sf.open_run(run), every_kind.result) == []
    assert not (run / "checkpoints").exists()


def test_no_two_processes_write_to_the_same_file_of_the_arrays(short, tmp_path):
    # more points than get a file each
    many = {"seeds": 32 + np.arange(20), "learning_rates": np.linspace(0.1, 0.2, 13)}
    run, changed = tmp_path / "run", ([], [])
    for index in (0, 1):
        with before_changes(run / "data.zarr", lambda kind, path, i=index: changed[i].append(path)):
            short.run(run, **many, num_steps=10, processes=Processes(index, 2, "launch"))
    files = [{path for path in paths if path.name.isdigit()} for paths in changed]
    assert len(files[0]) > 50 and len(files[1]) > 50 and not files[0] & files[1]
    alone = sf.simulate_grid(**(short.arguments | many | {"num_steps": 10}))
    assert differences(sf.open_run(run), alone) == []


def test_processes_that_time_their_chunks_differently_settle_on_one_layout(
    short, updates_made, tmp_path, monkeypatch
):
    run, settle, others = tmp_path / "run", RunFolder.settle_layout, []

    def late(self, batch, layout, *before):
        if not others:  # a second process comes first, and is killed after a chunk
            others.append(True)
            cut_short(monkeypatch.setattr, pieces=3, rows=5)
            updates_made.clear()
            updates_made.stop_after = 1
            with pytest.raises(sf.simulator.Interrupted):
                short.run(run, processes=Processes(1, 2, "launch"))
            updates_made.stop_after = None
        return settle(self, batch, layout, *before)

    monkeypatch.setattr(RunFolder, "settle_layout", late)
    short.run(run, processes=Processes(0, 2, "launch"))
    assert differences(short.run(run), short.result) == []
    assert RunFolder(run).layout(0)["pieces"] == 3 and sum(updates_made) == short.updates


def test_a_process_waits_for_its_own_launch_only(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "_PATIENCE", 0.2)
    (tmp_path / "locks").mkdir()
    lock.announce(tmp_path, "an older launch", [])
    waiting = lock.launch_lock(tmp_path, 1, "this launch")
    with pytest.raises(sf.simulator.RunLockedError, match="did not open the run"), waiting:
        pass
    lock.announce(tmp_path, "this launch", [])
    with lock.launch_lock(tmp_path, 1, "this launch"):
        first = lock.launch_lock(tmp_path, 0, "the next launch")
        with pytest.raises(sf.simulator.RunLockedError, match="another process"), first:
            pass


@pytest.mark.parametrize("given", [("host:1", None, None), (None, 2, 0), ("host:1", 2, None)])
def test_half_an_address_is_refused(given):
    with pytest.raises(ValueError, match="belong together"):
        join_processes(*given)

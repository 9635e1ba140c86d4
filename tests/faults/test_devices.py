"""A run is resumed on another number of devices without losing a bit or an update."""

from itertools import count

import jax
import pytest
from launches import launched, wait_for
from scenarios import differences

import sharpflow as sf
from sharpflow.simulator.chunk import CompiledChunk
from sharpflow.simulator.store.folder import RunFolder


def test_a_run_killed_on_two_devices_is_resumed_on_one(every_kind, updates_made, tmp_path):
    run, gate = tmp_path / "run", tmp_path / "gate"
    with launched("every_kind", run, devices=2, gate=str(gate)) as process:
        wait_for(gate.exists, process)
        process.kill()
        process.wait()
    assert RunFolder(run).layout(0)["devices"] == 2
    updates_made.clear()
    assert differences(every_kind.run(run), every_kind.result) == []
    assert 0 < sum(updates_made) < every_kind.updates


def test_points_in_flight_that_find_no_lane_keep_their_place(short, updates_made, tmp_path):
    run, (device,) = tmp_path / "run", jax.devices()[:1]
    many = {"seeds": [0, 1, 2, 3]}
    alone = sf.simulate_grid(**(short.arguments | many))
    updates_made.clear()
    for devices, chunks in (([device] * 2, 2), ([device], 3), ([device], 5)):
        updates_made.stop_after = chunks
        with pytest.raises(sf.simulator.Interrupted):
            short.run(run, **many, devices=devices)
        checkpoint, _ = RunFolder(run).read_checkpoints(0)
        assert sorted(checkpoint.positions) == [0, 1, 2, 3]
    updates_made.stop_after = None
    assert differences(short.run(run, **many), alone) == []
    assert sum(updates_made) == alone["final_step"].sum()


@pytest.mark.parametrize("folder", [True, False])
def test_a_point_that_changes_devices_goes_on_where_it_was(
    every_kind, tmp_path, monkeypatch, folder
):
    turns = count()

    def by_turns(self, jobs, work):
        turn = next(turns)
        for number, job in enumerate(jobs):
            work(job, (turn + number) % self.num_devices)

    arguments = every_kind.arguments | {"devices": jax.devices()[:1] * 2}
    monkeypatch.setattr(CompiledChunk, "spread", by_turns)
    found = sf.simulate_grid(**arguments, out=tmp_path / "run" if folder else None)
    assert next(turns) > 10
    assert differences(found, every_kind.result) == []

"""Only one launch at a time writes to a run, and a killed one leaves no lock."""

import pytest
from launches import finished, launched, wait_for
from scenarios import differences

import sharpflow as sf


def test_a_second_launch_is_refused_and_the_first_is_not_disturbed(short, tmp_path):
    run, gate = tmp_path / "run", tmp_path / "gate"
    with launched("short", run, gate=str(gate)) as first:
        wait_for(gate.exists, first)
        with pytest.raises(sf.simulator.RunLockedError, match=f"{run}: another process"):
            short.run(run)
        with pytest.raises(sf.simulator.RunError, match=f"{run} holds a run already"):
            short.run(run, resume=False)
        gate.with_suffix(".open").touch()
        assert finished(first) == ""
    assert differences(sf.open_run(run), short.result) == []


def test_a_killed_launch_leaves_no_lock(short, updates_made, tmp_path):
    run, gate = tmp_path / "run", tmp_path / "gate"
    with launched("short", run, gate=str(gate)) as first:
        wait_for(gate.exists, first)
        first.kill()
        first.wait()
        updates_made.clear()
        found = short.run(run)
    assert differences(found, short.result) == []
    assert sum(updates_made) == short.updates - 2 * 2 * 10  # two chunks of four half records


def test_a_launch_within_the_same_process_is_refused_too(short, tmp_path):
    run, refused = tmp_path / "run", []

    def start(key, learning_rate, weight_decay):
        del learning_rate, weight_decay
        if (run / "locks" / "launch.json").exists() and not refused:
            with pytest.raises(sf.simulator.RunLockedError):
                short.run(run)
            refused.append(True)
        return short.arguments["problem"].init(key)

    found = short.run(run, start=start)
    assert refused and differences(found, short.result) == []


def test_many_launches_leave_as_many_files_as_one(short, tmp_path):
    run = tmp_path / "run"
    short.run(run)
    names = sorted(path.relative_to(run) for path in run.rglob("*"))
    for _ in range(3):
        short.run(run)
    assert sorted(path.relative_to(run) for path in run.rglob("*")) == names
    assert sorted(path.name for path in (run / "locks").iterdir()) == [
        "0.lock",
        "launch.json",
        "turn",
    ]

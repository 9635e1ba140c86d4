"""A run that is asked to stop does so between two chunks, and can be resumed."""

import itertools
import os
import signal

import pytest
from filesystem import before_changes
from launches import finished, launched, wait_for
from scenarios import differences

import sharpflow as sf
from sharpflow.simulator.grid import engine
from sharpflow.simulator.store.folder import RunFolder

SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.8])
def test_a_signal_stops_between_chunks_and_no_update_is_lost(
    every_kind, updates_made, tmp_path, number, share
):
    run, handler = tmp_path / "run", signal.getsignal(number)
    ask = _ask_at(round(share * len(every_kind.states)), number)
    updates_made.clear()
    with before_changes(run, ask), pytest.raises(sf.simulator.Interrupted) as stopped:
        every_kind.run(run)
    assert stopped.value.signal_number == number
    assert signal.getsignal(number) is handler
    assert (run / "run.json").exists() and not list(run.rglob("*.partial"))
    done = [batch for batch in (0, 1) if RunFolder(run).read_checkpoints(batch)[0].positions]
    assert len(done) == 1
    assert differences(every_kind.run(run), every_kind.result) == []
    assert sum(updates_made) == every_kind.updates


def test_a_signal_before_any_change_loses_no_bit(short, tmp_path, soaking, say):
    count, stops = len(short.states), 0
    # before the run is locked, at the third change, signals act as they always do
    for at in range(4, count, 1 if soaking else count // 8):
        run = tmp_path / str(at)
        with before_changes(run, _ask_at(at, signal.SIGTERM)):
            try:
                found = short.run(run)
            except sf.simulator.Interrupted:
                stops += 1
                found = short.run(run)
        assert differences(found, short.result) == [], at
    assert stops > 5
    if soaking:
        say(f"SIGTERM before each of {count} changes: {stops} stops, all resumed bit-identical")


def _ask_at(at, number):
    """A watcher that sends a signal before the ``at``-th change."""
    changes = itertools.count()

    def ask(kind, path):
        if next(changes) == at:
            os.kill(os.getpid(), number)

    return ask


@pytest.mark.parametrize("number", SIGNALS)
def test_a_process_stops_at_a_signal_and_is_resumed(short, tmp_path, number):
    run, gate = tmp_path / "run", tmp_path / "gate"
    with launched("short", run, gate=str(gate)) as process:
        wait_for(gate.exists, process)
        process.send_signal(number)
        wait_for(gate.with_suffix(".asked").exists, process)
        gate.with_suffix(".open").touch()
        assert finished(process) == "Interrupted"
    assert RunFolder(run).read_checkpoints(0)[0].positions
    assert differences(short.run(run), short.result) == []


def test_a_second_interrupt_acts_at_once(short, tmp_path):
    run, gate = tmp_path / "run", tmp_path / "gate"
    with launched("short", run, gate=str(gate)) as process:
        wait_for(gate.exists, process)
        process.send_signal(signal.SIGINT)
        wait_for(gate.with_suffix(".asked").exists, process)
        process.send_signal(signal.SIGINT)  # the gate stays closed
        assert finished(process) == "KeyboardInterrupt"
    assert differences(short.run(run), short.result) == []


def test_a_signal_that_is_ignored_stays_ignored(short, tmp_path):
    run, before = tmp_path / "run", signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with before_changes(run, lambda kind, path: os.kill(os.getpid(), signal.SIGINT)):
            found = short.run(run)
    finally:
        signal.signal(signal.SIGINT, before)
    assert differences(found, short.result) == []


def test_a_signal_before_more_is_compiled_begins_nothing(short, tmp_path, monkeypatch):
    run, timed = tmp_path / "run", engine.time_chunk
    monkeypatch.setattr(engine, "_WORTH_TRYING", 0.0)

    def asked(*given):
        os.kill(os.getpid(), signal.SIGTERM)
        return timed(*given)

    monkeypatch.setattr(engine, "time_chunk", asked)
    with pytest.raises(sf.simulator.Interrupted, match="before anything was simulated"):
        short.run(run)
    assert not RunFolder(run).read_checkpoints(0)[0].positions
    monkeypatch.undo()
    assert differences(short.run(run), short.result) == []

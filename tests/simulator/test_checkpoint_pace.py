"""Checkpoints of large states are made seldom, so that the device does not wait for them."""

import signal
import time

import numpy as np
import pytest

import sharpflow as sf
from sharpflow.simulator.grid import layout as laid
from sharpflow.simulator.grid.run import BatchRun
from sharpflow.simulator.grid.sink import Sink
from sharpflow.simulator.interrupt import Interrupted

STEPS = 200


@pytest.fixture
def events(monkeypatch):
    """Names of chunks run and checkpoints made, in order."""
    found = []
    run, save = BatchRun._run_chunk, Sink.checkpoint

    def noted_run(self, *arguments):
        found.append("chunk")
        run(self, *arguments)

    def noted_save(self, *arguments):
        found.append("checkpoint")
        time.sleep(self.delay)
        save(self, *arguments)

    monkeypatch.setattr(laid, "chunk_rows", lambda *_: 4)
    monkeypatch.setattr(BatchRun, "_run_chunk", noted_run)
    monkeypatch.setattr(Sink, "checkpoint", noted_save)
    monkeypatch.setattr(Sink, "delay", 0.0, raising=False)
    return found


def _run(folder, **changes):
    problem = sf.models.matrix_completion(shape=(6, 5), rank=1, width=3)
    axes = {"seeds": 0, "learning_rates": 0.3, "weight_decays": 0.01}
    return sf.simulate_grid(problem, **axes, num_steps=STEPS, out=folder, **changes)


def test_quick_checkpoints_are_made_after_every_chunk(events, tmp_path):
    _run(tmp_path / "run")
    assert events.count("checkpoint") == events.count("chunk") + 1
    assert events.count("chunk") == STEPS // 4


def test_slow_checkpoints_are_made_seldom(events, tmp_path, monkeypatch):
    monkeypatch.setattr(Sink, "delay", 0.15)
    _run(tmp_path / "run")
    # before the first chunk and when all have ended: a run of a second is over before the next
    assert events.count("chunk") == STEPS // 4
    assert events.count("checkpoint") == 2


@pytest.mark.usefixtures("optimized")
def test_a_run_that_is_stopped_makes_one_and_goes_on_from_there(events, tmp_path, monkeypatch):
    whole = _run(tmp_path / "whole")
    events.clear()
    monkeypatch.setattr(Sink, "delay", 0.15)
    run = BatchRun._run_chunk

    def stopped(self, *arguments):
        run(self, *arguments)
        if events.count("chunk") == 20:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(BatchRun, "_run_chunk", stopped)
        _run(tmp_path / "run")
    assert events[-1] == "checkpoint" and events.count("checkpoint") == 2
    events.clear()
    resumed = _run(tmp_path / "run", resume=True)
    assert events.count("chunk") == STEPS // 4 - 20
    np.testing.assert_array_equal(resumed.loss, whole.loss)

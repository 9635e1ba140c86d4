"""Checkpoints of large states are made seldom, so that the device does not wait for them."""

import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sharpflow as sf
from sharpflow.simulator.grid import engine
from sharpflow.simulator.host import watched
from sharpflow.simulator.interrupt import Interrupted

STEPS = 200


@pytest.fixture
def promoting():
    """Optax adds half and single precision."""
    with jax.numpy_dtype_promotion("standard"):
        yield


class Events(list):
    """Names of chunks run and checkpoints made, in order.

    Attributes:
      delay: seconds that a checkpoint takes longer.
      stop_after: chunks after which a signal comes, or None.
    """

    delay = 0.0
    stop_after = None


@pytest.fixture
def events(monkeypatch):
    """What happens from now on."""
    seen = Events()

    def note(event, host):
        if event in ("chunk", "checkpoint"):
            seen.append(event)
        if event == "checkpoint":
            time.sleep(seen.delay)
        if event == "computed" and seen.count("chunk") == seen.stop_after:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(engine, "chunk_rows", lambda *_: 4)
    with watched(note):
        yield seen


def _run(folder, **changes):
    problem = sf.models.matrix_completion(shape=(6, 5), rank=1, width=3)
    axes = {"seeds": 0, "learning_rates": 0.3, "weight_decays": 0.01}
    return sf.simulate_grid(problem, **axes, num_steps=STEPS, out=folder, **changes)


def test_quick_checkpoints_are_made_after_every_chunk(events, tmp_path):
    _run(tmp_path / "run")
    assert events.count("checkpoint") == events.count("chunk") + 1
    assert events.count("chunk") == STEPS // 4


def test_slow_checkpoints_are_made_seldom(events, tmp_path):
    events.delay = 0.15
    _run(tmp_path / "run")
    # before the first chunk and when all have ended: a run of a second is over before the next
    assert events.count("chunk") == STEPS // 4
    assert events.count("checkpoint") == 2


@pytest.mark.usefixtures("optimized")
def test_a_run_that_is_stopped_makes_one_and_goes_on_from_there(events, tmp_path):
    whole = _run(tmp_path / "whole")
    events.clear()
    events.delay, events.stop_after = 0.15, 20
    with pytest.raises(Interrupted):
        _run(tmp_path / "run")
    events.stop_after = None
    assert events[-1] == "checkpoint" and events.count("checkpoint") == 2
    events.clear()
    resumed = _run(tmp_path / "run", resume=True)
    assert events.count("chunk") == STEPS // 4 - 20
    np.testing.assert_array_equal(resumed.loss, whole.loss)


@pytest.mark.usefixtures("promoting")
def test_a_rule_that_keeps_half_precision_goes_on_where_it_was(events, tmp_path):
    """Files of numpy hold the bytes of bfloat16 without its name."""

    def rule(learning_rate, weight_decay):
        return optax.sgd(learning_rate, momentum=0.9, accumulator_dtype=jnp.bfloat16)

    whole = _run(tmp_path / "whole", optimizer=rule)
    events.clear()
    events.stop_after = 20
    with pytest.raises(Interrupted):
        _run(tmp_path / "run", optimizer=rule)
    events.stop_after = None
    resumed = _run(tmp_path / "run", optimizer=rule, resume=True)
    np.testing.assert_array_equal(resumed.loss, whole.loss)

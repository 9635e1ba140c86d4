"""Forks of runs with schedules: at which step the schedule of a config ends."""

import numpy as np
import pytest
from typer.testing import CliRunner

import sharpflow as sf
from sharpflow.experiments.cli import app
from sharpflow.experiments.config import ConfigError, load
from sharpflow.experiments.remade import remake
from sharpflow.simulator.store.folder import RunFolder

CONFIG = """
problem = "sharpflow.models:matrix_completion"
seed = 0
learning_rate = 1.0
weight_decay = 0.01
num_steps = 20
snapshot_every = 1
final_state = true
observables = ["loss", "threshold", "norm_squared"]
dtype = "float64"
problem_options = {shape = [4, 4], rank = 1}

[schedule]
kind = "linear"
final_share = 0.1
"""

# the share of the largest rate is of single precision, whatever that of the run
_SHARE = 1e-6


def _run(*words):
    result = CliRunner().invoke(app, ["run", *map(str, words), "--no-progress"])
    assert result.exit_code == 0, result.output
    return result


def _rates(run):
    """η of each record, from its threshold 2 (1 − ηλ) ‖w‖² / η."""
    ratio = run["threshold"] / run["norm_squared"]
    return (2.0 / (ratio + 0.02)).values.ravel()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("schedules")
    (place / "config.toml").write_text(CONFIG)
    _run(place / "config.toml", "--out", place / "whole")
    return place


def test_a_fork_in_the_middle_of_a_schedule_has_the_bits_of_the_run(folder):
    fork = folder / "middle"
    _run("--from", folder / "whole", "--at", 10, "--set", "num_steps=10", "--out", fork)
    whole, part = sf.open_run(folder / "whole").sel(step=slice(10, None)), sf.open_run(fork)
    for name in ("step", "loss", "threshold"):
        np.testing.assert_array_equal(part[name], whole[name])
    np.testing.assert_allclose(_rates(part), 1 - 0.9 * np.arange(10, 20) / 20, rtol=_SHARE)


def test_a_decay_from_a_checkpoint_lies_at_the_end_of_the_fork(folder, tmp_path):
    wsd = 'schedule={kind="wsd", warmup_steps=1, decay_steps=5}'
    _run("--from", folder / "whole", "--at", 10, "--set", wsd, "--set", "num_steps=11",
         "--out", tmp_path / "decayed")  # fmt: skip
    # of steps 10 to 20, of which the last five fall from 16 to 21
    expected = np.minimum(1.0, (21 - np.arange(10, 21)) / 5)
    np.testing.assert_allclose(_rates(sf.open_run(tmp_path / "decayed")), expected, rtol=_SHARE)


def test_a_function_of_ones_own_gets_the_step_at_which_the_fork_ends(folder, tmp_path):
    own = f"ends_of_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{own}.py").write_text(
        "def falling(learning_rate, num_steps):\n"
        "    return lambda step: learning_rate * (1.0 - step / num_steps)\n"
    )
    (tmp_path / "config.toml").write_text(CONFIG.partition("[schedule]")[0])
    config = load(
        tmp_path / "config.toml",
        [f"schedule.kind={own}:falling", f"fork.run={folder / 'whole'}", "fork.at=10"],
    )
    rule = config.build()["optimizer"](1.0, 0.01)
    state = rule.update.at_step(rule.init(np.ones(3)), 15)
    assert float(state.numbers["learning_rate"]) == pytest.approx(1 - 15 / 30, rel=_SHARE)


def test_a_fork_whose_schedule_does_not_fit_is_refused(folder):
    # 10 + 11 steps hold 16 + 5, and 10 + 10 do not
    config = folder / "config.toml"
    wsd = 'schedule={kind="wsd", warmup_steps=16, decay_steps=5}'
    fork = f'fork={{run="{folder / "whole"}", at=10}}'
    load(config, [wsd, fork, "num_steps=11"])
    with pytest.raises(ConfigError, match=r"warmup_steps \+ decay_steps: got 16 \+ 5"):
        load(config, [wsd, fork, "num_steps=10"])


def test_the_schedule_of_a_fork_is_made_again_without_the_run_before(folder, tmp_path):
    _run("--from", folder / "whole", "--at", 10, "--out", tmp_path / "fork")
    moved = (folder / "whole").rename(folder / "elsewhere")
    try:
        rule = remake(RunFolder(tmp_path / "fork"), trust=False).optimizer(1.0, 0.01)
    finally:
        moved.rename(folder / "whole")
    state = rule.update.at_step(rule.init(np.ones(3)), 15)
    assert float(state.numbers["learning_rate"]) == pytest.approx(1 - 0.9 * 15 / 30, rel=_SHARE)


def test_points_that_ended_at_different_steps_have_no_one_schedule(tmp_path):
    text = CONFIG.partition("[schedule]")[0].replace("num_steps = 20", "tau = 0.1")
    (tmp_path / "tau.toml").write_text(text)
    two = ["--set", "learning_rate=[0.5,1.0]", "--set", "num_records=5"]
    _run(tmp_path / "tau.toml", *two, "--out", tmp_path / "tau")
    (tmp_path / "fork.toml").write_text(CONFIG)
    fork = [f"fork.run={tmp_path / 'tau'}", "learning_rate=[0.5,1.0]", "num_records=5"]
    with pytest.raises(ConfigError, match=r"fork.at: got nothing.* end at steps 10 to 20"):
        load(tmp_path / "fork.toml", fork).build()

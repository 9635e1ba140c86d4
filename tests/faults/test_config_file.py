"""The config beside a run is that of the run, whoever launches into the folder and when."""

import errno
import os
import re
import subprocess
import sys

import pytest
from environments import cpu_devices
from filesystem import before_changes
from typer.testing import CliRunner

import sharpflow as sf
from sharpflow.experiments.cli import app
from sharpflow.experiments.config import load
from sharpflow.experiments.run import own_config, run_config
from sharpflow.simulator.store.folder import RunFolder
from sharpflow.simulator.store.lock import launch_lock

CONFIG = """
problem = "sharpflow.models:matrix_completion"
seed = [0]
learning_rate = 0.3
weight_decay = [0.01]
num_steps = 20
record_every = 5
dtype = "float64"
observables = ["loss"]

[problem_options]
shape = [4, 3]
rank = 1
"""


@pytest.fixture
def write(tmp_path):
    """Writes the config with some text in it replaced; its path."""

    def write(name="small", **changes):
        path, text = tmp_path / f"{name}.toml", CONFIG
        for old, new in changes.items():
            text = re.sub(rf"^{old} = .*$", f"{old} = {new}", text, flags=re.MULTILINE)
        path.write_text(text)
        return path

    return write


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_a_launch_that_finds_the_folder_locked_leaves_no_config(write, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    with launch_lock(run, 0, "another"):
        result = call("run", write(), "--out", run, "--no-progress")
        assert result.exit_code == 2 and "another process is writing" in result.stderr
        assert [path.name for path in run.iterdir()] == ["locks"]


def test_the_config_is_there_before_the_run_is_and_bound_to_it(write, tmp_path, compiled_once):
    run, seen = tmp_path / "run", []

    def look(kind, path):
        if path.name.startswith("run.json"):
            seen.append((run / "config.toml").read_text())

    config = load(write())
    with before_changes(run, look):
        run_config(config, run, resume=False, progress=False)
    assert seen and set(seen) == {config.to_toml()} == {own_config(RunFolder(run))}


@pytest.mark.parametrize("way", ["full disk", "a problem that fails"])
def test_a_launch_that_never_begins_leaves_nothing_in_the_way(write, tmp_path, compiled_once, way):
    run = tmp_path / "run"
    if way == "full disk":
        seen = []
        with before_changes(tmp_path / "other", lambda kind, path: seen.append(path.name)):
            assert call("run", write(), "--out", tmp_path / "other", "--no-progress").exit_code == 0
        places = [at for at, name in enumerate(seen) if name.startswith(("config", "run.json"))]
        for at in (*places, 0):
            with before_changes(run, _full_after(at)):
                result = call("run", write(), "--out", run, "--no-progress", "--resume")
            assert result.exit_code == 1 and "No space left" in result.stderr, result.stderr
            assert (run / "config.toml").read_text() != "" if (run / "config.toml").exists() else 1
    else:
        module = tmp_path / "fails.py"
        module.write_text("def problem(width):\n    raise ValueError('too wide')\n")
        text = re.sub(r"\[problem_options\].*", "[axes]\nwidth = [3]\n", CONFIG, flags=re.DOTALL)
        bad = write("bad")
        bad.write_text(text.replace("sharpflow.models:matrix_completion", "fails:problem"))
        result = call("run", bad, "--out", run, "--no-progress")
        assert result.exit_code == 2 and "too wide" in result.stderr
        assert not run.exists()
    # another config is taken up where no run began
    other = write("other", weight_decay="[0.02]")
    assert call("run", other, "--out", run, "--resume", "--no-progress").exit_code == 0
    assert sf.open_run(run)["weight_decay"].item() == 0.02
    assert "0.02" in own_config(RunFolder(run))


def _full_after(at):
    changes = 0

    def refuse(kind, path):
        nonlocal changes
        changes += 1
        if changes > at and kind not in ("os.remove", "os.rmdir"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    return refuse


def test_an_empty_config_of_an_earlier_version_blocks_no_resume(write, tmp_path, compiled_once):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.toml").touch()
    result = call("run", write(), "--out", run, "--resume", "--no-progress")
    assert result.exit_code == 0, result.stderr
    assert own_config(RunFolder(run)) == load(write()).to_toml()


def test_a_config_that_was_changed_is_refused_on_resume_and_put_back(
    write, tmp_path, compiled_once
):
    run = tmp_path / "run"
    assert call("run", write(), "--out", run, "--no-progress").exit_code == 0
    stored = (run / "config.toml").read_text()
    (run / "config.toml").write_text(stored.replace("0.01", "0.02"))
    for config in ([], [write()]):
        result = call("run", *config, "--out", run, "--resume", "--no-progress")
        assert result.exit_code == 2
        assert "not the one that the run was begun with" in result.stderr
    (run / "config.toml").unlink()
    assert call("run", write(), "--out", run, "--resume", "--no-progress").exit_code == 0
    assert (run / "config.toml").read_text() == stored


@pytest.mark.parametrize("command", ["plot", "report"])
def test_a_full_disk_exits_with_1_whatever_was_to_be_written(
    write, tmp_path, compiled_once, command, monkeypatch
):
    from matplotlib import pyplot

    run = tmp_path / "run"
    assert call("run", write(), "--out", run, "--no-progress").exit_code == 0
    monkeypatch.setattr(
        "sharpflow.experiments.plots.folder.outcome_maps", lambda data: pyplot.figure()
    )
    with before_changes(run, _full_after(0)):
        result = call(command, run)
    assert result.exit_code == 1 and "No space left" in result.stderr, result.stderr
    pyplot.close("all")


def test_of_two_launches_at_once_the_folder_is_the_winners(write, tmp_path, soaking, say):
    if not soaking:
        pytest.skip("long: make soak")
    configs = [write(str(decay), weight_decay=f"[{decay}]") for decay in (0.01, 0.02)]
    wins = []
    for number in range(20):
        run = tmp_path / str(number)
        command = [sys.executable, "-m", "sharpflow", "run"]
        launches = [
            subprocess.Popen(
                [*command, str(path), "--out", str(run), "--no-progress"],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=cpu_devices(1) | {"PYTHONPATH": os.environ.get("PYTHONPATH", "")},
            )
            for path in configs
        ]
        said = [launch.communicate()[1] for launch in launches]
        codes = [launch.returncode for launch in launches]
        assert sorted(codes) == [0, 2], (codes, said)
        winner = codes.index(0)
        decay = sf.open_run(run)["weight_decay"].item()
        assert decay == (0.01, 0.02)[winner]
        assert own_config(RunFolder(run)) == load(configs[winner]).to_toml()
        wins.append(winner)
    say(f"two launches at once, 20 times: the folder is the winner's, the first's {wins.count(0)}")

"""The command line: exit statuses, messages, and runs from configs."""

import os
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from malformed import malformed_configs
from typer.testing import CliRunner

import sharpflow as sf
from sharpflow.experiments import environment
from sharpflow.experiments import run as runs
from sharpflow.experiments.cli import app

SMALL = """
problem = "tiny:problem"
seed = [0, 1]
learning_rate = [0.3, 0.6]
weight_decay = 0.01
num_steps = 40
record_every = 10
dtype = "float64"
"""
MODULE = """
import sharpflow as sf


def problem(width=3):
    return sf.models.matrix_completion(shape=(6, 5), rank=1, width=width)
"""


@pytest.fixture
def config(tmp_path):
    (tmp_path / "tiny.py").write_text(MODULE)
    path = tmp_path / "tiny.toml"
    path.write_text(SMALL)
    return path


@pytest.fixture
def call():
    """Calls the command within this process: its result has output, stderr and exit_code."""

    def call(*arguments):
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return call


def test_a_run_is_what_simulate_grid_gives_and_leaves_its_config(call, config, tmp_path):
    out = tmp_path / "out"
    result = call("run", config, "--out", out)
    assert result.exit_code == 0, result.output + result.stderr
    assert "4 success" in result.output
    expected = sf.simulate_grid(
        sf.models.matrix_completion(shape=(6, 5), rank=1, width=3),
        seeds=(0, 1),
        learning_rates=(0.3, 0.6),
        weight_decays=0.01,
        num_steps=40,
        record_every=10,
    )
    assert sf.open_run(out).load().drop_attrs().identical(expected.drop_attrs())
    stored = runs.resolved_config(None, [], out, resume=True)
    assert stored.seed == (0, 1) and stored.num_steps == 40


def test_200_malformed_configs_exit_with_2_and_one_message(call, tmp_path, monkeypatch):
    def refuse(*arguments, **keywords):
        raise AssertionError("computed something")

    monkeypatch.setattr(runs, "simulate_grid", refuse)
    path = tmp_path / "config.toml"
    for number, (what, content) in enumerate(malformed_configs(200, seed=1)):
        path.write_bytes(content)
        result = call("run", path, "--out", tmp_path / str(number))
        assert result.exit_code == 2, (what, result.output, result.stderr)
        assert result.stderr.count("error: ") == 1, (what, result.stderr)
        assert "Traceback" not in result.stderr + result.output, what
        assert not (tmp_path / str(number)).exists(), what


def test_a_dry_run_prints_the_grid_its_memory_and_its_time(call, config, tmp_path):
    result = call("run", config, "--dry-run", "--set", "learning_rate=[0.1,0.2,0.3]")
    assert result.exit_code == 0, result.stderr
    assert "6 points: 2 seed × 3 learning_rate × 1 weight_decay" in result.output
    assert "updates: 240 in all" in result.output
    # the tests have one device, and a CPU computes the points in turn
    assert "at a time: 6 points, all on one device, computed in turn" in result.output
    assert "memory of a device" in result.output and "time: about" in result.output
    assert "\nseed: 0, 1\n" in result.output
    alone = call("run", config, "--dry-run", "--set", "seed=3")
    assert "\nseed: one seed, 3\n" in alone.output  # and not three
    untold = (
        "the entry, and what comes after it (needs a sharpness); the flow (needs snapshot_every)"
    )
    assert f"\na report of it cannot tell: {untold}\n" in alone.output
    recorded = 'observables=["threshold", "loss", "norm_squared", "loss_mean", "sharpness_iterate"]'
    more = call("run", config, "--dry-run", "--set", recorded, "--set", "snapshot_every=1")
    assert (
        "\na report of it cannot tell: the share of steps that raise the loss (needs loss_rises)\n"
        in more.output
    )
    assert list(tmp_path.glob("**/run.json")) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("CONFIG",), "--out: name the folder"),
        (("CONFIG", "--out", "OUT", "--device", "abacus"), "allowed are cpu, gpu, tpu"),
        (("nowhere.toml", "--out", "OUT"), "nowhere.toml"),
        (("--out", "OUT", "--resume"), "name a TOML file or a preset"),
        (("CONFIG", "--out", "OUT", "--set", "seed=-1"), "seed"),
        (("CONFIG", "--out", "CONFIG"), "tiny.toml"),
        (("CONFIG", "--out", "OUT", "--num-processes", "2"), "belong together"),
    ],
)
def test_bad_arguments_exit_with_2(call, config, tmp_path, arguments, message):
    places = {"CONFIG": config, "OUT": tmp_path / "out"}
    result = call("run", *(places.get(argument, argument) for argument in arguments))
    assert result.exit_code == 2, result.output
    assert message in result.stderr and "Traceback" not in result.stderr


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="this jax has more than a CPU")
@pytest.mark.parametrize(
    ("command", "platforms", "asked"),
    [
        (
            ("run", "linear-regression-small", "--device", "gpu", "--dry-run"),
            "",
            "--device: got gpu",
        ),
        (("demo", "--out", "OUT"), "cuda", "JAX_PLATFORMS: got cuda"),
    ],
)
def test_a_device_that_is_not_there_is_told_with_what_is(tmp_path, command, platforms, asked):
    words = [str(tmp_path / "out") if word == "OUT" else word for word in command]
    run = subprocess.run(
        [sys.executable, "-m", "sharpflow", *words],
        env=os.environ | {"JAX_PLATFORMS": platforms},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 2, run.stderr
    line = run.stderr.splitlines()[-1]
    assert line.startswith(
        f"error: {asked}; allowed here is cpu, which is what jax {jax.__version__}"
    )
    assert 'pip install "jax[cuda13]"' in line and "Traceback" not in run.stderr
    assert "rocm" not in line and not (tmp_path / "out").exists()


def test_a_finished_run_is_left_alone_and_a_changed_config_is_refused(call, config, tmp_path):
    out = tmp_path / "out"
    assert call("run", config, "--out", out).exit_code == 0
    again = call("run", config, "--out", out)
    assert again.exit_code == 2 and "--resume" in again.stderr
    changed = call("run", config, "--out", out, "--resume", "--set", "num_steps=50")
    assert changed.exit_code == 2 and "num_steps: the run has 40, now 50" in changed.stderr
    assert call("run", "--out", out, "--resume").exit_code == 0
    # lanes may change, and with them the width of the groups, but this alone may not
    assert call("run", config, "--out", out, "--resume", "--set", "group_width=2").exit_code == 2
    lanes = ("--set", "group_width=2", "--set", "lanes=side_by_side")
    assert call("run", config, "--out", out, "--resume", *lanes).exit_code == 0


FAILING = (
    MODULE
    + """

def tilted(moment):
    return {}["weights"]


def halved(params):
    raise ValueError("no half")


TILT = sf.simulator.Observable("tilt", tilted)
HALF = sf.Problem(init=lambda key: problem().init(key), loss=halved)
"""
)


@pytest.mark.parametrize(
    ("override", "told", "line"),
    [
        ('observables=["tiny:TILT"]', "KeyError: 'weights' (tilted in ", 'return {}["weights"]'),
        ("problem=tiny:HALF", "ValueError: no half (halved in ", 'raise ValueError("no half")'),
    ],
)
def test_an_error_in_a_function_of_the_user_is_one_line_with_its_place(
    call, config, tmp_path, monkeypatch, override, told, line
):
    monkeypatch.delitem(sys.modules, "tiny", raising=False)
    module = tmp_path / "tiny.py"
    module.write_text(FAILING)
    number = 1 + FAILING.splitlines().index(f"    {line}")
    result = call("run", config, "--out", tmp_path / "out", "--set", override)
    assert result.exit_code == 2, result.output
    assert result.stderr == f"error: {told}{module}, line {number})\n"


def test_a_resume_that_does_not_find_the_module_says_where_it_may_lie(
    call, config, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    assert call("run", config, "--out", out, "--set", "num_steps=1").exit_code == 0
    monkeypatch.delitem(sys.modules, "tiny", raising=False)
    monkeypatch.chdir(tmp_path.parent)
    result = call("run", "--out", out, "--resume")
    assert result.exit_code == 2
    assert 'there is no module "tiny". A run keeps the names of modules' in result.stderr
    assert f"sharpflow run CONFIG.toml --out {out} --resume" in result.stderr
    assert call("run", config, "--set", "num_steps=1", "--out", out, "--resume").exit_code == 0


def test_plots_of_a_run_are_drawn_into_its_folder(call, config, tmp_path):
    out = tmp_path / "out"
    assert call("run", config, "--out", out).exit_code == 0
    result = call("plot", out)
    assert result.exit_code == 0, result.stderr
    drawn = {path.name for path in (out / "figures").iterdir()}
    assert {"outcomes.png", "final-loss-mean.png", "bands-loss-mean.png"} <= drawn
    nothing = call("plot", tmp_path / "nothing")
    assert nothing.exit_code == 2 and "holds no run" in nothing.stderr


def test_a_run_is_predicted_once_its_module_is_trusted(call, config, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert call("run", config, "--out", out, "--set", "snapshot_every=1").exit_code == 0
    monkeypatch.chdir(config.parent)
    refused = call("predict", out)
    assert refused.exit_code == 2 and "--trust" in refused.stderr
    assert not (out / "predictions.nc").exists()
    # no time for any: what is looked at is that every point is tried and the folder keeps it
    result = call("predict", out, "--trust", "--max-seconds", "1e-9", "--cpu-devices", "1")
    assert result.exit_code == 0, result.output + result.stderr
    assert "predicted: none" in result.output
    kept = sf.open_run(out)["prediction_reason"]
    assert kept.size == 4 and all("max_seconds = 1e-09" in str(why) for why in kept.values.flat)
    other = call("predict", out, "--trust", "--kind", "central_flow")
    assert other.exit_code == 2 and "options differ" in other.stderr


def test_the_presets_are_listed(call):
    result = call("list")
    assert result.exit_code == 0
    assert all(name in result.output for name in ("mlp-digits", "matrix-completion-small"))


def test_ctrl_c_keeps_a_checkpoint_and_exits_with_130(config, tmp_path):
    def command(*more):
        return [sys.executable, "-m", "sharpflow", "run", str(config), "--out", str(out), *more]

    # 2,000 rows, of which a chunk takes 64: the signal comes long before the end
    long = ("--set", "num_steps=200000", "--set", "record_every=100", "--cpu-devices", "1")
    out = tmp_path / "out"
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    with subprocess.Popen(
        command(*long), stderr=subprocess.PIPE, text=True, env=environment
    ) as running:
        for line in running.stderr:
            if " steps" in line:  # after the first chunk
                running.send_signal(signal.SIGINT)
                break
        said = running.stderr.read()
        assert running.wait(60) == 130, said
    assert "--resume" in said and "Traceback" not in said
    finished = int((sf.open_run(out).status == sf.Status.SUCCESS).sum())
    assert finished < 4 and list(out.glob("checkpoints/*/*/*.npz"))
    done = subprocess.run(
        command(*long, "--resume"), capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    data = sf.open_run(out)
    assert np.all(data.status == sf.Status.SUCCESS) and np.all(data.final_step == 200000)
    assert bool(np.isfinite(data.loss).all())


def test_the_version_is_printed():
    command = [sys.executable, "-m", "sharpflow", "--version"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout == f"sharpflow {sf.__version__}\n"


DESCRIBED = SMALL + 'description = "decay of η"\n'


def test_a_run_in_an_ascii_locale_has_the_config_and_the_report_of_any_other(
    call, config, tmp_path
):
    """Of its own process: a locale is settled when Python begins."""
    config.write_text(DESCRIBED, encoding="utf-8")
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "sharpflow", "run", config, "--out", tmp_path / "ä b"]
    overrides = ["--set", "seed=0", "--set", "description=Glättung von η"]
    ended = subprocess.run(
        [*command, *overrides], env=os.environ | ascii_only, capture_output=True, cwd=tmp_path
    )
    assert ended.returncode == 0, ended.stderr
    stored = (tmp_path / "ä b" / "config.toml").read_text(encoding="utf-8")
    assert 'description = "Glättung von η"' in stored
    result = call("report", tmp_path / "ä b", "--no-predictions")
    assert result.exit_code == 0, result.output
    assert "Glättung von η" in (tmp_path / "ä b" / "report.html").read_text(encoding="utf-8")


def test_a_home_folder_is_expanded_in_every_path(call, config, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "..")
    assert call("run", "~/tiny.toml", "--out=~/runs/a", "--set", "seed=0").exit_code == 0
    assert call("plot", "~/runs/a", "--out=~/figures").exit_code == 0
    assert call("report", "~/runs/a", "--out=~/page.html", "--no-predictions").exit_code == 0
    assert sf.open_run("~/runs/a").sizes["seed"] == 1
    assert (tmp_path / "page.html").is_file() and list((tmp_path / "figures").iterdir())


@pytest.mark.parametrize("error", [AssertionError(), RuntimeError("no libtpu")])
def test_a_platform_that_is_not_there_is_told_in_one_line(
    call, config, tmp_path, monkeypatch, request, error
):
    def absent():
        raise error

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    before = jax.config.values["jax_platforms"]
    request.addfinalizer(lambda: jax.config.update("jax_platforms", before))
    monkeypatch.setattr(jax, "default_backend", absent)
    for command in (("run", config, "--out", tmp_path / "x"), ("demo", "--out", tmp_path / "y")):
        jax.config.update("jax_platforms", "cuda")
        result = call(*command)
        assert result.exit_code == 2
        (line,) = result.stderr.splitlines()
        assert line.startswith("error: JAX_PLATFORMS: got cuda; allowed here is cpu")


@pytest.mark.parametrize(("best", "missing"), [("gpu", False), ("cpu", True)])
def test_a_gpu_is_there_where_it_is_the_best_that_jax_finds(monkeypatch, request, best, missing):
    before = jax.config.values["jax_platforms"]
    request.addfinalizer(lambda: jax.config.update("jax_platforms", before))
    environment.configure_jax("gpu")
    # by the name "gpu" jax asks for CUDA and ROCm, and fails where one of the two is not installed
    assert jax.config.values["jax_platforms"] is None
    monkeypatch.setattr(jax, "default_backend", lambda: best)
    sentence = environment.missing_platform("gpu")
    assert sentence is None if not missing else sentence.startswith("--device: got gpu; allowed")


def test_an_error_of_our_own_is_not_taken_for_an_absent_platform(call, config, monkeypatch):
    # as if it stood in the file of ours, since what a test defines would count as the user's
    broken: dict = {}
    text = "def plan_config(*arguments): raise AssertionError('ours')"
    exec(compile(text, runs.__file__, "exec"), broken)
    monkeypatch.setattr(runs, "plan_config", broken["plan_config"])
    assert isinstance(call("run", config, "--dry-run").exception, AssertionError)

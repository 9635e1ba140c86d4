"""Schedules in configs: what they follow, what is refused, and what is read back."""

import dataclasses

import numpy as np
import pytest
from typer.testing import CliRunner

import sharpflow as sf
from sharpflow.experiments.cli import app
from sharpflow.experiments.config import ConfigError, load
from sharpflow.experiments.config.resolved import differences
from sharpflow.experiments.config.trust import beyond_presets, modules_of_user

BASE = """
problem = "sharpflow.models:matrix_completion"
seed = 0
learning_rate = 1.0
weight_decay = 0.01
num_steps = 20
record_every = 5
observables = ["threshold", "norm_squared"]
dtype = "float64"
problem_options = {shape = [4, 4], rank = 1}
"""


def _loaded(tmp_path, schedule: str, *overrides: str):
    path = tmp_path / "scheduled.toml"
    path.write_text(BASE + schedule)
    return load(path, overrides)


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ('kind = "constant"', [1, 1, 1, 1]),
        ('kind = "step"\nat = [5, 10]\nfactor = 0.5', [1, 0.5, 0.25, 0.25]),
        ('kind = "linear"', [1, 0.75, 0.5, 0.25]),
        ('kind = "cosine"\nfinal_share = 0.5', 0.75 + 0.25 * np.cos(np.pi * np.arange(4) / 4)),
        ('kind = "warmup"\nwarmup_steps = 10', [0.1, 0.6, 1, 1]),
        ('kind = "wsd"\nwarmup_steps = 5\ndecay_steps = 10', [0.2, 1, 1, 0.5]),
    ],
)
def test_a_grid_of_a_config_has_the_thresholds_of_its_schedule(tmp_path, schedule, rates) -> None:
    config = _loaded(tmp_path, f"[schedule]\n{schedule}\n")
    (tmp_path / "again.toml").write_text(config.to_toml())
    assert load(tmp_path / "again.toml") == config
    optimizer = config.build()["optimizer"]
    state = optimizer(1.0, 0.01).init(np.ones(3))
    if "constant" not in schedule:
        state = optimizer(1.0, 0.01).update.at_step(state, 15)
    eta = 2.0 / float(state.edge_dynamics().stability_line)
    assert eta == pytest.approx(rates[3], rel=1e-6)


def test_a_run_of_a_config_follows_it(tmp_path) -> None:
    config = _loaded(tmp_path, '[schedule]\nkind = "step"\nat = [5, 10]\nfactor = 0.5\n')
    grid = sf.simulate_grid(**config.build()).isel(seed=0, learning_rate=0, weight_decay=0)
    eta = np.array([1.0, 0.5, 0.25, 0.25])
    expected = 2.0 * (1.0 - 0.01 * eta) * grid["norm_squared"] / eta
    np.testing.assert_allclose(grid["threshold"], expected, rtol=1e-10)
    np.testing.assert_allclose(grid["tau"], 0.01 * np.array([0.0, 5.0, 7.5, 8.75]), rtol=1e-10)


def test_a_flow_time_takes_the_steps_that_a_schedule_needs(tmp_path) -> None:
    """Five steps of 0.01, five of a half and ten of a quarter."""
    table = '[schedule]\nkind = "step"\nat = [5, 10]\nfactor = 0.5\n'
    arguments = _loaded(tmp_path, table, "tau=0.1").build()
    assert "num_steps" not in arguments
    assert sf.simulate_grid(**arguments).num_steps.item() == 20
    _loaded(tmp_path, '[schedule]\nkind = "constant"\n', "tau=0.1")


@pytest.mark.parametrize(
    ("schedule", "overrides", "said"),
    [
        ('kind = "cosin"', (), 'schedule.kind: got "cosin"'),
        ("factor = 0.5", (), "schedule.kind: got nothing"),
        ('kind = "step"', (), 'schedule.at: got nothing; kind = "step" needs it'),
        ('kind = "linear"\nfactor = 0.5', (), "schedule.factor: got 0.5"),
        (
            'kind = "wsd"\nwarmup_steps = 15\ndecay_steps = 10',
            (),
            "warmup_steps + decay_steps: got 15 + 10",
        ),
        ('kind = "linear"\nfinal_share = 2', (), "schedule.final_share: got 2"),
        ('kind = "linear"', ("optimizer=sam",), 'optimizer: got "sam"'),
        ('kind = "linear"', ("tau=0.1",), "tau: got 0.1; allowed num_steps in its place, as kind"),
        ('kind = "wsd"\nwarmup_steps = 2\ndecay_steps = 1', ("tau=0.1",), "tau: got 0.1"),
        ('kind = "linear"\nend = 2', (), "schedule.end: got an unknown key"),
    ],
)
def test_a_schedule_with_a_mistake_is_refused(tmp_path, schedule, overrides, said) -> None:
    with pytest.raises(ConfigError) as refused:
        _loaded(tmp_path, f"[schedule]\n{schedule}\n", *overrides)
    assert said in str(refused.value), str(refused.value)


OWN = """
import jax.numpy as jnp


def rising(learning_rate, num_steps, *, power, least=0.1):
    return lambda step: learning_rate * jnp.maximum((step / num_steps) ** power, least)


def number(learning_rate):
    return learning_rate


def several(learning_rate):
    return lambda step: jnp.ones(3) * learning_rate


def branching(learning_rate):
    return lambda step: learning_rate if step < 5 else learning_rate / 2


def raising(learning_rate):
    return lambda step: {}[step]


def failing(learning_rate):
    raise ValueError("no rate today")
"""


@pytest.fixture
def own(tmp_path):
    """A module beside the config, of a name that no other test has imported."""
    name = f"schedules_of_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(OWN)
    return name


def test_a_schedule_of_ones_own_is_followed_and_read_back(tmp_path, own) -> None:
    config = _loaded(tmp_path, f'[schedule]\nkind = "{own}:rising"\npower = 2.0\n')
    (tmp_path / "again.toml").write_text(config.to_toml())
    assert load(tmp_path / "again.toml") == config
    grid = sf.simulate_grid(**config.build()).isel(seed=0, learning_rate=0, weight_decay=0)
    eta = np.maximum((np.arange(0, 20, 5) / 20) ** 2, 0.1)
    expected = 2.0 * (1.0 - 0.01 * eta) * grid["norm_squared"] / eta
    # a share of two integers is of single precision, whatever that of the run
    np.testing.assert_allclose(grid["threshold"], expected, rtol=1e-6)
    # a folder that somebody sent is not to have it called unasked
    assert modules_of_user(config) == [own]
    assert beyond_presets(config)[-1] == f"schedule.kind = '{own}:rising'"
    assert differences(config, dataclasses.replace(config, schedule=None))


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ('kind = "{}:no_such"', 'has no "no_such"'),
        ('kind = "{}:rising"', "missing a required argument: 'power'"),
        ('kind = "{}:rising"\npower = 2\nwidth = 3', "unexpected keyword argument 'width'"),
        ('kind = "{}:rising"\npower = 2\nnum_steps = 3', "as the key num_steps alone"),
        ('kind = "no_such_module_here:rising"', 'no module "no_such_module_here"'),
    ],
)
def test_a_schedule_of_ones_own_with_a_mistake_is_refused(tmp_path, own, schedule, said) -> None:
    with pytest.raises(ConfigError) as refused:
        _loaded(tmp_path, f"[schedule]\n{schedule.format(own)}\n")
    assert said in str(refused.value), str(refused.value)


def test_a_schedule_that_ends_with_the_run_takes_no_flow_time(tmp_path, own) -> None:
    with pytest.raises(ConfigError, match="tau: got 0.1; allowed num_steps in its place, as kind"):
        _loaded(tmp_path, f'[schedule]\nkind = "{own}:rising"\npower = 2.0\n', "tau=0.1")
    _loaded(tmp_path, f'[schedule]\nkind = "{own}:several"\n', "tau=0.1")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("number", "a function that returns a schedule"),
        ("failing", "no rate today"),
        ("several", r"this one makes an array of shape \(3,\)"),
        ("branching", "this one asks Python for the value of a traced number: jnp.where in place"),
        ("raising", "this one raised "),
    ],
)
def test_a_function_that_makes_no_schedule_is_told(tmp_path, own, name, said) -> None:
    config = _loaded(tmp_path, f'[schedule]\nkind = "{own}:{name}"\n')
    with pytest.raises(ConfigError, match=said) as refused:
        config.build()
    (line,) = refused.value.mistakes
    assert line.startswith("schedule.kind: ") and f"{own}:{name}" in line
    assert name == "failing" or '"wsd" or "module:function"' in line


@pytest.mark.parametrize("kind", ["own", ":function", "own:", "own:one:two"])
def test_a_malformed_kind_has_one_line(tmp_path, kind) -> None:
    with pytest.raises(ConfigError) as refused:
        _loaded(tmp_path, f'[schedule]\nkind = "{kind}"\n')
    (line,) = refused.value.mistakes
    assert line.startswith(f'schedule.kind: got "{kind}"; allowed "constant", ')
    assert '"wsd" or "module:function"' in line


def test_a_run_with_a_schedule_of_ones_own_is_resumed_with_the_same_one_alone(
    tmp_path, own, monkeypatch
) -> None:
    monkeypatch.chdir(
        tmp_path
    )  # where its module is looked for: a folder of a run does not hold it
    (tmp_path / "config.toml").write_text(BASE)
    folder = tmp_path / "run"

    def call(*words):
        return CliRunner().invoke(app, ["run", *words, "--out", str(folder), "--no-progress"])

    kind = ["--set", f"schedule.kind={own}:rising", "--set"]
    began = call("config.toml", *kind, "schedule.power=2.0")
    assert began.exit_code == 0, began.stderr
    resumed = call("--resume")
    assert resumed.exit_code == 0 and "1 success" in resumed.output, resumed.stderr
    other = call("config.toml", *kind, "schedule.power=3.0", "--resume")
    assert other.exit_code == 2 and "schedule.power: the run has 2.0, now 3.0" in other.stderr

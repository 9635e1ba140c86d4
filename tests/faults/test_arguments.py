"""A run is resumed as what it is; anything else is refused with every difference."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
import pytest
from scenarios import Arguments, circle, differences, swing

import sharpflow as sf
from sharpflow.simulator.store.folder import RunFolder


def _other_rule(learning_rate, weight_decay):
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate))


def _other_start(key, learning_rate, weight_decay):
    del learning_rate, weight_decay
    return jax.random.normal(key, (2,)) + 1.0


def _single():
    problem = circle()
    return sf.Problem(
        init=lambda key: problem.init(key).astype(jnp.float32),
        residual=problem.residual,
        metrics=problem.metrics,
    )


def _more_metrics():
    problem = circle()
    return sf.Problem(
        init=problem.init, residual=problem.residual, metrics={"norm": jnp.linalg.norm}
    )


CHANGES = {
    "seeds": ({"seeds": [0, 2]}, ["axes"]),
    "learning rates": ({"learning_rates": [0.1, 0.2]}, ["axes"]),
    "weight decays": ({"weight_decays": 0.02}, ["axes"]),
    "steps": ({"num_steps": 61}, ["num_steps: the run has 60, now it is 61"]),
    "flow time": ({"num_steps": None, "tau": 1.0}, ["num_steps", "tau"]),
    "records": ({"record_every": 6}, ["record_every"]),
    "recorded steps": ({"record_every": None, "record_at": [0, 7]}, ["record_at", "record_every"]),
    "number of records": (
        {"record_every": None, "num_records": 12},
        ["num_records", "record_every"],
    ),
    "observables": ({"observables": ("loss", "norm_squared")}, ["columns", "observables"]),
    "an observable of one's own": (
        {"observables": ("loss", swing())},
        ["columns", "observables"],
    ),
    "snapshots": ({"snapshot_every": 2}, ["snapshot_every"]),
    "final params": ({"final_params": True}, ["final_params"]),
    "optimizer": ({"optimizer": _other_rule}, ["optimizer"]),
    "options of an optimizer": (
        {"optimizer": partial(sf.gdwd)},
        ["optimizer"],
    ),
    "start": ({"start": _other_start}, ["start", "loss_at_start"]),
    "another loss": ({"problem": circle(0.7)}, ["loss_at_start"]),
    "dtype": ({"problem": _single()}, ["dtype"]),
    "several": (
        {"num_steps": 61, "observables": ("loss_mean",), "problem": circle(0.7)},
        ["columns", "loss_at_start", "num_steps", "observables"],
    ),
}


@pytest.mark.parametrize("name", CHANGES)
def test_other_arguments_are_refused_with_every_difference(short, tmp_path, name):
    run = tmp_path / "run"
    short.midway(run)
    changes, different = CHANGES[name]
    with pytest.raises(sf.simulator.RunError, match=f"{run} was started with other") as refused:
        short.run(run, **changes)
    lines = str(refused.value).splitlines()[1:]
    assert all(any(line.startswith(f"  {key}") for line in lines) for key in different), lines
    if name != "dtype":  # which changes the loss at the start as well, perhaps by rounding only
        assert len(lines) == len(different), lines
    assert differences(short.run(run), short.result) == []


def test_other_metrics_are_refused(short, tmp_path):
    run = tmp_path / "run"
    arguments: Arguments = {"observables": ("loss", "metrics")}
    short.run(run, **arguments)
    with pytest.raises(sf.simulator.RunError, match="columns"):
        short.run(run, **arguments, problem=_more_metrics())


def test_an_optimizer_with_options_is_the_same_in_another_process(short):
    # what a run keeps of it must not hold an address in memory
    def described(optimizer):
        return _description(short, optimizer=optimizer)["optimizer"]

    half, one = partial(_quasi_rmsprop, b=0.5), partial(_quasi_rmsprop, b=1.0)
    assert described(half) == described(partial(_quasi_rmsprop, b=0.5)) != described(one)
    assert " at 0x" not in described(half) and "_quasi_rmsprop" in described(half)
    assert " at 0x" not in described(_Rule())


def _quasi_rmsprop(learning_rate, weight_decay, b):
    del weight_decay
    return sf.quasi_rmsprop(learning_rate, b)


class _Rule:
    def __call__(self, learning_rate, weight_decay):
        return sf.gdwd(learning_rate, weight_decay)


def _description(scenario, **changes):
    from sharpflow.simulator.grid.spec import prepare

    return prepare(sf.simulator.GridSpec(**(scenario.arguments | changes))).description


def test_a_start_where_the_loss_is_not_finite_can_be_resumed(short, tmp_path):
    # the first point diverges at once, the other does not
    problem, run = circle(0.6, 0.9), tmp_path / "run"
    expected = short.run(run, problem=problem)
    assert expected["status"].values.ravel().tolist() == [int(sf.Status.DIVERGED), 0]
    assert RunFolder(run).description["loss_at_start"] == float("inf")
    assert differences(short.run(run, problem=problem), expected) == []


def test_a_folder_that_is_no_run_is_refused_and_left_alone(short, tmp_path):
    for name in ("notes.txt", "data.zarr", "layouts"):
        folder = tmp_path / name.partition(".")[0]
        folder.mkdir()
        (folder / name).mkdir()
        (folder / name / "mine").write_text("kept")
        for resume in (True, False):
            with pytest.raises(sf.simulator.RunError, match=f"{folder} is not empty.*{name}"):
                short.run(folder, resume=resume)
        assert (folder / name / "mine").read_text() == "kept"
        assert [path.name for path in folder.iterdir()] == [name]
        with pytest.raises(sf.simulator.RunError, match="holds no run"):
            sf.open_run(folder)


def test_a_run_is_not_begun_where_there_is_one(short, tmp_path):
    run = tmp_path / "run"
    short.midway(run)
    before = sorted(run.rglob("*"))
    with pytest.raises(sf.simulator.RunError, match="resume it .* or choose another folder"):
        short.run(run, resume=False)
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize("there", [True, False])
def test_resuming_where_nothing_is_begins(short, tmp_path, there):
    run = tmp_path / "a" / "run"
    if there:
        run.mkdir(parents=True)
    assert differences(short.run(run), short.result) == []


def test_resume_without_a_folder_is_refused(short):
    with pytest.raises(ValueError, match="need a folder"):
        sf.simulate_grid(**short.arguments, resume=True)

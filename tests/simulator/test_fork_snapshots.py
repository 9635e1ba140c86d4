"""Forks from within a run, unchanged: the bits of the run, with what its rule remembers there."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import stopped

import sharpflow as sf
from sharpflow.simulator import Fork, concatenate, grid_point
from sharpflow.simulator.grid import spec
from sharpflow.simulator.interrupt import Interrupted
from sharpflow.simulator.program import SnapshotParts

SEEN = ["loss", "threshold", "loss_mean"]
STEPS = 48  # of the whole run, which is forked at two thirds of it and again later
FIRST, SECOND = 32, 40


def _quasi_rmsprop(learning_rate, weight_decay):
    return sf.quasi_rmsprop(learning_rate)


def _decayed(learning_rate, weight_decay):
    rate = sf.simulator.cosine_decay(learning_rate, STEPS, 0.1)
    return sf.simulator.momentum(rate, weight_decay)


def _adam(learning_rate, weight_decay):
    return optax.chain(optax.adam(learning_rate), optax.scale_by_schedule(lambda step: 0.9**step))


RULES = {
    "momentum": (sf.simulator.momentum, 1.0, 0.01),
    "quasi_rmsprop": (_quasi_rmsprop, 0.05, 0.0),
    "momentum with a schedule": (_decayed, 1.0, 0.01),
    "adam with a schedule": (_adam, 0.01, 0.0),
}
CASES = pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("momentum", "float32"),
        ("momentum", "float64"),
        ("quasi_rmsprop", "float32"),
        ("quasi_rmsprop", "float64"),
        ("momentum with a schedule", "float64"),
        ("adam with a schedule", "float32"),
    ],
)


def _problem(dtype="float64"):
    return sf.models.matrix_completion(shape=(6, 5), rank=1, width=3, dtype=jnp.dtype(dtype))


def _grid(problem, name, **changed):
    rule, rate, decay = RULES[name]
    arguments = {
        "seeds": [0, 1],
        "learning_rates": [rate, 0.5 * rate],
        "weight_decays": decay,
        "num_steps": STEPS,
        "record_every": 4,
        "snapshot_every": 2,
        "observables": SEEN if name.startswith(("m", "q")) else ["loss", "loss_mean"],
        "optimizer": rule,
        "progress": False,
    }
    return sf.simulate_grid(problem, **arguments | changed)


@pytest.fixture
def promotion_of_users():
    """Schedules of optax multiply integers by numbers of Python, which the strict one forbids."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def _assert_continues(part, whole):
    """All columns and snapshots of a fork are those of the run in one piece, bit for bit."""
    later = whole.sel(step=part["step"], snapshot=part["snapshot"])
    names = [name for name in part.data_vars if name != "num_steps"]
    assert any(name.startswith("optimizer_state.") for name in names)
    for name in ("step", *names):
        np.testing.assert_array_equal(part[name], later[name], err_msg=name)
    assert np.any(part["loss"].isel(step=0) != part["loss"].isel(step=-1))


@CASES
@pytest.mark.usefixtures("promotion_of_users", "no_warning")
def test_a_fork_of_a_fork_from_within_a_run_has_its_bits(tmp_path, name, dtype):
    problem = _problem(dtype)
    whole = _grid(problem, name, out=tmp_path / "whole")
    assert whole["params.u"].dtype == dtype
    fork = Fork(tmp_path / "whole", at=FIRST)
    first = _grid(problem, name, fork=fork, num_steps=STEPS - FIRST, out=tmp_path / "first")
    _assert_continues(first, whole)
    fork = Fork(tmp_path / "first", at=SECOND)
    _assert_continues(_grid(problem, name, fork=fork, num_steps=STEPS - SECOND), whole)


@CASES
@pytest.mark.usefixtures("promotion_of_users", "no_warning")
def test_a_trajectory_goes_on_from_a_snapshot_with_its_bits(tmp_path, name, dtype):
    problem, (rule, rate, decay) = _problem(dtype), RULES[name]
    params = problem.init(jax.random.key(0))

    def run(start, num_steps):
        return sf.simulate(
            problem, start, rule(rate, decay), num_steps, record_every=4, snapshot_every=2,
            observables=["loss"],
        )  # fmt: skip

    whole = run(params, STEPS)
    whole.save(tmp_path / "run.nc")
    first = run(whole.snapshot(FIRST), STEPS - FIRST)
    for part in (
        first,
        run(first.snapshot(SECOND), STEPS - SECOND),
        run(sf.load(tmp_path / "run.nc").snapshot(FIRST), STEPS - FIRST),
    ):
        rows = np.searchsorted(whole.step, part.step)
        np.testing.assert_array_equal(part["loss"], whole["loss"][rows])
        for ours, theirs in zip(
            jax.tree.leaves((part.final_params, part.final_state.optimizer_state)),
            jax.tree.leaves((whole.final_params, whole.final_state.optimizer_state)),
            strict=True,
        ):
            np.testing.assert_array_equal(ours, theirs)


def test_a_point_of_a_grid_goes_on_from_a_snapshot_with_its_bits(no_warning):
    problem, (rule, rate, decay) = _problem(), RULES["momentum"]
    run = _grid(problem, "momentum")
    point = grid_point(run, problem, optimizer=rule, seed=1, learning_rate=rate)
    part = sf.simulate(problem, point.snapshot(FIRST), rule(rate, decay), STEPS - FIRST,
                       record_every=4, observables=["loss"])  # fmt: skip
    np.testing.assert_array_equal(part["loss"], point["loss"][FIRST // 4 :])


@pytest.mark.usefixtures("promotion_of_users", "no_warning")
def test_a_key_of_random_numbers_is_gone_on_with():
    rule = optax.chain(optax.add_noise(1e-2, 0.5, jax.random.key(3)), optax.sgd(0.5, momentum=0.9))
    problem = _problem()
    params = problem.init(jax.random.key(0))
    whole = sf.simulate(problem, params, rule, 12, snapshot_every=1, observables=["loss"])
    part = sf.simulate(problem, whole.snapshot(6), rule, 6, observables=["loss"])
    np.testing.assert_array_equal(part["loss"], whole["loss"][6:])


def test_trajectories_that_follow_each_other_are_joined_with_what_they_remember():
    problem, rule = _problem(), sf.simulator.momentum(1.0, 0.01)
    start = problem.init(jax.random.key(0))
    first = sf.simulate(problem, start, rule, 8, snapshot_every=2)
    second = sf.simulate(problem, first, rule, 8, snapshot_every=2)
    joined = concatenate(first, second)
    whole = sf.simulate(problem, start, rule, 16, snapshot_every=2)
    for ours, theirs in zip(joined.buffers.leaves, whole.buffers.leaves, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert concatenate(first.replace(buffers=None), second).buffers is None


def test_points_side_by_side_keep_what_each_remembers(tmp_path, no_warning):
    problem, together = _problem(), {"lanes": "side_by_side", "group_width": 4}
    whole = _grid(problem, "momentum", out=tmp_path / "whole", **together)
    average = whole["optimizer_state.average.u"]
    assert average.dims[3:] == ("snapshot", *(f"optimizer_state.average.u_{n}" for n in (0, 1)))
    assert len(np.unique(average.isel(snapshot=3).values)) == average.isel(snapshot=3).size
    fork = Fork(tmp_path / "whole", at=FIRST)
    part = _grid(problem, "momentum", fork=fork, num_steps=STEPS - FIRST, **together)
    _assert_continues(part, whole)


def test_averages_of_other_dtypes_are_kept_in_a_folder(tmp_path, no_warning):
    def rule(learning_rate, weight_decay):
        return optax.sgd(learning_rate, momentum=0.9, accumulator_dtype=jnp.bfloat16)

    asked = {"optimizer": rule, "learning_rates": 0.1, "seeds": 0, "observables": ["loss"]}
    with jax.numpy_dtype_promotion("standard"):
        whole = _grid(_problem("float32"), "momentum", out=tmp_path / "whole", **asked)
        fork = Fork(tmp_path / "whole", at=FIRST)
        part = _grid(_problem("float32"), "momentum", fork=fork, num_steps=8, **asked)
    assert whole["optimizer_state.0.trace.u"].dtype == np.float32
    np.testing.assert_array_equal(part["loss"], whole["loss"].sel(step=part["step"]))


def test_a_rule_of_another_kind_begins_anew_and_says_so(tmp_path):
    problem = _problem()
    run = _grid(problem, "momentum", out=tmp_path / "run")
    short = {"num_steps": 2, "record_every": 1, "observables": ["loss"], "snapshot_every": None}
    with pytest.warns(
        UserWarning, match=r"\['v'\] .* begin as at a start, .* kept none at step 32"
    ):
        fork = Fork(tmp_path / "run", FIRST, point={"learning_rate": 1.0})
        _grid(problem, "quasi_rmsprop", fork=fork, learning_rates=0.1, **short)
    point = grid_point(run, problem, optimizer=sf.simulator.momentum, seed=0, learning_rate=1.0)
    with pytest.warns(UserWarning, match=r"has no such ones of the rule before: \['v'\] of the"):
        sf.simulate(problem, point.snapshot(FIRST), sf.quasi_rmsprop(0.1), 2)
    alone = sf.simulate(problem, point.snapshot(FIRST), sf.gdwd(1.0, 0.01), 4, snapshot_every=1)
    assert alone.buffers is None and alone.snapshot(FIRST + 2).optimizer_state is None


def test_a_run_of_an_earlier_version_resumes_and_its_forks_begin_anew(tmp_path, monkeypatch):
    problem, folder = _problem(), tmp_path / "run"
    asked = {"out": folder, "devices": jax.devices()[:1]}
    with monkeypatch.context() as earlier:
        earlier.setattr(spec, "_snapshot_parts", lambda _, example: SnapshotParts(example, None))
        with pytest.raises(Interrupted), stopped.stop_after(2):
            _grid(problem, "momentum", **asked)
    resumed = _grid(problem, "momentum", **asked, resume=True)
    assert not [name for name in resumed.variables if "optimizer_state" in name]
    np.testing.assert_array_equal(resumed["loss"], _grid(problem, "momentum")["loss"])
    with pytest.warns(
        UserWarning, match=r"\['average'\] .* kept none at step 32: a run keeps them"
    ):
        _grid(problem, "momentum", fork=Fork(folder, FIRST), num_steps=4)
    point = grid_point(resumed, problem, optimizer=sf.simulator.momentum, seed=0, learning_rate=1.0)
    with pytest.warns(UserWarning, match="which holds no state of an optimizer"):
        sf.simulate(problem, point.snapshot(FIRST), sf.simulator.momentum(1.0, 0.01), 2)


@pytest.mark.parametrize("name", ["momentum", "quasi_rmsprop"])
def test_a_plan_counts_what_snapshots_remember(name):
    run = _grid(_problem(), name)
    rule, rate, decay = RULES[name]
    plan = sf.simulator.plan_grid(
        _problem(), seeds=[0, 1], learning_rates=[rate, 0.5 * rate], weight_decays=decay,
        num_steps=STEPS, record_every=4, snapshot_every=2, observables=SEEN, optimizer=rule,
    )  # fmt: skip
    assert plan.stored_bytes == sum(array.nbytes for array in run.variables.values())


@pytest.mark.usefixtures("promotion_of_users")
def test_snapshots_that_a_point_did_not_reach_remember_nothing(tmp_path):
    cliff = sf.models.Problem(
        init=lambda key: jax.random.normal(key, (2,)),
        loss=lambda w: jnp.log(10.0 - jnp.sum(w)),
        scale_invariant=False,
    )
    run = sf.simulate_grid(
        cliff, seeds=0, learning_rates=1.0, weight_decays=0.0, num_steps=STEPS, snapshot_every=1,
        optimizer=_adam, observables=["loss"], out=tmp_path / "run",
    ).squeeze()  # fmt: skip
    made = int(run.final_step)
    assert run.status.item() == sf.Status.DIVERGED and 1 < made < STEPS
    of_adam = "optimizer_state.0.0"
    for name in (f"{of_adam}.mu", "params"):
        finite = np.isfinite(run[name]).all(axis=1)
        assert np.all(finite[:made]) and not np.any(finite[made + 1 :])
    np.testing.assert_array_equal(run[f"{of_adam}.count"][:made], np.arange(made))
    assert sf.open_run(tmp_path / "run", verify=True)[f"{of_adam}.count"].dtype == np.int32

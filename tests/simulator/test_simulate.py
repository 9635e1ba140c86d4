"""The simulator against plain loops, and what it does at the edges of its input."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sharpflow as sf
from sharpflow.simulator.loop import run_chunk


@pytest.fixture(scope="module")
def problem():
    return sf.models.matrix_completion(shape=(6, 5), rank=1, width=3)


@pytest.fixture(scope="module")
def params(problem):
    return problem.init(jax.random.key(3))


def _plain_loop(problem, params, eta, decay, num_steps):
    """Losses, squared norms and params of every step, by a Python loop."""
    value_and_grad = jax.jit(jax.value_and_grad(problem.loss_value))
    losses, norms, points = [], [], []
    for _ in range(num_steps):
        loss, gradient = value_and_grad(params)
        losses.append(float(loss))
        norms.append(sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(params)))
        points.append(params)
        params = jax.tree.map(lambda w, g: (1 - eta * decay) * w - eta * g, params, gradient)
    return np.array(losses), np.array(norms), points, params


def test_records_equal_those_of_a_plain_loop(problem, params):
    losses, norms, points, final = _plain_loop(problem, params, 0.5, 0.01, 40)
    found = sf.simulate(problem, params, sf.gdwd(0.5, 0.01), 40, record_every=8, snapshot_every=2)
    np.testing.assert_array_equal(found.step, [0, 8, 16, 24, 32])
    # different compiled programs round differently; 40 contracting steps add little
    np.testing.assert_allclose(found["loss"], losses[::8], rtol=1e-9)
    np.testing.assert_allclose(found["norm_squared"], norms[::8], rtol=1e-12)
    threshold = 2 * (1 - 0.005) * norms[::8] / 0.5
    np.testing.assert_allclose(found["threshold"], threshold, rtol=1e-12)
    np.testing.assert_allclose(found["loss_mean"], losses.reshape(5, 8).mean(axis=1), rtol=1e-9)
    rises = np.diff(losses, prepend=np.inf) > 0
    np.testing.assert_allclose(found["loss_rises"], rises.reshape(5, 8).mean(axis=1), atol=1e-15)
    np.testing.assert_array_equal(found.snapshot_step, [0, 16, 32])
    for row, step in enumerate(found.snapshot_step):
        for leaf, expected in zip(
            jax.tree.leaves(found.params), jax.tree.leaves(points[step]), strict=True
        ):
            np.testing.assert_allclose(leaf[row], expected, rtol=1e-10, atol=1e-12)
    for leaf, expected in zip(
        jax.tree.leaves(found.final_params), jax.tree.leaves(final), strict=True
    ):
        np.testing.assert_allclose(leaf, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("num_steps", [1, 2, 7, 100])
def test_uneven_numbers_of_steps_are_all_made(problem, params, num_steps):
    *_, final = _plain_loop(problem, params, 0.5, 0.01, num_steps)
    found = sf.simulate(problem, params, sf.gdwd(0.5, 0.01), num_steps, record_every=3)
    assert int(found.final_state.step) == num_steps
    np.testing.assert_array_equal(found.step, np.arange(0, num_steps, 3))
    np.testing.assert_allclose(found.final_params["u"], final["u"], rtol=1e-9, atol=1e-12)


def test_going_on_from_an_end_is_bit_identical_to_not_stopping(problem, params):
    rule = sf.gdwd(0.5, 0.01)
    whole = sf.simulate(problem, params, rule, 90, record_every=10, snapshot_every=1)
    first = sf.simulate(problem, params, rule, 30, record_every=10, snapshot_every=1)
    rest = sf.simulate(problem, first, rule, 60, record_every=10, snapshot_every=1)
    joined = sf.simulator.concatenate(first, rest)
    np.testing.assert_array_equal(joined.step, whole.step)
    for name in whole.columns:
        np.testing.assert_array_equal(joined[name], whole[name])
    for ours, theirs in zip(
        jax.tree.leaves((joined.params, joined.final_params)),
        jax.tree.leaves((whole.params, whole.final_params)),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_going_on_with_another_rule_is_refused(problem, params):
    first = sf.simulate(problem, params, sf.gdwd(0.5, 0.01), 5)
    for other in (sf.gdwd(0.4, 0.01), optax.sgd(0.5)):
        with pytest.raises(ValueError, match="optimizer must be the rule"):
            sf.simulate(problem, first, other, 5)


def test_records_may_be_logarithmically_spaced(problem, params):
    steps = sf.simulator.log_spaced(50, 8)
    assert steps[0] == 0 and steps[-1] == 49 and np.all(np.diff(steps) > 0)
    spaced = sf.simulate(problem, params, sf.gdwd(0.5, 0.01), 50, record_at=steps)
    every = sf.simulate(problem, params, sf.gdwd(0.5, 0.01), 50)
    np.testing.assert_array_equal(spaced.step, steps)
    np.testing.assert_allclose(spaced["loss"], every["loss"][steps], rtol=1e-9)


def test_other_numbers_reuse_the_compiled_loop(problem, params):
    sf.simulate(problem, params, sf.gdwd(0.5, 0.01), 20, record_every=5)
    before = run_chunk._cache_size()
    sf.simulate(problem, params, sf.gdwd(0.3, 0.02), 20, record_every=5)
    assert run_chunk._cache_size() == before


def test_any_optax_rule_runs_and_extra_arguments_reach_it(problem, params):
    seen = {}

    def init(params):
        return optax.EmptyState()

    def update(updates, state, params=None, *, value, grad, value_fn, **extra):
        seen["matches"] = value_fn(params) - value
        return jax.tree.map(lambda g: -0.1 * g, grad), state

    ours = sf.simulate(problem, params, optax.GradientTransformationExtraArgs(init, update), 10)
    plain = sf.simulate(problem, params, optax.sgd(0.1), 10)
    assert "matches" in seen and "threshold" not in plain.columns
    np.testing.assert_allclose(ours["loss"], plain["loss"], rtol=1e-10)


def test_a_users_effective_learning_rate_gives_the_threshold(problem, params):
    found = sf.simulate(
        problem,
        params,
        optax.sgd(0.1),
        10,
        effective_learning_rate=lambda state, w: 0.1 / optax.tree.norm(w) ** 2,
    )
    np.testing.assert_allclose(found["threshold"], 20.0 * found["norm_squared"], rtol=1e-12)


def test_a_diverging_run_is_frozen_and_says_so():
    problem = sf.Problem(init=lambda key: jnp.ones(2), loss=lambda w: jnp.sum(w**4))
    found = sf.simulate(problem, jnp.array([3.0, 2.0]), optax.sgd(1.0), 50)
    assert found.status == sf.Status.DIVERGED
    failed_at = int(found.final_state.step)
    assert 0 < failed_at < 50
    assert np.all(np.isfinite(np.asarray(found.final_params)))
    *_, last = _plain_loop(problem, jnp.array([3.0, 2.0]), 1.0, 0.0, failed_at)
    np.testing.assert_allclose(found.final_params, last, rtol=1e-12)


def _kinked(w):
    """½‖w‖², whose derivative is 0 · ∞ where w_0 ≤ ½, as of an unguarded square root."""
    return 0.5 * jnp.sum(jnp.square(w)) + 0.0 * jnp.sqrt(jnp.maximum(w[0] - 0.5, 0.0))


@pytest.mark.parametrize("loss", [_kinked, lambda w: jnp.nan_to_num(_kinked(w))])
def test_a_gradient_that_is_not_finite_is_marked_at_its_step_though_the_loss_is(loss):
    problem = sf.Problem(init=lambda key: jnp.ones(2), loss=loss, scale_invariant=False)
    found = sf.simulate(problem, jnp.ones(2), optax.sgd(0.1), 40)
    # 0.9^7 = 0.478 is the first below one half
    assert (found.status, found.final_step) == (sf.Status.DIVERGED, 7)
    np.testing.assert_allclose(found.final_params, np.full(2, 0.9**7), rtol=1e-14)
    # the step that was lost is recorded with its loss; no update follows it, and no record
    columns = ["loss", "loss_mean"]
    each = sf.simulate(
        problem, jnp.ones(2), optax.sgd(0.1), 12, snapshot_every=1, observables=columns
    )
    np.testing.assert_array_equal(np.isfinite(each["loss"]), np.arange(12) <= 7)
    np.testing.assert_array_equal(np.isfinite(each.params[:, 0]), np.arange(12) <= 7)
    np.testing.assert_array_equal(np.isfinite(each["loss_mean"]), np.arange(12) < 7)
    grid = sf.simulate_grid(
        problem, seeds=0, learning_rates=[0.1, 0.01], weight_decays=0.0, num_steps=40,
        record_every=40, observables=["loss"], group_width=2,
    )  # fmt: skip
    assert grid.status.values.ravel().tolist() == [sf.Status.DIVERGED, sf.Status.SUCCESS]
    assert grid.final_step.values.ravel().tolist() == [7, 40]


def test_a_gradient_that_the_rule_mends_ends_nothing():
    problem = sf.Problem(init=lambda key: jnp.ones(2), loss=_kinked, scale_invariant=False)
    rule = optax.chain(optax.zero_nans(), optax.sgd(0.1))
    found = sf.simulate(problem, jnp.ones(2), rule, 20)
    assert (found.status, found.final_step) == (sf.Status.SUCCESS, 20)
    np.testing.assert_allclose(found.final_params, [0.9**7, 0.9**20], rtol=1e-14)


def test_a_dataset_holds_the_columns_and_survives_netcdf(problem, params, tmp_path):
    import xarray

    found = sf.simulate(
        problem, params, sf.gdwd(0.5, 0.01), 20, observables=("loss", "metrics"), snapshot_every=5
    )
    found.to_dataset().to_netcdf(tmp_path / "run.nc", engine="h5netcdf")
    with xarray.open_dataset(tmp_path / "run.nc") as read:
        np.testing.assert_array_equal(read["loss"], found["loss"])
        np.testing.assert_array_equal(read["test_error"], found["test_error"])
        np.testing.assert_allclose(read["tau"], 0.005 * found.step)
        np.testing.assert_array_equal(read["params.u"], found.params["u"])
        assert read.attrs["learning_rate"] == 0.5 and read.attrs["status"] == "SUCCESS"


def test_params_that_are_one_array_are_labelled_as_in_a_grid():
    problem = sf.models.linear_regression(np.eye(4)[:3], np.array([1.0, 2.0, -1.0]))
    rule, last = sf.gdwd(0.5, 0.01), {"observables": ("loss",), "snapshot_every": 1}
    alone = sf.simulate(problem, problem.init(jax.random.key(0)), rule, 2, **last).to_dataset()
    grid = sf.simulate_grid(
        problem, seeds=0, learning_rates=0.5, weight_decays=0.01, num_steps=2, **last
    )
    point = grid["params"].isel(seed=0, learning_rate=0, weight_decay=0)
    assert alone["params"].dims == point.dims == ("snapshot", "params_0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": np.arange(3, 5)}, "second starts at step 3, but first ends at 2"),
        ({"columns": {}}, r"first recorded \['loss'\], but second \[\]"),
        ({"params": {}}, "both have snapshots, or neither"),
    ],
)
def test_trajectories_that_do_not_follow_each_other_are_refused(problem, params, change, message):
    first = sf.simulate(problem, params, sf.gdwd(0.5, 0.01), 2, observables=("loss",))
    second = dataclasses.replace(first, step=np.arange(2, 4))
    assert sf.simulator.concatenate(first, second).step.tolist() == [0, 1, 2, 3]
    second = dataclasses.replace(second, **change)
    with pytest.raises(ValueError, match=message):
        sf.simulator.concatenate(first, second)


def test_the_progress_bar_can_be_turned_on_and_off(problem, params, capsys):
    sf.simulate(problem, params, sf.gdwd(0.5, 0.01), 4, progress=False)
    assert capsys.readouterr().err == ""
    sf.simulate(problem, params, sf.gdwd(0.5, 0.01), 4, progress=True)
    shown = capsys.readouterr().err
    assert "simulating: compiling ..., nothing new is done yet" in shown
    assert "simulating: 100% of 4 steps" in shown


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"num_steps": 0}, "num_steps"),
        ({"record_every": 0}, "record_every"),
        ({"record_at": [0, 5, 5]}, "record_at"),
        ({"record_at": [0, 50]}, "record_at"),
        ({"snapshot_every": 0}, "snapshot_every"),
        ({"observables": ("loss", "nothing")}, "'nothing'"),
        ({"observables": ("loss", "loss")}, "more than once"),
    ],
)
def test_unusable_arguments_are_named(problem, params, keywords, message):
    keywords = {"num_steps": 10} | keywords
    with pytest.raises(ValueError, match=message):
        sf.simulate(problem, params, sf.gdwd(0.5, 0.01), **keywords)


def test_a_column_that_was_not_recorded_is_named(problem, params):
    found = sf.simulate(problem, params, sf.gdwd(0.5, 0.01), 2, observables=("loss",))
    with pytest.raises(KeyError, match="threshold"):
        found["threshold"]


@pytest.mark.parametrize("start", [0, 0.5])
def test_a_rule_may_keep_numbers_of_python(problem, params, start):
    """Its state is an array from the first step on."""

    def update(updates, state, params=None):
        return jax.tree.map(lambda g: -0.1 * g, updates), {"count": state["count"] + 1}

    rule = optax.GradientTransformation(lambda params: {"count": start}, update)
    found = sf.simulate(problem, params, rule, 6)
    assert float(found.final_state.optimizer_state["count"]) == start + 6
    plain = sf.simulate(problem, params, optax.sgd(0.1), 6)
    np.testing.assert_array_equal(found["loss"], plain["loss"])

"""Runs that go on from the points of others: the same bits where nothing changed, and what else."""

import shutil
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stopped

import sharpflow as sf
from sharpflow.simulator import Fork, grid_point
from sharpflow.simulator.interrupt import Interrupted

RULES = {"gdwd": sf.gdwd, "momentum": sf.simulator.momentum}
SEEDS, RATES, DECAY = [0, 1], [0.5, 1.0], 0.01
SEEN = ["loss", "threshold", "sharpness_midpoint", "loss_rises", "loss_mean"]
STEPS = 20  # of each of the three parts


@pytest.fixture(scope="module")
def problem():
    return sf.models.matrix_completion(shape=(6, 5), rank=1, width=3)


def _grid(problem, rule, **changed):
    arguments = {
        "seeds": SEEDS,
        "learning_rates": RATES,
        "weight_decays": DECAY,
        "num_steps": STEPS,
        "record_every": 5,
        "snapshot_every": 2,
        "observables": SEEN,
        "optimizer": rule,
        "progress": False,
    }
    return sf.simulate_grid(problem, **arguments | changed)


@pytest.fixture(scope="module")
def parents(problem, tmp_path_factory):
    """Of each rule the folder of a first run, and the same run three times as long."""
    made = {}
    for name, rule in RULES.items():
        folder = tmp_path_factory.mktemp(name) / "first"
        _grid(problem, rule, out=folder, final_state=True)
        made[name] = folder, _grid(problem, rule, num_steps=3 * STEPS)
    return made


def _assert_same(part, whole, first):
    later = whole.sel(step=slice(first, None))
    for name in ("step", "tau", *SEEN):
        np.testing.assert_array_equal(part[name], later[name])
    for name in ("params.u", "params.v"):
        snapshots = whole[name].sel(snapshot=slice(first, None))
        np.testing.assert_array_equal(part.snapshot, snapshots.snapshot)
        np.testing.assert_array_equal(part[name], snapshots)


@pytest.mark.parametrize("name", RULES)
def test_a_fork_of_a_fork_has_the_bits_of_the_run_in_one_piece(problem, parents, tmp_path, name):
    first, whole = parents[name]
    second = tmp_path / "second"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _grid(problem, RULES[name], out=second, final_state=True, fork=Fork(first))
        third = _grid(problem, RULES[name], fork=Fork(second))
    _assert_same(third, whole, 2 * STEPS)
    assert np.all(third.final_step == 3 * STEPS) and np.all(third.num_steps == 3 * STEPS)
    told = third.attrs["forked_from"].split("; then ")
    assert [line.partition(" of ")[0] for line in told] == ["steps 0 to 20", "steps 20 to 40"]
    assert str(first) in told[0] and str(second) in told[1]


def test_gradient_descent_from_a_snapshot_has_the_same_bits(problem, parents):
    first, whole = parents["gdwd"]
    fork = _grid(problem, sf.gdwd, fork=Fork(first, at=10), num_steps=STEPS)
    later = whole.sel(step=slice(10, 10 + STEPS - 1))
    # the sharpness is warm-started, and begins cold where a snapshot keeps the params alone
    for column in ("step", "tau", "loss", "threshold", "loss_mean", "params.u"):
        np.testing.assert_array_equal(fork[column], later.sel(snapshot=fork.snapshot)[column])


def test_a_point_goes_on_as_simulate_goes_on_from_its_snapshot(problem, parents):
    first, _ = parents["gdwd"]
    run = sf.open_run(first)
    fork = _grid(problem, sf.gdwd, fork=Fork(first, at=10, point={"learning_rate": 1.0}),
                 learning_rates=[0.25, 0.75], observables=["loss"])  # fmt: skip
    before = grid_point(run, problem, seed=1, learning_rate=1.0)
    for rate in (0.25, 0.75):
        ours = grid_point(fork, problem, seed=1, learning_rate=rate)
        alone = sf.simulate(problem, before.snapshot(10), sf.gdwd(rate, DECAY), STEPS,
                            record_every=5, snapshot_every=2, observables="loss")  # fmt: skip
        np.testing.assert_array_equal(ours["loss"], alone["loss"])
        np.testing.assert_array_equal(ours.tau, alone.tau)
        assert ours.tau[0] == before.tau_at(10) and ours.clock_step == 10


def test_the_average_of_momentum_is_taken_over_at_another_rate(problem, parents):
    rule = sf.simulator.momentum(1.0, DECAY)
    start = problem.init(jax.random.key(0))
    end = sf.simulate(problem, start, rule, STEPS, observables="loss").snapshot()
    other = sf.simulator.momentum(0.25, DECAY)
    forked = sf.simulate(problem, end, other, 1, observables="loss")
    gradient = jax.grad(problem.loss)(end.params)
    average = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, end.optimizer_state.average, gradient)
    expected = jax.tree.map(lambda w, m: w - 0.25 * (m + DECAY * w), end.params, average)
    for ours, theirs in zip(*map(jax.tree.leaves, (forked.final_params, expected)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    first, _ = parents["momentum"]
    of_grid = _grid(problem, RULES["momentum"], fork=Fork(first, point={"learning_rate": 1.0}),
                    learning_rates=[0.25], seeds=[0], num_steps=1, snapshot_every=None,
                    final_params=True, observables=["loss"])  # fmt: skip
    np.testing.assert_array_equal(of_grid["final_params.u"].squeeze(), forked.final_params["u"])


def test_buffers_that_a_run_did_not_keep_are_told(problem, parents):
    first, _ = parents["gdwd"]
    with pytest.warns(UserWarning, match=r"\['average'\] .* begin as at a start.*kept none at"):
        _grid(problem, RULES["momentum"], fork=Fork(first, at=10), num_steps=2, snapshot_every=None)
    start = sf.simulate(problem, problem.init(jax.random.key(0)), sf.gdwd(1.0, DECAY), 2)
    with pytest.warns(UserWarning, match=r"has none of the rule before.*\['average'\] of the rule"):
        sf.simulate(problem, start.snapshot(), sf.simulator.momentum(1.0, DECAY), 2)


def test_a_fork_in_another_precision_starts_at_the_rounded_params(problem, parents):
    first, _ = parents["gdwd"]
    single = sf.models.matrix_completion(shape=(6, 5), rank=1, width=3, dtype=jnp.float32)
    fork = _grid(single, sf.gdwd, fork=Fork(first, at=10), num_steps=2, observables=["loss"])
    kept = sf.open_run(first)["params.u"].sel(snapshot=10)
    assert fork["params.u"].dtype == np.float32
    np.testing.assert_array_equal(fork["params.u"].isel(snapshot=0), kept.astype(np.float32))


def test_a_fork_that_is_stopped_resumes_with_the_same_bits(problem, parents, tmp_path):
    first, whole = parents["momentum"]
    arguments = {"fork": Fork(first), "out": tmp_path / "fork", "devices": jax.devices()[:1]}
    with pytest.raises(Interrupted), stopped.stop_after(2):
        _grid(problem, RULES["momentum"], **arguments)
    assert np.any(sf.open_run(tmp_path / "fork").status < 0)
    resumed = _grid(problem, RULES["momentum"], **arguments, resume=True)
    np.testing.assert_array_equal(
        resumed["loss"], whole["loss"].sel(step=slice(STEPS, 2 * STEPS - 1))
    )
    with pytest.raises(ValueError, match="fork: the"):
        _grid(problem, RULES["momentum"], **arguments | {"fork": Fork(first, at=10)}, resume=True)


def test_points_that_end_at_different_steps_go_on_from_their_own(problem, tmp_path):
    first = tmp_path / "first"
    long = {"num_steps": None, "record_every": None, "num_records": 4, "snapshot_every": None}
    _grid(problem, sf.gdwd, **long | {"tau": 0.1, "out": first, "final_state": True})
    fork = _grid(problem, sf.gdwd, **long | {"tau": 0.2, "fork": Fork(first)})
    whole = _grid(problem, sf.gdwd, **long | {"tau": 0.3})
    np.testing.assert_array_equal(fork.step.isel(record=0).squeeze(), [20, 10])
    np.testing.assert_array_equal(fork.final_step, whole.final_step)
    np.testing.assert_allclose(fork.tau.isel(record=0), 0.1)
    with pytest.raises(ValueError, match="num_records must be given"):
        _grid(problem, sf.gdwd, fork=Fork(first), num_steps=None, tau=0.2)


@pytest.mark.parametrize(
    ("fork", "changed", "said"),
    [
        ({}, {"learning_rates": [0.5, 0.7]}, r"learning_rate has 0\.7 here, and \[0\.5, 1\.0\]"),
        ({}, {"seeds": [4], "learning_rates": 2.0}, "seed has 4 here.*; learning_rate has 2"),
        ({"point": {"learning_rate": 3}}, {}, "learning_rate has 3 here"),
        ({"point": {"beta": 3}}, {}, r"point has \['beta'\], and the axes of the run"),
        ({"at": 7}, {}, r"no snapshot at step 7: at must be a step of a snapshot: 0, 10$"),
        ({"at": -1}, {}, "at must be an integer"),
    ],
)  # fmt: skip
def test_points_that_are_not_in_the_run_are_refused(problem, parents, fork, changed, said):
    with pytest.raises(ValueError, match=said):
        _grid(problem, sf.gdwd, **changed, fork=Fork(parents["gdwd"][0], **fork))


def test_what_a_run_did_not_keep_is_refused_with_what_keeps_it(problem, tmp_path):
    bare = {"num_steps": 5, "snapshot_every": None, "observables": ["loss"]}
    _grid(problem, sf.gdwd, **bare, out=tmp_path / "bare")
    with pytest.raises(ValueError, match="final_state = true .*it has none, which snapshot_every"):
        _grid(problem, sf.gdwd, **bare, fork=Fork(tmp_path / "bare"))
    with pytest.raises(ValueError, match=r"no snapshot at step 3: .*which snapshot_every keeps"):
        _grid(problem, sf.gdwd, **bare, fork=Fork(tmp_path / "bare", at=3))
    _grid(problem, sf.gdwd, **bare, out=tmp_path / "params", final_params=True)
    fork = _grid(problem, sf.gdwd, **bare, fork=Fork(tmp_path / "params"))
    assert int(fork.step[0]) == 5
    with pytest.raises(ValueError, match="holds no run"):
        _grid(problem, sf.gdwd, **bare, fork=Fork(tmp_path))
    with pytest.raises(ValueError, match="final_state must be False without a folder"):
        _grid(problem, sf.gdwd, **bare, final_state=True)


def test_a_point_that_diverged_is_refused_but_for_what_came_before(tmp_path):
    bowl = sf.models.Problem(
        init=lambda key: jax.random.normal(key, (2,)),
        loss=lambda w: jnp.exp(jnp.sum(w**2)),
        scale_invariant=False,
    )
    wild = {"learning_rates": 1.0, "seeds": [0], "observables": ["loss"], "snapshot_every": 1}
    run = _grid(bowl, sf.gdwd, **wild, record_every=1, out=tmp_path / "wild", final_state=True)
    made = int(run.final_step.squeeze())
    assert run.status.item() == sf.Status.DIVERGED and made < STEPS
    for at in (None, made):
        with pytest.raises(ValueError, match=f"diverged at step {made}: give an earlier step"):
            _grid(bowl, sf.gdwd, **wild, fork=Fork(tmp_path / "wild", at))
    tamed = _grid(bowl, sf.gdwd, **wild | {"learning_rates": 1e-3}, num_steps=2,
                  fork=Fork(tmp_path / "wild", 0))  # fmt: skip
    assert tamed.status.item() == sf.Status.SUCCESS


def _decayed(learning_rate, weight_decay):
    rate = sf.simulator.step_decay(learning_rate, [8, 2 * STEPS - 5], 0.5)
    return sf.gdwd(rate, weight_decay)


def test_a_schedule_goes_on_at_its_step_with_its_flow_time(problem, parents, tmp_path):
    first, folder = parents["gdwd"][0], tmp_path / "decayed"
    _grid(problem, _decayed, out=folder, final_state=True)
    whole = _grid(problem, _decayed, num_steps=2 * STEPS)
    part = _grid(problem, _decayed, num_steps=2 * STEPS - 10, fork=Fork(folder, at=10))
    later = whole.sel(step=slice(10, None))
    np.testing.assert_array_equal(part.step, later.step)
    np.testing.assert_array_equal(part["params.u"], whole["params.u"].sel(snapshot=slice(10, None)))
    np.testing.assert_array_equal(part["threshold"], later["threshold"])
    # a sum of flow times, in two parts
    np.testing.assert_allclose(part["tau"], later["tau"], rtol=1e-12)
    point = grid_point(part, problem, optimizer=_decayed, seed=0, learning_rate=1.0)
    np.testing.assert_allclose(point.tau, part["tau"].sel(learning_rate=1.0).squeeze())
    assert point.clock_step == 10

    # from a schedule to a number, and back
    stays = _grid(problem, sf.gdwd, fork=Fork(folder, at=10))
    np.testing.assert_allclose(stays["tau"].isel(step=0), part["tau"].isel(step=0))
    falls = _grid(problem, _decayed, fork=Fork(first))
    rate = np.array(RATES) * DECAY
    # both jumps but one lie before its step 20
    np.testing.assert_allclose(falls["tau"].isel(weight_decay=0, step=0), STEPS * rate)
    np.testing.assert_allclose(falls["tau"].isel(weight_decay=0, step=1), (STEPS + 2.5) * rate)


def test_a_schedule_goes_on_from_its_end_with_its_flow_time(problem, tmp_path):
    _grid(problem, _decayed, out=tmp_path / "decayed", final_state=True)
    second = tmp_path / "second"
    part = _grid(problem, _decayed, fork=Fork(tmp_path / "decayed"), out=second, final_state=True)
    third = _grid(problem, _decayed, fork=Fork(second))
    whole = _grid(problem, _decayed, num_steps=3 * STEPS)
    for fork, first in ((part, STEPS), (third, 2 * STEPS)):
        later = whole.sel(step=slice(first, first + STEPS - 1))
        for name in ("step", "loss", "threshold"):
            np.testing.assert_array_equal(fork[name], later[name])
        # a sum of flow times, in parts
        np.testing.assert_allclose(fork["tau"], later["tau"], rtol=1e-12)
    # a number in the place of the schedule, from the τ of eight steps at η and twelve at η/2
    stays = _grid(problem, sf.gdwd, fork=Fork(tmp_path / "decayed"))
    expected = (8 + 12 / 2) * np.array(RATES) * DECAY
    np.testing.assert_allclose(stays["tau"].isel(weight_decay=0, step=0), expected, rtol=1e-12)


def test_the_end_of_a_schedule_without_a_state_has_no_recorded_flow_time(problem, tmp_path):
    # as runs are that were written before their states had it
    _grid(problem, _decayed, out=tmp_path / "decayed", final_params=True)
    with pytest.raises(ValueError, match="its flow time at step 20 was not recorded: .* 0, 10"):
        _grid(problem, sf.gdwd, fork=Fork(tmp_path / "decayed"))


def test_another_problem_is_refused(problem, parents):
    wide = sf.models.matrix_completion(shape=(6, 5), rank=1, width=4)
    for at in (None, 10):
        with pytest.raises(ValueError, match="problem (has other params|is not the one)"):
            _grid(wide, sf.gdwd, fork=Fork(parents["gdwd"][0], at))


def test_a_plan_counts_the_states_that_a_run_keeps(problem, parents):
    asked = {"seeds": SEEDS, "learning_rates": RATES, "weight_decays": DECAY, "num_steps": STEPS,
             "observables": SEEN, "optimizer": RULES["momentum"]}  # fmt: skip
    without, kept = (
        sf.simulator.plan_grid(problem, **asked, final_state=keeps).stored_bytes
        for keeps in (False, True)
    )
    states = sorted((parents["momentum"][0] / "states").glob("*.npz"))
    assert len(states) == len(SEEDS) * len(RATES)
    arrays = [array for path in states for array in np.load(path).values()]
    assert kept - without == sum(array.nbytes for array in arrays) > 0


def test_a_damaged_state_is_refused(problem, parents, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(parents["gdwd"][0], folder)
    kept = folder / "states" / "0.npz"
    content = bytearray(kept.read_bytes())
    content[len(content) // 2] ^= 1
    kept.write_bytes(content)
    with pytest.raises(sf.simulator.RunError, match=r"state of point 0 .*its digest is another"):
        _grid(problem, sf.gdwd, fork=Fork(folder))

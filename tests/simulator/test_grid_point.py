"""A point of a grid is the trajectory that ``simulate`` makes."""

import jax
import numpy as np
import pytest

import sharpflow as sf

ETA, DECAYS, STEPS = 0.3, [0.01, 0.04], 30


@pytest.fixture(scope="module")
def problem():
    return sf.models.matrix_completion(shape=(6, 5), rank=1, width=3)


@pytest.fixture(scope="module")
def grid(problem):
    return sf.simulate_grid(
        problem,
        seeds=[3, 5],
        learning_rates=ETA,
        weight_decays=DECAYS,
        num_steps=STEPS,
        record_every=5,
        snapshot_every=2,
        final_params=True,
        progress=False,
    )


def _alone(problem, seed, decay):
    start = problem.init(jax.random.key(seed))
    rule = sf.gdwd(ETA, decay)
    return sf.simulate(problem, start, rule, STEPS, record_every=5, snapshot_every=2)


def test_it_holds_what_the_same_run_holds_alone(problem, grid):
    found = sf.simulator.grid_point(grid, problem, seed=5, weight_decay=0.04)
    alone = _alone(problem, 5, 0.04)
    np.testing.assert_array_equal(found.step, alone.step)
    np.testing.assert_array_equal(found.snapshot_step, alone.snapshot_step)
    assert found.columns.keys() == alone.columns.keys()
    for name, values in alone.columns.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-12, err_msg=name)
    for ours, theirs in ((found.params, alone.params), (found.final_params, alone.final_params)):
        assert jax.tree.structure(ours) == jax.tree.structure(theirs)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), ours, theirs)
    for name in ("intrinsic_rate", "response", "on_sphere", "status", "final_step"):
        assert getattr(found, name) == getattr(alone, name), name


def test_a_problem_of_other_shapes_is_refused(problem, grid):
    narrow = sf.models.matrix_completion(shape=(6, 5), rank=1, width=2)
    told = r"params.u has the shape \(6, 3\) there, and \(6, 2\) by its init"
    with pytest.raises(ValueError, match=f"problem is not the one of this grid: {told}"):
        sf.simulator.grid_point(grid, narrow, seed=5, weight_decay=0.04)
    vector = sf.models.linear_regression(np.eye(3), np.arange(3.0))
    with pytest.raises(ValueError, match=r"this grid, which has no arrays \['params'\]"):
        sf.simulator.grid_point(grid, vector, seed=5, weight_decay=0.04)


def test_points_with_few_records_and_records_by_number(problem):
    grid = sf.simulate_grid(
        problem,
        seeds=3,
        learning_rates=ETA,
        weight_decays=DECAYS,
        tau=0.24,
        num_records=4,
        snapshot_every=3,
        progress=False,
    )
    found = sf.simulator.grid_point(grid, problem, weight_decay=0.04)
    np.testing.assert_array_equal(found.step, [0, 5, 10, 15])  # 20 steps
    np.testing.assert_array_equal(found.snapshot_step, [0, 15])
    assert found.final_step == 20 and found.final_params is None
    alone = sf.simulate(problem, problem.init(jax.random.key(3)), sf.gdwd(ETA, 0.04), 15)
    np.testing.assert_allclose(
        found.params["u"][1], np.asarray(alone.final_params["u"]), rtol=1e-12
    )


def test_a_point_that_diverged_ends_where_it_did():
    blowing_up = sf.Problem(init=lambda key: jax.numpy.ones(2), loss=_quartic)
    grid = sf.simulate_grid(
        blowing_up, seeds=0, learning_rates=1.0, weight_decays=0.0, num_steps=20, progress=False
    )
    found = sf.simulator.grid_point(grid, blowing_up)
    assert found.status == sf.Status.DIVERGED
    assert len(found.step) == found.final_step + 1 < 20
    assert np.all(np.isfinite(found["loss"][:-1])) and not np.isfinite(found["loss"][-1])


def _quartic(w):
    return -jax.numpy.sum(w**4)


@pytest.mark.parametrize(
    ("point", "words"),
    [
        ({"seed": 3}, r"point must say which weight_decay: one of \[0.01, 0.04\]"),
        ({"seed": 4, "weight_decay": 0.01}, r"seed must be one of \[3, 5\], got 4"),
        ({"seed": 3, "weight_decay": 0.01, "width": 2}, r"point names \['width'\]"),
    ],
)
def test_labels_that_do_not_name_a_point_are_refused(problem, grid, point, words):
    with pytest.raises(ValueError, match=words):
        sf.simulator.grid_point(grid, problem, **point)


def test_it_cannot_be_gone_on_with(problem, grid):
    found = sf.simulator.grid_point(grid, problem, seed=3, weight_decay=0.01)
    with pytest.raises(ValueError, match="point of a grid"):
        sf.simulate(problem, found, sf.gdwd(ETA, 0.01), 1)


def test_a_label_is_the_very_one_or_the_rate_that_rounds_to_it(problem):
    rates = [0.3 / 7, 0.1, 0.1 * (1 + 1e-8)]
    grid = sf.simulate_grid(
        problem,
        seeds=[10**6, 10**6 + 1],
        learning_rates=rates,
        weight_decays=0.0,
        num_steps=1,
        observables=["loss"],
    )

    def loss(seed, rate):
        return sf.simulator.grid_point(grid, problem, seed=seed, learning_rate=rate)["loss"]

    np.testing.assert_array_equal(loss(10**6 + 1, rates[1]), grid["loss"][1, 1, 0])
    np.testing.assert_array_equal(loss(10**6, 0.04285714), grid["loss"][0, 0, 0])
    np.testing.assert_array_equal(loss(np.int64(10**6), rates[2]), grid["loss"][0, 2, 0])
    for seed, rate in ((10**6 + 2, 0.1), (None, 0.1), (10**400, 0.1), (10**6, 0.1 * (1 + 2e-8))):
        with pytest.raises(ValueError, match="must be one of"):
            loss(seed, rate)


def test_an_optimizer_names_its_rates_as_it_likes(problem):
    def rule(eta, decay):
        return sf.gdwd(eta, decay)

    grid = sf.simulate_grid(
        problem, seeds=0, learning_rates=0.1, weight_decays=0.01, num_steps=3, optimizer=rule
    )
    found = sf.simulator.grid_point(grid, problem, optimizer=rule)
    assert found.intrinsic_rate == pytest.approx(1e-3)

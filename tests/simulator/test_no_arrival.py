"""A trajectory that cannot be predicted is refused with the reason and with what helps."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sharpflow as sf


def _predict(problem, rates, num_steps, snapshot_every=1, **keywords):
    params = problem.init(jax.random.key(0))
    run = sf.simulate(
        problem,
        params,
        sf.gdwd(*rates),
        num_steps,
        record_every=max(num_steps // 20, 1),
        snapshot_every=snapshot_every,
    )
    with pytest.raises(ValueError, match="no snapshot lies within arrival_distance") as caught:
        sf.predict(problem, run, **keywords)
    return str(caught.value)


@pytest.fixture(scope="module")
def completion():
    return sf.models.matrix_completion(shape=(6, 5), rank=1, width=3)


def test_a_loss_that_is_not_invariant():
    problem = sf.Problem(
        init=lambda key: jax.random.normal(key, (3,)), residual=lambda w: jnp.exp(-w) + 1.0
    )
    told = _predict(problem, (0.01, 0.01), 40)
    assert "needs an invariant loss, but the loss is not invariant to the scale" in told


def test_an_edge_that_comes_first(completion):
    told = _predict(completion, (30.0, 1e-3), 40)
    assert "at the edge before it comes near the manifold: its edge ratio is" in told
    assert "sharpflow.central_flow" in told


def test_an_edge_that_comes_after_the_first_snapshot(completion):
    # at the first one the ratio is below 1, and the arrival that is asked for is never reached
    told = _predict(completion, (4.0, 1e-3), 400, arrival_distance=1e-9)
    ratio, step = re.search(r"its edge ratio is (\S+) at step (\d+)\.", told).groups()
    assert float(ratio) >= 1.0 and int(step) > 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_data_that_a_network_cannot_fit(dtype):
    x = np.random.default_rng(0).normal(size=(12, 2)).astype(dtype)

    def residual(w):  # at least 9 in most directions, wherever w points
        return x @ w / jnp.linalg.norm(w) - 9.0

    problem = sf.Problem(init=lambda key: jax.random.normal(key, (2,), dtype), residual=residual)
    told = _predict(problem, (1e-3, 1e-3), 200)
    assert "It hardly fell from" in told and "the network cannot fit its data" in told
    assert "sharpflow.central_flow" in told and "It still falls" not in told
    # of a retraction that fails in single precision nobody can say that rounding is not the cause
    rounding = "snapshots. They are float32, whose rounding may be the cause" in told
    assert rounding == (dtype == np.float32) and ("jax_enable_x64" in told) == rounding


def test_a_run_that_is_too_short_or_recorded_too_seldom(completion):
    told = _predict(completion, (1e-3, 1e-3), 40, snapshot_every=10)
    assert "at the edge" not in told and "train longer" in told
    assert "There are 2 snapshots" in told and "smaller snapshot_every" in told
    assert "arrival_distance above" in told
    accepted = float(told.partition("arrival_distance above ")[2].partition(",")[0])
    assert 1e-3 < accepted < 1.0


def test_a_search_that_takes_too_long_says_how_far_it_came(completion):
    run = sf.simulate(
        completion, completion.init(jax.random.key(0)), sf.gdwd(1e-3, 1e-3), 40, snapshot_every=10
    )
    with pytest.raises(RuntimeError, match=r"after 0 of 4 snapshots: max_seconds = 1e-09 are over"):
        sf.predict(completion, run, max_seconds=1e-9)

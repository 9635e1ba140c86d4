"""Schedules in grids: thresholds and flow time of every point, in single precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sharpflow as sf
from sharpflow.simulator import cosine_decay

NUM_STEPS = 48


def _rule(learning_rate, weight_decay):
    return sf.gdwd(cosine_decay(learning_rate, NUM_STEPS, 0.1), weight_decay)


def _rates(learning_rate: float) -> np.ndarray:
    schedule = cosine_decay(learning_rate, NUM_STEPS, 0.1)
    with jax.numpy_dtype_promotion("standard"):
        return np.array([float(schedule(jnp.asarray(step))) for step in range(NUM_STEPS)])


@pytest.fixture(scope="module")
def problem() -> sf.Problem:
    x, labels = sf.models.digits(8)
    return sf.models.linear_regression(x.astype(np.float32), labels.astype(np.float32))


@pytest.fixture(scope="module")
def grid(problem):
    return sf.simulate_grid(
        problem, seeds=0, learning_rates=[0.2, 0.4], weight_decays=[0.01, 0.02],
        num_steps=NUM_STEPS, record_every=6, snapshot_every=2, optimizer=_rule,
        observables=["threshold", "norm_squared"],
    )  # fmt: skip


def test_every_record_has_the_threshold_and_the_flow_time_of_its_schedule(grid) -> None:
    step = grid["step"].values
    for learning_rate in (0.2, 0.4):
        for decay in (0.01, 0.02):
            one = grid.isel(seed=0).sel(learning_rate=learning_rate, weight_decay=decay)
            rates = _rates(learning_rate)
            expected = 2.0 * (1.0 - rates[step] * decay) * one["norm_squared"] / rates[step]
            np.testing.assert_allclose(one["threshold"], expected, rtol=1e-5)
            sums = np.concatenate([[0.0], np.cumsum(rates * decay)])
            np.testing.assert_allclose(
                one["tau"], sums[step], rtol=1e-6, atol=0.01 * learning_rate * decay
            )
    assert "intrinsic_rate" not in grid  # no number would be that of every step


def test_a_point_is_the_trajectory_with_its_clock(grid, problem) -> None:
    run = sf.simulator.grid_point(
        grid, problem, optimizer=_rule, learning_rate=0.4, weight_decay=0.02
    )
    params = problem.init(jax.random.key(0))
    alone = sf.simulate(
        problem, params, _rule(0.4, 0.02), NUM_STEPS, record_every=6,
        observables=["threshold", "norm_squared"],
    )  # fmt: skip
    np.testing.assert_allclose(run.tau, alone.tau, rtol=1e-6)
    np.testing.assert_allclose(run["threshold"], alone["threshold"], rtol=1e-4)
    assert run.attributes["learning_rate_schedule"].startswith("cosine_decay(0.4")


def test_a_flow_time_for_all_points_is_refused(problem) -> None:
    with pytest.raises(ValueError, match="or follows a schedule: give num_steps instead"):
        sf.simulate_grid(
            problem, seeds=0, learning_rates=0.2, weight_decays=0.01, tau=0.1, optimizer=_rule
        )

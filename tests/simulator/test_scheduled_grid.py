"""Schedules in grids: thresholds and flow time of every point, in single precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sharpflow as sf
from sharpflow.simulator import clock, cosine_decay, step_decay, warmup
from sharpflow.simulator.clock import steps_to

NUM_STEPS = 48


def _rule(learning_rate, weight_decay):
    return sf.gdwd(cosine_decay(learning_rate, NUM_STEPS, 0.1), weight_decay)


def _ending_in_zero(learning_rate, weight_decay):
    return sf.gdwd(cosine_decay(learning_rate, NUM_STEPS), weight_decay)


def _without_end(learning_rate, weight_decay):
    return sf.gdwd(lambda step: learning_rate * 0.9**step, weight_decay)


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


def _falling(learning_rate, weight_decay):
    return sf.gdwd(step_decay(learning_rate, [40, 60], 0.5), weight_decay)


def test_a_flow_time_takes_each_point_as_many_steps_as_its_schedule_needs(problem) -> None:
    """By hand: ηλ of 40 steps, half of it of 20 more, and then a quarter."""
    asked = {
        "seeds": [0, 1], "weight_decays": [0.01, 0.02], "tau": 0.5, "num_records": 5,
        "observables": ["loss"], "progress": False,
    }  # fmt: skip
    grid = sf.simulate_grid(problem, learning_rates=[0.5, 1.0], optimizer=_falling, **asked)
    for seed in (0, 1):
        np.testing.assert_array_equal(grid.num_steps[seed], [[260, 60], [60, 25]])
    np.testing.assert_array_equal(grid.final_step, grid.num_steps)
    for decay, (rate, steps) in zip((0.01, 0.02), ((1.0, 60), (1.0, 25)), strict=True):
        point = sf.simulator.grid_point(
            grid, problem, optimizer=_falling, seed=1, learning_rate=rate, weight_decay=decay
        )
        assert point.final_step == steps and point.tau_at(steps) == pytest.approx(0.5, abs=1e-6)
        np.testing.assert_allclose(
            grid["tau"].sel(learning_rate=rate, weight_decay=decay), point.tau
        )
    constant, number = (
        sf.simulate_grid(problem, learning_rates=[0.3, 0.7], optimizer=rule, **asked)
        for rule in (lambda rate, decay: sf.gdwd(lambda step: rate, decay), sf.gdwd)
    )
    np.testing.assert_array_equal(constant.num_steps, number.num_steps)
    np.testing.assert_array_equal(constant.step, number.step)


def test_the_steps_of_a_flow_time_are_counted_over_blocks_and_to_the_nearest() -> None:
    # λ = 2⁻²⁰ and η = 1: whole numbers of steps are exact, over several blocks of 65,536
    for make in (lambda rate: lambda step: rate, lambda rate: warmup(rate, 4)):
        rule = sf.gdwd(make(1.0), 2.0**-20)
        state = rule.init(jnp.ones(3, jnp.float64))
        lost = 4 - sum(float(make(1.0)(jnp.asarray(step))) for step in range(4))
        for steps in (200_000, 65_536):
            for beside, first in ((-0.4, 0), (0.0, 0), (0.4, 0), (0.4, 10)):
                tau = 2.0**-20 * (steps + beside)
                expected = steps + (0.0 if first else lost)
                assert abs(steps_to(rule.update, state, first, tau) - expected - beside) <= 0.51


def test_a_schedule_is_not_asked_of_steps_after_the_last() -> None:
    def ending(step):
        return jnp.where(step < 100, 0.5, -1.0)

    rule = sf.gdwd(ending, 0.01)
    state = rule.init(jnp.ones(3))
    assert steps_to(rule.update, state, 0, 0.25) == 50
    with pytest.raises(ValueError, match="learning_rate at step 100 must be at least 0"):
        steps_to(rule.update, state, 0, 0.6)


def test_a_flow_time_counts_from_a_fork(problem, tmp_path) -> None:
    asked = {
        "seeds": 0, "learning_rates": 1.0, "weight_decays": 0.01, "optimizer": _falling,
        "observables": ["loss"], "progress": False,
    }  # fmt: skip
    sf.simulate_grid(problem, num_steps=30, out=tmp_path / "run", final_state=True, **asked)
    fork = sf.simulator.Fork(tmp_path / "run")
    part = sf.simulate_grid(problem, tau=0.2, fork=fork, **asked)
    # ten steps of 0.01 and twenty of 0.005
    assert int(part.num_steps.squeeze()) == 30 + 30


@pytest.mark.parametrize("rule", [_ending_in_zero, _without_end])
def test_a_flow_time_that_a_schedule_never_reaches_is_refused(problem, rule, monkeypatch) -> None:
    monkeypatch.setattr(clock, "_MOST_BLOCKS", 3)
    with pytest.raises(ValueError, match="its schedule lets the rates fall too soon: give"):
        sf.simulate_grid(
            problem, seeds=0, learning_rates=0.2, weight_decays=0.01, tau=5.0, optimizer=rule
        )

"""Rules whose rates follow schedules: their steps, their thresholds and their clock."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sharpflow as sf
from sharpflow.simulator import cosine_decay, linear_decay, step_decay, warmup, warmup_stable_decay
from sharpflow.simulator.clock import clock_of
from sharpflow.simulator.rules.scheduled import scheduled_update

NUM_STEPS, DECAY = 40, 0.05
OBSERVED = ("loss", "threshold", "norm_squared")


@pytest.fixture(scope="module")
def problem() -> sf.Problem:
    return sf.models.matrix_completion(shape=(4, 4), rank=1)


@pytest.fixture(scope="module")
def params(problem):
    return problem.init(jax.random.key(0))


def _rates(schedule, num_steps=NUM_STEPS) -> np.ndarray:
    """Of every step, one by one."""
    return np.array([float(schedule(jnp.asarray(step))) for step in range(num_steps)])


def _run(problem, params, rule, num_steps=NUM_STEPS, **options) -> sf.Trajectory:
    keywords = {"record_every": 3, "observables": OBSERVED} | options
    return sf.simulate(problem, params, rule, num_steps, **keywords)


def test_the_steps_are_those_of_the_rates_of_each_step(problem, params) -> None:
    """Against optax's own rules, one update after the other outside the compiled loop."""
    eta, decay = cosine_decay(0.5, NUM_STEPS, 0.1), linear_decay(DECAY, NUM_STEPS, 0.5)
    run = _run(problem, params, sf.gdwd(eta, decay), record_every=1, snapshot_every=1)
    w = params
    for step, (rate, weight) in enumerate(zip(_rates(eta), _rates(decay), strict=True)):
        rows = jax.tree.map(lambda leaf: leaf[step], run.params)  # noqa: B023
        np.testing.assert_allclose(
            *(np.concatenate(jax.tree.leaves(jax.tree.map(np.ravel, t))) for t in (rows, w)),
            rtol=1e-6, atol=1e-8,  # optax counts in single precision
        )  # fmt: skip
        rule = optax.chain(optax.add_decayed_weights(weight), optax.sgd(rate))
        changes, _ = rule.update(jax.grad(problem.loss_value)(w), rule.init(w), w)
        w = optax.apply_updates(w, changes)


@pytest.mark.parametrize(
    "schedule",
    [
        linear_decay(0.3, 20),
        cosine_decay(0.3, 20),
        warmup_stable_decay(1.0, num_steps=11, warmup_steps=1, decay_steps=5),
    ],
    ids=str,
)
def test_a_decay_to_zero_ends_at_zero_in_compiled_code_too(schedule) -> None:
    compiled = jax.jit(schedule)
    rates = [float(compiled(step)) for step in range(NUM_STEPS)]
    assert min(rates) >= 0.0 and rates[-1] < 1e-7


def test_the_threshold_of_a_row_is_that_of_the_rates_of_its_step(problem, params) -> None:
    eta = step_decay(0.5, [7, 21], 0.2)
    run = _run(problem, params, sf.gdwd(eta, DECAY))
    rate = _rates(eta)[run.step]
    expected = 2.0 * (1.0 - rate * DECAY) * run["norm_squared"] / rate
    np.testing.assert_allclose(run["threshold"], expected, rtol=1e-12)
    with_momentum = _run(problem, params, sf.simulator.momentum(eta, DECAY, beta=0.5))
    expected = 3.0 * 2.0 * (1.0 - rate * DECAY) * with_momentum["norm_squared"] / rate
    np.testing.assert_allclose(with_momentum["threshold"], expected, rtol=1e-12)
    # v is not a column: two runs whose gradients are the same until their rates part
    adaptive, fixed = (
        _run(problem, params, sf.quasi_rmsprop(rate), 8, record_every=1)["threshold"]
        for rate in (step_decay(0.2, [7], 0.25), 0.2)
    )
    np.testing.assert_array_equal(adaptive[:7], fixed[:7])
    np.testing.assert_allclose(adaptive[7], 4.0 * fixed[7], rtol=1e-12)


def test_a_schedule_that_stays_makes_the_bits_of_its_number(problem, params) -> None:
    by_number = _run(problem, params, sf.gdwd(0.5, DECAY))
    by_schedule = _run(problem, params, sf.gdwd(lambda step: 0.5, DECAY))
    for name in OBSERVED:
        np.testing.assert_array_equal(by_schedule[name], by_number[name])
    np.testing.assert_allclose(by_schedule.tau, by_number.tau, rtol=1e-14)


@pytest.mark.parametrize("momentum", [False, True])
def test_tau_is_the_sum_of_the_rates_of_the_steps_before(problem, params, momentum) -> None:
    eta, decay = warmup(0.5, 10), cosine_decay(DECAY, NUM_STEPS, 0.1)
    rule = sf.simulator.momentum(eta, decay) if momentum else sf.gdwd(eta, decay)
    run = _run(problem, params, rule)
    sums = np.concatenate([[0.0], np.cumsum(_rates(eta) * _rates(decay))])
    # the knots are right to a hundredth of a step
    slack = 0.01 * (_rates(eta) * _rates(decay)).max()
    np.testing.assert_allclose(run.tau, sums[run.step], rtol=0, atol=slack)
    np.testing.assert_allclose(run.to_dataset().tau, run.tau)
    assert math.isnan(run.intrinsic_rate)  # no number that would pass for that of every step


def test_tau_of_quasi_rmsprop_is_half_the_sum_of_squares(problem, params) -> None:
    eta = linear_decay(0.2, NUM_STEPS, 0.5)
    run = _run(problem, params, sf.quasi_rmsprop(eta))
    sums = np.concatenate([[0.0], np.cumsum(0.5 * _rates(eta) ** 2)])
    np.testing.assert_allclose(run.tau, sums[run.step], rtol=0, atol=0.01 * 0.5 * 0.2**2)


def test_the_clock_of_many_steps_in_single_precision_keeps_its_digits() -> None:
    """A running sum in float32 would be off by 1e-4 of it after these steps."""
    num_steps = 200_000  # several blocks of the clock
    w = {"w": jnp.ones(3, jnp.float32)}
    rule = sf.gdwd(cosine_decay(0.1, num_steps, 0.1), 1e-3)
    clock = clock_of(rule.update, rule.init(w), 0, num_steps)
    assert clock is not None
    step = np.arange(num_steps, dtype=float)
    rate = 1e-4 * (0.1 + 0.45 * (1.0 + np.cos(np.pi * step / num_steps)))
    sums = np.concatenate([[0.0], np.cumsum(rate)])
    at = np.arange(0, num_steps + 1, 1_003)
    # a hundredth of a step, and the rounding of η and of ηλ in single precision
    np.testing.assert_allclose(clock.tau_at(at), sums[at], rtol=3e-7, atol=0.01 * 1e-4)
    assert clock.step.size < num_steps / 50


def test_single_precision_has_the_thresholds_of_its_schedule() -> None:
    problem = sf.models.linear_regression(np.eye(4, 3, dtype=np.float32), np.arange(4.0))
    params = problem.init(jax.random.key(0)).astype(jnp.float32)
    eta = cosine_decay(0.5, NUM_STEPS, 0.1)
    run = _run(problem, params, sf.gdwd(eta, DECAY), record_every=1)
    assert run["threshold"].dtype == np.float32
    rate = _rates(eta)
    expected = 2.0 * (1.0 - rate * DECAY) * run["norm_squared"] / rate
    np.testing.assert_allclose(run["threshold"], expected, rtol=1e-5)


def test_a_run_goes_on_where_its_schedule_stands(problem, params) -> None:
    rule = sf.gdwd(cosine_decay(0.5, NUM_STEPS, 0.1), DECAY)
    whole = _run(problem, params, rule, record_every=1, snapshot_every=1)
    first = _run(problem, params, rule, 15, record_every=1, snapshot_every=1)
    second = _run(problem, first, rule, NUM_STEPS - 15, record_every=1, snapshot_every=1)
    joined = sf.simulator.concatenate(first, second)
    forked = _run(problem, whole.snapshot(15), rule, 10, record_every=1)
    # jax 0.12 rounds the rate of the step that a run goes on from otherwise than within the loop
    for name in ("threshold", "loss"):
        np.testing.assert_allclose(joined[name], whole[name], rtol=1e-14)
        np.testing.assert_allclose(forked[name], whole[name][15:25], rtol=1e-14)
    np.testing.assert_allclose(joined.tau, whole.tau, atol=1e-2 * 0.5 * DECAY)
    np.testing.assert_allclose(forked.tau, whole.tau[15:25], atol=2e-2 * 0.5 * DECAY)
    other = sf.gdwd(linear_decay(0.5, NUM_STEPS, 0.1), DECAY)
    with pytest.raises(ValueError, match="must be the rule that made this trajectory"):
        _run(problem, first, other, 5)


def test_a_saved_run_has_its_clock(problem, params, tmp_path) -> None:
    rule = sf.gdwd(step_decay(0.5, [20]), DECAY)
    run = _run(problem, params, rule)
    run.save(tmp_path / "run.nc")
    loaded = sf.load(tmp_path / "run.nc")
    np.testing.assert_array_equal(loaded.tau, run.tau)
    assert loaded.attributes["learning_rate_schedule"] == "step_decay(0.5, at=(20,), factor=0.1)"
    more, expected = (_run(problem, start, rule, 5) for start in (loaded, run))
    np.testing.assert_array_equal(more["threshold"], expected["threshold"])


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda: sf.gdwd(lambda t: 0.1 - 0.01 * t, 0.1), "learning_rate at step 11 must be at lea"),
        (lambda: sf.gdwd(0.1, lambda t: 0.5 * t), "weight_decay at step 20 must be below 1, got 1"),
        (lambda: sf.gdwd(lambda t: -0.1, 0.1), "learning_rate at step 0 must be at least 0"),
        (lambda: sf.gdwd(lambda t: 0.1 * jnp.ones(2), 0.1), r"learning_rate must be .* \(2,\)"),
        (lambda: sf.gdwd(lambda t: 0.1, -1.0), "weight_decay must be at least 0"),
        (lambda: sf.quasi_rmsprop(lambda t: 0.1, b=-1.0), "b must be positive"),
    ],
)
def test_rates_that_cannot_be_are_refused_before_the_run(problem, params, rule, message) -> None:
    with pytest.raises(ValueError, match=message):
        _run(problem, params, rule())


def test_a_rule_that_hides_a_schedule_tells_no_clock(problem, params) -> None:
    hidden = optax.apply_if_finite(sf.gdwd(step_decay(0.5, [20]), DECAY), 1)
    run = _run(problem, params, hidden, snapshot_every=1)
    assert run.clock is None and np.all(np.isnan(run.tau))
    with pytest.raises(ValueError, match="optimizer hides the schedule"):
        _run(problem, run.snapshot(), hidden)


SCHEDULES = {
    "step_decay": (step_decay(2.0, [3, 6], 0.5), [2, 2, 2, 1, 1, 1, 0.5, 0.5, 0.5]),
    "linear_decay": (linear_decay(2.0, 8, 0.5), [2 - t / 8.0 for t in range(9)]),
    "cosine_decay": (cosine_decay(2.0, 8), [1 + math.cos(math.pi * t / 8) for t in range(9)]),
    "warmup": (warmup(2.0, 4), [0.5, 1, 1.5, 2, 2, 2, 2, 2, 2]),
    "warmup_stable_decay": (
        warmup_stable_decay(2.0, 8, warmup_steps=2, decay_steps=4, final_share=0.2),
        [1, 2, 2, 2, 2, 1.6, 1.2, 0.8, 0.4],
    ),
}


@pytest.mark.parametrize(("schedule", "expected"), SCHEDULES.values(), ids=SCHEDULES)
def test_schedules_have_their_rates(schedule, expected) -> None:
    with jax.numpy_dtype_promotion("standard"):
        rates = [float(schedule(jnp.asarray(step))) for step in range(9)]
    np.testing.assert_allclose(rates, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (linear_decay(0.3, 50), [0.3 * (1 - t / 50) for t in range(51)]),
        (cosine_decay(0.3, 50), [0.15 * (1 + math.cos(math.pi * t / 50)) for t in range(51)]),
        (warmup(0.3, 50), [0.3 * (t + 1) / 50 for t in range(50)]),
        (
            warmup_stable_decay(0.3, 60, warmup_steps=7, decay_steps=50),
            [0.3 * min((t + 1) / 7, 1, (60 - t) / 50) for t in range(61)],
        ),
    ],
    ids=str,
)
def test_rates_of_a_schedule_have_the_digits_of_double_precision(schedule, expected) -> None:
    update = scheduled_update(sf.gdwd(schedule, DECAY).update)
    steps = jnp.arange(len(expected), dtype=jnp.int32)
    rates = jax.vmap(lambda step: update.numbers_at(step, np.float64)["learning_rate"])(steps)
    np.testing.assert_allclose(rates, expected, rtol=1e-13, atol=1e-15)


def test_equal_schedules_share_a_compiled_program() -> None:
    assert cosine_decay(0.1, 8) == cosine_decay(0.1, 8) != cosine_decay(0.1, 9)
    first, second = (sf.gdwd(cosine_decay(0.1, 8), DECAY).update for _ in range(2))
    assert first == second and hash(first) == hash(second)

"""Rules that optax wraps around others: extra arguments, steps in between, schedules."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sharpflow as sf
from sharpflow.simulator.rules import edge_dynamics

W = (1.0, 2.0, -1.0)
NUM_STEPS = 5


def _loss(w):
    return 0.5 * jnp.sum(w**2) + jnp.sum(jnp.sin(w))


PROBLEM = sf.Problem(init=lambda key: jnp.array(W), loss=_loss, scale_invariant=False)


def _narrow():
    def update(gradient, state, params=None, *, value):
        del params
        return -0.1 * value * gradient, state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _adversarial():
    return optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.05), sync_period=2)


# the rule, and the extra arguments that a plain loop may pass it
RULES = {
    "MultiSteps": (lambda: optax.MultiSteps(optax.sgd(0.1), 2), ()),
    "MultiSteps of a rule with extra arguments": (
        lambda: optax.MultiSteps(sf.simulator.sam(0.1), 2),
        ("value_fn",),
    ),
    "contrib.sam, which takes none": (_adversarial, ()),
    "a chain that hands them on": (lambda: optax.chain(_adversarial(), optax.scale(0.5)), ()),
    "one of them": (_narrow, ("value",)),
}


def _plain_loop(rule, takes):
    w, losses = jnp.array(W), []
    state = rule.init(w)
    for _ in range(NUM_STEPS):
        loss, gradient = jax.value_and_grad(_loss)(w)
        extras = {"value": loss, "grad": gradient, "value_fn": _loss}
        changes, state = rule.update(gradient, state, w, **{name: extras[name] for name in takes})
        w = optax.apply_updates(w, changes)
        losses.append(float(loss))
    return np.array(losses)


@pytest.fixture
def standard_promotion():
    """Optax itself adds float32 to float64, and booleans to integers."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize(("make", "takes"), RULES.values(), ids=RULES)
def test_a_wrapped_rule_has_the_numbers_of_a_plain_optax_loop(make, takes):
    expected = _plain_loop(make(), takes)
    run = sf.simulate(PROBLEM, jnp.array(W), make(), NUM_STEPS, observables=["loss"])
    np.testing.assert_allclose(run["loss"], expected, rtol=1e-14)


@pytest.mark.usefixtures("standard_promotion")
@pytest.mark.parametrize("name", ["MultiSteps", "contrib.sam, which takes none"])
def test_a_wrapped_rule_has_the_same_numbers_in_a_grid(name):
    make, takes = RULES[name]
    expected = _plain_loop(make(), takes)
    grid = sf.simulate_grid(
        PROBLEM, seeds=0, learning_rates=0.1, weight_decays=0.0, num_steps=NUM_STEPS,
        observables=["loss"], optimizer=lambda learning_rate, weight_decay: make(), group_width=1,
    )  # fmt: skip
    np.testing.assert_allclose(grid.loss.values.ravel(), expected, rtol=1e-14)


def test_the_mistake_of_an_update_is_not_taken_for_an_extra_argument():
    def update(gradient, state, params=None, **extra):
        raise TypeError("shapes do not fit")

    rule = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
    with pytest.raises(TypeError, match="do not fit"):
        sf.simulate(PROBLEM, jnp.array(W), rule, 1)


def test_a_rule_that_is_called_every_second_step_tells_no_clock():
    rule = sf.gdwd(0.1, 0.01)
    assert edge_dynamics(rule.init(jnp.array(W))).of_step
    for wrapped in (optax.MultiSteps(rule, 2), optax.contrib.sam(rule, rule)):
        assert not edge_dynamics(wrapped.init(jnp.array(W))).of_step


def _scheduled(learning_rate, weight_decay=0.05):
    return optax.inject_hyperparams(
        lambda learning_rate, weight_decay: optax.chain(
            optax.add_decayed_weights(weight_decay), optax.sgd(learning_rate)
        )
    )(learning_rate=learning_rate, weight_decay=weight_decay)


def _effective(state, params):
    of_step = (state if hasattr(state, "hyperparams") else state[-1].inner_state).hyperparams
    return sf.theory.effective_learning_rate(
        jnp.square(optax.tree.norm(params)), of_step["learning_rate"], of_step["weight_decay"]
    )


def _schedule(step):
    return 0.5 / (1.0 + jnp.asarray(step, float))


def _within_others(rule):
    return optax.chain(optax.identity(), optax.apply_if_finite(rule, 1))


@pytest.mark.parametrize("wrap", [lambda rule: rule, _within_others], ids=["alone", "within"])
def test_the_threshold_of_a_schedule_is_that_of_the_step_that_begins_at_the_record(wrap):
    problem = sf.models.matrix_completion(shape=(4, 4), rank=1)
    params = problem.init(jax.random.key(0))
    steps, decay = np.arange(0, 12, 3), 0.05
    observables = ["threshold", "effective_learning_rate", "norm_squared", sf.sharpness()]
    run = sf.simulate(
        problem, params, wrap(_scheduled(_schedule)), 12, record_every=3,
        observables=observables, effective_learning_rate=_effective,
    )  # fmt: skip
    rate = 0.5 / (1.0 + steps)
    expected = rate / ((1.0 - rate * decay) * run["norm_squared"])
    np.testing.assert_allclose(run["effective_learning_rate"], expected, rtol=1e-13)
    np.testing.assert_allclose(run["threshold"], 2.0 / expected, rtol=1e-13)
    ratio = 0.5 * expected * run["sharpness_iterate"][:, 0]
    np.testing.assert_allclose(run["edge_ratio_iterate"], ratio, rtol=1e-13)


def test_the_thresholds_of_schedules_in_a_grid_are_those_of_their_steps():
    grid = sf.simulate_grid(
        PROBLEM, seeds=0, learning_rates=[0.1, 0.2], weight_decays=0.05, num_steps=6,
        record_every=2, observables=["threshold", "norm_squared"], group_width=2,
        optimizer=lambda learning_rate, weight_decay: _scheduled(
            lambda step: learning_rate * _schedule(step), weight_decay
        ),
        effective_learning_rate=_effective,
    )  # fmt: skip
    rate = np.array([[0.1], [0.2]]) * 0.5 / (1.0 + np.arange(0, 6, 2))
    expected = 2.0 * (1.0 - rate * 0.05) * grid.norm_squared.values[0, :, 0] / rate
    np.testing.assert_allclose(grid.threshold.values[0, :, 0], expected, rtol=1e-13)


def test_a_count_in_the_state_is_that_before_the_step():
    """``optax.scale_by_schedule`` makes step t with its count of t."""
    run = sf.simulate(
        PROBLEM, jnp.array(W), optax.sgd(_schedule), 3, observables=["threshold"],
        effective_learning_rate=lambda state, params: _schedule(state[-1].count),
    )  # fmt: skip
    np.testing.assert_allclose(run["threshold"], 2.0 / (0.5 / (1.0 + np.arange(3))), rtol=1e-13)


def test_a_schedule_that_a_rule_of_ours_would_not_follow_is_refused():
    fixed = optax.inject_hyperparams(sf.gdwd)(learning_rate=0.1, weight_decay=0.0)
    run = sf.simulate(PROBLEM, jnp.array(W), fixed, 2, observables=["loss"])
    plain = sf.simulate(PROBLEM, jnp.array(W), sf.gdwd(0.1, 0.0), 2, observables=["loss"])
    np.testing.assert_array_equal(run["loss"], plain["loss"])
    make = optax.inject_hyperparams(sf.gdwd)
    with pytest.raises(ValueError, match=r"schedules \['learning_rate'\].*would not follow"):
        sf.simulate(PROBLEM, jnp.array(W), make(_schedule, 0.0), 2)
    with pytest.raises(ValueError, match=r"schedules \['learning_rate'\]"):
        sf.simulate_grid(
            PROBLEM, seeds=0, learning_rates=0.1, weight_decays=0.0, num_steps=2,
            optimizer=lambda learning_rate, weight_decay: make(_schedule, weight_decay),
        )  # fmt: skip

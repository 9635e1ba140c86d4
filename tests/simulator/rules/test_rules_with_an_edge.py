"""The update rules against their equations, written out in numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sharpflow as sf
from sharpflow.simulator.rules import edge_dynamics


def _quadratic_gradient(w):
    return np.array([1.0, -2.0, 0.5]) * w + np.array([0.1, 0.0, -0.3])


def _run(optimizer, w, gradient, num_steps):
    params, state = jnp.asarray(w), None
    state = optimizer.init(params)
    for _ in range(num_steps):
        updates, state = optimizer.update(jnp.asarray(gradient(np.asarray(params))), state, params)
        params = optax.apply_updates(params, updates)
    return np.asarray(params), state


def test_gdwd_is_gradient_descent_with_decoupled_decay():
    eta, decay, w = 0.1, 0.3, np.array([1.0, 2.0, -1.0])
    found, state = _run(sf.gdwd(eta, decay), w, _quadratic_gradient, 5)
    for _ in range(5):
        w = (1 - eta * decay) * w - eta * _quadratic_gradient(w)
    np.testing.assert_allclose(found, w, rtol=1e-14)
    rate = state.effective_learning_rate(jnp.asarray(w))
    np.testing.assert_allclose(rate, eta / ((1 - eta * decay) * (w @ w)), rtol=1e-14)


def test_gdwd_equals_the_chain_of_optax():
    w = np.array([1.0, 2.0, -1.0])
    chain = optax.chain(optax.add_decayed_weights(0.3), optax.sgd(0.1))
    ours, _ = _run(sf.gdwd(0.1, 0.3), w, _quadratic_gradient, 10)
    theirs, _ = _run(chain, w, _quadratic_gradient, 10)
    np.testing.assert_allclose(ours, theirs, rtol=1e-13)


@pytest.mark.parametrize("on_sphere", [True, False])
def test_quasi_rmsprop_follows_its_recursion(on_sphere):
    eta, b, v = 0.05, 0.5, 0.7
    w = np.array([1.0, 2.0, -1.0]) / np.sqrt(6.0)
    rule = sf.quasi_rmsprop(eta, b, v0=v, on_sphere=on_sphere)
    found, state = _run(rule, w, _quadratic_gradient, 7)
    for _ in range(7):
        g = _quadratic_gradient(w)
        w = w - eta / np.sqrt(v) * g
        w = w / np.linalg.norm(w) if on_sphere else w
        v = (1 - b * eta**2) * v + b * eta**2 * (g @ g)
    np.testing.assert_allclose(found, w, rtol=1e-13)
    np.testing.assert_allclose(state.v, v, rtol=1e-13)
    np.testing.assert_allclose(state.edge_dynamics().intrinsic_rate, eta**2 / 2, rtol=1e-14)


def test_a_rule_tells_of_its_steps_where_nothing_may_change_them():
    rule, params = sf.gdwd(0.1, 0.2), jnp.ones(3)
    for alone in (rule, optax.chain(rule), optax.apply_if_finite(rule, 1)):
        found = edge_dynamics(alone.init(params))
        np.testing.assert_allclose(found.intrinsic_rate, 0.02, rtol=1e-14)
    for others in (
        optax.chain(rule, optax.scale(0.5)),
        optax.chain(optax.clip_by_global_norm(1.0), rule),
        optax.chain(optax.apply_if_finite(rule, 1), optax.ema(0.5)),
        optax.chain(rule, rule),
        optax.masked(rule, True),
        optax.conditionally_transform(rule, lambda step: step < 2),
        optax.sgd(0.1),
    ):
        assert not edge_dynamics(others.init(params)).of_step


def test_half_the_step_of_a_rule_has_no_threshold_of_that_rule():
    problem = sf.models.matrix_completion(shape=(4, 4), rank=1)
    params, observables = problem.init(jax.random.key(0)), ["loss", "norm_squared", "threshold"]
    halved = optax.chain(sf.gdwd(0.1, 0.01), optax.scale(0.5))
    found = sf.simulate(problem, params, halved, 20, observables=observables, snapshot_every=5)
    alone = sf.simulate(problem, params, sf.gdwd(0.05, 0.01), 20, observables=observables)
    np.testing.assert_allclose(found["loss"], alone["loss"], rtol=1e-9)
    assert "threshold" in alone.columns and "threshold" not in found.columns
    with pytest.raises(ValueError, match="rule"):
        sf.predict(problem, found)


def test_hyperparameters_may_be_traced():
    def one_step(eta):
        rule = sf.gdwd(eta, 0.1)
        params = jnp.ones(2)
        updates, _ = rule.update(params, rule.init(params), params)
        return updates

    batched = jax.vmap(one_step)(jnp.array([0.1, 0.2]))
    np.testing.assert_allclose(batched[:, 0], [-0.11, -0.22], rtol=1e-14)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ((0.0, 0.1), "learning_rate"),
        ((-1.0, 0.1), "learning_rate"),
        ((float("nan"), 0.1), "learning_rate"),
        ((0.1, -0.1), "weight_decay"),
        ((0.1, 10.0), r"learning_rate \* weight_decay must be below 1"),
    ],
)
def test_gdwd_refuses_rates_out_of_range(arguments, name):
    with pytest.raises(ValueError, match=name):
        sf.gdwd(*arguments)


@pytest.mark.parametrize(
    ("arguments", "keywords", "name"),
    [
        ((0.0,), {}, "learning_rate"),
        ((0.1, -1.0), {}, "b must"),
        ((1.0, 2.0), {}, r"b \* learning_rate\*\*2"),
        ((0.1,), {"v0": 0.0}, "v0"),
    ],
)
def test_quasi_rmsprop_refuses_numbers_out_of_range(arguments, keywords, name):
    with pytest.raises(ValueError, match=name):
        sf.quasi_rmsprop(*arguments, **keywords)


def test_update_without_params_says_what_is_missing():
    rule = sf.gdwd(0.1, 0.1)
    with pytest.raises(ValueError, match="params"):
        rule.update(jnp.ones(2), rule.init(jnp.ones(2)))


@pytest.mark.parametrize(
    "rule",
    [
        sf.gdwd(0.5, 0.1),
        sf.simulator.momentum(0.5, 0.1, beta=0.5),
        sf.quasi_rmsprop(0.3, 2.0, v0=0.5),  # b as that of GD+WD, and another decay
        sf.quasi_rmsprop(0.3, 0.5, v0=0.5),
    ],
)
def test_without_a_gradient_the_threshold_falls_as_the_rule_tells(rule):
    params = jnp.array([3.0, 4.0])
    state = rule.init(params)
    dynamics, before = edge_dynamics(state), params
    updates, state = rule.update(jnp.zeros(2), state, params)
    params = optax.apply_updates(params, updates)
    after = edge_dynamics(state).effective_learning_rate(params)
    fallen = jnp.log(after / dynamics.effective_learning_rate(before))  # λ* = 2/η̃
    np.testing.assert_allclose(dynamics.decay_at_rest, fallen, rtol=1e-12)
    to_leading_order = dynamics.response * dynamics.intrinsic_rate
    np.testing.assert_allclose(dynamics.decay_at_rest, to_leading_order, rtol=0.15)

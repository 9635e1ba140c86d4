"""Momentum against its equation, optax, and the eigenvalues of its step on a quadratic."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sharpflow as sf
from sharpflow.simulator import momentum

ETA, DECAY, BETA = 0.1, 0.3, 0.8


def _gradient(w):
    return jnp.array([1.0, -2.0, 0.5]) * w + jnp.array([0.1, 0.0, -0.3])


def _after(rule, w, num_steps):
    params, state = jnp.asarray(w), rule.init(jnp.asarray(w))
    for _ in range(num_steps):
        changes, state = rule.update(_gradient(params), state, params)
        params = optax.apply_updates(params, changes)
    return params


def test_momentum_follows_its_recursion():
    w, m = np.array([1.0, 2.0, -1.0]), np.zeros(3)
    found = _after(momentum(ETA, DECAY, beta=BETA), w, 7)
    for _ in range(7):
        m = BETA * m + (1 - BETA) * np.asarray(_gradient(w))
        w = (1 - ETA * DECAY) * w - ETA * m
    np.testing.assert_allclose(found, w, rtol=1e-13)


def test_momentum_equals_the_chain_of_optax():
    chain = optax.chain(
        optax.ema(BETA, debias=False), optax.add_decayed_weights(DECAY), optax.scale(-ETA)
    )
    w = np.array([1.0, 2.0, -1.0])
    ours, theirs = _after(momentum(ETA, DECAY, beta=BETA), w, 9), _after(chain, w, 9)
    np.testing.assert_allclose(ours, theirs, rtol=1e-13)


def _largest_multiplier(curvature, weight_decay, beta):
    """Spectral radius of a step on ½ · curvature · w², by two steps of the rule itself."""
    rule = momentum(ETA, weight_decay, beta=beta)

    def step(pair):
        state = rule.init(pair[:1])._replace(average=pair[1:])
        changes, state = rule.update(curvature * pair[:1], state, pair[:1])
        return jnp.concatenate([pair[:1] + changes, state.average])

    return float(jnp.max(jnp.abs(jnp.linalg.eigvals(jax.jacfwd(step)(jnp.ones(2))))))


@pytest.mark.parametrize("weight_decay", [0.0, 0.5])
@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_a_step_on_a_quadratic_is_stable_up_to_the_threshold_and_not_beyond(beta, weight_decay):
    state = momentum(ETA, weight_decay, beta=beta).init(jnp.ones(1))
    told = state.edge_dynamics()
    edge = 2.0 / float(told.step_size)
    expected = (2.0 / ETA - weight_decay) * (1 + beta) / (1 - beta)
    np.testing.assert_allclose(edge, expected, rtol=1e-13)
    np.testing.assert_allclose(_largest_multiplier(edge, weight_decay, beta), 1.0, rtol=1e-12)
    assert _largest_multiplier(0.999 * edge, weight_decay, beta) < 1 - 1e-4
    assert _largest_multiplier(1.001 * edge, weight_decay, beta) > 1 + 1e-4
    if weight_decay == 0.0:
        np.testing.assert_allclose(told.stability_line, edge, rtol=1e-13)


def test_the_sharpness_is_recorded_beside_the_threshold_of_momentum():
    problem = sf.Problem(
        init=lambda key: jnp.ones(2),
        residual=lambda w: jnp.array([1.0, 3.0]) * w,
        scale_invariant=False,
    )
    run = sf.simulate(
        problem,
        jnp.ones(2),
        momentum(ETA, beta=0.5),
        3,
        observables=("hessian_sharpness", "threshold"),
    )
    np.testing.assert_allclose(run["hessian_sharpness"][:, 0], 9.0, rtol=1e-12)
    np.testing.assert_allclose(run["stability_line"], 60.0, rtol=1e-12)
    np.testing.assert_allclose(run["threshold"], 60.0, rtol=1e-12)


def test_momentum_follows_the_exact_flow_of_linear_regression():
    """tan α(τ) = tan α(0) e^{−τ}, τ = ηλt, whatever β; started at the edge at equilibrium."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(6, 10)), random.normal(size=6)
    problem = sf.models.linear_regression(x, y)
    centred = x - x.mean(axis=0)
    solution = np.linalg.pinv(centred, rcond=1e-10) @ (y - y.mean())
    solution /= np.linalg.norm(solution)
    null = np.linalg.svd(centred)[2][-1]
    theta, beta = jnp.asarray((solution + null) / np.sqrt(2.0)), 0.5
    share, tau = (1 - beta) / (1 + beta), 1.0
    rate = 3e-4 * share
    start = sf.theory.start_at_edge(problem, theta, share, rate / share, np.sqrt(rate * share / 4))
    num_steps = round(tau / rate)
    rule = momentum(1.0, rate, beta=beta)
    end = sf.simulate(problem, start, rule, num_steps, record_every=num_steps).final_params
    end = np.asarray(sf.theory.retract(problem, end))
    angle = np.arccos(np.clip(end @ solution, -1.0, 1.0))
    # O(√(ηλ (1 + β)/(1 − β))) = 0.017 relative
    np.testing.assert_allclose(np.tan(angle), np.exp(-tau), rtol=0.03)


@pytest.mark.parametrize(
    ("arguments", "keywords", "name"),
    [((0.0,), {}, "learning_rate"), ((0.1,), {"beta": 1.0}, "beta"), ((0.1, -1.0), {}, "decay")],
)
def test_momentum_refuses_numbers_out_of_range(arguments, keywords, name):
    with pytest.raises(ValueError, match=name):
        momentum(*arguments, **keywords)

"""RMSprop by coordinate, projected GD and SAM against numpy and optax."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sharpflow as sf
from sharpflow.simulator import projected_gd, rmsprop, sam

W = np.array([1.0, 2.0, -1.0])


def _loss(w):
    return jnp.sum(jnp.array([0.5, 1.0, 0.25]) * w**4) + jnp.sum(jnp.sin(w))


_gradient = jax.grad(_loss)


def _after(rule, w, num_steps):
    params, state = jnp.asarray(w), rule.init(jnp.asarray(w))
    update = optax.with_extra_args_support(rule).update
    for _ in range(num_steps):
        gradient = _gradient(params)
        changes, state = update(
            gradient, state, params, value=_loss(params), grad=gradient, value_fn=_loss
        )
        params = optax.apply_updates(params, changes)
    return np.asarray(params), state


def test_rmsprop_equals_that_of_optax_bit_for_bit():
    ours, state = _after(rmsprop(0.01, 0.9, epsilon=0.1, initial_scale=0.2), W, 9)
    theirs, _ = _after(
        optax.rmsprop(0.01, 0.9, eps=0.1, eps_in_sqrt=False, initial_scale=0.2), W, 9
    )
    np.testing.assert_array_equal(ours, theirs)
    assert float(state.edge_dynamics().stability_line) == 200.0


def test_the_preconditioner_is_what_the_coming_step_divides_by():
    rule = rmsprop(0.01, 0.9, epsilon=0.1)
    params, state = _after(rule, W, 4)
    gradient = _gradient(jnp.asarray(params))
    changes, _ = rule.update(gradient, state, jnp.asarray(params))
    np.testing.assert_allclose(
        changes, -0.01 * gradient / state.preconditioner(gradient), rtol=1e-13
    )
    nu = 0.9 * state.nu + 0.1 * gradient**2
    np.testing.assert_allclose(state.preconditioner(gradient), np.sqrt(nu) + 0.1, rtol=1e-13)


def _invariant(w):
    return jnp.sum(jnp.array([0.5, 1.0, 0.25]) * w**2) / jnp.sum(w**2)


@pytest.mark.parametrize("norm", [1.0, 3.0])
def test_projected_gd_steps_on_the_sphere_from_any_norm(norm):
    theta = W / np.linalg.norm(W)
    params, rule = jnp.asarray(norm * theta), projected_gd(0.7)
    state = rule.init(params)
    for _ in range(4):
        changes, state = rule.update(jax.grad(_invariant)(params), state, params)
        params = optax.apply_updates(params, changes)
        theta = theta - 0.7 * np.asarray(jax.grad(_invariant)(jnp.asarray(theta)))
        theta = theta / np.linalg.norm(theta)
        np.testing.assert_allclose(params, theta, rtol=1e-12)
    told = state.edge_dynamics()
    np.testing.assert_allclose(told.effective_learning_rate(params), 0.7, rtol=1e-14)


def test_gdwd_at_the_norm_of_equal_rate_makes_the_step_of_projected_gd():
    """θ_{t+1} = unit(θ_t − η̃ ∇L(θ_t)) is exact for GD+WD, with η̃ = η/((1 − ηλ)‖w‖²)."""
    w = jnp.asarray(W)
    decayed = sf.gdwd(0.5, 0.2)
    gradient = jax.grad(_invariant)(w)
    changes, state = decayed.update(gradient, decayed.init(w), w)
    stepped = np.asarray(w + changes)
    rule = projected_gd(float(state.effective_learning_rate(w)))
    projected = w + rule.update(gradient, rule.init(w), w)[0]
    np.testing.assert_allclose(projected, stepped / np.linalg.norm(stepped), rtol=1e-13)


def test_sam_takes_the_gradient_uphill_by_its_share_of_the_norm():
    w = W
    found, _ = _after(sam(0.01, 0.3, rho=0.1), w, 4)
    for _ in range(4):
        g = np.asarray(_gradient(jnp.asarray(w)))
        uphill = w + 0.1 * np.linalg.norm(w) * g / np.linalg.norm(g)
        w = (1 - 0.003) * w - 0.01 * np.asarray(_gradient(jnp.asarray(uphill)))
    np.testing.assert_allclose(found, w, rtol=1e-12)


def test_sam_of_unit_norm_makes_the_step_of_optax():
    w = jnp.asarray(W / np.linalg.norm(W))
    adversary = optax.chain(optax.contrib.normalize(), optax.sgd(0.1))
    theirs = optax.contrib.sam(optax.sgd(0.01), adversary, opaque_mode=True)
    expected, _ = theirs.update(
        _gradient(w), theirs.init(w), w, grad_fn=lambda params, _: _gradient(params)
    )
    rule = sam(0.01, rho=0.1)
    found, _ = rule.update(_gradient(w), rule.init(w), w, value_fn=_loss)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_sam_rests_where_the_gradient_is_zero():
    rule, w = sam(0.1, rho=0.1), jnp.asarray(W)
    changes, _ = rule.update(jnp.zeros(3), rule.init(w), w, value_fn=lambda w: 0.0 * jnp.sum(w))
    np.testing.assert_array_equal(changes, 0.0)


def test_sam_oscillates_at_the_derived_amplitude_below_the_edge():
    """On ½λx² it settles at |x| = ratio · ρ‖w‖/(1 − ratio), ratio = ηλ/2."""
    curvature, rho, ratio, far = 4.0, 1e-3, 0.3, 10.0
    problem = sf.Problem(
        init=lambda key: jnp.array([0.01, far]),
        loss=lambda w: 0.5 * curvature * w[0] ** 2,
        scale_invariant=False,
    )
    rule = sam(2.0 * ratio / curvature, rho=rho)
    end = sf.simulate(problem, problem.init(None), rule, 200, record_every=200).final_params
    np.testing.assert_allclose(abs(end[0]), ratio * rho * far / (1 - ratio), rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: rmsprop(0.0), "learning_rate"),
        (lambda: rmsprop(0.1, 1.0), "decay"),
        (lambda: rmsprop(0.1, epsilon=-1.0), "epsilon"),
        (lambda: projected_gd(-1.0), "effective_learning_rate"),
        (lambda: sam(0.1, rho=0.0), "rho"),
        (lambda: sam(0.1, -0.1), "weight_decay"),
    ],
)
def test_numbers_out_of_range_are_refused(make, name):
    with pytest.raises(ValueError, match=name):
        make()


def test_rules_without_a_flow_get_no_prediction(tiny_mlp):
    run = sf.simulate(tiny_mlp.problem, tiny_mlp.theta, sam(0.01), 2, snapshot_every=1)
    with pytest.raises(ValueError, match="intrinsic rate"):
        sf.predict(tiny_mlp.problem, run)


def test_a_run_goes_on_with_the_same_numbers_only():
    problem = sf.Problem(init=lambda key: jnp.ones(2), loss=_invariant2, scale_invariant=False)
    run = sf.simulate(problem, jnp.array([1.0, 2.0]), rmsprop(0.1), 2, observables=("loss",))
    assert run.attributes["decay"] == 0.99
    with pytest.raises(ValueError, match="same numbers"):
        sf.simulate(problem, run, rmsprop(0.2), 2, observables=("loss",))


def _invariant2(w):
    return jnp.sum(jnp.array([0.5, 1.0]) * w**2)

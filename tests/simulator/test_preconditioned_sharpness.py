"""The preconditioned sharpness of RMSprop against dense matrices, and at the edge."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import sharpflow as sf
from sharpflow.simulator import preconditioned_sharpness, rmsprop


@pytest.fixture(scope="module")
def network():
    return sf.models.mlp(
        *sf.models.digits(8, classes=(0, 1)),
        widths=(6,),
        normalization="none",
        activation="tanh",
    )


def test_it_is_that_of_the_dense_matrix(network):
    """At a record in the middle; P from the rule itself, run beside, and the Hessian formed."""
    rule, params = rmsprop(1e-3, 0.9, epsilon=1e-3), network.init(jax.random.key(0))
    run = sf.simulate(
        network, params, rule, 9, record_every=4, observables=(preconditioned_sharpness(2),)
    )
    flat, unravel = ravel_pytree(params)
    gradient = jax.jit(jax.grad(lambda w: network.loss_value(unravel(w))))
    hessian = jax.jit(jax.jacfwd(gradient))
    nu = np.zeros(flat.size)
    for step in range(9):
        g = np.asarray(gradient(flat))
        nu = 0.9 * nu + 0.1 * g**2
        divisor = np.sqrt(nu) + 1e-3
        if step % 4 == 0:
            scaled = np.asarray(hessian(flat)) / np.sqrt(np.outer(divisor, divisor))
            expected = np.linalg.eigvalsh(scaled)[::-1][:2]
            found = run["preconditioned_sharpness"][step // 4]
            np.testing.assert_allclose(found, expected, rtol=1e-7)
        flat = flat - 1e-3 * jnp.asarray(g / divisor)
    np.testing.assert_allclose(run["stability_line"], 2000.0, rtol=1e-14)


def test_it_settles_at_the_edge(network):
    """Cohen et al. 2022: within 5 % of 2/η on average, here after 1,000 of 2,000 steps."""
    run = sf.simulate(
        network,
        network.init(jax.random.key(0)),
        rmsprop(1e-3, 0.99),
        2000,
        record_every=20,
        observables=(preconditioned_sharpness(),),
    )
    ratio = run["preconditioned_sharpness"][:, 0] / run["stability_line"]
    np.testing.assert_allclose(ratio[50:].mean(), 1.0, atol=0.1)


@pytest.mark.parametrize("rule", [sf.gdwd(0.1, 0.0), optax.adam(0.1)])
def test_a_rule_that_tells_no_preconditioner_is_refused_with_how_to_tell_it(network, rule):
    params = network.init(jax.random.key(0))
    told = r"edge_dynamics\(\).*EdgeDynamics\(preconditioner=.*docs/howto-optimizer\.md.*Adam"
    with pytest.raises(ValueError, match=told):
        sf.simulate(network, params, rule, 2, observables=("preconditioned_sharpness",))


def test_counts_below_one_are_refused():
    with pytest.raises(ValueError, match="every"):
        preconditioned_sharpness(every=0)

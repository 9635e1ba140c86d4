"""Recorded curvature against dense Hessians."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import sharpflow as sf


@pytest.fixture(scope="module")
def problem():
    return sf.models.matrix_completion(shape=(6, 5), rank=1, width=3)


@pytest.fixture(scope="module")
def run(problem):
    """Thirty steps from a random start, every step recorded and kept."""
    return sf.simulate(
        problem,
        problem.init(jax.random.key(5)),
        sf.gdwd(0.8, 0.02),
        30,
        snapshot_every=1,
        observables=(
            "loss",
            "norm_squared",
            "gradient_norm",
            "threshold",
            "metrics",
            sf.sharpness(k=2),
            sf.sharpness(at="midpoint"),
            sf.sharpness(at="manifold"),
            sf.simulator.hessian_sharpness(k=2),
        ),
    )


def _eigenvalues(problem, params):
    flat, unravel = ravel_pytree(params)
    hessian = jax.hessian(lambda w: problem.loss_value(unravel(w)))(flat)
    return np.linalg.eigvalsh(np.asarray(hessian))[::-1]


def _row(run, index):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[index]), run.params)


@pytest.mark.parametrize("index", [0, 7, 29])
def test_sharpness_at_the_iterate_is_the_dense_eigenvalue(problem, run, index):
    params = _row(run, index)
    expected = _eigenvalues(problem, params)[:2]
    norm_squared = float(jnp.sum(ravel_pytree(params)[0] ** 2))
    np.testing.assert_allclose(run["hessian_sharpness"][index], expected, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(
        run["sharpness_iterate"][index], expected * norm_squared, rtol=1e-8, atol=1e-9
    )
    np.testing.assert_allclose(
        run["edge_ratio_iterate"][index],
        expected[0] * norm_squared / run["threshold"][index],
        rtol=1e-8,
    )
    np.testing.assert_allclose(run["stability_line"][index], 2 / 0.8, rtol=1e-14)


def test_sharpness_at_the_midpoint_is_that_of_three_iterates(problem, run):
    before, now, after = (_row(run, index) for index in (9, 10, 11))
    middle = jax.tree.map(lambda a, b, c: (a + 2 * b + c) / 4, before, now, after)
    expected = _eigenvalues(problem, middle)[0]
    expected *= float(jnp.sum(ravel_pytree(middle)[0] ** 2))
    np.testing.assert_allclose(run["sharpness_midpoint"][10, 0], expected, rtol=1e-7)


def test_sharpness_on_the_manifold_is_that_of_the_retraction(problem, run):
    theta = sf.theory.retract(problem, _row(run, 29))
    expected = _eigenvalues(problem, theta)[0]
    np.testing.assert_allclose(run["sharpness_manifold"][29, 0], expected, rtol=1e-7)


def test_metrics_and_gradient_norm_are_those_of_the_recorded_params(problem, run):
    params = _row(run, 12)
    gradient = ravel_pytree(jax.grad(problem.loss_value)(params))[0]
    np.testing.assert_allclose(run["gradient_norm"][12], jnp.linalg.norm(gradient), rtol=1e-9)
    np.testing.assert_allclose(
        run["test_error"][12], problem.metrics["test_error"](params), rtol=1e-10
    )


def test_a_users_observable_becomes_a_column(problem):
    largest = sf.simulator.Observable(
        "largest", lambda moment: jnp.max(jnp.abs(moment.params["u"]))
    )
    params = problem.init(jax.random.key(5))
    found = sf.simulate(problem, params, sf.gdwd(0.8, 0.02), 3, observables=("loss", largest))
    np.testing.assert_allclose(found["largest"][0], np.max(np.abs(params["u"])), rtol=1e-14)


@pytest.mark.parametrize(("keywords", "name"), [({"at": "nowhere"}, "at must"), ({"k": 0}, "k")])
def test_sharpness_refuses_what_it_cannot_record(keywords, name):
    with pytest.raises(ValueError, match=name):
        sf.sharpness(**keywords)

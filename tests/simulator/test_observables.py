"""Recorded curvature against dense Hessians."""

from functools import partial

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
            "step_angle",
            "metrics",
            sf.sharpness(k=2),
            sf.sharpness(at="midpoint"),
            sf.sharpness(at="manifold"),
            sf.simulator.hessian_sharpness(k=2),
        ),
    )


@partial(jax.jit, static_argnames="problem")
def _hessian(problem, params):
    flat, unravel = ravel_pytree(params)
    return jax.hessian(lambda w: problem.loss_value(unravel(w)))(flat)


def _eigenvalues(problem, params):
    return np.linalg.eigvalsh(np.asarray(_hessian(problem, params)))[::-1]


def _norm_squared(params):
    return sum(float(np.sum(leaf**2)) for leaf in jax.tree.leaves(params))


def _row(run, index):
    return jax.tree.map(lambda leaf: leaf[index], run.params)


def test_the_angle_of_a_step_is_that_between_params_and_those_after_it(run):
    """From the snapshots, in extended precision; and by GD+WD tan ∠ = η̃ ‖∇L(θ)‖."""
    flat = np.stack([ravel_pytree(_row(run, index))[0] for index in range(30)]).astype(
        np.longdouble
    )
    cosine = np.sum(flat[:-1] * flat[1:], axis=1) / np.prod(
        [np.linalg.norm(part, axis=1) for part in (flat[:-1], flat[1:])], axis=0
    )
    np.testing.assert_allclose(run["step_angle"][:-1], np.arccos(cosine), rtol=1e-8)
    rate = 0.8 / (1.0 - 0.8 * 0.02) / np.sqrt(run["norm_squared"])
    np.testing.assert_allclose(np.tan(run["step_angle"]), rate * run["gradient_norm"], rtol=1e-9)


@pytest.mark.parametrize("index", [0, 7, 29])
def test_sharpness_at_the_iterate_is_the_dense_eigenvalue(problem, run, index):
    params = _row(run, index)
    expected = _eigenvalues(problem, params)[:2]
    norm_squared = _norm_squared(params)
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
    expected *= _norm_squared(middle)
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


@pytest.mark.parametrize(
    ("keywords", "name"), [({"at": "nowhere"}, "at must"), ({"k": 0}, "k"), ({"every": 0}, "every")]
)
def test_sharpness_refuses_what_it_cannot_record(keywords, name):
    with pytest.raises(ValueError, match=name):
        sf.sharpness(**keywords)


def test_between_two_sharpness_records_the_column_is_nan(problem, run):
    observables = (sf.sharpness(k=2, every=4), "loss")
    found = sf.simulate(
        problem, problem.init(jax.random.key(5)), sf.gdwd(0.8, 0.02), 30, observables=observables
    )
    due = np.arange(30) % 4 == 0
    np.testing.assert_allclose(
        found["sharpness_iterate"][due], run["sharpness_iterate"][due], rtol=1e-8
    )
    assert np.all(np.isnan(found["sharpness_iterate"][~due]))


@pytest.fixture(scope="module")
def wide():
    """A network whose Hessian is not formed, d = 704; and a start for it."""
    problem = sf.models.mlp(*sf.models.digits(24, classes=(0, 1, 2)), widths=(10,))
    return problem, problem.init(jax.random.key(0))


def test_tracked_sharpness_is_that_of_the_recorded_params(wide):
    problem, params = wide
    found = sf.simulate(
        problem,
        params,
        sf.gdwd(0.3, 0.01),
        300,
        record_every=10,
        snapshot_every=1,
        observables=("loss", sf.sharpness(k=3, tolerance=1e-6)),
    )
    for index in (1, 15, 29):
        dense = _eigenvalues(problem, _row(found, index))[:3]
        norm_squared = _norm_squared(_row(found, index))
        np.testing.assert_allclose(
            found["sharpness_iterate"][index],
            dense * norm_squared,
            atol=1e-6 * dense[0] * norm_squared,
        )


def test_going_on_tracks_bit_for_bit_as_if_never_stopped(wide):
    problem, params = wide
    options = {"record_every": 5, "observables": ("loss", sf.sharpness(every=3))}
    whole = sf.simulate(problem, params, sf.gdwd(0.3, 0.01), 160, **options)
    first = sf.simulate(problem, params, sf.gdwd(0.3, 0.01), 80, **options)
    second = sf.simulate(problem, first, sf.gdwd(0.3, 0.01), 80, **options)
    together = sf.simulator.concatenate(first, second)
    np.testing.assert_array_equal(together["sharpness_iterate"], whole["sharpness_iterate"])


def test_an_observable_remembers_from_record_to_record(problem):
    """The largest loss so far, beside the losses it has seen."""

    def compute(moment, memory):
        memory = jnp.maximum(memory, moment.loss)
        return memory, memory

    largest = sf.simulator.Observable(
        "largest_loss", compute, memory=lambda params: jnp.zeros((), params["u"].dtype)
    )
    params = problem.init(jax.random.key(5))
    found = sf.simulate(problem, params, sf.gdwd(4.0, 0.2), 40, observables=("loss", largest))
    np.testing.assert_array_equal(found["largest_loss"], np.maximum.accumulate(found["loss"]))
    assert np.any(np.diff(found["loss"]) > 0)


def test_without_scale_invariance_the_edge_is_that_of_plain_gradient_descent():
    eta, decay, curvatures = 0.5, 0.4, np.array([3.0, 1.0, 0.2])
    problem = sf.Problem(
        init=lambda key: jnp.ones(3),
        residual=lambda w: jnp.sqrt(jnp.asarray(curvatures)) * w,
        scale_invariant=False,
    )
    run = sf.simulate(
        problem,
        jnp.ones(3),
        sf.gdwd(eta, decay),
        4,
        observables=("threshold", "sharpness_iterate"),
    )
    # a step multiplies each coordinate by 1 − η(λ_i + λ), which is −1 at the edge
    edge = 2.0 / eta - decay
    np.testing.assert_allclose(run["threshold"], edge, rtol=1e-14)
    np.testing.assert_allclose(run["edge_ratio_iterate"], 3.0 / edge, rtol=1e-12)

"""The problems of published settings have the losses and the curvature that their papers give."""

import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import sharpflow as sf
from sharpflow.experiments import problems
from sharpflow.experiments.config import load
from sharpflow.experiments.problems import sequences
from sharpflow.experiments.published import beside
from sharpflow.models import data

KEY = jax.random.key(0)


def _dense_hessian(problem, params):
    flat, unravel = ravel_pytree(params)
    return np.asarray(jax.hessian(lambda w: problem.loss_value(unravel(w)))(flat))


def _by_hand(params, x, activation):
    for layer in range(len(params)):
        weights = jax.tree.map(np.asarray, params[f"layer_{layer}"])
        x = (activation(x) if layer else x) @ weights["kernel"] + weights.get("bias", 0.0)
    return x


def _gelu(x):
    return 0.5 * x * (1.0 + np.vectorize(math.erf)(x / np.sqrt(2.0)))


@pytest.mark.parametrize(
    ("make", "num_classes", "activation"),
    [(problems.dense_cifar10, 10, np.tanh), (problems.dense_cifar10_classes, 4, _gelu)],
)
def test_the_loss_of_a_dense_network_is_half_the_square_distance_to_the_class(
    cifar10_root, make, num_classes, activation
):
    problem = make(str(cifar10_root), num_images=20, pool=8, widths=(5, 4), dtype="float64")
    params = problem.init(KEY)
    assert [w["kernel"].shape for w in params.values()] == [(48, 5), (5, 4), (4, num_classes)]
    x, y = (np.asarray(problem.data[name]) for name in ("x", "y"))
    outputs = _by_hand(params, x, activation)
    expected = 0.5 * np.mean(np.sum((outputs - y) ** 2, axis=1))
    np.testing.assert_allclose(problem.loss_value(params), expected, rtol=1e-12)
    right = np.mean(outputs.argmax(axis=1) == y.argmax(axis=1))
    np.testing.assert_allclose(problem.metrics["train_accuracy"](params), right)


def test_layers_start_uniform_up_to_the_root_of_their_inputs(cifar10_root):
    problem = problems.dense_cifar10(str(cifar10_root), num_images=10, pool=8, dtype="float64")
    for (name, weights), fan_in in zip(problem.init(KEY).items(), (48, 200, 200), strict=True):
        for array in map(np.asarray, weights.values()):
            bound = fan_in**-0.5
            assert np.abs(array).max() <= bound, name
            # The deviation of a uniform sample of n is right to about 1/√(2n); five of those.
            tolerance = 5.0 / np.sqrt(2.0 * array.size)
            np.testing.assert_allclose(np.abs(array).mean(), bound / 2, rtol=tolerance)


def test_pixels_are_standardised_over_all_training_images_found(cifar10_root):
    train, _ = data.cifar10(cifar10_root)
    every = problems.dense_cifar10(str(cifar10_root), num_images=train.num_images, dtype="float64")
    x = np.asarray(every.data["x"])
    np.testing.assert_allclose(x.mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(x.std(axis=0), 1.0, rtol=1e-12)
    few = problems.dense_cifar10(str(cifar10_root), num_images=7, dtype="float64")
    np.testing.assert_array_equal(few.data["x"], x[:7])


def test_the_images_of_a_few_classes_are_the_first_ones_of_each(cifar10_root):
    problem = problems.dense_cifar10_classes(
        str(cifar10_root), num_images=6, num_classes=3, dtype="float64"
    )
    train, _ = data.cifar10(cifar10_root)
    expected = [place for label in range(3) for place in np.flatnonzero(train.labels == label)[:2]]
    np.testing.assert_array_equal(np.argmax(problem.data["y"], axis=1), [0, 0, 1, 1, 2, 2])
    x = train.images[expected].reshape(6, -1)
    np.testing.assert_allclose(problem.data["x"], x, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_images": 10}, "num_images must be a multiple of num_classes = 4, got 10"),
        ({"num_images": 4000}, "num_images must be at most 80, since a class has 20 images"),
        ({"num_classes": 11}, "num_classes must be at most 10, got 11"),
        ({"num_images": 4, "pool": 5}, "pool must divide 32 and 32, got 5"),
    ],
)
def test_images_that_there_are_not_are_refused(cifar10_root, options, message):
    with pytest.raises(ValueError, match=message):
        problems.dense_cifar10_classes(str(cifar10_root), **options)


@pytest.mark.parametrize("degree", [0, 3, 5])
def test_chebyshev_targets_are_cosines_of_multiple_angles(degree):
    problem = problems.chebyshev_regression(degree, num_points=9, dtype="float64")
    params = problem.init(KEY)
    x = np.linspace(-1.0, 1.0, 9)[:, None]
    error = _by_hand(params, x, np.tanh) - np.cos(degree * np.arccos(x))
    expected = 0.5 * np.mean(error**2)
    np.testing.assert_allclose(problem.loss_value(params), expected, rtol=1e-12)
    assert "bias" not in params["layer_1"] and not np.any(params["layer_0"]["bias"])


@pytest.mark.parametrize("depth", [2, 4])
def test_the_sharpness_of_a_scalar_factorization_at_a_minimum_is_that_of_the_paper(depth):
    x = 1.7
    problem = problems.matrix_factorization(depth, (x, 1.0 / x), dtype="float64")
    params = problem.init(KEY)
    assert float(problem.loss_value(params)) < 1e-30
    # equation 3 of the paper at γ = 1, and the Hessian [[y², 1], [1, x²]] of ½(1 − xy)²
    expected = (x**2 + x**-2) * (2 if depth == 4 else 1)
    np.testing.assert_allclose(np.linalg.eigvalsh(_dense_hessian(problem, params))[-1], expected)


def test_the_sharpness_of_a_factorization_is_the_sum_of_largest_squared_singular_values():
    problem = problems.matrix_factorization(
        2, (2.0, 0.5), shape=(4, 3), singular_values=(1.5, 0.5), width=3, dtype="float64"
    )
    start = problem.init(KEY)
    for name, scale in (("factor_0", 2.0), ("factor_1", 0.5)):
        np.testing.assert_allclose(np.linalg.svd(start[name])[1], scale, rtol=1e-12)
    target = np.asarray(problem.data)
    np.testing.assert_allclose(np.linalg.svd(target)[1], [1.5, 0.5, 0.0], atol=1e-12)
    # a minimum: any invertible first factor on the span of the target's columns, and what is left
    left, sizes, right = np.linalg.svd(target, full_matrices=False)
    stretch = np.array([2.0, 1.0, 0.7])
    minimum = {
        "factor_0": jnp.asarray(left * stretch),
        "factor_1": jnp.asarray((sizes / stretch)[:, None] * right),
    }
    assert float(problem.loss_value(minimum)) < 1e-28
    # JJᵀM = X Xᵀ M + M YᵀY
    expected = sum(np.linalg.norm(np.asarray(factor), 2) ** 2 for factor in minimum.values())
    top = np.linalg.eigvalsh(_dense_hessian(problem, minimum))[-1]
    np.testing.assert_allclose(top, expected, rtol=1e-10)


def test_the_product_of_four_numbers_ends_within_the_published_interval():
    config = load("matrix-factorization", ["num_steps=1000", "record_every=100"])
    grid = sf.simulate_grid(**config.build(), progress=False)
    entries = beside(grid, config.published)
    assert len(entries) == len(config.learning_rate)
    for entry, rate in zip(entries, config.learning_rate, strict=True):
        low, high = entry.published.value
        np.testing.assert_allclose([low, high], [2 / rate - 20 * rate / 3, 2 / rate], rtol=1e-12)
        assert low < entry.here.item() < high
    # so near to a minimum that the sharpness is its own to 1e-4
    assert float(grid["loss"].isel(step=-1).max()) < 1e-8


def test_too_many_singular_values_are_refused():
    with pytest.raises(ValueError, match="singular_values must be at most 1, .* got 2"):
        problems.matrix_factorization(2, singular_values=(1.0, 0.5))


def test_the_hessian_of_a_diagonal_network_at_its_start_is_known():
    problem = problems.diagonal_network(0.3, num_points=6, dimension=4, sparsity=2, dtype="float64")
    x, y = np.asarray(problem.data["x"]), np.asarray(problem.data["y"])
    u = np.full(4, np.sqrt(2.0) * 0.3)
    gradient = -x.T @ y / 6
    block = u[:, None] * (x.T @ x / 6) * u
    expected = np.block([[np.zeros((4, 4)), np.diag(gradient)], [np.diag(gradient), block]])
    start = problem.init(KEY)
    np.testing.assert_allclose(_dense_hessian(problem, start), expected, atol=1e-12)
    beta = np.asarray(problem.data["beta"])
    np.testing.assert_allclose(problem.metrics["test_error"](start), np.sum(beta**2), rtol=1e-12)
    np.testing.assert_allclose(problem.loss_value(start), np.sum(y**2) / 12, rtol=1e-12)


def test_the_gain_of_a_diagonal_network_is_the_sum_over_its_steps():
    problem = problems.diagonal_network(dtype="float64")
    x, y = np.asarray(problem.data["x"]), np.asarray(problem.data["y"])
    u, v = (np.array(problem.init(KEY)[name]) for name in ("u", "v"))
    eta, gain = 0.4, 0.0
    for _ in range(50):
        gradient = x.T @ (x @ (u * v) - y) / len(y)
        gain += np.sum(-np.log(np.abs(1.0 - (eta * gradient) ** 2)))
        u, v = u - eta * gradient * v, v - eta * gradient * u
    measured = problem.metrics["gain"]({"u": jnp.asarray(u), "v": jnp.asarray(v)})
    np.testing.assert_allclose(measured, gain, rtol=1e-9)


def test_the_sharpness_of_scale_invariant_groups_is_least_at_shares_of_their_weights():
    weights = np.array([1.0, 2.0, 4.0])
    problem = problems.scale_invariant_groups(tuple(weights), dtype="float64")
    sf.models.check_scale_invariance(problem, problem.init(KEY))

    def sharpness(y):
        params = {"x": jnp.zeros(3), "y": jnp.asarray(y)}
        return np.linalg.eigvalsh(_dense_hessian(problem, params))[-1]

    even = np.sqrt(weights / weights.sum())
    np.testing.assert_allclose(sharpness(even), weights.sum(), rtol=1e-12)
    other = np.array([0.6, 0.64, 0.48])
    np.testing.assert_allclose(sharpness(other), np.max(weights / other**2), rtol=1e-12)


@pytest.mark.parametrize("excess", [0.9, 1.05, 1.4])
def test_groups_on_the_sphere_converge_up_to_twice_their_least_inverse_sharpness(excess):
    total = 7.0
    rate = excess * 2.0 / total
    problem = problems.scale_invariant_groups((1.0, 2.0, 4.0), dtype="float64")
    trajectory = sf.simulate(
        problem,
        problem.init(KEY),
        sf.simulator.projected_gd(rate),
        8000,
        record_every=1000,
        observables=("loss_mean",),
        progress=False,
    )
    # Above it the oscillation of period two that docs/published.md derives. It settles slowly.
    expected = max(0.0, (total - 2.0 / rate) / 4.0)
    np.testing.assert_allclose(trajectory["loss_mean"][-1], expected, rtol=1e-4, atol=1e-20)


def test_a_place_of_a_sequence_is_predicted_from_those_before_it():
    problem = problems.sorting(5, num_layers=2, width=8, num_heads=2, dtype="float64")
    tokens = np.asarray(problem.data)[:, :-1]
    params = problem.init(KEY)
    params["head"] = jax.tree.map(
        lambda w: jax.random.normal(KEY, w.shape, w.dtype), params["head"]
    )
    outputs = sequences._logits(params, tokens, 2)
    later = tokens.copy()
    later[:, 9:] = (later[:, 9:] + 1) % 4
    others = sequences._logits(params, later, 2)
    np.testing.assert_array_equal(outputs[:, :9], others[:, :9])
    assert not np.any(np.all(np.isclose(outputs[:, 9:], others[:, 9:]), axis=-1))


def test_attention_is_that_of_flax():
    weights = problems.sorting(2, num_layers=1, width=8, num_heads=2, dtype="float64").init(KEY)
    weights = weights["layer_0"]["attention"]
    x = jax.random.normal(KEY, (3, 5, 8), jnp.float64)
    query, key, value = (
        (x @ weights[name]).reshape(3, 5, 2, 4) for name in ("query", "key", "value")
    )
    mask = nn.make_causal_mask(jnp.ones((3, 5)), dtype=bool)
    mixed = nn.dot_product_attention(query, key, value, mask=mask)
    expected = mixed.reshape(3, 5, 8) @ weights["out"]
    np.testing.assert_allclose(sequences._attention(weights, x, 2), expected, rtol=1e-10)


def test_sequences_are_followed_by_themselves_sorted_and_an_untrained_network_says_nothing():
    problem = problems.sorting(200, length=6, vocabulary=3, num_layers=1, dtype="float64")
    sequences_of = np.asarray(problem.data)
    np.testing.assert_array_equal(np.sort(sequences_of[:, :6], axis=1), sequences_of[:, 6:])
    params = problem.init(KEY)
    # outputs of 0 are 1 off for the right digit alone, and the first digit is taken for all
    np.testing.assert_allclose(problem.loss_value(params), 0.5, rtol=1e-12)
    first = np.mean(sequences_of[:, 6:] == 0)
    np.testing.assert_allclose(problem.metrics["train_accuracy"](params), first, rtol=1e-12)


def test_the_loss_of_sorting_counts_every_place_of_the_sorted_sequence_once():
    problem = problems.sorting(4, length=3, num_layers=1, dtype="float64")
    params = problem.init(KEY)
    params["head"]["bias"] = jnp.asarray([0.1, 0.2, 0.3, 0.4])
    digits = np.asarray(problem.data)[:, 3:].ravel()
    errors = [
        (0.1 * (place + 1) - (place == digit)) ** 2
        for digit, place in itertools.product(digits, range(4))
    ]
    expected = 0.5 * np.sum(errors) / digits.size
    np.testing.assert_allclose(problem.loss_value(params), expected, rtol=1e-12)

"""Order parameters against closed forms and wide samples, and the eigenvalues they predict."""

import functools
import itertools

import jax
import numpy as np
import pytest

import sharpflow as sf
from sharpflow.experiments.power_law import fit_power_law
from sharpflow.theory import fisher_prediction, fisher_spectrum, order_parameters
from sharpflow.theory.mean_field import _pair_expectation, _relu_slope, _relu_value

NUMPY = {
    "relu": (lambda u: np.maximum(u, 0.0), lambda u: (u > 0.0).astype(float)),
    "tanh": (np.tanh, lambda u: 1.0 - np.tanh(u) ** 2),
    "softplus": (lambda u: np.logaddexp(u, 0.0), lambda u: 1.0 / (1.0 + np.exp(-u))),
}


def test_order_parameters_of_one_hidden_relu_layer_are_known():
    # q̂¹ = 1 and 1/π at σ_w² = 2, and the gradient with respect to W¹ of orthogonal inputs is 0
    order = order_parameters(sf.models.RandomNetwork((8, 8, 3)))
    found = [order.alpha, order.kappa1, order.kappa2, order.variance, order.covariance]
    np.testing.assert_allclose(found, [1.0, 2.0, 1.0 / np.pi, 2.0, 2.0 / np.pi], rtol=1e-14)


def test_a_relu_of_any_depth_keeps_its_size():
    # every layer adds one to α κ_1 where σ_w² = 2
    order = order_parameters(sf.models.RandomNetwork((16,) * 7 + (1,)))
    np.testing.assert_allclose([order.alpha, order.alpha * order.kappa1], [6.0, 7.0], rtol=1e-13)


@pytest.mark.parametrize("covariance", [0.0, 0.4, 1.3])
def test_quadrature_is_the_double_integral(covariance):
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = weights / np.sqrt(2.0 * np.pi)
    u = np.sqrt(1.3) * nodes[:, None]
    v = covariance / 1.3 * u + np.sqrt(1.3 - covariance**2 / 1.3) * nodes[None, :]
    expected = weights @ (np.tanh(u + 0.2) * np.tanh(v + 0.2)) @ weights
    found = _pair_expectation(lambda z: np.tanh(z + 0.2), 1.3, covariance)
    # tanh has poles at ±iπ/2, on which 80 Hermite nodes converge like e^{−c√80}
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_closed_forms_of_the_relu_are_its_integrals():
    for exact, function in ((_relu_value, NUMPY["relu"][0]), (_relu_slope, NUMPY["relu"][1])):
        # the jump lies between two of the nodes, 0.05 deviations apart: ±0.025 φ(0) = ±0.01
        expected = _pair_expectation(function, 2.0, 0.7)
        np.testing.assert_allclose(exact(2.0, 0.7), expected, atol=0.01)


@pytest.mark.parametrize(
    ("activation", "layer_norm"),
    [("relu", False), ("tanh", False), ("softplus", False), ("relu", True), ("tanh", True)],
)
def test_order_parameters_are_those_of_wide_samples(activation, layer_norm):
    """The entries of the dual matrix of 24 networks, by forward and backward passes."""
    width, num_samples = 400, 12
    network = sf.models.RandomNetwork(
        (width, width, width, 1),
        "layer" if layer_norm else "none",
        activation=activation,
        weight_variance=1.6,
        bias_variance=0.2,
    )
    order = order_parameters(network)
    value, slope = NUMPY[activation]
    random, found = np.random.default_rng(0), []
    off = ~np.eye(num_samples, dtype=bool)
    for _ in range(24):
        signals, backwards, kernels = [random.normal(size=(num_samples, width))], [], []
        for units in (width, width, 1):
            kernels.append(random.normal(size=(width, units)) * np.sqrt(1.6 / width))
            u = signals[-1] @ kernels[-1] + np.sqrt(0.2) * random.normal(size=units)
            if units == 1:
                break
            deviation = u.std(axis=1, keepdims=True) if layer_norm else 1.0
            normed = (u - u.mean(axis=1, keepdims=True)) / deviation if layer_norm else u
            backwards.append(functools.partial(_back, slope(normed), normed, deviation, layer_norm))
            signals.append(value(normed))
        delta, dual = np.ones((num_samples, 1)), 0.0
        for layer in (2, 1, 0):
            dual = dual + (delta @ delta.T) * (signals[layer] @ signals[layer].T)
            if layer:
                delta = backwards[layer - 1](delta @ kernels[layer].T)
        dual = dual / (order.alpha * width)
        outputs = u @ u.T
        found.append([dual.diagonal().mean(), dual[off].mean(),
                      outputs.diagonal().mean(), outputs[off].mean()])  # fmt: skip
    found = np.array(found)
    error = found.std(axis=0, ddof=1) / np.sqrt(len(found))
    expected = [order.kappa1, order.kappa2, order.variance, order.covariance]
    # four standard errors, and the corrections of relative order 1/M
    allowed = 4.0 * error + 4.0 / width * np.abs(expected)
    assert np.all(np.abs(found.mean(axis=0) - expected) <= allowed)
    assert np.all(allowed[:2] <= 0.15 * np.abs(expected[:2]))  # a comparison that can fail


def _back(slope, normed, deviation, layer_norm, delta):
    """The derivative with respect to u, of layer norm at every sample."""
    delta = delta * slope
    if not layer_norm:
        return delta
    delta = delta - delta.mean(axis=1, keepdims=True)
    return (delta - normed * np.mean(delta * normed, axis=1, keepdims=True)) / deviation


def _drawn(network, num_samples, random):
    """Params and inputs; by numpy, because jax compiles a generator for every shape."""
    params = [
        {"kernel": random.normal(size=(m, n)) * np.sqrt(2.0 / m), "bias": np.zeros(n)}
        for m, n in itertools.pairwise(network.widths)
    ]
    return params, random.normal(size=(num_samples, network.widths[0]))


def _spectra(mode, width, num_samples, seeds):
    network = sf.models.RandomNetwork((width, width, width, 1), **mode)

    @jax.jit
    def spectrum(params, x):
        return fisher_spectrum(lambda p: network(p, x), params, method="dense")

    random = np.random.default_rng(width)
    found = [spectrum(*_drawn(network, num_samples, random)) for _ in range(seeds)]
    return network, jax.tree.map(lambda *leaves: np.stack(leaves), *found)


def test_statistics_of_the_spectrum_are_the_predicted_ones_at_moderate_width():
    network, found = _spectra({}, 128, 32, 16)
    prediction = fisher_prediction(network, 32)
    for name in ("mean", "second_moment"):
        value = getattr(found, name)
        error = value.std(ddof=1) / 4.0
        expected = getattr(prediction, name)
        # four standard errors, and corrections of relative order 1/M with their constant
        assert abs(value.mean() - expected) <= 4.0 * error + 4.0 / 128 * expected
    largest = found.values[:, 0]
    error = largest.std(ddof=1) / 4.0
    assert abs(largest.mean() - prediction.largest) <= 4.0 * error + 4.0 / 128 * prediction.largest
    assert error < 0.1 * prediction.largest  # a comparison that can fail


def test_only_the_mean_of_the_outputs_makes_the_sharpness_grow_with_the_width():
    widths, seeds = (16, 32, 64), 16
    exponents = {}
    for name in ("none", "mean"):
        largest = [
            _spectra({"output_normalization": name}, width, width, seeds)[1].values[:, 0]
            for width in widths
        ]
        exponents[name] = fit_power_law(np.repeat(widths, seeds), np.ravel(largest)).exponent
    assert exponents["none"] > 0.6
    assert exponents["mean"] < 0.2


def test_the_direction_that_stands_out_is_the_mean_over_the_samples():
    network = sf.models.RandomNetwork((128, 128, 128, 1))
    params, x = _drawn(network, 24, np.random.default_rng(0))

    @jax.jit
    def dual_vector(params):
        found = fisher_spectrum(lambda p: network(p, x), params, method="dense")
        top = jax.tree.map(lambda leaf: leaf[0], found.vectors)
        return jax.jvp(lambda p: network(p, x), (params,), (top,))[1]

    dual = np.ravel(dual_vector(params))
    cosine = abs(dual.sum()) / np.linalg.norm(dual) / np.sqrt(24)
    # fluctuations of relative size 1/√M tilt it by that angle, over a gap of order one
    assert cosine >= 1.0 - 4.0 / 128


@pytest.mark.parametrize(
    # E φ(z): 1/√(2π), by scipy's quad, and zero for an odd function
    ("activation", "mean"),
    [("relu", 0.3989422804), ("softplus", 0.8060591833), ("tanh", 0.0)],
)
def test_with_hidden_batch_norm_the_mean_signal_is_all_that_stands_out(activation, mean):
    network = sf.models.RandomNetwork((8, 16, 64, 2), "batch", activation=activation)
    found = fisher_prediction(network, 100).largest
    np.testing.assert_allclose(found, 64 * mean**2, rtol=1e-8, atol=1e-12)


def test_hidden_batch_norm_leaves_the_last_layer_to_the_largest_eigenvalue():
    largest, predicted = [], []
    for width in (32, 64):
        network, found = _spectra({"normalization": "batch"}, width, 2 * width, 6)
        largest.append(found.values[:, 0])
        predicted.append(fisher_prediction(network, 2 * width).largest)
    # the bulk adds as much at both widths; four standard errors
    growth = np.mean(largest[1]) - np.mean(largest[0])
    error = 4.0 * np.sqrt(np.sum(np.var(largest, axis=1, ddof=1)) / 6)
    assert abs(growth - (predicted[1] - predicted[0])) < error
    assert error < 0.25 * growth  # a comparison that can fail


def test_bounds_without_the_mean_hold_for_every_sample():
    network, found = _spectra({"output_normalization": "mean"}, 64, 32, 6)
    prediction = fisher_prediction(network, 32)
    num_params = 2 * 64 * 65 + 65
    exact = found.mean * num_params / 31
    np.testing.assert_allclose(exact.mean(), prediction.lower_bound, rtol=0.15)
    assert np.all(found.values[:, 0] >= exact)
    assert np.all(found.values[:, 0] <= np.sqrt(found.second_moment * num_params))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (sf.models.RandomNetwork((4, 4, 1), normalization="batch"), "do not mix samples"),
        (sf.models.RandomNetwork((4, 1)), "hidden layer"),
    ],
)
def test_networks_beyond_the_recursions_are_refused(network, message):
    with pytest.raises(ValueError, match=message):
        order_parameters(network)


def test_one_sample_is_refused():
    with pytest.raises(ValueError, match="num_samples must be at least 2"):
        fisher_prediction(sf.models.RandomNetwork((4, 4, 1)), 1)

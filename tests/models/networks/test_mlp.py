"""The batch-norm multilayer perceptron, against a forward pass written in numpy."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sharpflow as sf

NUM_EXAMPLES, NUM_FEATURES = 9, 5

ACTIVATIONS = {
    "softplus": lambda z: np.log1p(np.exp(z)),
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0.0),
    "gelu": lambda z: z / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))),
}


def _normalized(z):
    return (z - z.mean(axis=0)) / np.sqrt(np.mean((z - z.mean(axis=0)) ** 2, axis=0))


def _forward(x, params, activation="softplus", normalization=_normalized):
    for index in range(len(params)):
        x = normalization(x @ np.asarray(params[f"Dense_{index}"]["kernel"], float))
        x = ACTIVATIONS[activation](x) if index < len(params) - 1 else x
    return x


def _one_hot(labels):
    return (labels[:, None] == np.unique(labels)).astype(float)


@pytest.fixture
def data():
    random = np.random.default_rng(0)
    labels = np.array([4, 2, 2, 7, 4, 2, 7, 7, 4])
    return random.normal(size=(NUM_EXAMPLES, NUM_FEATURES)), labels


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_the_residual_is_that_of_the_forward_pass_in_numpy(data, activation, dtype):
    x, labels = data
    problem = sf.models.mlp(x, labels, widths=(6, 4), activation=activation, dtype=dtype)
    params = problem.init(jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(dtype)}
    targets = _normalized(_one_hot(labels))
    expected = (_forward(x, params, activation) - targets).ravel() / np.sqrt(NUM_EXAMPLES)

    residual = jax.jit(problem.residual)(params)
    assert residual.dtype == dtype
    # three normalised products: 6 units of rounding were the largest error of ten seeds
    np.testing.assert_allclose(residual, expected, atol=20 * np.finfo(dtype).eps)


def test_without_normalization_the_forward_pass_has_none_and_the_problem_is_marked(data):
    x, labels = data
    problem = sf.models.mlp(x, labels, widths=(6, 4), normalization="none")
    params = problem.init(jax.random.key(1))
    outputs = _forward(x, params, normalization=lambda z: z)
    expected = (outputs - _normalized(_one_hot(labels))).ravel() / np.sqrt(NUM_EXAMPLES)
    np.testing.assert_allclose(problem.residual(params), expected, atol=1e-13)
    assert not problem.scale_invariant
    assert sf.models.mlp(x, labels).scale_invariant


def test_training_accuracy_takes_the_most_probable_class_and_not_the_largest_output(data):
    x, labels = data[0], np.array([2, 2, 2, 2, 4, 2, 2, 7, 4])
    problem = sf.models.mlp(x, labels, widths=(6, 4))
    classes, one_hot = np.unique(labels), _one_hot(labels)
    differ = 0
    for seed in range(5):
        params = problem.init(jax.random.key(seed))
        outputs = _forward(x, params)
        probabilities = outputs * one_hot.std(axis=0) + one_hot.mean(axis=0)
        expected = np.mean(classes[probabilities.argmax(axis=1)] == labels)
        np.testing.assert_allclose(problem.metrics["train_accuracy"](params), expected)
        differ += expected != np.mean(classes[outputs.argmax(axis=1)] == labels)
    assert differ  # unequal class counts tell the two apart


def test_real_targets_of_one_axis_are_one_standardized_column(data):
    x, _ = data
    y = np.random.default_rng(3).normal(size=NUM_EXAMPLES)
    problem = sf.models.mlp(x, y, widths=(6, 4))
    params = problem.init(jax.random.key(3))
    expected = (_forward(x, params)[:, 0] - _normalized(y)) / np.sqrt(NUM_EXAMPLES)
    np.testing.assert_allclose(problem.residual(params), expected, atol=1e-13)
    assert "train_accuracy" not in problem.metrics


def test_the_residual_vanishes_at_the_start_of_the_reference(
    reference, reference_problem, reference_params
):
    residual = reference_problem.residual(reference_params(reference["theta0"]))
    assert np.linalg.norm(residual) < 1e-12


def test_the_residual_vanishes_along_the_whole_reference_flow(
    reference, reference_problem, reference_params
):
    thetas = reference_params(reference["theta"])
    residuals = jax.jit(jax.vmap(reference_problem.residual))(thetas)
    # the points are accurate to 1e-6, and √λ_1 is at most 20
    assert np.linalg.norm(residuals, axis=1).max() < 2e-5


def test_float64_is_the_default_only_with_x64_and_keeps_float32_inputs(data):
    x, labels = data

    def dtype_of(inputs):
        problem = sf.models.mlp(inputs, labels, widths=(6, 4))
        params = jax.eval_shape(problem.init, jax.random.key(0))
        return params["Dense_0"]["kernel"].dtype

    assert dtype_of(x) == np.float64
    assert dtype_of(x.astype(np.float32)) == np.float32
    with jax.enable_x64(False):
        assert dtype_of(x) == np.float32


def test_float64_without_x64_is_refused(data):
    with jax.enable_x64(False), pytest.raises(ValueError, match="dtype is float64.*without x64"):
        sf.models.mlp(*data, dtype=np.float64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"widths": (0,)}, r"widths must be a sequence of positive integers, got \(0,\)"),
        ({"widths": (2.5,)}, "widths must be a sequence of positive integers"),
        ({"activation": "sine"}, "activation must be one of.*softplus.*'sine'"),
        ({"normalization": "btach"}, "normalization must be one of.*batch.*'btach'"),
        ({"dtype": np.float16}, "dtype must be float32 or float64, got float16"),
        ({"dtype": np.int32}, "dtype must be float32 or float64, got int32"),
    ],
)
def test_unknown_options_are_refused_by_name(data, arguments, message):
    with pytest.raises(ValueError, match=message):
        sf.models.mlp(*data, **arguments)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.zeros(NUM_EXAMPLES, int), "y is constant in column 0"),
        (np.eye(NUM_EXAMPLES)[:, :2] * [[1.0, 0.0]], "y is constant in column 1"),
        (np.arange(4), r"y must have 9 rows"),
        (np.full(NUM_EXAMPLES, np.nan), "y has NaN or infinite"),
        (np.array(["a"] * NUM_EXAMPLES), "y must be real numbers"),
        (np.zeros((NUM_EXAMPLES, 2, 2)), r"y must have shape \(n,\) or \(n, c\)"),
    ],
)
def test_unusable_targets_are_refused(data, y, message):
    with pytest.raises(ValueError, match=message):
        sf.models.mlp(data[0], y)


def test_the_gradient_is_orthogonal_to_every_layer(data):
    problem = sf.models.mlp(*data, widths=(6, 4))
    params = problem.init(jax.random.key(5))
    gradient = jax.jit(jax.grad(problem.loss_value))(params)
    for layer in params:
        weight, slope = params[layer]["kernel"], gradient[layer]["kernel"]
        size = jnp.linalg.norm(weight) * jnp.linalg.norm(slope)
        assert abs(float(jnp.sum(weight * slope))) <= 1e-13 * float(size)

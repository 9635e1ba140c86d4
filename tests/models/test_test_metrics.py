"""Metrics on test data use the statistics of the full training batch, and of nothing else."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sharpflow as sf
from sharpflow.models import from_flax

LABELS = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 1])
TEST_LABELS = np.array([2, 0, 1, 1, 7, 0])  # 7 is in no training example


@pytest.fixture
def inputs():
    random = np.random.default_rng(0)
    return random.normal(size=(10, 4)), 2.0 * random.normal(size=(6, 4)) + 1.0


def _forward(x, x_test, params):
    """Outputs of a softplus network on test inputs, normalised as the training inputs are."""
    for index in range(len(params)):
        weight = np.asarray(params[f"Dense_{index}"]["kernel"])
        x, x_test = x @ weight, x_test @ weight
        mean, deviation = x.mean(axis=0), x.std(axis=0)
        x, x_test = (x - mean) / deviation, (x_test - mean) / deviation
        if index < len(params) - 1:
            x, x_test = np.log1p(np.exp(x)), np.log1p(np.exp(x_test))
    return x_test


def test_test_error_and_accuracy_of_classes_are_those_of_numpy(inputs):
    x, x_test = inputs
    problem = sf.models.mlp(x, LABELS, widths=(5,), test=(x_test, TEST_LABELS))
    one_hot, test_one_hot = LABELS[:, None] == np.arange(3), TEST_LABELS[:, None] == np.arange(3)
    mean, deviation = one_hot.mean(axis=0), one_hot.std(axis=0)
    accuracies = set()
    for seed in range(5):
        params = problem.init(jax.random.key(seed))
        outputs = _forward(x, x_test, params)
        error = np.mean((outputs - (test_one_hot - mean) / deviation) ** 2)
        np.testing.assert_allclose(problem.metrics["test_error"](params), error, rtol=1e-12)

        chosen = np.argmax(outputs * deviation + mean, axis=1)
        accuracy = float(problem.metrics["test_accuracy"](params))
        np.testing.assert_allclose(accuracy, np.mean(chosen == TEST_LABELS))
        accuracies.add(accuracy)
    assert len(accuracies) > 1  # the comparison saw different accuracies


def test_test_error_of_real_targets_is_in_units_of_the_training_targets(inputs):
    x, x_test = inputs
    random = np.random.default_rng(1)
    y, y_test = random.normal(size=10) * 3.0 + 5.0, random.normal(size=6)
    problem = sf.models.mlp(x, y, widths=(5,), test=(x_test, y_test))
    params = problem.init(jax.random.key(0))
    expected = np.mean((_forward(x, x_test, params)[:, 0] - (y_test - y.mean()) / y.std()) ** 2)
    np.testing.assert_allclose(problem.metrics["test_error"](params), expected, rtol=1e-12)
    assert set(problem.metrics) == {"test_error"}


class Convolutional(nn.Module):
    """Batch norm over examples and pixels, then over examples."""

    momentum: float = 0.99

    @nn.compact
    def __call__(self, x, train):
        norm = {"use_running_average": not train, "momentum": self.momentum, "epsilon": 0.0}
        x = nn.relu(nn.BatchNorm(**norm)(nn.Conv(3, (2, 2))(x)))
        return nn.BatchNorm(**norm)(nn.Dense(3)(x.reshape(x.shape[0], -1)))


def test_test_outputs_of_a_convolution_are_those_of_its_running_averages_without_memory():
    random = np.random.default_rng(2)
    x, x_test = (jnp.asarray(random.normal(size=(n, 3, 3, 2)), jnp.float32) for n in (10, 6))
    test = (x_test, TEST_LABELS)
    problem = from_flax(
        Convolutional(), x, LABELS, test=test, apply_kwargs={"train": True}, dtype=np.float32
    )
    params = problem.init(jax.random.key(0))

    # momentum 0 stores the statistics of the last batch, here those of training
    module = Convolutional(momentum=0.0)
    stored = module.init(jax.random.key(0), x, train=True)["batch_stats"]
    _, state = module.apply(
        {"params": params, "batch_stats": stored}, x, train=True, mutable=["batch_stats"]
    )
    outputs = np.asarray(module.apply({"params": params, **state}, x_test, train=False), float)

    one_hot, test_one_hot = LABELS[:, None] == np.arange(3), TEST_LABELS[:, None] == np.arange(3)
    targets = (test_one_hot - one_hot.mean(axis=0)) / one_hot.std(axis=0)
    # flax's fast variance E x² − (E x)² costs a few digits of float32
    expected = np.mean((outputs - targets) ** 2)
    np.testing.assert_allclose(problem.metrics["test_error"](params), expected, rtol=1e-5)


class Functional(nn.Module):
    """Normalizes by hand, over every row that it is given."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(3, use_bias=False, param_dtype=x.dtype)(x)
        return (x - jnp.mean(x, axis=0, keepdims=True)) / jnp.std(x, axis=0, keepdims=True)


def test_a_normalization_that_mixes_test_rows_in_is_refused_with_the_remedy(inputs):
    x, x_test = inputs
    with pytest.raises(ValueError, match="test metrics need.*BatchNorm, or leave test=None"):
        from_flax(Functional(), x, LABELS, test=(x_test, TEST_LABELS))
    assert set(from_flax(Functional(), x, LABELS).metrics) == {"train_accuracy"}


@pytest.mark.parametrize(
    ("x_test", "y_test", "message"),
    [
        (np.ones((6, 4)), np.arange(5), r"test y must have shape \(6,\), got \(5,\)"),
        (np.full((6, 4), np.inf), np.arange(6), "test x has NaN or infinite"),
    ],
)
def test_unusable_test_data_is_refused(inputs, x_test, y_test, message):
    with pytest.raises(ValueError, match=message):
        sf.models.mlp(inputs[0], LABELS, test=(x_test, y_test))

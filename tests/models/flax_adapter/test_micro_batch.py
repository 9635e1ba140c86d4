"""Micro-batches and devices leave the loss of the full batch as it is, and save memory."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from environments import cpu_devices

from sharpflow.models import from_flax, mlp
from sharpflow.models.flax_adapter.batch_norm import Moments
from sharpflow.models.flax_adapter.micro_batch import split

NUM_EXAMPLES = 50  # in micro-batches of 16: 13, 13, 13 and 11
LABELS = np.arange(NUM_EXAMPLES) % 2
TEST_LABELS = np.arange(9) % 2
ALLOWED = {np.float32: 1e-5, np.float64: 1e-12}  # what micro-batches may change, relative


@pytest.fixture
def standard_promotion():
    """Flax's own layers mix float32 parameters with float64 inputs."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def _images(number, seed):
    return np.random.default_rng(seed).normal(size=(number, 4, 4, 2)) + 0.5


class Convolutional(nn.Module):
    """Affine batch norm over examples and pixels, channels first, then one layer used twice."""

    @nn.compact
    def __call__(self, x, train):
        norm = partial(
            nn.BatchNorm,
            use_running_average=not train,
            use_fast_variance=False,
            param_dtype=x.dtype,
        )
        x = jnp.moveaxis(nn.remat(nn.Conv)(3, (2, 2), param_dtype=x.dtype)(x), -1, 1)
        x = nn.softplus(nn.remat(norm)(axis=1, epsilon=1e-3)(x))
        twice = norm(epsilon=0.0, use_scale=False)
        x = nn.softplus(twice(nn.Dense(2, param_dtype=x.dtype)(x.reshape(x.shape[0], -1))))
        return twice(nn.Dense(2, param_dtype=x.dtype)(x))


def _convolutional(dtype, **options):
    test = (_images(9, 1), TEST_LABELS)
    return from_flax(
        Convolutional(),
        _images(NUM_EXAMPLES, 0),
        LABELS,
        test=test,
        apply_kwargs={"train": True},
        dtype=dtype,
        **options,
    )


def _perceptron(dtype, loss="mse", **options):
    smoothing = {"label_smoothing": 0.3, "logit_scale": 1.0 if loss == "mse" else 1.5}
    return mlp(
        _images(NUM_EXAMPLES, 0),
        LABELS,
        widths=(8,),
        test=(_images(9, 1), TEST_LABELS),
        loss=loss,
        dtype=dtype,
        **smoothing,
        **options,
    )


PROBLEMS = {
    "perceptron": _perceptron,
    "cross-entropy": partial(_perceptron, loss="smoothed_cross_entropy"),
    "convolutional": _convolutional,
}


def _derivatives(problem):
    """Loss, gradient, slope and Hessian product along a vector, and a test metric, compiled."""
    metric = next(
        problem.metrics[name] for name in ("test_error", "test_loss") if name in problem.metrics
    )

    def compute(params, vector):
        value_and_grad = jax.value_and_grad(problem.loss_value)
        (loss, gradient), (slope, product) = jax.jvp(value_and_grad, (params,), (vector,))
        of_test = metric(params)
        return {
            "loss": loss,
            "gradient": gradient,
            "slope": slope,
            "product": product,
            "test": of_test,
        }

    params = jax.eval_shape(problem.init, jax.random.key(0))
    return jax.jit(compute).lower(params, params).compile()


def _difference(found, expected):
    found, expected = (
        np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
        for tree in (found, expected)
    )
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("perceptron", np.float32),
        ("cross-entropy", np.float64),
        ("convolutional", np.float32),
        ("convolutional", np.float64),
    ],
)
def test_micro_batches_change_no_loss_derivative_or_metric(standard_promotion, name, dtype):
    whole, parts = PROBLEMS[name](dtype), PROBLEMS[name](dtype, micro_batch=16)
    params, vector = whole.init(jax.random.key(0)), whole.init(jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, parts.init(jax.random.key(0)), params)
    found, expected = (_derivatives(problem)(params, vector) for problem in (parts, whole))
    for quantity in expected:
        assert _difference(found[quantity], expected[quantity]) < ALLOWED[dtype], quantity


def test_merged_moments_are_those_of_numpy_where_the_square_of_the_mean_would_drown_them():
    values = 1e4 + np.random.default_rng(0).normal(size=(10, 100, 3))
    values = values.astype(np.float32)
    total = Moments(*(jnp.zeros(shape, np.float32) for shape in ((), (3,), (3,))))
    for part in values:
        mean = part.mean(axis=0, dtype=float)
        deviations = np.sum((part - mean) ** 2, axis=0)
        of_part = (np.float32(len(part)), mean.astype(np.float32), deviations.astype(np.float32))
        total = total.merged(Moments(*map(jnp.asarray, of_part)))
    expected = values.astype(float).reshape(1000, 3)
    eps = np.finfo(np.float32).eps
    np.testing.assert_allclose(total.mean, expected.mean(axis=0), rtol=10 * eps)
    # each part's mean is rounded to 1e4·eps, which shifts between parts of order 0.1 feel
    bound = 2 * 0.3 * 1e4 * eps
    np.testing.assert_allclose(total.deviations / total.size, expected.var(axis=0), rtol=bound)
    squares = np.mean(values.reshape(1000, 3) ** 2, axis=0) - np.mean(values, axis=(0, 1)) ** 2
    assert np.max(np.abs(squares / expected.var(axis=0) - 1.0)) > 1.0  # E x² − (E x)²


@pytest.mark.parametrize(("num_rows", "micro_batch"), [(50, 16), (7, 3), (5, 1), (6, 6), (3, 100)])
def test_every_row_has_weight_in_one_micro_batch_and_padding_has_none(num_rows, micro_batch):
    rows = np.arange(2.0 * num_rows).reshape(num_rows, 2)
    batches = split(rows, micro_batch, dtype=rows.dtype)
    weights = np.asarray(batches.weights)
    assert weights.shape[1] <= micro_batch
    assert weights.shape[0] == -(-num_rows // micro_batch)  # as few as can be
    np.testing.assert_array_equal(np.asarray(batches.inputs)[weights == 1.0], rows)
    assert np.all(np.isin(weights, [0.0, 1.0]))
    assert np.all(weights.sum(axis=1) > 0)


def _temporary_bytes(problem):
    params = jax.eval_shape(problem.init, jax.random.key(0))
    gradient = jax.jit(jax.grad(problem.loss_value)).lower(params).compile()
    return gradient.memory_analysis().temp_size_in_bytes


def test_the_memory_of_a_perceptrons_gradient_follows_the_micro_batch():
    number = 2048
    x = np.random.default_rng(0).normal(size=(number, 16)).astype(np.float32)
    widths, labels = (64,), np.arange(number) % 2
    whole, quarter, sixteenth = (
        _temporary_bytes(mlp(x, labels, widths=widths, micro_batch=number // parts))
        for parts in (1, 4, 16)
    )
    # what is left of the whole batch: outputs, targets' difference and their cotangents
    whole_batch = 4 * number * 2 * 4
    parameters = 4 * 4 * (16 * 64 + 64 * 2)
    assert quarter < whole / 4 + whole_batch + parameters
    assert sixteenth < whole / 16 + whole_batch + parameters
    assert sixteenth < whole / 8


def test_the_memory_of_a_convolutions_gradient_follows_the_micro_batch(standard_promotion):
    number = 256
    x = np.random.default_rng(0).normal(size=(number, 8, 8, 3)).astype(np.float32)

    class Small(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.BatchNorm(use_running_average=False)(nn.Conv(16, (3, 3))(x)))
            return nn.BatchNorm(use_running_average=False)(nn.Dense(2)(x.reshape(x.shape[0], -1)))

    whole, sixteenth = (
        _temporary_bytes(from_flax(Small(), x, np.arange(number) % 2, micro_batch=size))
        for size in (None, number // 16)
    )
    assert sixteenth < whole / 8


def test_a_module_without_batch_norm_is_split_as_well():
    x = _images(NUM_EXAMPLES, 0).reshape(NUM_EXAMPLES, -1)
    whole, parts = (
        from_flax(nn.Dense(2, param_dtype=float), x, LABELS, micro_batch=size) for size in (None, 8)
    )
    params = whole.init(jax.random.key(0))
    np.testing.assert_allclose(parts.residual(params), whole.residual(params), atol=1e-14)


def test_the_residual_of_a_batch_of_parameters_is_that_of_each():
    parts = _perceptron(np.float64, micro_batch=16)
    params = jax.vmap(parts.init)(jax.random.split(jax.random.key(0), 3))
    together = jax.jit(jax.vmap(parts.residual))(params)
    for row in range(3):
        one = jax.tree.map(lambda leaf, row=row: leaf[row], params)
        np.testing.assert_allclose(together[row], parts.residual(one), atol=1e-13)


class Functional(nn.Module):
    """Normalizes by hand, over every row that it is given."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(2, use_bias=False, param_dtype=x.dtype)(x.reshape(x.shape[0], -1))
        return (x - jnp.mean(x, axis=0, keepdims=True)) / jnp.std(x, axis=0, keepdims=True)


class Normalized(nn.Module):
    """Batch norm in a way that cannot be split."""

    way: str

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(2, param_dtype=x.dtype)(x.reshape(x.shape[0], -1))
        norm = partial(nn.BatchNorm, use_running_average=False, param_dtype=x.dtype)
        if self.way == "mask":
            return norm()(x, mask=jnp.ones((x.shape[0], 1), bool))
        if self.way == "pairs":
            return norm()(x.reshape(-1)[:, None]).reshape(x.shape)
        layers = nn.scan(
            lambda layer, x, _: (layer(x), None),
            variable_axes={"params": 0, "batch_stats": 0},
            split_rngs={"params": True},
            length=2,
        )
        return layers(norm(), x, None)[0]


@pytest.mark.parametrize(
    ("module", "micro_batch", "message"),
    [
        (Functional(), 16, "micro_batch=16 splits the batch.*mixes its examples.*BatchNorm"),
        (Normalized("mask"), 16, "micro_batch takes no mask; BatchNorm_0"),
        (Normalized("pairs"), 16, r"first axis is the example axis, of length 25; .*\(50, 1\)"),
        (Normalized("scan"), 16, "inside a transformation that hides it, such as nn.scan"),
        (Functional(), 0, "micro_batch must be a positive integer or None, got 0"),
        (Functional(), 2.5, "micro_batch must be a positive integer or None, got 2.5"),
    ],
)
def test_what_cannot_be_split_is_refused(standard_promotion, module, micro_batch, message):
    with pytest.raises(ValueError, match=message):
        from_flax(module, _images(NUM_EXAMPLES, 0), LABELS, micro_batch=micro_batch)


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        ([], "devices must be a sequence of jax devices"),
        (["cpu"], "devices must be a sequence of jax devices"),
        (jax.devices()[:1] * 2, "devices must be distinct"),
    ],
)
def test_unusable_devices_are_refused(devices, message):
    with pytest.raises(ValueError, match=message):
        mlp(_images(NUM_EXAMPLES, 0), LABELS, devices=devices)


SPREAD = """
import json, re, sys
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
sys.path[:0] = sys.argv[1:]
import test_micro_batch as tests
found = {}
for name, options in {"one": {}, "spread": {"devices": jax.devices()},
                      "both": {"devices": jax.devices(), "micro_batch": 20}}.items():
    problem = tests._perceptron(np.float64, **options)
    params, vector = (problem.init(jax.random.key(seed)) for seed in (0, 1))
    compiled = tests._derivatives(problem)
    values = compiled(params, vector)
    expected = values if name == "one" else expected
    rows = re.findall(r"f64\\[(\\d+),8\\]", compiled.as_text())
    found[name] = {
        "differences": [float(tests._difference(values[key], expected[key])) for key in expected],
        "rows": sorted({int(number) for number in rows}),
        "devices": len(jax.tree.leaves(compiled.output_shardings)[0].device_set),
    }
print(json.dumps(found))
"""


def test_examples_on_eight_devices_are_split_and_change_no_loss_derivative_or_metric():
    """Rows of the arrays with eight columns, the width of the hidden layer, tell the split."""
    here = Path(__file__).parent
    run = subprocess.run(
        [sys.executable, "-c", SPREAD, str(here), str(here.parents[1])],
        env=cpu_devices(8),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    for name in ("spread", "both"):
        assert max(found[name]["differences"]) < ALLOWED[np.float64]
    assert [found[name]["devices"] for name in ("one", "spread", "both")] == [1, 8, 8]
    assert 50 in found["one"]["rows"]
    # fifty examples and six of padding on eight devices: seven each; 32 inputs of a kernel
    assert 7 in found["spread"]["rows"]
    assert max(found["spread"]["rows"]) == 32
    # micro-batches of at most twenty, a multiple of eight: four of sixteen, two rows each
    assert 2 in found["both"]["rows"]
    assert max(found["both"]["rows"]) == 32

"""Batch norm of images on a CPU, whose means are sums of sums, against that of Flax."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sharpflow.models import from_flax
from sharpflow.models.flax_adapter.batch_norm import sum_by_rows
from sharpflow.models.normalization import Normalization

on_cpu = pytest.mark.skipif(jax.default_backend() != "cpu", reason="for CPUs alone")
Own = type("Own", (nn.BatchNorm,), {})
Affine = partial(nn.BatchNorm, use_running_average=False, epsilon=0.1)
Plain = partial(Affine, use_scale=False, use_bias=False)


@pytest.fixture(autouse=True)
def _promotion_that_flax_needs():
    """Flax's batch norm makes float32 running averages of float64 inputs."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("raise"):
        yield


def _images(shape, dtype=np.float32):
    return np.random.default_rng(0).normal(size=shape, loc=0.5).astype(dtype)


def _applied(layer, variables, x, **keywords):
    """What a layer makes of x, and how many sums of sums its program has."""

    def apply(x):
        with nn.intercept_methods(sum_by_rows):
            return layer.apply(variables, x, mutable=True, **keywords)[0]

    return apply(x), str(jax.make_jaxpr(apply)(x)).count("optimization_barrier")


LAYERS = {
    "without affine parameters": Normalization("batch"),
    "two passes": Affine(use_fast_variance=False),
    "one pass": Affine(),
}


@on_cpu
@pytest.mark.parametrize(("height", "expected_sums"), [(1, 0), (6, 2), (37, 0), (64, 2)])
@pytest.mark.parametrize("name", LAYERS)
def test_the_outputs_are_those_of_flax(name, height, expected_sums):
    x = _images((3, height, 4, 5))
    variables = LAYERS[name].init(jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: leaf + 0.3, variables)  # off scale 1 and bias 0
    found, num_sums = _applied(LAYERS[name], variables, x)
    expected = LAYERS[name].apply(variables, x, mutable=True)[0]
    assert num_sums == expected_sums  # none of rows that have no common part
    # rounding of means of 1,000 numbers of order 1, one pass of them cancelling
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@on_cpu
def test_the_derivatives_to_the_third_are_those_of_flax_in_float64():
    layer, at, along = LAYERS["without affine parameters"], _images((4, 6, 5, 3)), None
    along = np.cos(at)

    def derivatives(apply, at, along):
        changes = jax.grad(lambda x: jnp.sum(jnp.tanh(apply(x) - 0.5)))
        for _ in range(2):
            changes = partial(lambda f, x: jax.jvp(f, (x,), (along,)), changes)
        return changes(at)

    found = jax.jit(partial(derivatives, lambda x: _applied(layer, {}, x)[0]))(at, along)
    of_flax = partial(derivatives, lambda x: layer.apply({}, x, mutable=True)[0])
    expected = jax.jit(of_flax)(at.astype(np.float64), along.astype(np.float64))
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == np.float32
        assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs)


@on_cpu
def test_means_of_many_images_are_as_exact_as_few():
    # Added one after the other in float32, a million squares lose 1e-3: their sum grows, and what
    # is added to it is rounded to its last digit.
    x = _images((1000, 32, 32, 1))
    y, num_sums = _applied(Normalization("batch"), {}, x)
    assert num_sums == 2
    assert abs(np.mean(np.square(y, dtype=np.float64)) - 1.0) < 1e-5
    one_by_one = np.cumsum(np.square(np.ravel(y)), dtype=np.float32)[-1] / y.size
    assert abs(one_by_one - 1.0) > 1e-4


@on_cpu
@pytest.mark.parametrize(
    ("layer", "shape", "dtype", "keywords"),
    [
        (Plain(), (6, 5), "float32", {}),
        (Plain(), (6, 4, 3, 5), "float64", {}),
        (Plain(dtype="float64"), (6, 4, 3, 5), "float32", {}),
        (Plain(axis=1), (6, 4, 3, 5), "float32", {}),
        (Plain(), (6, 4, 3, 5), "float32", {"mask": np.arange(6).reshape(-1, 1, 1, 1) < 4}),
        (Plain(use_running_average=True), (6, 4, 3, 5), "float32", {}),
        (Own(False, use_scale=False, use_bias=False), (6, 4, 3, 5), "float32", {}),
    ],
)
def test_what_is_no_plain_batch_of_images_in_float32_is_left_to_flax(layer, shape, dtype, keywords):
    x = _images(shape, dtype)
    variables = layer.init(jax.random.key(0), x)
    found, num_sums = _applied(layer, variables, x, **keywords)
    assert num_sums == 0
    np.testing.assert_array_equal(found, layer.apply(variables, x, mutable=True, **keywords)[0])


@on_cpu
def test_the_networks_of_flax_go_by_it_on_a_cpu_alone(monkeypatch):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return Plain()(nn.Conv(3, (3, 3))(x)).mean(axis=(1, 2))

    def num_sums():
        jax.clear_caches()  # equal modules share what was traced
        problem = from_flax(Net(), _images((6, 4, 4, 2)), np.arange(6) % 3)
        params = problem.init(jax.random.key(0))
        return str(jax.make_jaxpr(problem.loss_value)(params)).count("optimization_barrier")

    assert num_sums() == 2
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert num_sums() == 0

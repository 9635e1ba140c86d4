"""Normalization layers: their formulas, and which parameters they make a loss invariant to."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sharpflow.models.normalization import (
    NORMALIZATIONS,
    OF_ACTIVATIONS,
    OF_WEIGHTS,
    Normalization,
    normalized,
)

NUM_GROUPS, FEATURES = 2, 6
KINDS = [kind for kind in NORMALIZATIONS if kind != "none"]
ALONE = {"batch", "instance", "weight", "standardized"}  # each feature by itself


@pytest.fixture(autouse=True)
def _promotion_that_flax_needs():
    """Flax's batch norm makes float32 running averages of float64 inputs."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def images():
    return jnp.asarray(np.random.default_rng(0).normal(size=(5, 4, 3, 2)))


def _standardized(x, axes):
    return (x - x.mean(axes, keepdims=True)) / x.std(axes, keepdims=True)


def _in_numpy(kind, x):
    if kind == "group":
        groups = x.reshape(*x.shape[:-1], NUM_GROUPS, -1)
        return _standardized(groups, (1, 2, 4)).reshape(x.shape)
    if kind == "rms":
        return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True))
    return _standardized(x, {"batch": (0, 1, 2), "instance": (1, 2), "layer": (-1,)}[kind])


@pytest.mark.parametrize("kind", OF_ACTIVATIONS)
def test_activations_are_normalized_as_in_numpy(kind):
    x = np.random.default_rng(1).normal(loc=2.0, size=(5, 4, 3, FEATURES))
    y, _ = Normalization(kind, num_groups=NUM_GROUPS).apply({}, jnp.asarray(x), mutable=True)
    np.testing.assert_allclose(y, _in_numpy(kind, x), atol=1e-13)


@pytest.mark.parametrize(
    ("kind", "layer"),
    [
        ("layer", nn.LayerNorm),
        ("rms", nn.RMSNorm),
        ("instance", nn.InstanceNorm),
        ("group", lambda **options: nn.GroupNorm(NUM_GROUPS, **options)),
    ],
)
def test_with_an_epsilon_they_are_the_layers_of_flax(kind, layer):
    x = jnp.asarray(np.random.default_rng(2).normal(size=(3, 4, 4, FEATURES)))
    options = {"use_scale": False, "dtype": x.dtype, "force_float32_reductions": False}
    options |= {} if kind == "rms" else {"use_bias": False}
    expected = layer(epsilon=0.1, **options).apply({}, x)
    found = Normalization(kind, epsilon=0.1, num_groups=NUM_GROUPS).apply({}, x)
    np.testing.assert_allclose(found, expected, atol=1e-13)


@pytest.mark.parametrize("kind", OF_WEIGHTS)
def test_kernels_are_normalized_as_in_numpy(kind, images):
    outputs, kernel = _layer(kind)
    w = np.asarray(kernel)
    w = w - w.mean(axis=(0, 1, 2)) if kind == "standardized" else w
    w = w / np.sqrt(np.sum(w**2, axis=(0, 1, 2)))
    expected = nn.Conv(FEATURES, (2, 2), use_bias=False, dtype=images.dtype).apply(
        {"params": {"kernel": w}}, images
    )
    np.testing.assert_allclose(outputs(kernel, images), expected, atol=1e-13)


class _Net(nn.Module):
    kind: str
    epsilon: float = 0.0

    @nn.compact
    def __call__(self, x):
        layer = nn.Conv(FEATURES, (2, 2), use_bias=False, param_dtype=x.dtype, dtype=x.dtype)
        return normalized(layer, self.kind, epsilon=self.epsilon, num_groups=NUM_GROUPS)(x)


def _layer(kind, epsilon=0.0):
    """Outputs of a normalized convolution as a function of its kernel, and a kernel."""
    net = _Net(kind, epsilon)
    kernel = jnp.asarray(np.random.default_rng(3).normal(size=(2, 2, 2, FEATURES)))

    def outputs(kernel, x):
        return net.apply({"params": {"Conv_0": {"kernel": kernel}}}, x, mutable=True)[0]

    return outputs, kernel


def _change(kind, factors, images, epsilon=0.0):
    outputs, kernel = _layer(kind, epsilon)
    before = outputs(kernel, images)
    after = outputs(kernel * jnp.asarray(factors)[None, None, None], images)
    return float(jnp.max(jnp.abs(after - before)) / jnp.max(jnp.abs(before)))


@pytest.mark.parametrize("scale", [1e-3, 0.7, 1e3])
@pytest.mark.parametrize("kind", KINDS)
def test_scaling_a_whole_kernel_changes_nothing(kind, scale, images):
    assert _change(kind, np.full(FEATURES, scale), images) <= 1e-13


@pytest.mark.parametrize("kind", KINDS)
def test_scaling_the_kernel_of_one_feature_changes_nothing_where_it_is_told_so(kind, images):
    factors = np.where(np.arange(FEATURES) == 1, 3.0, 1.0)
    change = _change(kind, factors, images)
    assert change <= 1e-13 if kind in ALONE else change > 0.1


def test_scaling_the_kernels_of_a_group_changes_nothing_under_group_norm(images):
    factors = np.where(np.arange(FEATURES) < FEATURES // NUM_GROUPS, 3.0, 1.0)
    assert _change("group", factors, images) <= 1e-13
    assert _change("layer", factors, images) > 0.1


@pytest.mark.parametrize("kind", ["batch", "weight", "standardized"])
def test_the_gradient_in_the_kernel_of_every_feature_is_orthogonal_to_it(kind, images):
    outputs, kernel = _layer(kind)
    target = jnp.asarray(np.random.default_rng(4).normal(size=outputs(kernel, images).shape))
    gradient = jax.grad(lambda w: jnp.sum(jnp.square(outputs(w, images) - target)))(kernel)
    radial = jnp.sum(gradient * kernel, axis=(0, 1, 2))
    sizes = jnp.linalg.norm(gradient) * jnp.linalg.norm(kernel)
    assert float(jnp.max(jnp.abs(radial))) <= 1e-13 * float(sizes)


@pytest.mark.parametrize("kind", OF_ACTIVATIONS)
def test_an_epsilon_breaks_invariance_as_much_as_its_share_of_the_variance(kind, images):
    _, kernel = _layer(kind)
    plain = nn.Conv(FEATURES, (2, 2), use_bias=False, dtype=images.dtype).apply(
        {"params": {"kernel": kernel}}, images
    )
    variance = _variances(kind, np.asarray(plain))
    epsilon, scale = 1e-5, 2.0
    with_epsilon, _ = _layer(kind, epsilon)
    measured = with_epsilon(scale * kernel, images) / with_epsilon(kernel, images) - 1.0
    predicted = 0.5 * epsilon * (1.0 - scale**-2) / variance
    np.testing.assert_allclose(measured, np.broadcast_to(predicted, measured.shape), rtol=1e-2)


def _variances(kind, x):
    if kind == "rms":
        return np.mean(x**2, axis=-1, keepdims=True)
    if kind != "group":
        axes = {"batch": (0, 1, 2), "instance": (1, 2), "layer": -1}[kind]
        return x.var(axis=axes, keepdims=True)
    groups = x.reshape(*x.shape[:-1], NUM_GROUPS, -1)
    variance = groups.var(axis=(1, 2, 4), keepdims=True)
    return np.broadcast_to(variance, groups.shape).reshape(x.shape)


@pytest.mark.parametrize("kind", ["layer", "rms", "group", "instance"])
def test_a_black_corner_of_an_image_stays_zero_with_a_finite_gradient(kind):
    x = (
        jnp.zeros((2, 3, 3, FEATURES))
        .at[1]
        .set(jnp.asarray(np.random.default_rng(5).normal(size=(3, 3, FEATURES))))
    )

    def normalize(x):
        return Normalization(kind, num_groups=NUM_GROUPS).apply({}, x)

    assert not np.any(normalize(x)[0])
    gradient = jax.grad(lambda x: jnp.sum(normalize(x) ** 3))(x)
    assert np.all(np.isfinite(gradient)) and not np.any(gradient[0])
    curvature = jax.jvp(jax.grad(lambda x: jnp.sum(normalize(x) ** 3)), (x,), (x + 1.0,))[1]
    assert np.all(np.isfinite(curvature))


@pytest.mark.parametrize(
    ("kind", "shape", "message"),
    [
        ("instance", (4, 6), "instance normalization of shape (4, 6) takes the mean and"),
        ("instance", (4, 1, 1, 6), "single numbers, which leaves 0/0"),
        ("layer", (4, 1), "layer normalization of shape (4, 1)"),
        ("batch", (1, 6), "batch normalization of shape (1, 6)"),
        ("group", (4, 5), "num_groups must divide the 5 features, got 2"),
        ("lay", (4, 6), "kind must be one of ('batch', 'layer', 'group', 'instance', 'rms')"),
    ],
)
def test_what_leaves_nothing_is_refused(kind, shape, message):
    with pytest.raises(ValueError) as caught:
        Normalization(kind, num_groups=NUM_GROUPS).apply({}, jnp.ones(shape), mutable=True)
    assert message in str(caught.value)


def test_an_unknown_normalization_of_a_layer_is_refused():
    with pytest.raises(ValueError, match="normalization must be one of .* got 'btach'"):
        normalized(nn.Dense(3), "btach")

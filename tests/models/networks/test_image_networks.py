"""The image networks: what they are made of, and what they refuse."""

import math

import jax
import numpy as np
import pytest
from scipy.signal import correlate2d

import sharpflow as sf
from sharpflow.models.networks.network import num_outputs
from sharpflow.models.networks.resnet import ResNet
from sharpflow.models.networks.scaling import scaled
from sharpflow.models.networks.transformer import Transformer
from sharpflow.models.networks.vgg import POOL, VGG

BUILDERS = {
    "vgg": sf.models.vgg,
    "vgg11": sf.models.vgg11,
    "resnet20": sf.models.resnet20,
    "transformer": sf.models.transformer,
    "vit_small": sf.models.vit_small,
}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(10, 32, 32, 3)), np.arange(10)


def _kernels(module):
    """Shapes of the kernels by the name of their layer."""
    variables = jax.eval_shape(module.init, jax.random.key(0), np.zeros((2, 32, 32, 3), np.float32))
    return {name: layer["kernel"].shape for name, layer in variables["params"].items()}


def test_vgg11_and_resnet20_have_the_published_numbers_of_weights():
    # of 10 outputs, and without biases and affine parameters: 9.22 and 0.27 million
    assert sum(map(math.prod, _kernels(VGG()).values())) == 9_217_728 + 512 * 10
    resnet = _kernels(ResNet())
    assert sum(map(math.prod, resnet.values())) == 267_696 + 64 * 10
    assert len(resnet) == 20


def test_vit_small_has_the_published_sizes(images):
    problem = sf.models.vit_small(*images, dtype=np.float32)
    layers = jax.eval_shape(problem.init, jax.random.key(0))
    # The four matrices of attention and the two dense ones of each of 12 blocks have 12 · 384²
    # weights, the projection of 4 × 4 × 3 pixels the rest; the head is fixed.
    expected = 12 * 12 * 384**2 + 48 * 384
    assert sum(math.prod(layer["kernel"].shape) for layer in layers.values()) == expected
    assert layers["Dense_5"]["kernel"].shape == (384, 1536)
    half = sf.models.vit_small(*images, 0.5, depth=2, patch=8, dtype=np.float32)
    layers = jax.eval_shape(half.init, jax.random.key(0))
    assert layers["Dense_0"]["kernel"].shape == (8 * 8 * 3, 192) and len(layers) == 1 + 2 * 6


def test_vit_small_is_the_transformer_with_its_heads_and_hidden_layers():
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 3))
    y = np.arange(4)
    small = sf.models.vit_small(x, y, 0.05, depth=1)
    same = sf.models.transformer(x, y, 24, depth=1, num_heads=6, hidden_ratio=4)
    params = small.init(jax.random.key(0))
    assert float(small.loss_value(params)) == float(same.loss_value(params))


@pytest.mark.parametrize(("name", "module"), [("vgg11", VGG), ("resnet20", ResNet)])
def test_the_width_scales_the_channels_of_every_layer(name, module, images):
    problem = BUILDERS[name](*images, 0.25, dtype=np.float32)
    params = jax.eval_shape(problem.init, jax.random.key(0))
    whole = {layer: shape[-1] for layer, shape in _kernels(module()).items() if layer != "head"}
    quarter = {layer: 4 * params[layer]["kernel"].shape[-1] for layer in whole}
    assert quarter == whole


def test_vgg11_is_vgg_with_the_published_channels(images):
    channels = (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0)
    narrow = tuple(number // 32 for number in channels)
    found = sf.models.vgg(*images, narrow, "layer", dtype=np.float32)
    expected = sf.models.vgg11(*images, 1 / 32, "layer", dtype=np.float32)
    shapes = [jax.eval_shape(p.init, jax.random.key(0)) for p in (found, expected)]
    assert shapes[0] == shapes[1] and shapes[0]["Conv_7"]["kernel"].shape == (3, 3, 16, 16)


def test_groups_divide_the_channels_of_a_narrow_network():
    assert scaled((16, 0, 64), 0.3, "group", num_groups=8) == (8, 0, 16)
    assert scaled((16, 0, 64), 0.3, "batch", num_groups=8) == (5, 0, 19)
    assert scaled((1, 64), 0.01, "layer", num_groups=8) == (1, 1)


def _softplus(x):
    return np.logaddexp(x, 0.0)


def _conv(x, kernel, stride=1):
    """Zero padding of one pixel, channels last; batch norm."""
    y = np.stack(
        [
            sum(
                correlate2d(np.pad(image[..., c], 1), kernel[..., c, f], mode="valid")
                for c in range(x.shape[-1])
            )[::stride, ::stride]
            for image in x
            for f in range(kernel.shape[-1])
        ]
    ).reshape(len(x), kernel.shape[-1], *-(-np.array(x.shape[1:3]) // stride))
    return _batch_norm(y.transpose(0, 2, 3, 1))


def _batch_norm(x):
    axes = tuple(range(x.ndim - 1))
    return (x - x.mean(axis=axes)) / x.std(axis=axes)


def _applied(module, x):
    """Outputs and kernels by the name of their layer."""
    variables = module.init(jax.random.key(1), x)
    outputs = module.apply(variables, x, mutable=True)[0]
    return outputs, {name: np.asarray(leaf["kernel"]) for name, leaf in variables["params"].items()}


@pytest.fixture
def small():
    with jax.numpy_dtype_promotion("standard"):  # Flax's running averages are float32
        yield np.random.default_rng(2).normal(size=(6, 8, 8, 3))


def test_vgg_is_that_of_numpy_and_scipy(small):
    found, kernels = _applied(VGG(channels=(4, POOL, 5, POOL), num_outputs=3), small)
    x = small
    for index in range(2):
        x = _softplus(_conv(x, kernels[f"Conv_{index}"]))
        x = (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
    expected = _batch_norm(x.reshape(6, -1) @ kernels["head"])
    np.testing.assert_allclose(found, expected, atol=1e-11)


def test_resnet_is_that_of_numpy_and_scipy(small):
    found, kernels = _applied(ResNet(channels=(4, 6), num_blocks=1, num_outputs=3), small)
    convolutions = iter([kernels[f"Conv_{index}"] for index in range(5)])
    x = _softplus(_conv(small, next(convolutions)))
    for stride, channels in ((1, 4), (2, 6)):
        y = _conv(_softplus(_conv(x, next(convolutions), stride)), next(convolutions))
        shortcut = np.zeros_like(y)
        shortcut[..., : x.shape[-1]] = x[:, ::stride, ::stride]
        assert y.shape[-1] == channels
        x = _softplus(y + shortcut)
    expected = _batch_norm(x.mean(axis=(1, 2)) @ kernels["head"])
    np.testing.assert_allclose(found, expected, atol=1e-11)


def test_the_transformer_is_that_of_numpy(small):
    width, heads = 8, 2
    module = Transformer(
        patch=4, width=width, depth=1, num_heads=heads, hidden_ratio=3, num_outputs=3,
        normalization="layer", activation="softplus", head="fixed",
    )  # fmt: skip
    found, kernels = _applied(module, small)
    assert kernels["Dense_5"].shape == (width, 3 * width)

    def layer(x, index):
        y = x @ kernels[f"Dense_{index}"]
        return (y - y.mean(axis=-1, keepdims=True)) / y.std(axis=-1, keepdims=True)

    patches = [small[:, i : i + 4, j : j + 4].reshape(6, -1) for i in (0, 4) for j in (0, 4)]
    x = layer(np.stack(patches, axis=1), 0)
    place = np.array([(i, j) for i in (0, 1) for j in (0, 1)], float)
    frequencies = np.array([1.0, 1e-4])
    for axis in (0, 1):
        wave = place[:, axis, None] * frequencies
        x[:, :, 4 * axis : 4 * axis + 4] += np.concatenate([np.sin(wave), np.cos(wave)], axis=1)
    query, key, value = (layer(x, index).reshape(6, 4, heads, -1) for index in (1, 2, 3))
    scores = np.einsum("nqhf,nkhf->nhqk", query, key) / np.sqrt(width / heads)
    weights = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    mixed = np.einsum("nhqk,nkhf->nqhf", weights, value).reshape(6, 4, width)
    x = x + layer(mixed, 4)
    x = x + layer(_softplus(layer(x, 5)), 6)
    np.testing.assert_allclose(found, x.mean(axis=1) @ kernels["head"], atol=1e-11)


def test_a_fixed_head_is_drawn_by_its_seed_and_not_trained(images):
    losses = set()
    for seed in (0, 1):
        problem = sf.models.mlp(*images, (8,), "layer", fixed_seed=seed)
        params = problem.init(jax.random.key(0))
        assert set(params) == {"Dense_0"}
        losses.add(float(jax.jit(problem.loss_value)(params)))
    assert len(losses) == 2


def test_outputs_are_counted_by_classes_or_columns():
    assert num_outputs(np.array([3, 5, 3, 9])) == 3
    assert num_outputs(np.zeros((4, 2))) == 2
    assert num_outputs(np.array([0.5, 1.0])) == 1


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        ("vgg", (4, 12, 12, 3), {"channels": (2, 0, 2, 0, 2, 0)}, "multiples of 8, got (4, 12"),
        ("vgg", (4, 8, 8, 3), {"channels": (2, -1)}, "channels must be a sequence of integers fr"),
        ("vgg", (4, 8, 8, 3), {"pooling": "sum"}, "pooling must be one of ('mean', 'max')"),
        ("vgg11", (4, 64), {}, "x must be images of shape (n, height, width, channels), height"),
        ("vgg11", (4, 28, 28, 1), {}, "multiples of 32, got (4, 28, 28, 1)"),
        ("resnet20", (4, 30, 32, 3), {}, "multiples of 4, got (4, 30, 32, 3)"),
        ("transformer", (4, 30, 32, 3), {"patch": 8}, "multiples of 8, got (4, 30, 32, 3)"),
        ("vgg11", (4, 32, 32, 3), {"width": 0.0}, "width must be positive and finite, got 0.0"),
        ("vgg11", (4, 32, 32, 3), {"pooling": "sum"}, "pooling must be one of ('mean', 'max')"),
        (
            "vgg11",
            (4, 32, 32, 3),
            {"head": "free"},
            "head must be one of ('normalized', 'fixed', 'trained'), or None",
        ),
        ("transformer", (4, 32, 32, 3), {"normalization": "instance"}, "leaves nothing of their"),
        ("transformer", (4, 32, 32, 3), {"width": 10}, "width must be a multiple of 4 and of num"),
        (
            "transformer",
            (4, 32, 32, 3),
            {"depth": 0},
            "depth must be an integer from 1 to",
        ),
        ("vit_small", (4, 30, 32, 3), {"patch": 8}, "multiples of 8, got (4, 30, 32, 3)"),
        ("vit_small", (4, 32, 32, 3), {"width": 0.0}, "width must be positive and finite, got 0"),
        ("resnet20", (4, 32, 32, 3), {"normalization": "b"}, "normalization must be one of ('bat"),
        ("resnet20", (4, 32, 32, 3), {"activation": "x"}, "activation must be one of ('softplus'"),
        ("resnet20", (4, 32, 32, 3), {"loss": "hinge"}, "loss must be one of ('mse', 'smoothed"),
        ("resnet20", (4, 32, 32, 3), {"logit_scale": 2.0}, "logit_scale is for the cross-entropy"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(name, shape, options, message):
    x = np.random.default_rng(0).normal(size=shape)
    with pytest.raises(ValueError) as caught:
        BUILDERS[name](x, np.arange(4), **options)
    assert message in str(caught.value)

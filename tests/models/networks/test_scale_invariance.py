"""Every network with every normalization, scaled by factors of a thousand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sharpflow as sf
from sharpflow.models.networks.network import network_problem
from sharpflow.models.networks.resnet import ResNet
from sharpflow.models.networks.transformer import Transformer
from sharpflow.models.networks.vgg import POOL, VGG
from sharpflow.models.normalization import NORMALIZATIONS

CLASSES = 4
NORMALIZED = [kind for kind in NORMALIZATIONS if kind != "none"]

# as deep as it takes to have every kind of layer; the whole ones below, and with PyTorch
SHORT = {
    "mlp": partial(sf.models.MLP, widths=(8, 8, CLASSES)),
    "vgg": partial(VGG, channels=(8, POOL, 8, POOL), num_outputs=CLASSES),
    "resnet": partial(ResNet, channels=(4, 8), num_blocks=1, num_outputs=CLASSES),
    "transformer": partial(Transformer, width=8, depth=1, num_heads=2, num_outputs=CLASSES),
    # ViT-small's heads and hidden layers
    "vit": partial(
        Transformer, width=12, depth=1, num_heads=6, hidden_ratio=4, num_outputs=CLASSES
    ),
}
# ⟨w, ∇L⟩/(‖w‖ ‖∇L‖) of a layer: 1e6 times the rounding unit in float64, and in float32 its square
# root, to which the check of scale invariance holds such losses
ORTHOGONAL = {"float64": 1e-10, "float32": 3e-4}


@pytest.fixture(autouse=True)
def _compiled_fast():
    """Most of the time here goes into compiling what runs a few times."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def images():
    x = np.random.default_rng(0).normal(size=(12, 8, 8, 3))
    return x, np.arange(12) % CLASSES


def _problem(network, normalization, images, activation="softplus", **options):
    name = "Dense_2" if network == "mlp" else "head"
    options = {"num_groups": 2} | options
    return network_problem(
        SHORT[network], *images, normalization, activation, head_name=name, **options
    )


@pytest.mark.parametrize("normalization", NORMALIZED)
@pytest.mark.parametrize("network", sorted(SHORT))
def test_the_loss_is_invariant_and_its_gradient_orthogonal_to_the_weights(
    network, normalization, images
):
    if normalization == "instance" and network in ("mlp", "transformer", "vit"):
        pytest.skip("refused: vectors have no positions, and the mean over tokens would be 0")
    problem = _problem(network, normalization, images)
    assert problem.scale_invariant
    params = problem.init(jax.random.key(0))
    change = sf.models.check_scale_invariance(problem, params, max_scale=1e3, tolerance=1e-10)
    assert change <= 1e-10
    single = _problem(network, normalization, images, dtype="float32")
    for each, dtype in ((problem, "float64"), (single, "float32")):
        params = each.init(jax.random.key(0))
        gradient = jax.jit(jax.grad(each.loss_value))(params)
        for w, g in zip(jax.tree.leaves(params), jax.tree.leaves(gradient), strict=True):
            assert w.dtype == g.dtype == dtype
            lengths = float(jnp.linalg.norm(w) * jnp.linalg.norm(g))
            assert abs(float(jnp.vdot(w, g))) <= ORTHOGONAL[dtype] * lengths


@pytest.mark.parametrize("network", sorted(SHORT))
def test_without_normalization_every_parameter_is_told_to_break_invariance(network, images):
    problem = _problem(network, "none", images)
    assert not problem.scale_invariant
    params = problem.init(jax.random.key(0))
    with pytest.raises(ValueError, match="not invariant to the scale") as caught:
        sf.models.check_scale_invariance(problem, params)
    for name in params:
        assert f"{name}/kernel" in str(caught.value)


def test_a_trained_head_is_told_to_break_invariance_and_a_fixed_one_mends_it(images):
    problem = _problem("vgg", "batch", images, head="trained")
    assert not problem.scale_invariant
    with pytest.raises(ValueError, match=r"Hold them constant: .*fixed=\['head/kernel'\]"):
        sf.models.check_scale_invariance(problem, problem.init(jax.random.key(0)))
    mended = _problem("vgg", "batch", images, head="fixed")
    assert mended.scale_invariant
    params = mended.init(jax.random.key(0))
    assert "head" not in params
    assert sf.models.check_scale_invariance(mended, params, tolerance=1e-10) <= 1e-10


@pytest.mark.parametrize("network", ["vgg", "resnet"])
def test_relu_and_max_pooling_make_no_zero_by_zero_without_an_epsilon(network, images):
    x, y = images
    dark = x * (np.arange(8) < 4)[None, :, None, None]  # half of every image is zero
    for normalization in ("batch", "layer"):
        problem = _problem(network, normalization, (dark, y), activation="relu")
        loss, gradient = jax.jit(jax.value_and_grad(problem.loss_value))(
            problem.init(jax.random.key(0))
        )
        assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(gradient))
        assert np.isfinite(loss)

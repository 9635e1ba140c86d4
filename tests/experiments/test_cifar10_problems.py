"""The networks of the presets, on small files in the layout of CIFAR-10."""

import json

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

import sharpflow as sf
from sharpflow.experiments.cli import app
from sharpflow.experiments.problems import (
    mlp_cifar10,
    resnet20_cifar10,
    vgg11_cifar10,
    vgg_cifar10,
    vit_small_cifar10,
)
from sharpflow.models import data, mlp, vgg11, vit_small


def test_the_network_is_trained_on_equally_many_images_of_each_class(cifar10_root):
    options = {"width": 1 / 16, "normalization": "layer"}
    problem = vgg11_cifar10(
        str(cifar10_root), num_images=20, num_test_images=10, sample_seed=3, **options
    )
    train, _ = data.cifar10(cifar10_root)
    train = train.sample(2, seed=3, per_class=True)
    assert np.all(np.bincount(train.labels) == 2)
    expected = vgg11(*train, **options)
    params = problem.init(jax.random.key(0))
    assert set(problem.metrics) == {"train_accuracy", "test_accuracy", "test_error"}
    losses = [float(jax.jit(found.loss_value)(params)) for found in (problem, expected)]
    assert losses[0] == losses[1]


@pytest.mark.parametrize(
    ("make", "network", "options"),
    [
        (vgg11_cifar10, vgg11, {"width": 1 / 16, "normalization": "group", "num_groups": 2}),
        (vit_small_cifar10, vit_small, {"width": 1 / 32, "depth": 1, "patch": 8}),
    ],
)
def test_groups_depth_and_patches_are_those_of_the_network(cifar10_root, make, network, options):
    problem = make(str(cifar10_root), num_images=10, num_test_images=10, **options)
    images = data.cifar10(cifar10_root)[0].sample(1, per_class=True)
    expected = network(*images, **options)
    params = problem.init(jax.random.key(0))
    losses = [float(jax.jit(found.loss_value)(params)) for found in (problem, expected)]
    assert losses[0] == losses[1]


def test_settings_are_chosen_on_images_that_are_neither_trained_on_nor_tested_on(cifar10_root):
    train, _ = data.cifar10(cifar10_root)
    chosen = train.sample(1, seed=3, per_class=True)
    left = train.without(chosen)
    assert not set(left.indices) & set(chosen.indices)
    assert left.num_images + chosen.num_images == train.num_images
    problem = mlp_cifar10(
        str(cifar10_root), num_images=10, num_test_images=10, held_out="validation",
        sample_seed=3, widths=(4,), dtype="float32",
    )  # fmt: skip
    expected = mlp(*chosen, (4,), test=left.sample(1, seed=3, per_class=True), dtype="float32")
    params = problem.init(jax.random.key(0))
    for name in ("train_accuracy", "test_error"):
        found, known = (float(jax.jit(p.metrics[name])(params)) for p in (problem, expected))
        assert found == known


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": 5, "num_images": 10}, "pool must divide 32 and 32, got 5"),
        ({"num_images": 25}, "num_images must be a positive multiple of 10 classes, got 25"),
        ({"num_test_images": 0}, "num_test_images must be an integer from 1 to .*, got 0"),
        ({"num_images": 500}, "class 0 .* has 20 images, got n=50"),
    ],
)
def test_options_that_the_images_do_not_allow_are_refused(cifar10_root, options, message):
    make = mlp_cifar10 if "pool" in options else resnet20_cifar10
    with pytest.raises(ValueError, match=message):
        make(str(cifar10_root), **options)


def test_pooled_images_are_means_over_squares(cifar10_root):
    options = {"num_images": 10, "widths": (4,), "dtype": "float32"}
    problem = mlp_cifar10(str(cifar10_root), pool=16, **options)
    images, labels = data.cifar10(cifar10_root)[0].sample(1, per_class=True)
    means = [
        [[image[i : i + 16, j : j + 16].mean((0, 1)) for j in (0, 16)] for i in (0, 16)]
        for image in images.astype(np.float64)
    ]
    expected = mlp(np.float32(means), labels, (4,), dtype="float32")
    params = problem.init(jax.random.key(0))
    losses = [float(jax.jit(found.loss_value)(params)) for found in (problem, expected)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_run_says_which_images_it_was_made_of(cifar10_root, tmp_path):
    def network(normalization):
        return vgg_cifar10(
            str(cifar10_root), num_images=10, num_test_images=20, held_out="validation",
            sample_seed=4, pool=16, channels=(2,), normalization=normalization, dtype="float32",
        )  # fmt: skip

    images, _ = data.cifar10(cifar10_root)
    train = images.sample(1, seed=4, per_class=True)
    expected = {
        "train": train.source,
        "validation": images.without(train).sample(2, seed=4, per_class=True).source,
    }
    run = sf.simulate_grid(
        network,
        axes={"normalization": ["batch", "none"]},
        seeds=0,
        learning_rates=0.01,
        weight_decays=0.0,
        num_steps=1,
        observables="loss",
        out=tmp_path / "run",
    )
    # of two problems with the same images one record
    assert json.loads(run.attrs["data"]) == expected
    (launch,) = json.loads((tmp_path / "run" / "provenance.json").read_text())["launches"]
    assert json.loads(launch["data"]) == expected
    first = expected["train"]["files"][0]
    assert first["name"] == "data_batch_1.bin" and first["found"] < first["official"] == 10_000


def test_a_folder_without_images_is_told_with_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match="download=True"):
        vgg11_cifar10(str(tmp_path))


def test_a_command_without_images_is_told_with_the_remedy_of_a_command(tmp_path):
    config = ["run", "vgg11-cifar10-small", "--out", str(tmp_path / "run")]
    root = ["--set", f"problem_options.root={tmp_path}"]
    result = CliRunner().invoke(app, [*config, *root], env={"COLUMNS": "200"})
    assert result.exit_code == 2 and "--set problem_options.download=true" in result.stderr

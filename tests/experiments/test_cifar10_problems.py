"""The networks of the presets, on small files in the layout of CIFAR-10."""

import jax
import numpy as np
import pytest

from sharpflow.experiments.problems import resnet20_cifar10, vgg11_cifar10
from sharpflow.models import data, vgg11

NUM_RECORDS = 40  # of each file, every class equally often


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        labels = np.arange(NUM_RECORDS, dtype=np.uint8)[:, None] % 10
        pixels = random.integers(0, 256, (NUM_RECORDS, 3072), dtype=np.uint8)
        np.hstack([labels, pixels]).tofile(folder / f"{name}.bin")
    return tmp_path


def test_the_network_is_trained_on_equally_many_images_of_each_class(root):
    options = {"width": 1 / 16, "normalization": "layer"}
    problem = vgg11_cifar10(str(root), num_images=20, num_test_images=10, sample_seed=3, **options)
    train, _ = data.cifar10(root)
    train = train.sample(2, seed=3, per_class=True)
    assert np.all(np.bincount(train.labels) == 2)
    expected = vgg11(*train, **options)
    params = problem.init(jax.random.key(0))
    for function in (problem.loss_value, problem.metrics["train_accuracy"]):
        assert np.isfinite(function(params))
    assert problem.loss_value(params) == expected.loss_value(params)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_images": 25}, "num_images must be a positive multiple of 10 classes, got 25"),
        ({"num_test_images": 0}, "num_test_images must be a positive multiple of 10 classes"),
        ({"num_images": 500}, "class 0 .* has 20 images, got n=50"),
    ],
)
def test_images_that_there_are_not_enough_of_are_refused(root, options, message):
    with pytest.raises(ValueError, match=message):
        resnet20_cifar10(str(root), **options)


def test_a_folder_without_images_is_told_with_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match="download=True"):
        vgg11_cifar10(str(tmp_path))

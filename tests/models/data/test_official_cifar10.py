"""CIFAR-10 itself, as much of it as this machine has."""

import numpy as np
import pytest

from sharpflow.models import data


@pytest.fixture(scope="module")
def folder(shared_data):
    folder = shared_data / "data" / "cifar-10-batches-bin"
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist")
    return folder


@pytest.fixture(scope="module")
def official(folder):
    return data.cifar10(folder.parent)


def test_every_record_of_the_files_is_found_and_counted(official, folder):
    for images in official:
        for file in images.source["files"]:
            path = folder / file["name"]
            assert file["found"] == (path.stat().st_size // 3073 if path.exists() else 0)
        assert images.labels.size == sum(file["found"] for file in images.source["files"])


def test_pixels_and_labels_are_the_bytes_of_the_records(official, folder):
    train, _ = official
    content = (folder / "data_batch_1.bin").read_bytes()
    for record in (0, 1, len(content) // 3073 - 1):
        start = 3073 * record
        assert train.labels[record] == content[start]
        for row, column, channel in ((0, 0, 0), (0, 31, 1), (17, 5, 2), (31, 31, 2)):
            byte = content[start + 1 + 1024 * channel + 32 * row + column]
            assert train.pixels[record, row, column, channel] == byte


def test_the_stated_constants_are_mean_and_deviation_up_to_sampling(official):
    train, _ = official
    mean, deviation = np.array(data.CIFAR10_STANDARDIZATION)
    pixels = train.pixels / 255
    n = len(pixels)
    # Images are independent draws, pixels of one are not: five standard errors of the
    # mean of images, and half a unit of the last digit of the constants.
    rounding = 0.5e-4
    means = pixels.mean(axis=(1, 2))
    error = 5 * means.std(axis=0) / np.sqrt(n) + rounding
    np.testing.assert_array_less(np.abs(means.mean(axis=0) - mean), error)
    squares = ((pixels - mean) ** 2).mean(axis=(1, 2))
    error = 5 * squares.std(axis=0) / np.sqrt(n) + 2 * deviation * rounding
    np.testing.assert_array_less(np.abs(squares.mean(axis=0) - deviation**2), error)


def test_a_sample_has_equally_many_of_each_class(official):
    sample = official[0].sample(20, seed=1, per_class=True)
    assert set(np.bincount(sample.labels, minlength=10)) == {20}
    np.testing.assert_array_equal(sample.pixels, official[0].pixels[sample.indices])

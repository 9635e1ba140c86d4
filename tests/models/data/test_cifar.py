"""The binary layouts of CIFAR-10 and CIFAR-100, on small files written by the tests."""

import dataclasses
import json

import numpy as np
import pytest

from sharpflow.models import data
from sharpflow.models.data import cifar


@pytest.fixture
def batches(tmp_path, random_records, write_batch):
    """Pixels and labels of CIFAR-10 files of a few records, in tmp_path/cifar-10-batches-bin."""
    folder = tmp_path / "cifar-10-batches-bin"
    pixels, labels = random_records(24)
    write_batch(folder / "data_batch_1.bin", pixels[:10], labels[:10])
    write_batch(folder / "data_batch_4.bin", pixels[10:17], labels[10:17])
    write_batch(folder / "test_batch.bin", pixels[17:], labels[17:])
    return pixels, labels


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "cifar-10-batches-bin"


def test_partial_batches_are_read_in_order_pixel_by_pixel(tmp_path, batches):
    pixels, labels = batches
    train, test = data.cifar10(tmp_path)
    np.testing.assert_array_equal(train.pixels, pixels[:17])
    np.testing.assert_array_equal(train.labels, labels[:17])
    np.testing.assert_array_equal(test.pixels, pixels[17:])
    np.testing.assert_array_equal(test.labels, labels[17:])
    assert train.classes[3] == "cat"


def test_root_may_be_the_folder_of_the_files_itself(tmp_path, folder, batches):
    assert data.cifar10(str(folder))[0].source == data.cifar10(tmp_path)[0].source


def test_pixels_are_standardised_by_the_stated_constants_or_those_given(folder, batches):
    pixels = batches[0][:17] / 255
    mean, deviation = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    # float32 rounds pixel, constants and difference, magnified by 1/0.2435 ≈ 4.
    close = {"rtol": 0, "atol": 4 * 4 * np.finfo(np.float32).eps}
    x = data.cifar10(folder)[0].images
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, (pixels - mean) / deviation, **close)
    x = data.cifar10(folder, standardize=None, dtype=np.float64)[0].images
    np.testing.assert_array_equal(x, pixels)
    x = data.cifar10(folder, standardize=((0.5,), (0.25,)))[0].images
    np.testing.assert_allclose(x, (pixels - 0.5) / 0.25, **close)


def test_source_and_repr_say_how_much_was_found(folder, batches):
    train, test = data.cifar10(folder)
    found = {1: 10, 2: 0, 3: 0, 4: 7, 5: 0}
    assert train.source["files"] == [
        {"name": f"data_batch_{number}.bin", "found": count, "official": 10_000}
        for number, count in found.items()
    ]
    assert (train.source["found"], train.source["official"]) == (17, 50_000)
    assert json.loads(json.dumps(train.source)) == train.source
    assert repr(train).startswith("Images(n=17, 32x32x3, 10 classes, cifar10 train: 17 of 50000, ")
    assert "data_batch_4.bin 7 of 10000, data_batch_5.bin 0 of 10000" in repr(train)
    assert repr(test) == (
        "Images(n=7, 32x32x3, 10 classes, cifar10 test: test_batch.bin 7 of 10000)"
    )


def test_complete_files_are_told_in_short(folder, batches):
    files = {
        "train": {"data_batch_1.bin": 10, "data_batch_4.bin": 7},
        "test": {"test_batch.bin": 7},
    }
    layout = dataclasses.replace(cifar.CIFAR10, files=files)
    train, _ = cifar.read(
        layout, folder, "class", download=False, standardize=None, dtype=np.float32
    )
    assert repr(train) == "Images(n=17, 32x32x3, 10 classes, cifar10 train: all 17)"


def test_a_split_without_a_file_is_empty(folder, batches):
    (folder / "test_batch.bin").unlink()
    train, test = data.cifar10(folder)
    assert train.labels.size == 17
    assert test.images.shape == (0, 32, 32, 3)
    assert test.source["files"] == [{"name": "test_batch.bin", "found": 0, "official": 10_000}]
    with pytest.raises(ValueError, match="there are no images"):
        test.first(1)


@pytest.mark.parametrize(("kind", "column"), [("coarse", 0), ("fine", 1)])
def test_cifar100_has_coarse_and_fine_labels(tmp_path, random_records, write_batch, kind, column):
    pixels, coarse = random_records(12, 20)
    labels = (coarse, coarse * 5 + 4)
    write_batch(tmp_path / "cifar-100-binary" / "train.bin", pixels, *labels)
    write_batch(tmp_path / "cifar-100-binary" / "test.bin", pixels[::-1], *labels)
    train, test = data.cifar100(tmp_path, labels=kind, standardize=None, dtype=np.float64)
    np.testing.assert_array_equal(train.images, pixels / 255)
    np.testing.assert_array_equal(train.labels, labels[column])
    np.testing.assert_array_equal(test.pixels, pixels[::-1])
    assert len(train.classes) == (20, 100)[column]
    assert train.source["labels"] == kind
    assert train.source["official"] == 50_000


def test_cifar100_is_standardised_by_its_own_constants(tmp_path, random_records, write_batch):
    pixels, labels = random_records(3)
    write_batch(tmp_path / "train.bin", pixels, labels, labels)
    assert data.cifar100(tmp_path)[0].source["standardization"] == {
        "mean": [0.5071, 0.4865, 0.4409],
        "deviation": [0.2673, 0.2564, 0.2762],
    }


def test_names_of_classes_are_as_many_and_in_alphabetical_order():
    coarse, fine = cifar.CIFAR100.classes.values()
    assert (len(coarse), len(fine)) == (20, 100)
    # The publisher numbers both kinds alphabetically.
    assert list(fine) == sorted(set(fine))
    assert list(coarse) == sorted(set(coarse))


def test_cifar100_labels_of_another_kind_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"labels must be one of \('coarse', 'fine'\), got 'both'"):
        data.cifar100(tmp_path, labels="both")


def test_a_folder_without_files_is_refused_with_the_places_and_the_way_out(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        data.cifar10(tmp_path / "none")
    for part in (
        f"{tmp_path / 'none'}, {tmp_path / 'none' / 'cifar-10-batches-bin'}",
        "data_batch_1.bin",
        "download=True",
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    ):
        assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [0, 1, 3072, 3074, 2 * 3073 - 1])
def test_a_file_that_is_not_whole_records_is_refused(folder, batches, size):
    (folder / "data_batch_2.bin").write_bytes(bytes(size))
    with pytest.raises(ValueError, match=f"data_batch_2.bin has {size} bytes.* of 3073 bytes"):
        data.cifar10(folder)


def test_more_than_the_official_number_of_records_is_refused(folder, batches):
    with (folder / "data_batch_2.bin").open("wb") as file:
        file.truncate(10_001 * 3073)  # takes no space on disk
    with pytest.raises(ValueError, match="holds 10001 records, more than the official 10000"):
        data.cifar10(folder)


def test_a_label_out_of_range_is_refused_with_file_and_record(folder, batches, write_batch):
    pixels, labels = batches
    labels = np.where(np.arange(24) == 5, 10, labels)
    write_batch(folder / "data_batch_1.bin", pixels, labels)
    with pytest.raises(ValueError, match=r"batch_1.bin: the label of record 5 is 10, .* 0 to 9"):
        data.cifar10(folder)


@pytest.mark.parametrize(("coarse", "fine"), [(20, 0), (0, 100)])
@pytest.mark.parametrize("kind", ["coarse", "fine"])
def test_both_labels_of_cifar100_are_checked(tmp_path, write_batch, kind, coarse, fine):
    pixels = np.zeros((2, 32, 32, 3), np.uint8)
    write_batch(tmp_path / "test.bin", pixels, [0, coarse], [0, fine])
    with pytest.raises(ValueError, match=f"label of record 1 is {max(coarse, fine)},"):
        data.cifar100(tmp_path, labels=kind)

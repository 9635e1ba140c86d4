"""Named arrays in .npz archives."""

import numpy as np
import pytest

from sharpflow.models import data


@pytest.fixture
def stored(tmp_path, random_records):
    """An archive of eleven images under the usual names, and its arrays."""
    pixels, labels = random_records(11, 4, (5, 6, 3))
    parts = {
        "x_train": pixels[:7],
        "y_train": labels[:7].astype(np.uint8)[:, None],
        "x_test": pixels[7:],
        "y_test": labels[7:],
    }
    np.savez(tmp_path / "small.npz", **parts)
    return tmp_path / "small.npz", parts


def test_a_home_folder_is_expanded_by_every_loader(stored, monkeypatch):
    path, _ = stored
    monkeypatch.setenv("HOME", str(path.parent))
    assert len(data.npz("~/small.npz")[0].images) == 7
    for load in (data.cifar10, data.cifar100, data.fashion_mnist):
        with pytest.raises(FileNotFoundError, match=f"in any of {path.parent}/none"):
            load("~/none")


def test_arrays_under_the_usual_names_are_train_and_test(stored):
    path, parts = stored
    train, test = data.npz(path, standardize=None, dtype=np.float64)
    np.testing.assert_array_equal(train.images, parts["x_train"] / 255)
    np.testing.assert_array_equal(train.labels, parts["y_train"][:, 0])
    np.testing.assert_array_equal(test.images, parts["x_test"] / 255)
    np.testing.assert_array_equal(test.labels, parts["y_test"])
    assert train.labels.dtype == np.int64


def test_other_names_may_be_given_and_test_images_left_out(tmp_path):
    values = np.linspace(0.0, 1.0, 12).reshape(4, 3)
    np.savez_compressed(tmp_path / "a.npz", inputs=values, classes=[5, 7, 5, 7])
    train, test = data.npz(tmp_path / "a.npz", ("inputs", "classes"), None, dtype=np.float64)
    assert test is None
    np.testing.assert_array_equal(train.images, values)
    assert train.classes == {5: "5", 7: "7"}
    assert train.source["images"] == "inputs"
    assert repr(train) == "Images(n=4, 3, 2 classes, npz train: a.npz 4)"


def test_classes_are_those_of_train_and_test_together(tmp_path):
    x = np.zeros((2, 3))
    np.savez(tmp_path / "a.npz", x_train=x, y_train=[0, 1], x_test=x, y_test=[1, 4])
    train, test = data.npz(tmp_path / "a.npz")
    assert train.classes == test.classes == {0: "0", 1: "1", 4: "4"}


def test_a_name_that_is_not_there_is_refused_with_those_that_are(stored):
    with pytest.raises(ValueError, match=r"no array 'x'; .* \['x_test', .*'y_train'\]"):
        data.npz(stored[0], ("x", "y_train"))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_flipped_bit_anywhere_is_refused_or_changes_nothing(tmp_path, random_records, save):
    pixels, labels = random_records(12, 3, (4, 4))
    path, parts = tmp_path / "a.npz", {"x_train": pixels[:6], "y_train": labels[:6]}
    save(path, **parts, x_test=pixels[6:], y_test=labels[6:])
    whole, right, refused = path.read_bytes(), data.npz(path), 0
    for place in range(0, len(whole), 3):
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        path.write_bytes(content)
        try:
            found = data.npz(path)
        except ValueError as error:
            assert str(path) in str(error)
            refused += 1
            continue
        for images, expected in zip(found, right, strict=True):
            np.testing.assert_array_equal(images.pixels, expected.pixels)
            np.testing.assert_array_equal(images.labels, expected.labels)
    assert refused > len(whole) // 6


def test_a_file_that_is_not_there_is_no_damaged_one(tmp_path):
    with pytest.raises(FileNotFoundError):
        data.npz(tmp_path / "nowhere.npz")


def test_more_classes_than_any_data_set_has_are_refused_before_they_are_named():
    with pytest.raises(ValueError, match="classes must be at most 1000000, got 1000000000"):
        data.arrays(np.zeros((2, 3)), [0, 1], classes=10**9)


def test_pickled_objects_are_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=np.array([{}, {}]), y_train=[0, 1])
    with pytest.raises(ValueError, match="the array 'x_train' cannot be read: Object arrays"):
        data.npz(tmp_path / "a.npz", test=None)


def test_a_file_of_another_kind_is_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(3))
    with pytest.raises(ValueError, match="a.npy is not an .npz archive"):
        data.npz(tmp_path / "a.npy")
    with pytest.raises(FileNotFoundError, match="none.npz"):
        data.npz(tmp_path / "none.npz")


@pytest.mark.parametrize(
    ("changed", "options", "message"),
    [
        ({"x_test": np.zeros((4, 5, 5, 3))}, {}, r"test have shape \(5, 5, 3\), .* \(5, 6, 3\)"),
        ({"y_test": np.zeros(3, int)}, {}, r"small.npz: y_test must have shape \(4,\)"),
        ({"y_train": np.full(7, 0.5)}, {}, "small.npz: y_train must be integer classes"),
        ({"x_train": np.zeros((7, 2), int)}, {}, "small.npz: x_train must be uint8 or floating"),
        ({"x_train": np.full((7, 2), np.inf)}, {}, "small.npz: x_train has NaN or infinite"),
        ({}, {"classes": 3}, "label of record 3 is 3, which is not a class from 0 to 2"),
        ({}, {"classes": 0}, "classes must be .* at least one, got 0"),
    ],
)
def test_unusable_arrays_are_refused(stored, changed, options, message):
    path, parts = stored
    np.savez(path, **(parts | changed))
    with pytest.raises(ValueError, match=message):
        data.npz(path, **options)

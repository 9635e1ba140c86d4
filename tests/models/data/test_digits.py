"""The embedded digits, against scikit-learn."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from sharpflow.models import digits


def test_all_digits_are_those_of_scikit_learn_scaled_to_one():
    images, labels = digits()
    bunch = load_digits()
    np.testing.assert_array_equal(images, bunch.data / 16.0)
    np.testing.assert_array_equal(labels, bunch.target)
    assert images.shape == (1797, 64)
    assert images.min() == 0.0
    assert images.max() == 1.0


def test_offset_and_classes_choose_images_in_the_order_of_the_data_set():
    images, labels = digits(5, offset=3, classes=(2, 7))
    bunch = load_digits()
    rows = [row for row, digit in enumerate(bunch.target) if digit in (2, 7)][3:8]
    np.testing.assert_array_equal(images, bunch.data[rows] / 16.0)
    np.testing.assert_array_equal(labels, bunch.target[rows])


def test_training_and_test_images_by_offset_do_not_overlap():
    first, second = digits(20)[0], digits(20, offset=20)[0]
    np.testing.assert_array_equal(np.concatenate([first, second]), digits(40)[0])


@pytest.mark.parametrize(
    ("num_images", "offset"), [(1798, 0), (1, 1797), (0, 0), (-1, 0), (5, -1), (None, 1797)]
)
def test_images_out_of_range_are_refused(num_images, offset):
    with pytest.raises(ValueError, match=f"num_images={num_images} from offset={offset}"):
        digits(num_images, offset=offset)

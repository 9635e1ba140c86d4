"""Labelled images: standardisation, subsets, and the record of both."""

import hashlib
import json
import warnings

import jax
import numpy as np
import pytest

import sharpflow as sf
from sharpflow.models import data

WORD = 2**64 - 1


def philox_words(key: int, count: int) -> list[int]:
    """Philox4x64-10 from the counter 1 on, Salmon et al. 2011, in Python integers."""
    words: list[int] = []
    counter = 1
    while len(words) < count:
        a, b, c, d = counter, 0, 0, 0
        first, second = key, 0
        for _ in range(10):
            low, high = a * 0xD2E7470EE14C6C93, c * 0xCA5A826395121157
            a, b, c, d = (
                (high >> 64) ^ b ^ first,
                high & WORD,
                (low >> 64) ^ d ^ second,
                low & WORD,
            )
            first = (first + 0x9E3779B97F4A7C15) & WORD
            second = (second + 0xBB67AE8584CAA73B) & WORD
        words += [a, b, c, d]
        counter += 1
    return words[:count]


@pytest.fixture
def images(random_records):
    """Thirty images of 4 × 5 pixels with three channels, of the classes 0, 1, 2."""
    pixels, labels = random_records(30, 3, (4, 5, 3))
    return data.arrays(pixels, labels, classes=("ant", "bee", "cow"))


def test_bytes_are_pixels_from_zero_to_one():
    x, y = data.arrays(np.array([[0, 51], [255, 102]], np.uint8), [1, 0])
    # Division rounds correctly, hence to the nearest float32.
    np.testing.assert_array_equal(x, np.array([[0.0, 0.2], [1.0, 0.4]], np.float32))
    np.testing.assert_array_equal(y, [1, 0])
    assert (x.dtype, y.dtype) == (np.float32, np.int64)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_standardised_pixels_are_those_of_the_formula_in_long_double(random_records, dtype):
    pixels, labels = random_records(20, 2, (4, 5, 3))
    mean, deviation = (0.5, 0.25, 0.4), (0.2, 0.3, 0.25)
    x = data.arrays(pixels, labels, standardize=(mean, deviation), dtype=dtype).images
    wide = pixels.astype(np.longdouble) / 255
    expected = (wide - np.array(mean, np.longdouble)) / np.array(deviation, np.longdouble)
    assert x.dtype == dtype
    # Pixel, difference and the constants are rounded before the division, each to half
    # an eps of at most 1, which the division by 0.2 or more magnifies by 5.
    np.testing.assert_allclose(x, expected, rtol=0, atol=5 * 4 * np.finfo(dtype).eps)


def test_floating_point_images_are_taken_as_they_are():
    values = np.linspace(-3.0, 300.0, 24).reshape(2, 3, 4)
    x, _ = data.arrays(values, [0, 1], dtype=np.float64)
    np.testing.assert_array_equal(x[..., 0], values)
    assert x.shape == (2, 3, 4, 1)


def test_images_plug_into_a_problem_like_the_plain_arrays(images):
    train, test = images.first(18), images.subset(range(18, 30))
    x, y = (images.pixels / 255).astype(np.float32), images.labels
    problem = sf.models.mlp(*train, widths=(), test=test)
    plain = sf.models.mlp(x[:18], y[:18], widths=(), test=(x[18:], y[18:]))

    @jax.jit
    def losses(params):
        return [(each.loss_value(params), each.metrics["test_error"](params))
                for each in (problem, plain)]  # fmt: skip

    got, expected = losses(problem.init(jax.random.key(0)))
    assert got == expected


def test_arrays_are_copied_and_read_only():
    pixels, labels = np.zeros((2, 3)), np.array([0, 1])
    images = data.arrays(pixels, labels)
    pixels[0, 0], labels[0] = 7.0, 1
    assert images.pixels[0, 0] == 0.0
    assert images.labels[0] == 0
    for array in (images.pixels, images.labels, images.images, images.indices):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


def test_subset_takes_images_by_index_in_the_order_asked(images):
    chosen = images.subset([7, 2, 29])
    np.testing.assert_array_equal(chosen.pixels, images.pixels[[7, 2, 29]])
    np.testing.assert_array_equal(chosen.labels, [1, 2, 2])
    assert chosen.source["subsets"] == [{"rule": "indices", "indices": [7, 2, 29]}]


def test_subsets_of_subsets_say_where_their_images_stood(images):
    chosen = images.keep([2, 0]).subset([5, 3, 1]).first(2)
    kept = [index for index in range(30) if index % 3 != 1]
    np.testing.assert_array_equal(chosen.indices, [kept[5], kept[3]])
    np.testing.assert_array_equal(chosen.pixels, images.pixels[chosen.indices])
    assert chosen.classes == {0: "ant", 2: "cow"}
    assert chosen.source["subsets"] == [
        {"rule": "keep", "classes": [0, 2]},
        {"rule": "indices", "indices": [5, 3, 1]},
        {"rule": "first", "n": 2},
    ]


@pytest.mark.parametrize("seed", [0, 17, 2**64 - 1])
def test_sample_is_of_the_smallest_philox_words(images, seed):
    words = philox_words(seed, 30)
    ranked = sorted(range(30), key=lambda index: words[index])
    np.testing.assert_array_equal(images.sample(11, seed=seed).indices, sorted(ranked[:11]))
    of_each = [[i for i in ranked if i % 3 == label][:4] for label in range(3)]
    of_each = sorted(of_each[0] + of_each[1] + of_each[2])
    sample = images.sample(4, seed=seed, per_class=True)
    np.testing.assert_array_equal(sample.indices, of_each)
    np.testing.assert_array_equal(sample.labels, images.labels[of_each])


def test_sample_of_each_class_has_equally_many_and_is_recorded(images):
    sample = images.sample(np.int64(7), seed=np.uint8(5), per_class=True)
    assert sample.class_counts == {0: 7, 1: 7, 2: 7}
    rule = {"rule": "sample", "n": 7, "seed": 5, "per_class": True}
    assert sample.source["subsets"] == [rule]
    assert json.loads(json.dumps(sample.source)) == sample.source


def test_a_smaller_sample_is_part_of_a_larger_one(images):
    small, large = (set(images.sample(n, seed=3).indices.tolist()) for n in (5, 20))
    assert small < large


def test_what_is_left_without_a_part_is_the_rest_in_its_order(images):
    part = images.sample(7, seed=1)
    rest = images.without(part)
    assert rest.indices.tolist() == sorted(set(range(images.num_images)) - set(part.indices))
    assert "without 7 others" in repr(rest)
    assert rest.source["subsets"] == [{"rule": "without", "n": 7, "sha256": part.source["sha256"]}]
    with pytest.raises(ValueError, match="others must leave an image"):
        images.without(images)
    with pytest.raises(ValueError, match="others must come from what these images come from"):
        images.without(data.arrays(images.pixels, images.labels, name="others"))


def test_different_seeds_give_different_samples(images):
    first, second = (images.sample(15, seed=seed).indices for seed in (0, 1))
    assert np.any(first != second)


@pytest.mark.filterwarnings("ignore:the first 2 of 30")
def test_source_has_the_sha256_of_shape_bytes_and_labels(images):
    chosen = images.first(2)
    content = b"(2, 4, 5, 3) |u1" + bytes(images.pixels[:2].ravel().tolist())
    content += b"".join(label.to_bytes(8, "little") for label in (0, 1))
    assert chosen.source["sha256"] == hashlib.sha256(content).hexdigest()


def test_source_tells_the_constants_and_the_name():
    images = data.arrays(
        np.eye(3), [0, 1, 2], standardize=([0.5], [2]), dtype=np.float64, name="unit vectors"
    )
    source = images.source
    assert source.pop("sha256") == images.source["sha256"]
    assert source == {
        "dataset": "unit vectors",
        "split": "",
        "files": [],
        "found": 0,
        "official": None,
        "num_images": 3,
        "subsets": [],
        "standardization": {"mean": [0.5], "deviation": [2.0]},
        "dtype": "float64",
    }


def test_images_are_counted_by_name_because_they_unpack_as_a_pair(images):
    assert images.num_images == 30
    assert images.first(7).num_images == 7
    assert len(list(images)) == 2
    with pytest.raises(TypeError, match="len"):
        len(images)


def test_repr_tells_size_classes_and_subsets(images):
    assert repr(images) == "Images(n=30, 4x5x3, 3 classes, arrays)"
    chosen = images.keep([0, 2]).sample(3, seed=8, per_class=True).first(5).subset([4, 0])
    assert repr(chosen) == (
        "Images(n=2, 4x5x3, 2 classes, arrays, classes [0, 2], "
        "3 of each class by seed 8, first 5, 2 by index)"
    )


def test_first_says_which_classes_it_leaves_out():
    images = data.arrays(np.zeros((8, 2)), [0, 0, 1, 0, 2, 1, 1, 1], classes=("ant", "bee", "cow"))
    with pytest.warns(
        UserWarning, match=r"first 2 of 8 .* none of class 1 \(bee\) of 4, 2 \(cow\)"
    ):
        two = images.first(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert images.first(5).class_counts == {0: 3, 1: 1, 2: 1}
        # what was missing before is not missed again
        assert two.first(1).class_counts == {0: 1, 1: 0, 2: 0}


@pytest.mark.filterwarnings("ignore:the first 2 of 30")
@pytest.mark.parametrize(
    ("take", "message"),
    [
        (lambda i: i.subset([0, 30]), "indices must be within 0 and 29, got 30"),
        (lambda i: i.subset([-1]), "indices must be within 0 and 29, got -1"),
        (lambda i: i.subset([3, 4, 3]), "indices must be distinct, got 3 twice"),
        (lambda i: i.subset([]), r"at least one, got shape \(0,\)"),
        (lambda i: i.subset([True, False]), "sequence of integers.* dtype bool"),
        (lambda i: i.subset([[1]]), r"got shape \(1, 1\)"),
        (lambda i: i.first(0), "n must be from 1 to 30: there are 30 images, got n=0"),
        (lambda i: i.first(31), "n must be from 1 to 30: there are 30 images, got n=31"),
        (lambda i: i.sample(31), "n must be from 1 to 30: there are 30 images, got n=31"),
        (lambda i: i.sample(1, seed=-1), r"seed must be from 0 to 2\*\*64 - 1, got -1"),
        (lambda i: i.sample(0, per_class=True), r"class 0 \(ant\) has 10 images, got n=0"),
        (lambda i: i.sample(11, per_class=True), r"class 0 \(ant\) has 10 images, got n=11"),
        (lambda i: i.first(2).sample(1, per_class=True), r"class 2 \(cow\) has no images"),
        (lambda i: i.first(2).keep([1, 2]), r"class 2 \(cow\) has no images"),
        (lambda i: i.keep([]), r"classes must be distinct and at least one, got \[\]"),
        (lambda i: i.keep([1, 1]), r"classes must be distinct .* got \[1, 1\]"),
        (lambda i: i.keep([3]), r"classes must be among \[0, 1, 2\], got 3"),
    ],
)
def test_subsets_that_there_are_not_are_refused(images, take, message):
    with pytest.raises(ValueError, match=message):
        take(images)


BYTES = np.zeros((2, 4, 4, 3), np.uint8)


@pytest.mark.parametrize(
    ("images", "labels", "options", "message"),
    [
        (BYTES[0, 0, 0], [0, 1], {}, r"images must have shape .* got \(3,\)"),
        (BYTES[:0], [], {}, r"images must have shape .* got \(0, 4, 4, 3\)"),
        (BYTES.astype(int), [0, 1], {}, "images must be uint8 or floating point, got dtype int64"),
        (np.full((2, 3), np.nan), [0, 1], {}, "images has NaN or infinite entries"),
        (BYTES, [0, 1, 2], {}, r"labels must have shape \(2,\), .* got \(3,\)"),
        (BYTES, [0.0, 1.0], {}, "labels must be integer classes, got dtype float64"),
        (BYTES, [0, -1], {}, "labels must not be negative, got -1"),
        (BYTES, [0, 5], {"classes": 5}, "label of record 1 is 5, .* class from 0 to 4"),
        (BYTES, [0, 0], {"classes": 0}, "classes must be .* at least one, got 0"),
        (BYTES, [0, 0], {"classes": ()}, r"classes must be .* at least one, got \(\)"),
        (BYTES, [0, 0], {"dtype": np.float16}, "dtype must be float32 or float64, got float16"),
        (BYTES, [0, 0], {"dtype": "tiny"}, "dtype must be float32 or float64, got 'tiny'"),
        (BYTES, [0, 0], {"standardize": 0.5}, r"standardize must be .* \(mean, deviation\)"),
        (BYTES, [0, 0], {"standardize": ((0.1, 0.2), (1,))}, "mean .* must be one .* or 3"),
        (BYTES, [0, 0], {"standardize": ((0.1,), (np.inf,))}, "deviation .* finite"),
        (BYTES, [0, 0], {"standardize": ((0.1,), (0,))}, "deviation .* must be positive"),
    ],
)
def test_unusable_arrays_are_refused(images, labels, options, message):
    with pytest.raises(ValueError, match=message):
        data.arrays(images, labels, **options)

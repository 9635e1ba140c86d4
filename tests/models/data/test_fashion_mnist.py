"""Fashion-MNIST in small IDX files written by the tests."""

import dataclasses
import gzip
import tracemalloc

import numpy as np
import pytest

from sharpflow.models import data
from sharpflow.models.data.fashion_mnist import FILES, read


@pytest.fixture
def files(tmp_path, random_records, write_idx):
    """Pixels and labels of nine images; six to train, gzipped, and three to test, plain."""
    pixels, labels = random_records(9, 10, (28, 28))
    write_idx(tmp_path / "train-images-idx3-ubyte.gz", pixels[:6])
    write_idx(tmp_path / "train-labels-idx1-ubyte.gz", labels[:6])
    write_idx(tmp_path / "t10k-images-idx3-ubyte", pixels[6:])
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", labels[6:])
    return pixels, labels


def test_plain_and_gzipped_files_are_read_pixel_by_pixel(tmp_path, files):
    pixels, labels = files
    train, test = data.fashion_mnist(tmp_path, standardize=None, dtype=np.float64)
    np.testing.assert_array_equal(train.images, pixels[:6, :, :, None] / 255)
    np.testing.assert_array_equal(train.labels, labels[:6])
    np.testing.assert_array_equal(test.images, pixels[6:, :, :, None] / 255)
    np.testing.assert_array_equal(test.labels, labels[6:])
    assert train.classes[9] == "Ankle boot"


def test_pixels_are_standardised_by_the_stated_constants(tmp_path, files):
    train, _ = data.fashion_mnist(tmp_path)
    expected = (files[0][:6, :, :, None] / 255 - 0.2860) / 0.3530
    # float32 rounds pixel, constants and difference, magnified by 1/0.353 < 3.
    atol = 3 * 4 * np.finfo(np.float32).eps
    np.testing.assert_allclose(train.images, expected, rtol=0, atol=atol)


@pytest.mark.parametrize("below", ["fashion-mnist", "FashionMNIST/raw"])
def test_root_may_be_above_the_folder_of_the_files(tmp_path, files, below):
    (tmp_path / "root" / below).mkdir(parents=True)
    for path in list(tmp_path.glob("*ubyte*")):
        path.rename(tmp_path / "root" / below / path.name)
    train, _ = data.fashion_mnist(tmp_path / "root")
    np.testing.assert_array_equal(train.labels, files[1][:6])


def test_source_and_repr_say_how_much_was_found(tmp_path, files):
    train, test = data.fashion_mnist(tmp_path)
    name = "train-images-idx3-ubyte.gz"
    assert train.source["files"] == [{"name": name, "found": 6, "official": 60_000}]
    assert repr(test) == (
        "Images(n=3, 28x28x1, 10 classes, fashion_mnist test: t10k-images-idx3-ubyte 3 of 10000)"
    )


def test_a_split_without_files_is_empty(tmp_path, files):
    for path in tmp_path.glob("t10k*"):
        path.unlink()
    train, test = data.fashion_mnist(tmp_path)
    assert train.labels.size == 6
    assert test.images.shape == (0, 28, 28, 1)


def test_a_folder_without_files_is_refused_with_the_places(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        data.fashion_mnist(tmp_path)
    for part in (str(tmp_path / "fashion-mnist"), "t10k-labels-idx1-ubyte.gz", "download=True"):
        assert part in str(caught.value)


def test_images_without_labels_are_refused(tmp_path, files):
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="neither t10k-labels-idx1-ubyte nor .*gz"):
        data.fashion_mnist(tmp_path)


@pytest.mark.parametrize(
    ("name", "shape", "options", "message"),
    [
        ("t10k-images-idx3-ubyte", (3, 28, 28), {"magic": 0x0D00}, "magic number 0x00000d03, not "),
        ("t10k-images-idx3-ubyte", (3,), {}, "magic number 0x00000801, not with 0x00000803"),
        ("t10k-labels-idx1-ubyte", (3, 1), {}, "magic number 0x00000802, not with 0x00000801"),
        ("t10k-images-idx3-ubyte", (3, 28, 28), {"lengths": (4, 28, 28)}, "2352 bytes of .* 3136"),
        ("t10k-images-idx3-ubyte", (3, 28, 28), {"lengths": (2, 28, 28)}, "2352 bytes of .* 1568"),
        ("t10k-images-idx3-ubyte", (3, 28, 28), {"lengths": (3, 28)}, "2348 bytes of data"),
        ("t10k-images-idx3-ubyte", (3, 28, 27), {}, r"images of \(28, 27\) pixels; .*\(28, 28\)"),
        ("t10k-images-idx3-ubyte", (0, 28, 28), {}, "but .* 3 labels"),
        ("t10k-labels-idx1-ubyte", (4,), {}, "holds 3 images, but .* 4 labels"),
    ],
)
def test_files_in_another_layout_are_refused(
    tmp_path, files, write_idx, name, shape, options, message
):
    write_idx(tmp_path / name, np.zeros(shape), **options)
    with pytest.raises(ValueError, match=message):
        data.fashion_mnist(tmp_path)


@pytest.mark.parametrize("count", [0, 10_001])
def test_no_images_and_more_than_the_official_number_are_refused(tmp_path, files, count):
    header = bytes([0, 0, 8, 3]) + b"".join(x.to_bytes(4, "big") for x in (count, 28, 28))
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(header + bytes(count * 784))
    labels = bytes([0, 0, 8, 1]) + count.to_bytes(4, "big") + bytes(count)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(labels)
    with pytest.raises(ValueError, match=f"holds {count} images; allowed are 1 to .* 10000"):
        data.fashion_mnist(tmp_path)


def test_a_file_that_ends_in_its_header_is_refused(tmp_path, files):
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(bytes([0, 0, 8, 3, 0, 0]))
    with pytest.raises(ValueError, match="ends within its header of 16 bytes"):
        data.fashion_mnist(tmp_path)


@pytest.mark.parametrize("damage", [lambda b: b[:-20], lambda b: b"no gzip", lambda b: b[:12]])
def test_a_damaged_gzip_file_is_refused(tmp_path, files, damage):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match="train-images-idx3-ubyte.gz is not a whole gzip file"):
        data.fashion_mnist(tmp_path)


def test_a_gzip_file_with_damaged_content_is_refused(tmp_path, files):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    content = bytearray(gzip.compress(bytes(range(256)) * 20))
    content[40] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match="train-images-idx3-ubyte.gz is not a whole gzip file"):
        data.fashion_mnist(tmp_path)


@pytest.mark.parametrize("count", [3, 2**31 - 1])
def test_of_a_small_file_that_unpacks_to_a_huge_one_no_more_than_the_official_size_is_read(
    tmp_path, files, count
):
    header = bytes([0, 0, 8, 3]) + b"".join(x.to_bytes(4, "big") for x in (count, 28, 28))
    (tmp_path / "t10k-images-idx3-ubyte").unlink()
    with gzip.open(tmp_path / "t10k-images-idx3-ubyte.gz", "wb", compresslevel=1) as file:
        file.write(header)
        for _ in range(64):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    with pytest.raises(ValueError, match="more than 7840000 bytes of data|holds 2147483647 images"):
        data.fashion_mnist(tmp_path)
    # what is read, a copy of it, and the other files
    assert tracemalloc.get_traced_memory()[1] < 3 * 7_840_000
    tracemalloc.stop()


def test_a_label_out_of_range_is_refused(tmp_path, files, write_idx):
    write_idx(tmp_path / "t10k-labels-idx1-ubyte", np.array([1, 2, 10]))
    with pytest.raises(ValueError, match="t10k-labels-idx1-ubyte: the label of record 2 is 10"):
        data.fashion_mnist(tmp_path)


@pytest.fixture
def idx_files(served, random_records, write_idx, as_remote):
    """The four files of Fashion-MNIST, of five images each, as remote files."""
    pixels, labels = random_records(5, 10, (28, 28))
    files = {}
    for name in FILES:
        write_idx(served / name, pixels if "images" in name else labels)
        files[name] = as_remote(served / name)
    return files


def fetched(files, root):
    return read(files, root, download=True, standardize=None, dtype=np.float32)


def test_fetched_fashion_mnist_is_put_in_place_and_its_part_reported(tmp_path, served, idx_files):
    # Five images are a part of the official ones, which a download does not take for all.
    with pytest.raises(FileExistsError, match="t10k-images-idx3-ubyte.gz 5 of 10000"):
        fetched(idx_files, tmp_path)
    for name in idx_files:
        assert (tmp_path / "fashion-mnist" / name).read_bytes() == (served / name).read_bytes()


def test_one_bad_file_of_fashion_mnist_leaves_none(tmp_path, idx_files):
    last = "t10k-labels-idx1-ubyte.gz"
    idx_files[last] = dataclasses.replace(idx_files[last], md5="f" * 32)
    with pytest.raises(ValueError, match="has the MD5"):
        fetched(idx_files, tmp_path / "root")
    assert list(tmp_path.iterdir()) == []

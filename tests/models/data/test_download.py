"""Downloads, from files and from a server on this machine; never from the network."""

import contextlib
import dataclasses
import http.server
import tarfile
import threading

import numpy as np
import pytest

from sharpflow.models.data import cifar
from sharpflow.models.data.download import RemoteFile, fetch_archive

FOLDER = "cifar-10-batches-bin"


@pytest.fixture
def records(random_records):
    """Pixels and labels of five images: three to train, two to test."""
    return random_records(5)


@pytest.fixture
def layout(served, records, write_batch, as_remote):
    """CIFAR-10 with an archive of five records that are all that there officially are."""
    pixels, labels = records
    folder = served / FOLDER
    write_batch(folder / "data_batch_1.bin", pixels[:3], labels[:3])
    write_batch(folder / "test_batch.bin", pixels[3:], labels[3:])
    (folder / "notes").mkdir()
    (folder / "notes" / "readme.html").write_text("<p>")
    with tarfile.open(served / "archive.tar.gz", "w:gz") as archive:
        archive.add(folder, f"./{FOLDER}")
    return dataclasses.replace(
        cifar.CIFAR10,
        files={"train": {"data_batch_1.bin": 3}, "test": {"test_batch.bin": 2}},
        archive=as_remote(served / "archive.tar.gz"),
    )


def read(layout, root, download=True):
    return cifar.read(layout, root, "class", download=download, standardize=None, dtype=np.float32)


def changed(layout, **changes):
    return dataclasses.replace(layout, archive=dataclasses.replace(layout.archive, **changes))


@contextlib.contextmanager
def server(respond):
    """The URL of a server on this machine whose GET requests are answered by respond."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            with contextlib.suppress(ConnectionError):
                respond(self)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}/cifar-10-binary.tar.gz"
        finally:
            running.shutdown()
            thread.join()


def answer(content, stated_length=None):
    def respond(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(stated_length or len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return respond


def test_a_fetched_archive_is_unpacked_and_read(tmp_path, served, layout, records):
    content = (served / "archive.tar.gz").read_bytes()
    with server(answer(content)) as url:
        train, test = read(changed(layout, url=url), tmp_path / "new" / "root")
    np.testing.assert_array_equal(train.pixels, records[0][:3])
    np.testing.assert_array_equal(test.labels, records[1][3:])
    root = tmp_path / "new" / "root"
    assert [path.name for path in root.iterdir()] == [FOLDER]
    found = {path.relative_to(root / FOLDER).as_posix() for path in root.rglob("*.*")}
    assert found == {"data_batch_1.bin", "test_batch.bin", "notes/readme.html"}


def test_what_is_complete_is_not_fetched_again(tmp_path, served, layout):
    first = read(layout, tmp_path)[0]
    (served / "archive.tar.gz").unlink()
    assert read(layout, tmp_path)[0].source == first.source


def test_a_download_never_touches_a_part_that_is_there(tmp_path, layout, records, write_batch):
    write_batch(tmp_path / FOLDER / "data_batch_1.bin", records[0][:2], records[1][:2])
    before = (tmp_path / FOLDER / "data_batch_1.bin").read_bytes()
    with pytest.raises(FileExistsError, match="data_batch_1.bin 2 of 3.*test_batch.bin 0 of 2"):
        read(layout, tmp_path)
    assert [path.name for path in (tmp_path / FOLDER).iterdir()] == ["data_batch_1.bin"]
    assert (tmp_path / FOLDER / "data_batch_1.bin").read_bytes() == before
    assert read(layout, tmp_path, download=False)[0].labels.size == 2


def test_a_folder_with_something_else_is_not_replaced(tmp_path, layout):
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "thesis.txt").write_text("unsaved")
    with pytest.raises(FileExistsError, match=f"{FOLDER} cannot be made from a download"):
        read(layout, tmp_path)
    assert [path.name for path in tmp_path.rglob("*")] == [FOLDER, "thesis.txt"]


def test_the_second_of_two_downloads_finds_the_files_of_the_first(tmp_path, layout, records):
    fetch_archive(layout.archive, tmp_path / FOLDER)
    inode = (tmp_path / FOLDER).stat().st_ino
    fetch_archive(layout.archive, tmp_path / FOLDER)
    assert (tmp_path / FOLDER).stat().st_ino == inode
    assert [path.name for path in tmp_path.iterdir()] == [FOLDER]
    np.testing.assert_array_equal(read(layout, tmp_path)[0].pixels, records[0][:3])


def test_downloads_at_the_same_time_give_the_same_images(tmp_path, served, layout, records):
    together = threading.Barrier(2, timeout=10)
    content = (served / "archive.tar.gz").read_bytes()

    def respond(handler):
        together.wait()  # both have begun before either ends
        answer(content)(handler)

    got, threads = [], []
    with server(respond) as url:
        for _ in range(2):
            thread = threading.Thread(
                target=lambda: got.append(read(changed(layout, url=url), tmp_path)[0])
            )
            thread.start()
            threads.append(thread)
        for thread in threads:
            thread.join()
    assert len(got) == 2
    for images in got:
        np.testing.assert_array_equal(images.pixels, records[0][:3])
    assert [path.name for path in tmp_path.iterdir()] == [FOLDER]


def test_a_file_longer_than_the_official_one_is_left_off_at_once(tmp_path, layout):
    sent = []

    def endless(handler):
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(bytes(1 << 16))
            sent.append(1 << 16)

    with (
        server(endless) as url,
        pytest.raises(ValueError, match=f"longer than the {layout.archive.size} bytes"),
    ):
        read(changed(layout, url=url), tmp_path / "root")
    assert list(tmp_path.iterdir()) == []
    assert sum(sent) < 1 << 27  # what fits into the buffers of a connection


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"md5": "0" * 32}, "has the MD5 [0-9a-f]{32}; the official file has 0{32}"),
        ({"size": 10**6}, "ended after [0-9]+ bytes; the official file has 1000000"),
        ({"size": 10}, "longer than the 10 bytes"),
    ],
)
def test_an_archive_that_is_not_the_official_one_leaves_nothing(tmp_path, layout, changes, message):
    with pytest.raises(ValueError, match=message):
        read(changed(layout, **changes), tmp_path / "new" / "root")
    assert list(tmp_path.iterdir()) == []


def test_a_broken_connection_is_an_error_that_leaves_nothing(tmp_path, layout):
    size = layout.archive.size
    with (
        server(answer(bytes(size // 2), stated_length=size)) as url,
        pytest.raises((ValueError, OSError), match="ended after|could not fetch"),
    ):
        read(changed(layout, url=url), tmp_path / "root")
    with pytest.raises(OSError, match=f"could not fetch {url}"):
        read(changed(layout, url=url), tmp_path / "root")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_page_is_an_error_with_the_address(tmp_path, layout):
    with (
        server(lambda handler: handler.send_error(404)) as url,
        pytest.raises(OSError, match=f"could not fetch {url}: HTTP Error 404"),
    ):
        read(changed(layout, url=url), tmp_path / "root")
    assert list(tmp_path.iterdir()) == []


def test_official_archives_are_those_that_the_publisher_lists():
    # https://www.cs.toronto.edu/~kriz/cifar.html; sizes as others who fetched them report.
    assert cifar.CIFAR10.archive == RemoteFile(
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        170052171,
        "c32a1d4ab5d03f1284b67883e8d87530",
    )
    assert cifar.CIFAR100.archive == RemoteFile(
        "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        168513733,
        "03b5dce01913d631647c71ecec9e9cb8",
    )

"""An archive as large as that of CIFAR-10, fetched from a server on this machine and read."""

import dataclasses
import functools
import hashlib
import http.server
import io
import tarfile
import threading

import numpy as np

from sharpflow.experiments.problems import vgg_cifar10
from sharpflow.models import data
from sharpflow.models.data import cifar
from sharpflow.models.data.download import RemoteFile

LAYOUT = cifar.CIFAR10
FILES = {name: count for files in LAYOUT.files.values() for name, count in files.items()}


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


def _write_archive(path):
    """All official files with random pixels; the digest of all pixels and labels, by split."""
    random = np.random.default_rng(0)
    digests = {split: hashlib.sha256() for split in LAYOUT.files}
    # Random bytes do not get shorter, so that trying costs time alone.
    with tarfile.open(path, "w:gz", compresslevel=0) as archive:
        for split, files in LAYOUT.files.items():
            for name, count in files.items():
                records = random.integers(0, 256, (count, LAYOUT.record_bytes), np.uint8)
                records[:, 0] = np.arange(count) % 10
                digests[split].update(records)
                member = tarfile.TarInfo(f"{LAYOUT.folder}/{name}")
                member.size = records.nbytes
                archive.addfile(member, io.BytesIO(records.tobytes()))
    return {split: digest.hexdigest() for split, digest in digests.items()}


def _digest(images):
    """Of records as the files have them: a label, then red, green and blue."""
    pixels = images.pixels.transpose(0, 3, 1, 2).reshape(images.num_images, -1)
    records = np.concatenate([images.labels[:, None].astype(np.uint8), pixels], axis=1)
    return hashlib.sha256(records).hexdigest()


def test_a_problem_fetches_all_of_cifar10_and_names_it(tmp_path, monkeypatch):
    path, root = tmp_path / "archive.tar.gz", tmp_path / "root"
    written = _write_archive(path)
    with path.open("rb") as file:
        md5 = hashlib.file_digest(file, "md5").hexdigest()
    size = path.stat().st_size
    assert size > LAYOUT.archive.size  # the official one, 170 MB, has pixels that get shorter
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        remote = RemoteFile(f"http://127.0.0.1:{server.server_port}/{path.name}", size, md5)
        monkeypatch.setattr(cifar, "CIFAR10", dataclasses.replace(LAYOUT, archive=remote))
        problem = vgg_cifar10(
            str(root), num_images=None, num_test_images=10, pool=8, channels=(2,), download=True
        )
        server.shutdown()
    train, test = data.cifar10(root)  # the server is gone: what was fetched is there
    assert (_digest(train), _digest(test)) == (written["train"], written["test"])
    assert {file.name: file.stat().st_size for file in (root / LAYOUT.folder).iterdir()} == {
        name: count * LAYOUT.record_bytes for name, count in FILES.items()
    }
    assert "cifar10 train: all 50000" in repr(train) and "cifar10 test: all 10000" in repr(test)
    assert problem.data.inputs.shape == (50_000, 4, 4, 3)
    assert problem.source["train"]["sha256"] == train.source["sha256"]
    assert problem.source["train"]["found"] == problem.source["train"]["official"] == 50_000
    assert problem.source["test"]["num_images"] == 10

"""A checkpoint is read back bit for bit, or known to be damaged; no pickle is ever read."""

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from sharpflow.models.files import (
    digest,
    read_sealed,
    remove_partial,
    write_atomically,
    write_json,
    write_sealed,
)
from sharpflow.simulator.store import checkpoint
from sharpflow.simulator.store.checkpoint import (
    read_newest,
    remove_checkpoints,
    write_checkpoint,
)


def _leaves(count, seed=0):
    """Arrays as the states of points hold them, and values that are easily lost."""
    random = np.random.default_rng(seed)
    odd = np.array([np.nan, -0.0, np.inf, 5e-324, 1.0])[:count]
    return [
        random.normal(size=(count, 3, 2)),
        random.normal(size=(count, 4)).astype(np.float32),
        np.resize(odd, count),
        np.frombuffer(np.uint64(0x7FF8DEADBEEF0001).tobytes() * count, np.float64),
        random.integers(-5, 5, count, dtype=np.int32),
        random.integers(0, 2**32, (count, 2), dtype=np.uint32),
        np.zeros((count, 0)),
        random.integers(0, 2, count).astype(bool),
    ]


def _assert_same_bits(found, expected):
    assert found.dtype == expected.dtype and found.shape == expected.shape
    assert found.tobytes() == expected.tobytes()


def test_a_checkpoint_is_read_back_bit_for_bit(tmp_path):
    leaves = _leaves(4)
    # more leaves than one digit numbers, to be kept in order
    leaves += [np.full(4, float(index)) for index in range(12)]
    write_checkpoint(tmp_path / "new" / "folder", {7: 3, 2: 0, 11: 5, 4: 2**40}, leaves)
    found, wrong = read_newest(tmp_path / "new" / "folder")
    assert wrong == [] and found.positions == {7: 3, 2: 0, 11: 5, 4: 2**40}
    for row, point in enumerate((7, 2, 11, 4)):
        for ours, theirs in zip(found.states[point], leaves, strict=True):
            _assert_same_bits(ours, theirs[row])


def test_only_the_last_two_are_kept(tmp_path):
    for number in range(5):
        write_checkpoint(tmp_path, {0: number}, _leaves(1, number))
        kept = [f"{n:08d}.{s}" for n in (number - 1, number) if n >= 0 for s in ("json", "npz")]
        assert sorted(path.name for path in tmp_path.iterdir()) == kept
        assert read_newest(tmp_path)[0].positions == {0: number}


def test_what_a_kill_left_of_others_is_removed(tmp_path):
    for number in range(3):
        write_checkpoint(tmp_path, {0: number}, _leaves(1))
    (tmp_path / "00000000.npz").write_bytes(b"its manifest has been removed")
    (tmp_path / "00000003.npz").write_bytes(b"its manifest has not been written")
    (tmp_path / "00000003.json.1234.partial").write_bytes(b"half")
    found, wrong = read_newest(tmp_path)
    assert found.positions == {0: 2} and wrong == []
    write_checkpoint(tmp_path, {0: 3}, _leaves(1))
    assert sorted(path.stem for path in tmp_path.glob("*")) == 2 * ["00000002"] + 2 * ["00000003"]
    assert read_newest(tmp_path)[0].positions == {0: 3}


def test_a_manifest_is_removed_before_its_arrays_and_written_after(tmp_path, monkeypatch):
    def check(do):
        def checked(*arguments, **keywords):
            do(*arguments, **keywords)
            assert read_newest(tmp_path)[1] == []

        return checked

    for name in ("unlink", "replace"):
        monkeypatch.setattr(Path, name, check(getattr(Path, name)))
    for number in range(4):
        write_checkpoint(tmp_path, {0: number}, _leaves(1))
    remove_checkpoints(tmp_path)
    assert not tmp_path.exists()
    remove_checkpoints(tmp_path)  # where there are none nothing happens
    assert read_newest(tmp_path) == (None, [])


def test_checkpoints_are_ordered_by_number(tmp_path, monkeypatch):
    write_checkpoint(tmp_path, {0: 1}, _leaves(1))
    for suffix in ("json", "npz"):
        (tmp_path / f"00000000.{suffix}").rename(tmp_path / f"99999999.{suffix}")
    write_checkpoint(tmp_path, {0: 2}, _leaves(1))
    assert (tmp_path / "100000000.json").exists()
    assert read_newest(tmp_path)[0].positions == {0: 2}
    for name in ("notes.json", "²".encode().decode() + ".json", "-1.json"):
        (tmp_path / name).write_text("{}")
    assert read_newest(tmp_path)[0].positions == {0: 2}


def test_damage_to_any_byte_is_seen(tmp_path):
    write_checkpoint(tmp_path, {3: 1, 5: 2}, [np.arange(2.0), np.arange(4).reshape(2, 2)])
    expected, _ = read_newest(tmp_path)
    for path in sorted(tmp_path.iterdir()):
        content = path.read_bytes()
        for place in range(len(content)):
            for bit in (0x01, 0x80):
                path.write_bytes(
                    content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :]
                )
                found, wrong = read_newest(tmp_path)
                assert found is None and len(wrong) == 1, (path.name, place)
        path.write_bytes(content)
    assert read_newest(tmp_path)[0].positions == expected.positions


def test_no_pickle_is_written(tmp_path):
    with pytest.raises(ValueError, match="[Oo]bject arrays"):
        write_checkpoint(tmp_path, {0: 1}, [np.array([{"a": 1}], object)])
    assert list(tmp_path.iterdir()) == []


def test_no_pickle_is_read_even_if_its_digest_is_right(tmp_path):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    assert pickle.dumps(Harm())
    np.savez(tmp_path / "00000000.npz", **{"0000": np.array([Harm()], object)})
    content = {"data": digest(tmp_path / "00000000.npz"), "points": [[0, 1]]}
    write_sealed(tmp_path / "00000000.json", content)
    found, (wrong,) = read_newest(tmp_path)
    assert found is None and "allow_pickle" in wrong
    assert not (tmp_path / "harm").exists()


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(file):
        file.write(b"half of the ne")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def test_a_file_is_on_the_disk_before_it_is_in_its_place(tmp_path, monkeypatch):
    path, synced, fsync = tmp_path / "file", [], os.fsync

    def watched(handle):
        assert not path.exists()
        synced.append(os.fstat(handle).st_size)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", watched)
    write_atomically(path, lambda file: file.write(b"content"))
    assert synced == [7] and path.read_bytes() == b"content"


def test_writers_of_one_file_do_not_share_a_partial_one(tmp_path):
    seen = []

    def write(file):
        seen.append(file.name)
        if len(seen) == 1:  # another process, perhaps of the same number, comes between
            write_atomically(tmp_path / "file", write)
        file.write(b"content")

    write_atomically(tmp_path / "file", write)
    assert len(set(seen)) == 2 and (tmp_path / "file").read_bytes() == b"content"


@pytest.mark.parametrize(
    "content",
    [{"a": [1, 2.5, None, True, "grün"]}, [], None, "text", {"b": 1e-300, "a": float("inf")}],
)
def test_sealed_json_is_read_back(tmp_path, content):
    write_sealed(tmp_path / "file", content)
    assert read_sealed(tmp_path / "file") == content


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"content": 1}', '{"sha256": 1}', "1"])
def test_json_without_its_seal_is_refused(tmp_path, text):
    (tmp_path / "file").write_text(text)
    with pytest.raises(ValueError, match="damaged|Expecting"):
        read_sealed(tmp_path / "file")


def test_json_is_readable_by_people(tmp_path):
    write_json(tmp_path / "file", {"name": "value"})
    assert (tmp_path / "file").read_text() == '{\n "name": "value"\n}\n'
    assert json.loads((tmp_path / "file").read_text()) == {"name": "value"}


def test_partial_files_are_removed_at_any_depth_and_nothing_else(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("x.partial", "a/y.0f.partial", "a/b/0.aa.partial", "a/kept", "a/partial"):
        (tmp_path / name).touch()
    remove_partial(tmp_path)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"a/kept", "a/partial"}


def test_two_checkpoints_are_enough_for_one_to_be_whole():
    assert checkpoint._KEPT >= 2

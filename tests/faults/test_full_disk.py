"""A disk that takes no more stops a run with a clear error; with space it goes on."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from filesystem import before_changes
from scenarios import differences

import sharpflow as sf


def _refuse(at, number):
    """A watcher by which every change from the ``at``-th on fails; files can be removed."""
    changes = 0

    def refuse(kind, path):
        nonlocal changes
        changes += 1
        if changes > at and kind not in ("os.remove", "os.rmdir"):
            raise OSError(number, os.strerror(number), str(path))

    return refuse


def test_no_space_at_any_change_is_told_and_mended(short, tmp_path, soaking, say):
    count = len(short.states)
    stopped = 0
    for at in range(0, count, 1 if soaking else count // 16):
        run = tmp_path / str(at)
        with before_changes(run, _refuse(at, errno.ENOSPC)):
            try:
                short.run(run)
            except sf.simulator.StorageError as error:
                assert error.errno == errno.ENOSPC
                assert str(run) in str(error) and "No space left" in str(error)
                assert "make space and resume" in str(error)
                stopped += 1
        assert differences(short.run(run), short.result) == [], at
        assert not list(run.rglob("*.partial"))
    assert stopped > 10
    if soaking:
        say(f"no space from the n-th change on: {stopped} stops, all resumed bit-identical")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EIO])
def test_a_disk_that_refuses_is_not_called_full(short, tmp_path, number):
    run = tmp_path / "run"
    with (
        before_changes(run, _refuse(len(short.states) // 2, number)),
        pytest.raises(sf.simulator.StorageError, match=f"{run}.*mend that and resume") as refused,
    ):
        short.run(run)
    assert refused.value.errno == number and os.strerror(number) in str(refused.value)
    assert differences(short.run(run), short.result) == []


def test_a_small_file_system_fills_and_is_enlarged_and_one_may_be_read_only(tmp_path, soaking, say):
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0:
        pytest.skip("this machine lets nobody mount a file system of his own")
    sizes = list(range(8, 200, 4)) if soaking else [24, 88, 128]
    script = Path(__file__).with_name("small_disk.py")
    done = subprocess.run(
        ["unshare", "-rm", sys.executable, str(script), str(tmp_path / "disk"), json.dumps(sizes)],
        capture_output=True,
        text=True,
        cwd=script.parents[2],
        env=os.environ | {"PYTHONPATH": str(script.parents[2])},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    *outcomes, read_only = [json.loads(line) for line in done.stdout.splitlines()]
    assert [outcome["kilobytes"] for outcome in outcomes] == sizes
    stops = [outcome for outcome in outcomes if outcome["error"]]
    assert len(stops) >= (20 if soaking else 2), outcomes
    assert {outcome["error"] for outcome in stops} == {"StorageError"}
    assert all("make space and resume" in outcome["message"] for outcome in stops)
    assert all(outcome["differences"] == [] for outcome in outcomes)
    assert read_only["error"] == "StorageError" and read_only["differences"] == []
    assert f"{tmp_path / 'disk' / 'run'}: Read-only file system" in read_only["message"]
    if soaking:
        say(f"file systems of {sizes[0]} to {sizes[-1]} KiB: {len(stops)} filled, all resumed")

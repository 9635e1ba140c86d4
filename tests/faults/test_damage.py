"""A damaged file costs the work since the one before it, and never a wrong number."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from scenarios import cut_short, differences

import sharpflow as sf
from sharpflow.simulator.store.folder import RunFolder


def _flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x01
    path.write_bytes(content)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _another_position(path: Path) -> None:
    """The manifest as a flipped bit may leave it: JSON, of another place in the run."""
    sealed = json.loads(path.read_text())
    sealed["content"]["points"][0][1] ^= 2
    path.write_text(json.dumps(sealed))


DAMAGES = {
    "arrays cut short": ("npz", _truncate),
    "arrays empty": ("npz", lambda path: path.write_bytes(b"")),
    "a bit of an array": ("npz", lambda path: _flip(path, path.stat().st_size // 2)),
    "arrays missing": ("npz", Path.unlink),
    "manifest cut short": ("json", _truncate),
    "manifest empty": ("json", lambda path: path.write_bytes(b"")),
    "manifest of another kind": ("json", lambda path: path.write_text("[1, 2]")),
    "manifest not text": ("json", lambda path: path.write_bytes(b"\xff\xfe")),
    "a position": ("json", _another_position),
}


def _done(folder: Path) -> int:
    """Updates made by the points in flight, as the newest whole checkpoint has it."""
    checkpoint, _ = RunFolder(folder).read_checkpoints(0)
    pieces = RunFolder(folder).layout(0)["pieces"]
    # 60 steps in 12 records of 5, of which the first row makes 3 and the second 2
    assert pieces == 2
    return sum(rows // 2 * 5 + rows % 2 * 3 for rows in checkpoint.positions.values())


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_told_and_the_one_before_goes_on(
    short, updates_made, tmp_path, damage
):
    run = tmp_path / "run"
    short.midway(run)
    updates_made.clear()
    older, newest = sorted((run / "checkpoints" / "0" / "0").glob("*.npz"))
    suffix, spoil = DAMAGES[damage]
    whole = _done(run)
    spoil(newest.with_suffix(f".{suffix}"))
    done = _done(run)
    assert 0 < done < whole
    with pytest.warns(UserWarning, match=f"damaged checkpoint.*{newest.stem}"):
        found = short.run(run)
    assert differences(found, short.result) == []
    assert sum(updates_made) == short.updates - done
    assert older.stem < newest.stem


def test_without_a_whole_checkpoint_a_point_begins_again(short, updates_made, tmp_path):
    run = tmp_path / "run"
    short.midway(run)
    updates_made.clear()
    for path in (run / "checkpoints" / "0" / "0").glob("*.npz"):
        _truncate(path)
    with pytest.warns(UserWarning, match="damaged checkpoint"):
        found = short.run(run)
    assert differences(found, short.result) == []
    assert sum(updates_made) == short.updates


@pytest.mark.parametrize(
    "spoil",
    [
        _truncate,
        Path.unlink,
        lambda path: path.write_text("[]"),
        lambda path: path.write_text(path.read_text().replace('"pieces": 2', '"pieces": 3')),
    ],
    ids=["cut short", "missing", "another kind", "another number"],
)
def test_without_a_layout_checkpoints_are_not_read_as_those_of_another(
    short, updates_made, tmp_path, spoil, monkeypatch
):
    run = tmp_path / "run"
    short.midway(run)
    updates_made.clear()
    spoil(run / "layouts" / "0.json")
    cut_short(monkeypatch.setattr, pieces=3, rows=5)
    with pytest.warns(UserWarning, match="layout of batch 0 .* begin again"):
        found = short.run(run)
    assert differences(found, short.result) == []
    assert sum(updates_made) == short.updates


def test_a_flipped_bit_anywhere_beside_the_arrays_changes_no_number(short, tmp_path, soaking, say):
    short.midway(tmp_path / "whole")
    names = [
        path.relative_to(tmp_path / "whole")
        for path in sorted((tmp_path / "whole").rglob("*"))
        if path.is_file() and "data.zarr" not in path.parts
    ]
    refused, places = 0, 40 if soaking else 3
    for name in names:
        size = (tmp_path / "whole" / name).stat().st_size
        for place in {int(where) for where in np.linspace(0, size - 1, places) if size}:
            run = tmp_path / f"{name.name}.{place}"
            short.midway(run)
            _flip(run / name, place)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    found = short.run(run)
                except sf.simulator.RunError as error:
                    assert name.name in ("run.json", "provenance.json"), (name, place)
                    assert str(run) in str(error)
                    refused += 1
                    continue
            assert differences(found, short.result) == [], (name, place)
    if soaking:
        say(f"a flipped bit in {len(names)} files: {refused} refused, all others bit-identical")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", "{"),
        ("run.json", "[]"),
        ("run.json", '{"format": 99}'),
        ("provenance.json", "{"),
        ("provenance.json", "[]"),
        ("data.zarr/zarr.json", "{"),
        ("data.zarr/zarr.json", None),
    ],
)
def test_a_run_whose_description_is_damaged_is_refused_by_name(short, tmp_path, name, content):
    run = tmp_path / "run"
    short.midway(run)
    if content is None:
        (run / name).unlink()
    else:
        (run / name).write_text(content)
    with pytest.raises(sf.simulator.RunError, match=str(run)):
        short.run(run)

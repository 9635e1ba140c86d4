"""A run may lie anywhere, and stays where it was begun."""

import os
import warnings
from pathlib import Path

import pytest
from scenarios import differences

import sharpflow as sf


def test_a_relative_folder_stays_where_it_was(short, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        found = short.run("run")
    monkeypatch.chdir(tmp_path / "there")
    assert differences(found, short.result) == []
    assert os.listdir(tmp_path / "there") == []


def test_a_program_that_changes_its_folder_meanwhile_does_not_lose_the_run(
    short, tmp_path, monkeypatch
):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def leave(key, learning_rate, weight_decay):
        del learning_rate, weight_decay
        os.chdir(tmp_path / "there")
        return short.arguments["problem"].init(key)

    found = short.run("run", start=leave)
    assert differences(found, short.result) == []
    assert os.listdir(tmp_path / "there") == []


@pytest.mark.parametrize("name", ["with spaces", "grün 山", "a.partial", "100%", "[ab]*?"])
def test_any_name_of_a_folder_works(short, tmp_path, name):
    run = tmp_path / name / "run"
    short.midway(run)
    assert differences(short.run(run), short.result) == []
    assert differences(sf.open_run(str(run)), short.result) == []


def test_a_linked_folder_is_followed(short, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    short.run(tmp_path / "link", resume=False)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "elsewhere" / "run.json").exists()
    assert differences(short.run(tmp_path / "elsewhere"), short.result) == []


def test_a_file_in_place_of_a_folder_is_named(short, tmp_path):
    (tmp_path / "file").write_text("kept")
    for resume in (True, False):
        with pytest.raises(sf.simulator.RunError, match="file is a file"):
            short.run(tmp_path / "file", resume=resume)
        with pytest.raises(sf.simulator.StorageError, match="Not a directory"):
            short.run(tmp_path / "file" / "run", resume=resume)
    assert (tmp_path / "file").read_text() == "kept"


def test_nothing_stays_open(short, tmp_path):
    handles = Path("/proc/self/fd")
    if not handles.is_dir():
        pytest.skip("this system does not say which files are open")
    for number in range(3):
        short.run(tmp_path / str(number)).close()
    places = [str(handle.resolve()) for handle in handles.iterdir()]
    assert not [place for place in places if place.startswith(str(tmp_path))]

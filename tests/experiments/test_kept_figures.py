"""Figures beside a run are shown where they show its arrays, and damaged ones are left out."""

import os
import shutil
from pathlib import Path

import grids
import pytest
import reports
from matplotlib import pyplot

from sharpflow.experiments.plots.run import plot_run
from sharpflow.experiments.report import write_report
from sharpflow.experiments.report.figures import is_whole


def _one_figure(dataset, folder, *, suffix=".png", before=None):
    """In place of all figures, one that is quick to draw."""
    from sharpflow.experiments.plots import drawing

    figure, ax = pyplot.subplots(figsize=(1.0, 1.0))
    ax.plot(dataset["loss"].values.ravel())
    drawn.append(folder)
    return [drawing.save(figure, Path(folder) / f"outcomes{suffix}")]


drawn: list = []


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run whose figures were drawn beside it."""
    monkeypatch.setattr("sharpflow.experiments.plots.plot_grid", _one_figure)
    monkeypatch.setattr("sharpflow.experiments.plots.run.plot_grid", _one_figure)
    folder = reports.write_run(tmp_path / "run", grids.grid((1, 1, 1), rows=5))
    plot_run(folder)
    drawn.clear()
    return folder


def _picture(page):
    (figure,) = [given for tag, given in reports.Page(page).tags if tag == "img"]
    return figure["src"]


def test_figures_of_the_same_arrays_are_shown_as_they_are_whatever_their_times(run):
    for path in (run / "figures").iterdir():
        os.utime(path, (0, 0))
    shown = _picture(write_report(run))
    assert drawn == [] and shown.startswith("data:image/png")
    # drawn in another format as well, both stay noted
    plot_run(run, suffix=".svg")
    drawn.clear()
    write_report(run)
    assert drawn == []


def _flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _of_another_run(folder):
    """A copy of newer arrays over those that the figures show, with older times."""
    newer = reports.write_run(folder.parent / "newer", grids.grid((1, 1, 1), rows=6))
    for name in ("data.zarr", "run.json"):
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        (newer / name).rename(path)
    for path in [*folder.rglob("*"), folder]:
        if "figures" not in path.parts:
            os.utime(path, (0, 0))


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: _flip(folder / "figures" / "outcomes.png"),
        lambda folder: (folder / "figures" / "outcomes.png").write_bytes(b""),
        lambda folder: (folder / "figures" / "outcomes.png").unlink(),
        lambda folder: (folder / "figures" / "figures.json").unlink(),
        lambda folder: (folder / "figures" / "figures.json").write_text("[]"),
        _of_another_run,
    ],
    ids=["a bit", "empty", "missing", "no note", "a damaged note", "newer arrays"],
)
def test_figures_that_are_damaged_or_of_other_arrays_are_drawn_anew(run, change):
    change(run)
    assert _picture(write_report(run)).startswith("data:image/png")
    assert len(drawn) == 1


def test_a_damaged_picture_of_a_demo_is_left_out_and_named(tmp_path):
    folder = reports.write_demo(tmp_path / "demo")
    figure, _ = pyplot.subplots(figsize=(1.0, 1.0))
    for name in ("whole.png", "cut.png", "flipped.png", "whole.svg", "cut.svg"):
        figure.savefig(folder / name)
    pyplot.close(figure)
    for name in ("cut.png", "cut.svg"):
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])
    _flip(folder / "flipped.png")
    (folder / "empty.png").touch()
    page = reports.Page(write_report(folder))
    said = "Left out, since the file is damaged: cut.png, cut.svg, empty.png, flipped.png."
    assert said in page.text
    shown = [given.get("id") for tag, given in page.tags if tag == "figure"]
    assert shown.count("figure-whole") == 1 and "figure-cut" not in shown


def test_a_png_that_is_cut_anywhere_is_not_whole(tmp_path):
    figure, _ = pyplot.subplots(figsize=(0.5, 0.5))
    path = tmp_path / "a.png"
    figure.savefig(path)
    pyplot.close(figure)
    whole = path.read_bytes()
    assert is_whole(path)
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        assert not is_whole(path), end

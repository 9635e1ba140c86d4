"""A figure makes the same file whenever it is saved, and matplotlib is loaded late."""

import subprocess
import sys

import matplotlib
import pytest
from examples import (
    COMPARISON,
)
from matplotlib import pyplot
from PIL import Image

from sharpflow.experiments import plots
from sharpflow.experiments.plots import drawing

pytestmark = pytest.mark.usefixtures("settings_stay")


def test_png_has_its_size_and_its_title(tmp_path):
    ax = plots.mean_loss(COMPARISON)
    path = plots.save(ax.figure, tmp_path / "new" / "mean_loss.png")
    with Image.open(path) as image:
        assert image.size == tuple(int(200 * inches) for inches in ax.figure.get_size_inches())
        assert image.text == {"Title": "mean loss"}


def test_axes_and_several_axes_are_saved_as_their_figure(tmp_path):
    with plots.style():
        _, axes = pyplot.subplots(1, 2)
    forms = (axes[0].figure, axes[0], axes, tuple(axes))
    kept = [plots.save(form, tmp_path / f"{i}.png", title="t") for i, form in enumerate(forms)]
    assert len({path.read_bytes() for path in kept}) == 1


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_the_same_figure_makes_the_same_file(suffix, tmp_path, monkeypatch):
    figure = plots.mean_loss(COMPARISON).figure
    one = plots.save(figure, tmp_path / f"one{suffix}", title="the same").read_bytes()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")  # what matplotlib takes for today
    assert plots.save(figure, tmp_path / f"two{suffix}", title="the same").read_bytes() == one


def test_other_kinds_of_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"\.png"):
        plots.save(pyplot.figure(), tmp_path / "figure.jpg")


def test_importing_the_figures_does_not_load_matplotlib():
    program = "import sys, sharpflow.experiments.plots; print('matplotlib' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.strip() == "False", run.stderr


def test_a_figure_is_drawn_in_our_style_and_leaves_what_it_found():
    matplotlib.rcParams["font.size"] = 31.0
    with drawing.in_force():
        assert matplotlib.rcParams["font.size"] == drawing.RC["font.size"]
    assert matplotlib.rcParams["font.size"] == 31.0
    matplotlib.rcParams["font.size"] = matplotlib.rcParamsDefault["font.size"]


def test_what_a_backend_sets_while_a_figure_is_drawn_stays():
    # as the backend of notebooks does when pyplot loads it; rc_context would undo it
    before = matplotlib.rcParams["interactive"]
    with drawing.in_force():
        matplotlib.rcParams["interactive"] = not before
    assert matplotlib.rcParams["interactive"] is not before
    matplotlib.rcParams["interactive"] = before

"""Forks from the command line: whose config, whose points, and what is said of the runs before."""

import json
import shutil
import warnings

import numpy as np
import pytest
from typer.testing import CliRunner

import sharpflow as sf
from sharpflow.experiments.cli import app
from sharpflow.experiments.report import write_report

CONFIG = """
problem = "sharpflow.models:matrix_completion"
seed = [0, 1]
learning_rate = [0.5, 1.0]
weight_decay = 0.01
num_steps = 20
record_every = 5
snapshot_every = 2
final_state = true
observables = ["loss", "loss_mean"]
optimizer = "momentum"
dtype = "float64"

[problem_options]
shape = [6, 5]
rank = 1
width = 3
"""


def _call(*arguments):
    words = [*map(str, arguments), *(["--no-progress"] if "run" in arguments else [])]
    return CliRunner().invoke(app, words)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a run, a fork of it, and a fork of that."""
    place = tmp_path_factory.mktemp("forks")
    (place / "config.toml").write_text(CONFIG)
    made = [
        _call("run", place / "config.toml", "--out", place / "first"),
        _call("run", "--from", place / "first", "--out", place / "second"),
        _call("run", "--from", place / "second", "--out", place / "third",
              "--set", "learning_rate=[0.25,1.0]", "--set", "fork.point.learning_rate=1.0"),
    ]  # fmt: skip
    assert [result.exit_code for result in made] == [0, 0, 0], [result.stderr for result in made]
    return place


def test_a_fork_of_a_fork_has_the_bits_of_the_run_in_one_piece(folder):
    whole = folder / "whole"
    _call("run", folder / "config.toml", "--out", whole, "--set", "num_steps=60")
    third = sf.open_run(folder / "third")["loss"].sel(learning_rate=1.0)
    later = sf.open_run(whole)["loss"].sel(learning_rate=1.0, step=slice(40, None))
    np.testing.assert_array_equal(third, later)


def test_the_folder_of_a_fork_keeps_its_config_and_its_ancestry(folder):
    text = (folder / "third" / "config.toml").read_text()
    assert "[fork]" in text and f'run = "{folder / "second"}"' in text
    (launch,) = json.loads((folder / "third" / "provenance.json").read_text())["launches"]
    told = launch["forked_from"].split("; then ")
    assert len(told) == 2
    assert str(folder / "first") in told[0] and str(folder / "second") in told[1]
    resumed = _call("run", "--out", folder / "third", "--resume")
    assert resumed.exit_code == 0 and "4 success" in resumed.output
    problem = sf.models.matrix_completion(shape=(6, 5), rank=1, width=3)
    point = sf.simulator.grid_point(
        sf.open_run(folder / "third"), problem, optimizer=sf.simulator.momentum,
        seed=0, learning_rate=0.25,
    )  # fmt: skip
    assert point.ancestry == tuple(told) and "steps 20 to 40 of" in str(point)


def test_a_dry_run_tells_where_a_fork_begins(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the run kept what momentum remembers there
        result = _call("run", "--from", folder / "first", "--at", 10, "--dry-run")
    assert f"goes on from step 10 of {folder / 'first'}" in result.output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--at", 10], "allowed beside --from RUN"),
        (["--from", "first", "--at", 7], "no snapshot at step 7: at must be a step of a snapshot"),
        (["--from", "first", "--set", "seed=5"], "seed has 5 here, and [0, 1] there"),
        (["--from", "."], "holds no run"),
    ],
)
def test_a_fork_that_cannot_begin_is_refused(folder, tmp_path, arguments, said):
    words = [folder / word if word in ("first", ".") else word for word in arguments]
    result = _call("run", *words, "--out", tmp_path / "new")
    assert result.exit_code == 2 and said in result.stderr
    assert not (tmp_path / "new").exists()


def _curves(page):
    text = page.partition('id="curves">')[2].partition("</script>")[0]
    return json.loads(text)["points"]


def test_a_report_draws_the_runs_before_and_tells_them(folder):
    page = write_report(folder / "third", predictions=0, progress=False).read_text()
    assert str(folder / "first") in page and str(folder / "second") in page
    points = _curves(page)
    earlier = [sf.open_run(folder / name).sel(learning_rate=1.0) for name in ("first", "second")]
    for point, seed in zip(points, [0, 0, 1, 1], strict=True):
        assert point["step"] == [40, 45, 50, 55]
        assert point["before"]["step"] == list(range(0, 40, 5))
        expected = np.concatenate([run["loss"].sel(seed=seed).squeeze() for run in earlier])
        np.testing.assert_allclose(point["before"]["columns"]["loss"], expected, rtol=1e-4)
        assert point["before"]["tau"][-1] < point["tau"][0]


def test_the_bands_of_a_plot_begin_with_the_runs_before_pale(folder, tmp_path, monkeypatch):
    figures = {}

    def kept(figure, path):
        figures[path.stem] = [
            (line.get_alpha(), np.asarray(line.get_xdata()), np.asarray(line.get_ydata()))
            for ax in figure.axes
            for line in ax.lines
        ]
        return path

    monkeypatch.setattr("sharpflow.experiments.plots.drawing.save", kept)
    result = _call("plot", folder / "third", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    pale = [line for line in figures["bands-loss-mean"] if line[0] == 0.4]
    # both rates of the fork went on from one
    earlier = [sf.open_run(folder / name).sel(learning_rate=1.0) for name in ("first", "second")]
    expected = np.concatenate([run["loss_mean"].squeeze().median("seed") for run in earlier])
    # and the lines of both reach the first record of the fork
    joined = sf.open_run(folder / "third")["loss_mean"].isel(step=0).squeeze().median("seed")
    assert len(pale) == 2
    for (_, steps, values), reached in zip(pale, joined.values, strict=True):
        np.testing.assert_array_equal(steps, range(0, 45, 5))
        np.testing.assert_allclose(values, [*expected, reached], rtol=1e-12)
    first = sf.open_run(folder / "first")
    assert not any(line[0] == 0.4 for line in figures["final-loss-mean"])
    alone = _call("plot", folder / "first", "--out", tmp_path)
    assert alone.exit_code == 0 and len(figures["bands-loss-mean"]) == first.sizes["learning_rate"]


def test_a_report_says_where_the_run_before_has_gone(folder, tmp_path):
    lonely = tmp_path / "third"
    shutil.copytree(folder / "third", lonely)
    moved = (folder / "second").rename(tmp_path / "second")
    try:
        page = write_report(lonely, predictions=0, progress=False).read_text()
        with pytest.warns(UserWarning, match="before the fork is not drawn.*no run any more"):
            assert _call("plot", lonely).exit_code == 0
    finally:
        moved.rename(folder / "second")
    assert "before the fork is not drawn" in page and "holds no run any more" in page
    assert all(point["before"] is None for point in _curves(page))

"""A report says what its folder holds, in one file that asks for nothing else."""

import importlib
import json
import re
import sys

import grids
import numpy as np
import pytest
import reports
from typer.testing import CliRunner

import sharpflow as sf
from sharpflow.experiments.cli import app
from sharpflow.experiments.config import load
from sharpflow.experiments.grid_summary import last_values
from sharpflow.experiments.report import curves, size, spheres, write_report
from sharpflow.experiments.report import page as report_page
from sharpflow.experiments.report.page import Cell, Table
from sharpflow.experiments.run import run_config
from sharpflow.simulator.store.folder import RunFolder
from sharpflow.theory import exact

CONFIG = """
problem = "three:problem"
start = "three:start"
seed = [0]
learning_rate = 10.0
weight_decay = [4e-4, 0.0]
num_steps = 600
record_every = 5
snapshot_every = 12
observables = ["loss", "norm_squared", "threshold", "sharpness_manifold", "loss_mean", "metrics"]
dtype = "float64"
"""
THREE = """
import jax.numpy as jnp
import numpy as np
import sharpflow as sf

PLANE = np.random.default_rng(2).normal(size=(2, 3))
X = np.random.default_rng(3).normal(size=(8, 2)) @ PLANE
Y = X @ PLANE[0]


def problem():
    made = sf.models.linear_regression(X, Y)
    outside = np.cross(*np.linalg.svd(X - X.mean(axis=0))[2][:2])

    def alpha(w):
        return jnp.arcsin(jnp.abs(jnp.vdot(outside, w)) / jnp.linalg.norm(w))

    return sf.Problem(init=made.init, residual=made.residual, metrics={"alpha": alpha})


def start(key, learning_rate, weight_decay):
    outside = np.cross(*np.linalg.svd(X - X.mean(axis=0))[2][:2])
    solution = sf.theory.exact.minimum_norm_direction(X, Y)
    theta = np.cos(1.2) * solution + np.sin(1.2) * outside + 1e-3 * PLANE[1]
    return jnp.asarray(0.8 * theta / np.linalg.norm(theta))
"""


UNRESTED = "at most 0.001 of the first"  # of why no entry is predicted of GD+WD without a flow


@pytest.fixture
def undrawn(monkeypatch):
    """Figures take a second each, and are looked at elsewhere."""
    monkeypatch.setattr("sharpflow.experiments.plots.plot_grid", lambda *_, **__: [])


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A run of 64 points, six columns and 600 records, and its page."""
    dataset = grids.grid((4, 4, 4), rows=600)
    dataset = grids.ended(dataset, grids.DIVERGED, at=5, seed=0, learning_rate=1, weight_decay=2)
    folder = reports.write_run(tmp_path_factory.mktemp("runs") / "large", dataset)
    return dataset, write_report(folder)


@pytest.fixture(scope="module")
def predicted(tmp_path_factory):
    """A run of three parameters with snapshots, with and without weight decay, and its page."""
    base = tmp_path_factory.mktemp("three")
    (base / "three.py").write_text(THREE)
    (base / "three.toml").write_text(CONFIG)
    config = load(base / "three.toml")
    run_config(config, base / "run", resume=False, progress=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(base)  # where the module of the user is
        patch.setattr("sharpflow.experiments.plots.plot_grid", lambda *_, **__: [])
        path = write_report(base / "run", trust=True)
    module = importlib.import_module("three")
    return base / "run", path, module.X


@pytest.mark.parametrize(
    ("optimizer", "clock", "said", "unsaid"),
    [
        (reports.GDWD, True, [UNRESTED], ["at constant rates", "no flow time"]),
        (f"{reports.GDWD}(kind=warmup)", True, ["at constant rates"], ["no flow time", UNRESTED]),
        ("optax:adam", False, ["at constant rates", "tells no flow time"], []),
    ],
)
def test_a_page_says_what_is_not_predicted_of_another_rule(
    tmp_path, undrawn, optimizer, clock, said, unsaid
):
    dataset = grids.grid((1, 1, 2))
    dataset = dataset if clock else dataset.drop_vars("tau")
    folder = reports.write_run(tmp_path / "run", dataset, optimizer=optimizer)
    text = reports.Page(write_report(folder, predictions=0)).text
    assert all(words in text for words in said)
    assert not any(words in text for words in unsaid)


def test_a_page_of_64_points_is_at_most_8_MB_and_has_a_row_curves_and_figures_of_all(large):
    _, path = large
    page = reports.Page(path)
    assert path.stat().st_size <= 8e6
    assert len(page.tables["grid-table"]) == 1 + 64
    assert len(page.json("curves")["points"]) == 64
    pictures = [given for tag, given in page.tags if tag == "img"]
    # error against sharpness, the outcomes; the last values and the bands of four columns
    assert len(pictures) == 10
    assert all(given["src"].startswith("data:image/") and given["alt"] for given in pictures)


def test_the_grid_table_has_the_values_of_the_dataset(large):
    dataset, path = large
    page = reports.Page(path)
    heads = {"last mean training loss L̄": "loss_mean",
             "last edge ratio λ₁/λ* at θₜ": "edge_ratio_iterate",
             "last threshold λ*": "threshold", "last test accuracy": "test_accuracy"}  # fmt: skip
    for head, column in heads.items():
        expected = last_values(dataset, column).values.reshape(-1)
        np.testing.assert_array_equal(page.column("grid-table", head), expected)
    seeds, rates, decays = np.meshgrid(
        dataset.seed, dataset.learning_rate, dataset.weight_decay, indexing="ij"
    )
    np.testing.assert_array_equal(page.column("grid-table", "seed"), seeds.reshape(-1))
    np.testing.assert_array_equal(page.column("grid-table", "η"), rates.reshape(-1))
    np.testing.assert_array_equal(page.column("grid-table", "λ"), decays.reshape(-1))
    status = page.column("grid-table", "status")
    assert status.count("diverged") == 1 and status[6] == "diverged"
    assert [row[0]["href"] for row in page.tables["grid-table"][1:4]] == [
        "#point-0", "#point-1", "#point-2",
    ]  # fmt: skip


def test_thinned_curves_keep_the_extremes_of_every_column(large):
    dataset, path = large
    points = reports.Page(path).json("curves")["points"]
    values = dataset["loss"].values.reshape(64, -1)
    for point in (0, 6, 63):
        kept = np.array(points[point]["columns"]["loss"], float)
        assert len(kept) <= 2 * curves.MOST_BUCKETS
        assert len(kept) == len(points[point]["step"]) == len(points[point]["tau"])
        for extreme in (np.nanmin, np.nanmax):  # five digits are kept
            np.testing.assert_allclose(extreme(kept), extreme(values[point]), rtol=5e-5)
    assert points[6]["step"][-1] == 40  # diverged after five records, ten steps apart


def test_a_page_that_is_too_large_loses_values_and_then_points_and_says_so(large):
    dataset, path = large
    page = reports.Page(path)
    curve_bytes = len(page.scripts["curves"])
    heads = [Cell(str(number), link=f"#point-{number}") for number in range(64)]
    made = report_page.Page(
        "", "", {}, "", Table("", [], []), [], {}, "", grid=Table("", [""], [[h] for h in heads]),
        curves=page.json("curves"), curve_note="As they are.",
    )  # fmt: skip
    assert size.fitted(made, 10**6, 10**6) is made
    thinned = size.fitted(made, 10**6, 10**6 - curve_bytes // 3)
    assert len(thinned.curves["points"]) == 64 and "2 times fewer values" in thinned.curve_note
    values = dataset["loss"].values.reshape(64, -1)
    for point in (0, 6, 63):
        kept = np.array(thinned.curves["points"][point]["columns"]["loss"], float)
        for extreme in (np.nanmin, np.nanmax):  # five digits are kept
            np.testing.assert_allclose(extreme(kept), extreme(values[point]), rtol=5e-5)
    few = size.fitted(made, 10**6, 10**6 - curve_bytes + 20_000)
    count = len(few.curves["points"])
    assert 0 < count < 64 and f"Only the first {count} points" in few.curve_note
    assert len(json.dumps(few.curves["points"], separators=(",", ":"))) <= 20_000
    assert [row[0].link is None for row in few.grid.rows] == [n >= count for n in range(64)]


def test_a_page_asks_nothing_of_any_network(large, predicted, tmp_path):
    demo = write_report(reports.write_demo(tmp_path / "demo"))
    for path in (large[1], predicted[1], demo):
        page = reports.Page(path)
        asked = [value for name, value in page.attributes if name in ("src", "href", "srcset")]
        assert all(value.startswith(("data:image/", "#")) for value in asked)
        assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in page.tags}
        assert "url(" not in path.read_text() and "@import" not in path.read_text()
        policy = next(given["content"] for tag, given in page.tags if "http-equiv" in given)
        assert policy.startswith("default-src 'none';") and "http" not in policy
        assert "unsafe" not in re.search("script-src ([^;]*)", policy)[1]


def test_what_a_config_or_a_file_says_stays_text(tmp_path, undrawn):
    dataset = grids.grid((1, 1, 2), rows=4, axes={"kind": [reports.HOSTILE, "plain"]})
    config = f"description = {json.dumps(reports.HOSTILE)}\n"
    folder = reports.write_run(tmp_path / "run", dataset, config=config)
    for path in (write_report(folder), write_report(reports.write_demo(tmp_path / "demo"))):
        page = reports.Page(path)
        assert not [name for name, _ in page.attributes if name == "onerror"]
        assert " ".join(reports.HOSTILE.split()) in page.text
        assert len(page.scripts) == sum(tag == "script" for tag, _ in page.tags) < 10
    titles = [
        point["title"]
        for point in reports.Page(tmp_path / "run/report.html").json("curves")["points"]
    ]
    assert any(reports.HOSTILE in title for title in titles)


def test_an_unfinished_run_is_shown_as_far_as_it_is(tmp_path, undrawn):
    dataset = grids.grid((2, 2, 1), rows=30)
    dataset = grids.ended(dataset, grids.PENDING, at=12, seed=1, learning_rate=0)
    dataset = grids.ended(dataset, grids.PENDING, at=0, seed=1, learning_rate=1)
    page = reports.Page(write_report(reports.write_run(tmp_path / "run", dataset)))
    assert "2 success, 0 diverged, 2 pending" in page.text and "has not ended" in page.text
    assert page.column("grid-table", "steps") == [300, 300, 110, 0]
    assert page.column("grid-table", "status")[2:] == ["pending", "pending"]
    lengths = [len(point["step"]) for point in page.json("curves")["points"]]
    assert lengths == [30, 30, 12, 0]


def test_what_was_not_recorded_is_named_and_the_noted_memory_shown(tmp_path, undrawn):
    dataset = grids.grid((1, 1, 1), rows=5)
    folder = reports.write_run(tmp_path / "run", dataset)
    memory = {"predicted_memory_bytes": 3 * 2**20, "peak_memory_bytes": 5 * 2**19}
    RunFolder(folder).add_to_launch(memory)
    page = reports.Page(write_report(folder))
    assert "memory of a device" in page.text and "3 MiB predicted, 2.5 MiB measured" in page.text
    for missing in ("norm_squared", "loss_rises", "snapshot_every"):
        assert missing in page.text
    assert "loss_mean was not recorded" not in page.text


def test_a_demo_has_its_statements_and_failures_stand_out(tmp_path):
    page = reports.Page(write_report(reports.write_demo(tmp_path / "demo"), tmp_path / "a/b.html"))
    assert page.column("statements-table", "measured") == [0.995, 12.0, 0.5, 2e-7]
    allowed = [row[3]["text"] for row in page.tables["statements-table"][1:]]
    assert allowed == ["0.99 to 1.01", "", "at most 0.1", "at most 1e-06"]
    verdicts = [row[4] for row in page.tables["statements-table"][1:]]
    assert [cell["class"] for cell in verdicts] == ["holds", "text", "fails", "holds"]
    assert "2 of 3 hold, 1 fail" in page.text and "sharpflow demo --quick" in page.text
    assert "nothing is left out" in page.text


def test_without_plotly_the_sphere_is_a_picture(tmp_path, monkeypatch):
    monkeypatch.setattr(spheres, "plotly_script", lambda: None)
    page = reports.Page(write_report(reports.write_demo(tmp_path / "demo")))
    assert len([1 for tag, _ in page.tags if tag == "img"]) == 1
    assert "plotly" not in page.scripts and 'pip install "sharpflow[report]"' in page.text


def test_the_flow_of_points_with_snapshots_is_set_beside_them(predicted):
    folder, path, x = predicted
    page = reports.Page(path)
    (sphere,) = page.json("spheres")
    assert "Losses count from 0" not in page.text
    recorded = sf.open_run(folder)["params"].sel(weight_decay=4e-4).squeeze().values
    recorded /= np.linalg.norm(recorded, axis=1, keepdims=True)
    # four decimals are kept
    np.testing.assert_allclose(np.array(sphere["points"]).T, recorded, atol=5.1e-5)
    # tan α falls as exp(−τ) from the entry on, which the flow has to itself
    point = page.json("curves")["points"][0]
    tau = np.array(point["predicted"]["tau"])
    angle = exact.angle_to_span(np.array(sphere["flow"]).T, x)
    measures = page.tables["statements-table"][1:]
    ratios = {row[0]["text"]: float(row[2]["value"] or "nan") for row in measures}
    assert ratios["entry step, measured / predicted from rest"] == pytest.approx(1.0, abs=0.02)
    since = np.maximum(tau - 4e-3 * point["entry"], 0.0)
    expected = np.arctan(np.tan(angle[0]) * np.exp(-since))
    np.testing.assert_allclose(point["predicted"]["metrics"]["alpha"], angle, atol=1e-3)
    # the entry is known to a record, 0.02 in τ, by which the angle moves less than half
    np.testing.assert_allclose(angle, expected, atol=0.01)
    # on a circle distances are chords; Φ(θ) is θ's own angle up to O(distance²)
    reached = exact.angle_to_span(recorded[-1:], x)[0]
    chord = np.sin(0.5 * abs(reached - angle[-1])) / np.sin(0.5 * (angle[0] - angle[-1]))
    errors = page.column("grid-table", "tracking error / distance moved")
    assert errors[0] == pytest.approx(chord, abs=0.02) and errors[0] < 0.1
    assert np.isnan(errors[1])  # without weight decay there is no flow


def test_without_predictions_or_the_users_module_the_page_says_so(
    predicted, undrawn, tmp_path, monkeypatch
):
    folder, _, _ = predicted
    monkeypatch.delitem(sys.modules, "three")
    for number, why in ((0, "made without predictions"), (None, "no module")):
        path = write_report(folder, tmp_path / "page.html", predictions=number, trust=True)
        page = reports.Page(path)
        assert why in page.text and page.json("spheres")[0]["flow"] is None
        assert "Losses count from 0" in page.text
        heads = [cell["text"] for cell in page.tables["grid-table"][0]]
        assert not [head for head in heads if head.startswith("tracking error")]


@pytest.mark.parametrize(
    ("break_", "message"),
    [
        (lambda folder: None, "holds nothing to report"),
        (lambda folder: (folder / "report.html").mkdir(), "out must name a file"),
        (lambda folder: (folder / "checks.json").write_text("{"), "checks.json cannot be read"),
        (lambda folder: (folder / "checks.json").write_text('{"made": {}, "checks": [{}]}'),
         "checks.json cannot be read"),
        (lambda folder: (folder / "run.json").write_text("{"), "run.json cannot be read"),
        (lambda folder: (folder / "run.json").write_text('{"format": 1, "grid": {"axes": {}}}'),
         "data.zarr cannot be read"),
    ],
)  # fmt: skip
def test_another_folder_exits_with_2_and_one_line(tmp_path, break_, message):
    break_(tmp_path)
    result = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert result.exit_code == 2 and message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "report.html").is_file()


def test_the_command_prints_the_page_and_its_size(tmp_path):
    folder = reports.write_demo(tmp_path / "demo")
    result = CliRunner().invoke(app, ["report", str(folder), "--out", str(tmp_path / "page.html")])
    assert result.exit_code == 0, result.stderr
    size = (tmp_path / "page.html").stat().st_size / 1e6
    assert result.output.strip() == f"{tmp_path / 'page.html'}: {size:.1f} MB"
    both = CliRunner().invoke(
        app, ["report", str(folder), "--predictions", "2", "--no-predictions"]
    )
    assert both.exit_code == 2 and "one of them" in both.stderr

"""The validation: fits and verdicts on known errors, and what the command leaves behind."""

import json
import math
import re
from pathlib import Path

import jax
import numpy as np
import pytest
import xarray
from described import undescribed
from matplotlib import pyplot
from typer.testing import CliRunner

import sharpflow as sf
from sharpflow.experiments.checks import Check
from sharpflow.experiments.cli import app
from sharpflow.experiments.plots.drawing import figure_of
from sharpflow.experiments.plots.ladder import (
    ErrorPanel,
    covariance_eigenvalues,
    entry_ladder,
    error_ladder,
)
from sharpflow.experiments.plots.phases import COLORS, phase_diagram
from sharpflow.experiments.starts import point_at_angle
from sharpflow.experiments.validate import cases, ladder, limits, parts, statements
from sharpflow.experiments.validate.entry import measure_entries
from sharpflow.experiments.validate.findings import Findings
from sharpflow.simulator.crossing import SETTLE_TAU, first_crossing, settled_step

RATES = np.array([2e-3, 6e-4, 2e-4, 6e-5, 2e-5])


def _known(exponent, at_smallest):
    """Errors of all statements that are the same power law, of three seeds around it."""
    scatter = np.array([0.8, 1.0, 1.25])[:, None]
    errors = at_smallest * scatter * (RATES / RATES[-1]) ** exponent
    names = [statement.name for statement in statements.STATEMENTS]
    return xarray.Dataset(
        dict.fromkeys(names, (("seed", "intrinsic_rate"), errors)),
        {"seed": [0, 1, 2], "intrinsic_rate": RATES},
    )


@pytest.mark.parametrize(("exponent", "holds"), [(0.5, True), (0.3, False)])
def test_exponents_are_fitted_and_judged(exponent, holds):
    checks = statements.edge_checks("known", _known(exponent, 1e-4))
    fitted = [check for check in checks if "exponent" in check.statement]
    assert len(fitted) == 3
    for check in fitted:
        np.testing.assert_allclose(check.measured, exponent, rtol=1e-9)
        assert check.holds is holds
    others = [check for check in checks if check not in fitted]
    assert len(others) == len(statements.STATEMENTS) and all(check.holds for check in others)


def test_an_error_above_its_tolerance_at_the_smallest_rate_fails():
    checks = statements.edge_checks("known", _known(0.5, 0.5))
    assert [check.holds for check in checks if "exponent" not in check.statement] == [False] * 6


def test_an_entry_off_by_more_than_a_step_or_a_tenth_fails():
    dims = ("seed", "intrinsic_rate")
    steps = np.outer([1.0, 1.1], [20.0, 90.0, 300.0])
    entries = xarray.Dataset(
        {
            "entry_step": (dims, steps + 0.4),
            "predicted_entry_step": (dims, steps),
            "delay": (dims, 1.05 * steps),
            "predicted_delay": (dims, steps),
            "overshoot": (dims, 1.2 * steps),
            "predicted_overshoot": (dims, steps),
        },
        {"seed": [0, 1], "intrinsic_rate": [2e-3, 2e-4, 2e-5]},
    )
    found = statements.entry_checks("known", entries)
    np.testing.assert_allclose([check.measured for check in found], [0.4, 1.05, 1.2])
    assert [check.holds for check in found] == [True, True, False]


def test_the_rate_at_which_an_error_leaves_its_tolerance():
    errors = _known(0.5, 1e-3)["edge_error"]  # 0.01 at 100 times the smallest rate
    assert statements.limits_of(errors, 2e-3) == pytest.approx((6e-5, 2e-4))
    assert statements.limits_of(errors, 1e-4) == pytest.approx((0.0, 2e-5))
    assert statements.limits_of(errors, 1.0) == pytest.approx((2e-3, math.inf))
    errors[0, 2] = np.nan  # lost at 2e-4
    assert statements.limits_of(errors, 1.0) == pytest.approx((6e-5, 2e-4))
    errors[:, 2] = np.nan  # not measured there
    assert statements.limits_of(errors, 1.0) == pytest.approx((2e-3, math.inf))


def test_crossings_are_interpolated():
    step = np.array([0.0, 10.0, 20.0, 30.0])
    assert first_crossing(step, np.array([-3.0, -1.0, 1.0, 5.0])) == pytest.approx(15.0)
    assert math.isnan(first_crossing(step, -np.ones(4)))


@pytest.mark.parametrize(
    ("edge_ratio", "loss", "phase"),
    [
        (0.4, 1e-20, limits.Phase.BELOW),
        (1.02, 1e-3, limits.Phase.AT_EDGE),
        (1.2, 1e-3, limits.Phase.ABOVE),
        (1.0, 0.4, limits.Phase.TRAINING),
    ],
)
def test_phases_of_steady_courses(edge_ratio, loss, phase):
    tau = np.linspace(0.0, 3.0, 31)
    found, mean = limits.phase_of(tau, np.full(31, loss), np.full(31, edge_ratio))
    assert found is phase
    if phase in (limits.Phase.AT_EDGE, limits.Phase.ABOVE):
        assert mean == pytest.approx(edge_ratio)


def test_phases_of_courses_that_leave_the_manifold():
    tau, loss = np.linspace(0.0, 3.0, 31), np.full(31, 1e-3)
    ratio = np.full(31, 1.0)
    ratio[10:15] = np.nan
    assert limits.phase_of(tau, loss, ratio)[0] is limits.Phase.RETURNS
    ratio[10:] = np.nan
    assert limits.phase_of(tau, loss, ratio)[0] is limits.Phase.LOST


@pytest.fixture(scope="module")
def small_case():
    """Linear regression with six examples, from one angle."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(6, 10)), random.normal(size=6)
    problem = sf.models.linear_regression(x, y)
    starts = {0: point_at_angle(problem, x, y, 1.0)}
    tau = np.linspace(0.0, 0.8, 9)
    return cases.Case("small", problem, starts, 0.1, tau, max_edge=3, rtol=2e-4)


def test_the_ladder_of_linear_regression_has_errors_of_first_order(small_case):
    """There theory is exact but for O(ηλ): errors of threshold, tracking and edge are linear."""
    flows = small_case.flows()
    rates = (4e-3, 2e-3, 1e-3)
    found = ladder.climb(small_case, flows, rates, progress=False)
    assert undescribed(found) == []
    for name in ("tracking_error", "threshold_error", "edge_error", "period_two_error"):
        fit = statements.fit_error(found[name])
        assert 0.8 < fit.exponent < 1.3, (name, fit)
    # windows of 0.2 hold ten bursts at 1e-3, and chords to Γ start up to 0.05 of τ away
    assert float(found["covariance_error"][0, -1]) < 0.06
    np.testing.assert_allclose(found["loss_share"][0, -1], 1.0, atol=0.03)


def test_the_entry_of_linear_regression_is_as_predicted(small_case):
    entries = measure_entries(small_case, small_case.flows(), (1e-3, 2e-4), progress=False)
    assert undescribed(entries) == []
    late = entries["entry_step"] - entries["predicted_entry_step"]
    np.testing.assert_allclose(late, 0.0, atol=1e-3)  # the norm decays alone: rounding
    for name in ("delay", "overshoot"):  # known to leading order in √(ηλ)
        error = abs(entries[name] / entries[f"predicted_{name}"] - 1.0)
        assert np.all(error <= 4.0 * np.sqrt(entries["intrinsic_rate"])), error


def test_figures_show_what_they_are_given():
    known = _known(0.5, 1e-4)
    fit = statements.fit_error(known["edge_error"])
    figure = error_ladder(known, [ErrorPanel("edge_error", "edge", fit, 0.01)])
    lines = figure.axes[0].get_lines()
    assert {tuple(line.get_ydata()) for line in lines} >= {
        tuple(row) for row in known["edge_error"].values
    }
    (text,) = [t.get_text() for t in figure.axes[0].texts if "exponent" in t.get_text()]
    assert text.startswith("exponent 0.50")


def test_the_entry_figure_has_measured_and_predicted():
    dims = ("seed", "intrinsic_rate")
    values = {"delay": 100.0, "overshoot": 0.1}
    entries = xarray.Dataset(
        {name: (dims, [[value, 2 * value]]) for name, value in values.items()}
        | {f"predicted_{name}": (dims, [[value, 3 * value]]) for name, value in values.items()},
        {"seed": [0], "intrinsic_rate": [1e-3, 1e-4]},
    )
    figure = entry_ladder(entries)
    for ax, value in zip(figure.axes, values.values(), strict=True):
        drawn = [list(line.get_ydata()) for line in ax.get_lines()]
        assert drawn == [[value, 2 * value], [value, 3 * value]]


def test_the_covariance_figure_leaves_out_what_is_not_at_the_edge():
    dims = ("seed", "window", "eigenvalue")
    predicted = np.array([[[3e-6, 1e-6, 1e-12]]])
    numbers = xarray.Dataset({"measured": (dims, 1.1 * predicted), "predicted": (dims, predicted)})
    ax = covariance_eigenvalues(numbers)
    shown = [line for line in ax.get_lines() if line.get_label().startswith("eigenvalue")]
    np.testing.assert_allclose([line.get_xdata()[0] for line in shown], [3e-6, 1e-6])
    np.testing.assert_allclose([line.get_ydata()[0] for line in shown], [3.3e-6, 1.1e-6])


def test_the_phase_diagram_colours_each_cell_by_its_phase():
    values = np.array([[1, 2, 3], [1, 2, 4]])
    numbers = xarray.Dataset(
        {"phase": (("weight_decay", "learning_rate"), values)},
        {"weight_decay": [1e-3, 1e-2], "learning_rate": [0.1, 1.0, 10.0]},
    )
    ax = phase_diagram(numbers, limits.Phase)
    figure_of(ax).canvas.draw()
    (mesh,) = ax.collections
    from matplotlib.colors import to_rgba

    expected = [to_rgba(COLORS[value]) for value in values.ravel()]
    np.testing.assert_allclose(mesh.get_facecolors(), expected)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == [limits.Phase(value).label for value in (1, 2, 3, 4)]


def _part(measured):
    def run(progress):
        figure, ax = pyplot.subplots()
        ax.plot([0.0, 1.0])
        checks = [Check("made up", "|a number|", measured, 0.0, 1.0)]
        return Findings(checks, {"a-figure": figure}, xarray.Dataset({"number": measured}))

    return parts.Part("a part made up for a test", run, default=True)


@pytest.mark.parametrize(("measured", "status"), [(0.5, 0), (1.5, 1)])
def test_the_command_keeps_what_it_finds_and_fails_with_a_statement(
    monkeypatch, tmp_path, measured, status
):
    monkeypatch.setitem(parts.PARTS, "made-up", _part(measured))
    arguments = ["validate", "made-up", "--out", str(tmp_path / "deep" / "out")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == status, result.output
    out = tmp_path / "deep" / "out"
    assert {path.name for path in out.iterdir()} == {
        "a-figure.png",
        "made-up.nc",
        "checks.json",
        "checks.md",
    }
    stored = json.loads((out / "checks.json").read_text())
    assert stored["checks"][0]["measured"] == measured and stored["made"]["parts"] == ["made-up"]
    # a bar would begin another cell
    assert r"| made up | \|a number\| | " in (out / "checks.md").read_text()
    with xarray.open_dataset(out / "made-up.nc") as numbers:
        assert float(numbers["number"]) == measured and numbers.attrs["part"] == "made-up"
        assert undescribed(numbers) == []


def test_an_unknown_part_is_refused_with_those_there_are(tmp_path):
    result = CliRunner().invoke(app, ["validate", "nothing", "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "got nothing; allowed are linear-regression, matrix-completion" in result.output
    assert not (tmp_path / "out").exists()
    result = CliRunner().invoke(app, ["validate", "mlp-digit", "--out", str(tmp_path / "out")])
    assert 'did you mean "mlp-digits"?' in result.output
    (tmp_path / "file").touch()
    for command in ("validate", "demo"):
        result = CliRunner().invoke(app, [command, "--out", str(tmp_path / "file")])
        assert result.exit_code == 2 and "--out: got the file" in result.output


def test_the_list_names_every_part():
    result = CliRunner().invoke(app, ["validate", "--list"])
    assert result.exit_code == 0
    for name, part in parts.PARTS.items():
        assert (f"{name} *" in result.output) is part.default
        assert name in result.output


def test_keys_of_a_grid_are_read_back_as_seeds():
    assert [cases.seed_of(jax.random.key(seed)) for seed in (0, 7)] == [0, 7]


def test_means_after_the_entry_begin_when_the_oscillation_has_answered_and_rung():
    step, level = np.arange(0.0, 1000.0, 10.0), np.full(100, 2.0)
    loss = np.where(step < 300, 1e-9, 1.5)  # below the level, but of its size
    rate, rung = 1e-3, SETTLE_TAU / 1e-3
    assert settled_step(step, 100.0, rate, loss, level) == 300 + rung
    assert settled_step(step, 100.0, rate, loss, level, settle_tau=0.02) == 320
    assert settled_step(step, 400.0, rate, loss, level) == 400 + rung
    assert settled_step(step, 100.0, rate, loss, None) == 100 + rung  # nothing to compare with
    assert settled_step(step, 100.0, rate, 0.1 * loss, level) == math.inf  # no answer
    assert settled_step(step, 100.0, rate, loss, -level) == math.inf  # none is predicted
    assert settled_step(step, math.nan, rate, loss, level) == math.inf


def test_a_statement_from_outside_the_package_is_one_function_in_one_file(tmp_path, monkeypatch):
    """The one of the page on validation, run as it stands there."""
    page = Path("docs/validation.md").resolve()
    (program,) = re.findall(r"```python\n(# mine\.py\n.*?)```", page.read_text("utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(program, encoding="utf-8")
    with jax.numpy_dtype_promotion("standard"):
        result = CliRunner().invoke(app, ["validate", "mine:norm", "--out", "out"])
    assert result.exit_code == 0, result.output
    assert "mine:norm: the squared norm of weights that only decay" in result.output
    (check,) = json.loads(Path("out/checks.json").read_text())["checks"]
    assert check["measured"] == pytest.approx(1.0, abs=1e-6)
    with xarray.open_dataset("out/mine-norm.nc") as numbers:
        assert undescribed(numbers) == []
    for name, said in (("mine:nothing", 'has no "nothing"'), ("theirs:norm", "no module")):
        result = CliRunner().invoke(app, ["validate", name, "--out", "out"])
        assert result.exit_code == 2 and said in " ".join(result.output.split()), result.output


def test_parts_do_not_write_over_the_files_of_each_other(tmp_path, monkeypatch):
    part = _part(0.5)
    for name in ("made-up", "other"):
        monkeypatch.setitem(parts.PARTS, name, part)
    result = CliRunner().invoke(app, ["validate", "made-up", "other", "--out", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert {path.name for path in tmp_path.glob("*.png")} == {
        *("a-figure.png", "other-a-figure.png")
    }
    monkeypatch.chdir(tmp_path)
    Path("made.py").write_text("def up(progress): ...", encoding="utf-8")
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["validate", "made-up", "made:up", "--out", str(out)])
    said = " ".join(result.output.split())
    assert result.exit_code == 2 and "made-up and made:up would both write made-up.nc" in said
    assert not out.exists()


def test_what_there_is_none_of_is_not_named(tmp_path, monkeypatch):
    checks = [Check("made up", "a number", value, 0.0, 1.0) for value in (2.0, 3.0)]
    for count, said in ((1, "1 statement fails: see"), (2, "2 statements fail: see")):
        found = Findings(checks[:count], {}, xarray.Dataset())
        made = parts.Part("made up for a test", lambda progress, found=found: found)
        monkeypatch.setitem(parts.PARTS, "made-up", made)
        result = CliRunner().invoke(app, ["validate", "made-up", "--out", str(tmp_path)])
        assert result.exit_code == 1 and said in " ".join(result.output.split())
        assert "figures:" not in result.output

"""Predictions of test metrics beside their bands, in numbers, in the panel and in the report."""

import itertools

import numpy as np
import pytest
import reports
from fitted import DECAY, FIT_ROW, ROWS, fitted
from matplotlib.colors import to_rgb
from scipy.stats import t

from benchmarks import poster_predicted
from sharpflow.experiments import plots
from sharpflow.experiments.late_predictions import late_comparisons
from sharpflow.experiments.report import write_report

pytestmark = pytest.mark.usefixtures("settings_stay")

# What of linear light is left to readers without one kind of cone (Machado, Oliveira and Fernandes
# 2009, severity 1).
VISIONS = {
    "all cones": np.eye(3),
    "no long": [[0.152286, 1.052583, -0.204868],
                [0.114503, 0.786281, 0.099216],
                [-0.003882, -0.048116, 1.051998]],
    "no middle": [[0.367322, 0.860646, -0.227968],
                  [0.280085, 0.672501, 0.047413],
                  [-0.011820, 0.042940, 0.968881]],
    "no short": [[1.255528, -0.076749, -0.178779],
                 [-0.078411, 0.930809, 0.147602],
                 [0.004733, 0.691367, 0.303900]],
}  # fmt: skip


def shifted(shift, *, seeds=5):
    """A grid whose predicted test error lies beside the measured one by a function of the row."""
    grid = fitted(predicted=True, seeds=seeds)
    steps, step = grid["prediction_step"], float(grid["step"][1])
    rows = np.round(steps.values / step).astype(int)
    measured = np.take_along_axis(grid["test_error"].values, rows, axis=-1)
    predicted = np.where(grid["prediction_status"].values[..., None] < 0, np.nan, measured)
    grid["predicted_test_error"] = steps.copy(data=predicted + shift(rows))
    rate = grid["learning_rate"] * grid["weight_decay"]
    grid["prediction_tau"] = (rate * steps).transpose(*steps.dims)
    grid["prediction_reason"] = grid["prediction_status"].astype(str)
    return grid


def by_hand(grid):
    """Band and prediction at every record from the fit on."""
    point = {"learning_rate": 0.1, "weight_decay": DECAY, "normalization": "batch"}
    at = grid.sel(point).transpose("seed", ...)
    values, steps = at["test_error"].values[:, FIT_ROW:], grid["step"].values[FIT_ROW:]
    half = t.ppf(0.975, len(values) - 1) * values.std(axis=0, ddof=1) / np.sqrt(len(values))
    lines = [
        np.interp(steps, own, predicted)
        for own, predicted in zip(
            at["prediction_step"].values, at["predicted_test_error"].values, strict=True
        )
    ]
    return values.mean(axis=0), half, np.mean(lines, axis=0)


@pytest.mark.parametrize("seeds", [3, 5])
def test_a_prediction_leaves_the_band_of_students_interval_where_it_passes_its_border(seeds):
    grid = shifted(lambda row: 0.003 * np.maximum(row - 15.0, 0.0), seeds=seeds)
    mean, half, line = by_hand(grid)
    outside = np.abs(line - mean) > half
    assert 0 < outside.sum() < len(outside)
    (compared,) = late_comparisons(grid)
    assert compared.name == "test_error" and compared.num_seeds == seeds
    tau = grid["tau"].sel(learning_rate=0.1, weight_decay=DECAY).values.reshape(-1)[FIT_ROW:]
    assert compared.leaves_at == pytest.approx(tau[np.flatnonzero(outside)[0]])
    assert compared.ends_at == pytest.approx(tau[-1])
    assert compared.inside == pytest.approx(1.0 - outside.mean())
    last = slice(-int(np.ceil(0.1 * len(line))), None)
    at_end = [mean[last], (mean - half)[last], (mean + half)[last], line[last]]
    told = [compared.measured, compared.low, compared.high, compared.predicted]
    np.testing.assert_allclose(told, np.mean(at_end, axis=1), rtol=1e-12)


def test_a_prediction_that_is_what_was_measured_stays_in_the_band():
    (compared,) = late_comparisons(shifted(lambda row: 0.0))
    assert compared.inside == 1.0 and np.isnan(compared.leaves_at)


def test_nothing_is_compared_without_predictions_or_with_one_seed():
    assert not late_comparisons(fitted())
    assert not late_comparisons(fitted(predicted=True, seeds=1))


def test_a_panel_draws_the_predicted_sharpness_as_the_mean_of_its_logarithm():
    grid = fitted(predicted=True)
    for name in ("threshold", "sharpness_iterate"):  # so that the axis is logarithmic
        grid[name] = grid[name] ** 3
    steps = grid["prediction_step"]
    rows = np.round(steps.values / float(grid["step"][1])).astype(int)
    predicted = 0.9 * np.take_along_axis(grid["threshold"].values, rows, axis=-1)
    has = grid["prediction_status"].values[..., None] >= 0
    grid["predicted_sharpness"] = steps.copy(data=np.where(has, predicted, np.nan))
    ax = plots.generalization_panel(grid)[-1]
    (line,) = [each for each in ax.lines if to_rgb(each.get_color()) == to_rgb("#d55e00")]
    assert ax.get_yscale() == "log"
    at = grid["threshold"].sel(learning_rate=0.1, weight_decay=DECAY, normalization="batch")
    geometric = 0.9 * np.exp(np.log(at.transpose("seed", ...).values).mean(axis=0))
    np.testing.assert_allclose(line.get_ydata()[[0, -1]], geometric[[FIT_ROW, ROWS - 1]])


def test_a_report_and_the_page_of_the_poster_say_where_the_prediction_leaves(tmp_path, monkeypatch):
    monkeypatch.setattr("sharpflow.experiments.plots.plot_grid", lambda *_, **__: [])
    grid = shifted(lambda row: 0.003 * np.maximum(row - 15.0, 0.0))
    (compared,) = late_comparisons(grid)
    page = reports.Page(write_report(reports.write_run(tmp_path / "run", grid)))
    assert page.column("late-predictions", "leaves at τ") == [pytest.approx(compared.leaves_at)]
    assert page.column("late-predictions", "predicted") == [pytest.approx(compared.predicted)]
    alone = reports.Page(write_report(reports.write_run(tmp_path / "alone", fitted())))
    assert "late-predictions" not in alone.tables
    (row,) = poster_predicted.table_of_predictions(grid).splitlines()[2:]
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[2:5] == ["test error", f"{compared.measured:.3f}", f"{compared.predicted:.3f}"]
    assert cells[-3] == f"{compared.leaves_at:.2f}"


@pytest.mark.parametrize("vision", sorted(VISIONS))
def test_the_colours_of_a_panel_are_told_apart_with_any_colour_vision(vision):
    ax = plots.generalization_panel(fitted(predicted=True))[1]
    colours = {to_rgb(line.get_color()) for line in ax.lines if len(line.get_xdata()) > 1}
    assert len(colours) == 5  # four curves and what is predicted
    left = np.array(VISIONS[vision])
    seen = [_lab(np.clip(left @ _linear(colour), 0.0, 1.0)) for colour in colours]
    apart = [np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)]
    # 2 is what is just told apart side by side; thin lines in a legend need a multiple of it
    assert min(apart) > 25.0


def _linear(rgb):
    """Light from the numbers of a screen (IEC 61966-2-1)."""
    rgb = np.array(rgb)
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def _lab(light):
    """CIELAB of linear sRGB, white D65."""
    to_xyz = np.array([[0.4124564, 0.3575761, 0.1804375],
                       [0.2126729, 0.7151522, 0.0721750],
                       [0.0193339, 0.1191920, 0.9503041]])  # fmt: skip
    xyz = to_xyz @ light / [0.95047, 1.0, 1.08883]
    x, y, z = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])

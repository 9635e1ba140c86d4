"""Figures and reports of a grid show where its predictions hold, and where there are none."""

import grids
import numpy as np
import pytest
import reports
from matplotlib import colors

from sharpflow.experiments import plots
from sharpflow.experiments.grid_summary import last_values
from sharpflow.experiments.kept_figures import drawn_from
from sharpflow.experiments.plots import series
from sharpflow.experiments.report import write_report
from sharpflow.simulator.store.folder import RunFolder
from sharpflow.simulator.store.predictions import write_predictions
from sharpflow.theory.status import Status

pytestmark = pytest.mark.usefixtures("settings_stay")

FULL = int(Status.EDGE_FULL)


def _mesh(ax):
    (mesh,) = ax.collections
    return mesh


def _without(dataset, **where):
    """The dataset without the predictions of some points."""
    dataset = dataset.copy(deep=True)
    dataset["prediction_kind"][where] = "none"
    dataset["prediction_status"][where] = -1
    for name in dataset.data_vars:
        if "output" in dataset[name].dims or name == "final_relative_error":
            dataset[name][where] = np.nan
    return dataset


@pytest.mark.parametrize("name", ["final_relative_error", "threshold_ratio"])
def test_what_a_prediction_says_at_the_end_is_known_where_it_reaches_the_end(name):
    dataset = grids.predicted((2, 3, 2))
    whole = dataset[name].values if name == "final_relative_error" else dataset[name].values[..., 1]
    if name == "threshold_ratio":
        dataset[name][{"output": slice(2, None)}] = np.nan
    np.testing.assert_array_equal(last_values(dataset, name), whole)
    dataset = grids.ended(dataset, grids.DIVERGED, at=9, seed=0, learning_rate=0)
    dataset = grids.ended(dataset, grids.PENDING, seed=1, learning_rate=0)
    dataset["prediction_status"][{"learning_rate": 1}] = FULL
    dataset = _without(dataset, learning_rate=2, weight_decay=0)
    found = last_values(dataset, name).values
    assert np.isnan(found[:, :2]).all() and np.isnan(found[:, 2, 0]).all()
    np.testing.assert_array_equal(found[:, 2, 1], whole[:, 2, 1])


def test_a_heat_map_shows_where_predictions_hold_and_marks_where_there_are_none():
    dataset = _without(grids.predicted((3, 3, 1)), learning_rate=0)
    dataset["prediction_status"][{"seed": 1, "learning_rate": 1}] = FULL
    ax = plots.heat_map(dataset, "final_relative_error")
    errors = dataset["final_relative_error"].values[..., 0]
    of_two, of_three = (errors[0, 1] + errors[2, 1]) / 2.0, np.median(errors[:, 2])
    np.testing.assert_allclose(_mesh(ax).get_array().filled(np.nan), [[np.nan, of_two, of_three]])
    # within a factor of 10, and logarithmic all the same
    norm = _mesh(ax).norm
    assert isinstance(norm, colors.LogNorm) and norm.vmin == min(of_two, of_three)
    marks = {t.get_text(): t.get_position() for t in ax.texts if t.get_text().endswith("–")}
    assert marks == {"–": (0.5, 0.5), "1–": (1.05, 0.95)}
    assert ax.figure.get_suptitle().splitlines() == [
        "where the prediction holds:",
        "tracking error / distance moved at the end, median over 3 seeds",
        "–: no prediction to the end",
    ]


def test_a_flow_that_has_not_moved_is_not_called_unpredicted():
    dataset = grids.predicted((1, 2, 1))
    dataset["final_relative_error"][{"learning_rate": 0}] = np.nan
    ax = plots.heat_map(dataset, "final_relative_error")
    assert "–: no value, as of a flow that has not moved" in ax.figure.get_suptitle()
    assert "no prediction" not in ax.figure.get_suptitle()


def test_the_ratio_of_the_thresholds_has_colours_around_one_in_a_panel_for_each_combination():
    dataset = grids.predicted((2, 2, 2), axes={"width": [4, 8]})
    figure = plots.heat_maps(dataset, "threshold_ratio")
    expected = np.median(dataset["threshold_ratio"].values[..., -1], axis=0)
    for place, ax in enumerate(figure.axes[:2]):
        np.testing.assert_allclose(_mesh(ax).get_array(), expected[..., place].T)
        norm = _mesh(ax).norm
        np.testing.assert_allclose(norm.vmin + norm.vmax, 2.0)


def test_a_map_of_texts_is_refused():
    with pytest.raises(ValueError, match="'prediction_kind' has to hold numbers"):
        plots.heat_map(grids.predicted((1, 1, 1)), "prediction_kind")


@pytest.mark.parametrize("name", ["threshold", "test_accuracy"])
def test_bands_have_the_median_of_the_predictions_from_where_the_last_begins(name):
    dataset = _without(grids.predicted((3, 1, 1)), seed=2)
    ax = plots.seed_bands(dataset, name)
    measured, line = ax.lines
    records = dataset["step"].values[2:]  # the prediction of the second seed begins there
    steps = dataset["prediction_step"].values[:2, 0, 0]
    values = dataset[f"predicted_{name}"].values[:2, 0, 0]
    both = [np.interp(records, *one) for one in zip(steps, values, strict=True)]
    np.testing.assert_array_equal(line.get_xdata(), records)
    np.testing.assert_allclose(line.get_ydata(), np.mean(both, axis=0), rtol=1e-12)
    assert line.get_color() != measured.get_color()
    assert "predicted flow" in [text.get_text() for text in ax.figure.legends[0].get_texts()]


def test_the_axis_of_bands_holds_a_prediction_that_is_far_off():
    dataset = grids.predicted((2, 1, 1))
    dataset["predicted_test_accuracy"][:] = 7.0
    assert plots.seed_bands(dataset, "test_accuracy").get_ylim()[1] > 7.0


def test_the_predicted_mean_loss_is_not_drawn_beside_losses_that_it_is_no_mean_of():
    for name in ("loss", "loss_mean", "edge_ratio_iterate"):
        assert series.predicted(grids.predicted((1, 1, 1)), name) is None


def test_a_prediction_says_nothing_before_it_begins_or_where_there_is_none():
    dataset = _without(grids.predicted((2, 1, 1)), seed=1)
    found = series.predicted(dataset, "threshold").values[:, 0, 0]
    assert np.isfinite(found[0]).tolist() == [False] + 29 * [True]
    assert np.isnan(found[1]).all()


@pytest.mark.parametrize("some", [True, False])
def test_plot_grid_maps_the_predictions_of_a_grid_that_has_any(some, tmp_path):
    dataset = grids.predicted((1, 2, 2))
    dataset = dataset if some else _without(dataset)
    kept = dataset.drop_vars(["sharpness_iterate", "edge_ratio_iterate", "test_accuracy"])
    names = [path.stem for path in plots.plot_grid(kept, tmp_path)]
    maps = ["prediction-final-relative-error", "prediction-threshold-ratio"] if some else []
    assert names == ["outcomes", *maps, "final-loss-mean", "bands-loss-mean"]


def test_a_report_says_what_predicts_the_points_and_groups_the_reasons(tmp_path, monkeypatch):
    monkeypatch.setattr("sharpflow.experiments.plots.plot_grid", lambda *_, **__: [])
    dataset = grids.grid((2, 2, 2))
    made = _without(grids.predictions(dataset), learning_rate=0)
    made["prediction_kind"][{"seed": 1, "learning_rate": 1}] = "central_flow"
    for decay, step in enumerate((40, 50)):
        where = {"seed": 1, "learning_rate": 1, "weight_decay": decay}
        made["prediction_reason"][where] = f"the edge is reached by step {step}"
    kept = [2, 3, 6, 7]
    for point, closest in enumerate(("0.015", "0.3", "2e-2")):
        where = {"seed": point // 2, "learning_rate": 0, "weight_decay": point % 2}
        made["prediction_reason"][where] = f"the closest snapshot is {closest} away"
    made["prediction_status"][{"seed": 0, "learning_rate": 1, "weight_decay": 0}] = FULL
    made["prediction_reason"][{"seed": 0, "learning_rate": 1, "weight_decay": 0}] = "it is full"
    folder = reports.write_run(tmp_path / "run", dataset)
    before = drawn_from(RunFolder(folder))
    write_predictions(RunFolder(folder), made)
    assert drawn_from(RunFolder(folder)) != before  # figures of before lack the predictions
    page = reports.Page(write_report(folder))
    text, errors = page.text, page.column("grid-table", "tracking error / distance moved")
    for said in (
        "holds predictions of 4 of 8 points: 2 by the flow on the manifold, 2 by the central flow.",
        "1 point is not predicted yet: sharpflow predict goes on with it.",
        "No prediction at 3 points, the first of them seed 0, η = 0.01, λ = 0.0001: the closest "
        "snapshot is 0.015 away",
        "A prediction that ends early at seed 0, η = 1, λ = 0.0001: it is full",
        "The central flow at 2 points, the first of them seed 1, η = 1, λ = 0.0001: the edge is "
        "reached by step 40",
        "The predictions are those of the folder, and no flow was integrated anew.",
    ):
        assert said in text
    # the flow of every point is set beside it, also where the problem is not made again
    curves = page.json("curves")["points"]
    assert [each["predicted"] is not None for each in curves] == [
        point in kept for point in range(8)
    ]
    by = [{row[0]: row[2] for row in each["facts"]}.get("predicted by") for each in curves]
    assert by[2:4] == ["the flow on the manifold"] * 2 and by[6:] == ["the central flow"] * 2
    flat = made["predicted_threshold"].values.reshape(8, -1)
    for point in kept:
        drawn = curves[point]["predicted"]["columns"]["threshold"]
        np.testing.assert_allclose(drawn, flat[point], rtol=1e-4)
    rows = {row[0]["text"]: row for row in page.tables["statements-table"][1:]}
    assert rows["flow: threshold, measured / predicted, at the end"][5]["text"] == "4"
    assert text.count("the closest snapshot is") == 1
    expected = last_values(dataset.merge(made), "final_relative_error").values.reshape(-1)
    np.testing.assert_array_equal(errors, expected)
    assert np.isnan(expected).tolist() == [True, True, True, False, True, True, False, False]

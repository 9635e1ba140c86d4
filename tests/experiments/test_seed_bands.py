"""Bands hold the seeds that they say, on the clock and the scale that they say."""

import grids
import numpy as np
import pytest

from sharpflow.experiments import plots
from sharpflow.experiments.plots import series

pytestmark = pytest.mark.usefixtures("settings_stay")


PENDING, DIVERGED = grids.PENDING, grids.DIVERGED


def _drawn_band(collection):
    """Times, low and high of a band."""
    corners = collection.get_paths()[0].vertices
    times = np.unique(corners[:, 0])
    edges = [[corners[corners[:, 0] == t, 1].min(), corners[corners[:, 0] == t, 1].max()]
             for t in times]  # fmt: skip
    return times, np.array(edges)


@pytest.mark.parametrize(("seeds", "low", "high"), [(2, 0, 100), (4, 0, 100), (5, 10, 90)])
def test_bands_are_percentiles_or_the_range_of_few_seeds(seeds, low, high):
    dataset = grids.grid((seeds, 3, 1))
    ax = plots.seed_bands(dataset, "loss_mean")
    values = dataset["loss_mean"].values[:, :, 0]
    assert len(ax.lines) == len(ax.collections) == 3
    for index, (line, band) in enumerate(zip(ax.lines, ax.collections, strict=True)):
        np.testing.assert_array_equal(line.get_xdata(), dataset["step"])
        median = np.median(values[:, index], axis=0)
        np.testing.assert_allclose(line.get_ydata(), median, rtol=1e-12)
        times, edges = _drawn_band(band)
        np.testing.assert_array_equal(times, dataset["step"])
        expected = np.percentile(values[:, index], [low, high], axis=0).T
        np.testing.assert_allclose(edges, expected, rtol=1e-12)
    said = "range" if high == 100 else "10th to 90th percentile"
    title = ax.figure.legends[0].get_title().get_text()
    assert title == f"median and {said} of {seeds} seeds"
    names = [text.get_text() for text in ax.figure.legends[0].get_texts()]
    assert names == [r"$\eta$ = 0.01", r"$\eta$ = 0.1", r"$\eta$ = 1"]


def test_one_seed_is_a_line_without_a_word_about_seeds():
    dataset = grids.grid((1, 1, 1))
    ax = plots.seed_bands(dataset, "test_accuracy")
    (line,) = ax.lines
    np.testing.assert_array_equal(line.get_ydata(), dataset["test_accuracy"].values.ravel())
    assert ax.figure.legends[0].get_title().get_text() == ""
    assert ax.get_ylabel() == "test accuracy" and ax.get_xlabel() == "step $t$"


def test_a_seed_that_diverges_leaves_the_band_and_is_marked():
    dataset = grids.grid((3, 1, 1))
    dataset["loss_mean"][{"seed": 1, "step": slice(18, 20)}] = [1e9, np.inf]
    dataset = grids.ended(dataset, DIVERGED, at=20, seed=1)
    ax = plots.seed_bands(dataset, "loss_mean")
    line, mark = ax.lines
    values = dataset["loss_mean"].values[:, 0, 0]
    np.testing.assert_allclose(line.get_ydata()[:18], np.median(values[:, :18], axis=0))
    others = values[[0, 2]]
    np.testing.assert_allclose(line.get_ydata()[19:], np.median(others[:, 19:], axis=0))
    top = ax.get_ylim()[1]
    assert values[np.isfinite(values)].max() > 1e8 > top >= others.max()
    np.testing.assert_allclose(np.ravel(mark.get_data()), [180.0, top])
    assert "diverges" in [text.get_text() for text in ax.figure.legends[0].get_texts()]


def test_a_seed_that_diverged_before_any_value_has_no_mark():
    ax = plots.seed_bands(grids.ended(grids.grid((3, 1, 1)), DIVERGED, seed=1), "loss_mean")
    assert len(ax.lines) == 1


def test_records_between_measurements_are_passed_over_and_the_threshold_is_drawn():
    dataset = grids.grid((5, 2, 1))
    dataset["sharpness_iterate"][{"step": np.arange(30) % 3 != 0}] = np.nan
    ax = plots.seed_bands(dataset, "sharpness_iterate")
    for index in range(2):
        threshold, sharpness = ax.lines[2 * index : 2 * index + 2]
        of_rate = dataset.isel(learning_rate=index, weight_decay=0)
        expected = np.median(of_rate["threshold"].values, axis=0)
        np.testing.assert_allclose(threshold.get_data(), [dataset["step"], expected])
        expected = np.median(of_rate["sharpness_iterate"].values[:, ::3, 0], axis=0)
        np.testing.assert_allclose(sharpness.get_data(), [dataset["step"][::3], expected])
        assert threshold.get_color() is sharpness.get_color()
    assert r"$\lambda^{\ast}$" in [text.get_text() for text in ax.figure.legends[0].get_texts()]


def test_a_threshold_that_was_not_recorded_is_not_drawn():
    ax = plots.seed_bands(grids.grid((3, 2, 1)).drop_vars("threshold"), "sharpness_iterate")
    assert len(ax.lines) == 2


def test_edge_ratios_have_a_line_at_one_and_an_axis_for_their_second_half():
    dataset = grids.grid((3, 1, 1))
    dataset["edge_ratio_iterate"][:] = 0.5
    dataset["edge_ratio_iterate"][{"step": 2}] = 40.0
    ax = plots.seed_bands(dataset, "edge_ratio_iterate")
    np.testing.assert_array_equal(ax.lines[-1].get_ydata(), 1.0)
    low, high = ax.get_ylim()
    assert low < 0.5 and 1.5 <= high < 1.6
    dataset["edge_ratio_iterate"][{"step": 20}] = 3.0
    _, high = plots.seed_bands(dataset, "edge_ratio_iterate").get_ylim()
    assert 3.6 <= high < 3.8


def test_points_of_different_length_are_drawn_against_flow_time():
    dataset = grids.grid((2, 2, 1))
    against_step = plots.seed_bands(dataset, "loss")
    assert against_step.get_xlabel() == "step $t$"
    dataset["num_steps"][{"learning_rate": 0}] = 100
    ax = plots.seed_bands(dataset, "loss")
    assert ax.get_xlabel() == r"flow time $\tau$"
    for index, line in enumerate(ax.lines):
        np.testing.assert_allclose(line.get_xdata(), dataset["tau"][index, 0])
    ax = plots.seed_bands(dataset, "loss", against="step")
    np.testing.assert_array_equal(ax.lines[0].get_xdata(), dataset["step"])


def test_records_at_equal_flow_times_have_steps_of_their_own():
    dataset = grids.grid((2, 2, 2))
    every = np.array([[7, 5], [3, 2]])[..., None] * np.arange(30)
    dims = ("learning_rate", "weight_decay", "record")
    tau = dataset["tau"].values
    dataset = dataset.drop_vars(["step", "tau"]).rename(step="record")
    dataset = dataset.assign_coords(step=(dims, every), tau=(dims, tau))
    figure = plots.seed_band_panels(dataset, "loss", against="step")
    for place, ax in enumerate(figure.axes):
        for index, line in enumerate(ax.lines):
            np.testing.assert_array_equal(line.get_xdata(), every[index, place])
    ax = plots.seed_bands(dataset.isel(weight_decay=[1]), "loss", against="tau")
    np.testing.assert_allclose(ax.lines[1].get_xdata(), tau[1, 1])


def test_without_weight_decay_there_is_no_flow_time():
    dataset = grids.grid((2, 2, 2), decays=[0.0, 1e-3])
    dataset["num_steps"][{"learning_rate": 0}] = 100
    assert plots.seed_band_panels(dataset, "loss").axes[0].get_xlabel() == "step $t$"
    with pytest.raises(ValueError, match="tau"):
        plots.seed_band_panels(dataset, "loss", against="tau")
    with pytest.raises(ValueError, match="against"):
        plots.seed_band_panels(dataset, "loss", against="epoch")


def test_a_panel_for_each_weight_decay_on_one_scale():
    dataset = grids.grid((3, 2, 3), decays=[1e-2, 1e-5, 1e-3])
    dataset["test_accuracy"][{"weight_decay": 0}] *= 0.5
    figure = plots.seed_band_panels(dataset, "test_accuracy")
    titles = [r"$\lambda$ = $10^{-5}$", r"$\lambda$ = 0.001", r"$\lambda$ = 0.01"]
    assert [ax.get_title() for ax in figure.axes] == titles
    values = dataset["test_accuracy"]
    for ax in figure.axes:
        low, high = ax.get_ylim()
        assert low < values.min() < values.max() < high
    for ax, place in zip(figure.axes, (1, 2, 0), strict=True):
        median = dataset["test_accuracy"].isel(weight_decay=place).median("seed")
        for line, expected in zip(ax.lines, median, strict=True):
            np.testing.assert_allclose(line.get_ydata(), expected)
    with pytest.raises(ValueError, match="seed_band_panels"):
        plots.seed_bands(dataset, "test_accuracy")


def test_of_many_rates_and_decays_some_are_drawn_with_both_ends():
    dataset = grids.grid((2, 20, 20), rows=3)
    figure = plots.seed_band_panels(dataset, "loss", title="a name")
    assert len(figure.axes) == 6 and all(len(ax.lines) == 6 for ax in figure.axes)
    last = dataset["loss"].values[:, -1, -1].mean(axis=0)  # the median of two
    np.testing.assert_allclose(figure.axes[-1].lines[-1].get_ydata(), last)
    title = figure.legends[0].get_title().get_text()
    words = ("a name", "6 of 20 learning rates", "6 of 20 weight decays")
    assert all(word in title for word in words)


def test_an_unfinished_grid_is_drawn_as_far_as_it_is():
    dataset = grids.ended(grids.grid((3, 2, 2)), PENDING, at=10, learning_rate=1)
    dataset = grids.ended(dataset, PENDING, weight_decay=0)
    empty, part = plots.seed_band_panels(dataset, "loss").axes
    assert [text.get_text() for text in empty.texts] == ["no values"]
    assert [line.get_xdata().size for line in part.lines] == [30, 10]
    title = part.figure.legends[0].get_title().get_text()
    assert "9 of 12 trajectories unfinished" in title
    ax = plots.seed_bands(grids.ended(grids.grid((1, 1, 1)), PENDING), "loss")
    assert [text.get_text() for text in ax.texts] == ["no values"]


def test_a_band_of_nothing_is_empty():
    assert series.band(np.arange(3.0), np.full((2, 3), np.nan)).median.shape == (0,)


@pytest.mark.parametrize("seeds", [4, 5, 9])
def test_bands_pass_over_the_seeds_without_a_value(seeds):
    random = np.random.default_rng(seeds)
    values = random.lognormal(size=(seeds, 50))
    values[random.random(values.shape) < 0.4] = np.nan
    values[:, 7] = np.nan
    kept = np.isfinite(values).any(axis=0)
    found = series.band(np.arange(50.0), values)
    levels = [50, 0, 100] if seeds < 5 else [50, 10, 90]
    expected = np.nanpercentile(values[:, kept], levels, axis=0)
    np.testing.assert_array_equal([found.median, found.low, found.high], expected)


def _late_metric(**ratios):
    """A grid of two weight decays whose test accuracy is 0 at first, and then 0.45 and 0.49."""
    dataset = grids.grid((1, 1, 2), rows=40)
    late = np.broadcast_to(np.array([0.45, 0.49])[:, None], (2, 40)).copy()
    late[:, :10] = np.linspace(-2.0, 0.0, 10)
    late[:, 20] += 0.01  # a burst
    dataset["test_accuracy"][:] = late
    dataset["edge_ratio_iterate"][:] = np.where(np.arange(40) < 12, 0.5, 1.0)
    return dataset.drop_vars([name for name, kept in ratios.items() if not kept])


@pytest.mark.parametrize("known", [True, False])
def test_the_axis_of_a_metric_begins_after_its_transient(known):
    dataset = _late_metric(edge_ratio_iterate=known)
    ax = plots.seed_bands(dataset, "test_accuracy", over="weight_decay")
    low, high = ax.get_ylim()
    assert 0.44 < low < 0.45 and 0.49 < high < 0.51
    drawn = [line.get_ydata() for line in ax.lines]
    np.testing.assert_array_equal(drawn, dataset["test_accuracy"].values[0, 0])
    names = [text.get_text() for text in ax.figure.legends[0].get_texts()]
    assert names == [r"$\lambda$ = $10^{-4}$", r"$\lambda$ = 0.01"]


def test_the_axis_of_a_metric_holds_all_of_a_slow_fall_and_every_last_value():
    dataset = _late_metric()
    dataset["test_accuracy"][:] = np.linspace(1.0, 0.0, 40)
    low, high = plots.seed_bands(dataset, "test_accuracy", over="weight_decay").get_ylim()
    assert low < 0.0 and high > 1.0
    dataset = _late_metric()
    dataset["test_accuracy"][{"weight_decay": 0, "step": -1}] = -1.9
    assert plots.seed_bands(dataset, "test_accuracy", over="weight_decay").get_ylim()[0] < -1.9


def test_the_axis_of_a_metric_holds_whole_bands_unless_a_single_value_would_make_it():
    seeds = grids.grid((3, 1, 2), rows=40)
    seeds["edge_ratio_iterate"][:] = np.where(np.arange(40) < 12, 0.5, 1.0)
    late = np.array([0.45, 0.47, 0.49])[:, None] * np.ones(40)
    late[:, :10] = np.linspace(-2.0, 0.0, 10)
    seeds["test_accuracy"][:] = late[:, None, None]
    for dip, shown in ((0.435, True), (0.1, False)):
        # one of many values, which percentiles leave out
        seeds["test_accuracy"][{"seed": 0, "weight_decay": 0, "step": 14}] = dip
        low = plots.seed_bands(seeds, "test_accuracy", over="weight_decay").get_ylim()[0]
        assert (low < dip) == shown and low < 0.45


def test_bands_over_weight_decays_are_those_of_each_and_want_one_learning_rate():
    dataset = grids.grid((3, 2, 2))
    with pytest.raises(ValueError, match=r"2 values of learning_rate.*over='learning_rate'"):
        plots.seed_bands(dataset, "loss_mean", over="weight_decay")
    ax = plots.seed_bands(dataset.isel(learning_rate=[1]), "loss_mean", over="weight_decay")
    medians = np.median(dataset["loss_mean"].values[:, 1], axis=0)
    np.testing.assert_allclose([line.get_ydata() for line in ax.lines], medians, rtol=1e-12)
    figure = plots.seed_band_panels(dataset, "loss_mean", over="weight_decay")
    titles = [panel.get_title() for panel in figure.axes]
    assert titles == [r"$\eta$ = 0.01", r"$\eta$ = 1"]
    drawn = [line.get_ydata() for line in figure.axes[1].lines]
    np.testing.assert_allclose(drawn, medians, rtol=1e-12)


@pytest.mark.parametrize(
    "chosen", [("learning_rate",), ("weight_decay",), ("seed", "weight_decay")]
)
def test_a_value_that_was_selected_without_its_axis_is_drawn_as_with_it(chosen):
    dataset = grids.grid((2, 1, 1))
    without = dataset.isel(dict.fromkeys(chosen, 0))
    kept = dataset.isel({name: [0] for name in chosen})
    for draw in (plots.seed_bands, plots.heat_map):
        lines = [
            [np.asarray(drawn.get_array() if draw is plots.heat_map else drawn.get_ydata())
             for drawn in (ax.collections if draw is plots.heat_map else ax.lines)]
            for ax in (draw(each, "loss_mean") for each in (without, kept))
        ]  # fmt: skip
        np.testing.assert_array_equal(*lines)


@pytest.mark.parametrize("shape", [(3, 2, 1), (3, 2, 2)])
def test_what_came_before_a_fork_is_drawn_within_the_axes(shape):
    dataset = grids.grid(shape)
    # the loss falls by ten before the fork
    steps = dataset["step"].values
    before = dataset.assign(loss_mean=10.0 * dataset["loss_mean"])
    dataset = dataset.assign_coords(step=steps[-1] + 1 + steps)
    figure = plots.seed_band_panels(dataset, "loss_mean", before=before)
    values = before["loss_mean"].transpose("weight_decay", "learning_rate", "seed", "step").values
    # the lines reach the first record of the fork, so that there is no gap
    first = dataset["loss_mean"].isel(step=[0]).transpose(
        "weight_decay", "learning_rate", "seed", "step"
    ).values  # fmt: skip
    joined = np.concatenate([values, first], axis=-1)
    for ax, rows in zip(figure.axes, joined, strict=True):
        pale = [line for line in ax.lines if line.get_alpha() == 0.4]
        for line, seeds in zip(pale, rows, strict=True):
            np.testing.assert_array_equal(line.get_xdata(), [*steps, dataset["step"].values[0]])
            np.testing.assert_allclose(line.get_ydata(), np.median(seeds, axis=0), rtol=1e-12)
        assert ax.get_ylim()[1] >= values.max()
    (legend,) = figure.legends
    assert "before the fork" in [text.get_text() for text in legend.get_texts()]


def test_what_came_before_with_other_axes_is_refused_and_another_column_not_drawn():
    dataset = grids.grid((3, 2, 1))
    with pytest.raises(ValueError, match="before must be .*'learning_rate': 2, .* got .*: 3"):
        plots.seed_bands(dataset, "loss_mean", before=grids.grid((3, 3, 1)))
    ax = plots.seed_bands(dataset, "loss_mean", before=dataset.drop_vars("loss_mean"))
    assert len(ax.lines) == 2

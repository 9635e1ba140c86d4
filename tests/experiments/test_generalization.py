"""What is said of test metrics after the fit: changes, intervals, and what is left out."""

import json

import grids
import numpy as np
import pytest
import reports
import xarray
from described import undescribed
from fitted import DECAY, FIT_ROW, fitted
from matplotlib import pyplot
from matplotlib.colors import to_rgb

import sharpflow as sf
from benchmarks import poster
from sharpflow.experiments import plots
from sharpflow.experiments.grid_summary import last_values, with_point_axes
from sharpflow.experiments.late_generalization import (
    DIVERGED,
    TOO_LATE,
    UNFINISHED,
    UNFITTED,
    tells_of_generalization,
)
from sharpflow.experiments.plots import quantities
from sharpflow.experiments.plots.late_curves import drawn_curves, over_seeds
from sharpflow.experiments.report import figures, write_report
from sharpflow.experiments.seed_statistics import mean_interval, rank_correlation

pytestmark = pytest.mark.usefixtures("settings_stay")

METRICS = ["test_accuracy", "test_error"]


def _lines(ax, style="-"):
    return [
        line for line in ax.lines if line.get_linestyle() == style and len(line.get_xdata()) > 1
    ]


# The 97.5 % quantile of Student's distribution, as printed in any table of it.
@pytest.mark.parametrize(
    ("seeds", "quantile"), [(2, 12.706), (3, 4.303), (5, 2.776), (10, 2.262), (31, 2.042)]
)
def test_an_interval_is_that_of_students_table(seeds, quantile):
    values = np.random.default_rng(seeds).normal(size=(seeds, 3))
    found = mean_interval(values)
    error = values.std(axis=0, ddof=1) / np.sqrt(seeds)
    np.testing.assert_allclose(found.mean, values.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.high - found.mean, quantile * error, rtol=2e-4)  # its digits
    np.testing.assert_allclose(found.mean - found.low, found.high - found.mean, rtol=1e-9)


def test_an_interval_contains_the_mean_as_often_as_it_says():
    draws = 40_000
    found = mean_interval(np.random.default_rng(0).normal(1.0, 3.0, size=(5, draws)))
    covered = np.mean((found.low <= 1.0) & (found.high >= 1.0))
    # four standard errors of a share of so many draws
    assert abs(covered - 0.95) < 4.0 * np.sqrt(0.95 * 0.05 / draws)
    null = mean_interval(np.random.default_rng(1).normal(size=(5, draws)))
    assert abs(null.excludes_zero.mean() - 0.05) < 4.0 * np.sqrt(0.95 * 0.05 / draws)


def test_what_is_missing_counts_as_no_seed_and_one_seed_has_no_interval():
    nan = np.nan
    found = mean_interval([[1.0, nan, nan], [3.0, 2.0, nan], [nan, nan, nan]])
    assert found.num_seeds.tolist() == [2, 1, 0]
    np.testing.assert_array_equal(found.mean, [2.0, 2.0, nan])
    assert np.isfinite(found.low).tolist() == [True, False, False]
    assert found.excludes_zero.tolist() == [False, False, False]


def test_a_rank_correlation_is_that_of_scipy_also_with_ties_and_missing_points():
    from scipy.stats import spearmanr

    random = np.random.default_rng(0)
    x = random.integers(0, 6, size=(5, 9)).astype(float)
    y = x + random.integers(0, 4, size=(5, 9))
    y[1, 2:5] = np.nan
    known = np.isfinite(y)
    found = rank_correlation(x, y)
    assert found.value == pytest.approx(spearmanr(x[known], y[known]).statistic, rel=1e-12)
    assert found.low < found.value < found.high <= 1.0 and found.num_points == 42
    assert found == rank_correlation(x, y)  # the draws are the same


def test_a_rank_correlation_is_certain_where_every_seed_says_the_same_and_honest_where_none_can():
    x = np.arange(20.0).reshape(5, 4)
    assert rank_correlation(x, -(x**3))[:3] == pytest.approx((-1.0, -1.0, -1.0))
    cases = {
        "too few": (x[:2, :2], x[:2, :2], True),
        "of one value": (x, np.ones_like(x), True),
        "of four seeds": (x[:4], x[:4], False),
    }
    for name, (first, second, no_value) in cases.items():
        found = rank_correlation(first, second)
        assert np.isnan(found.value) == no_value, name
        assert np.isnan(found.low) and np.isnan(found.high), name


def test_changes_are_those_that_the_grid_was_made_with():
    changes = sf.experiments.generalization(fitted(spread=0.0))
    assert not undescribed(changes)
    every = float(fitted()["step"][1])
    np.testing.assert_array_equal(changes["fit_step"], FIT_ROW * every)
    assert (changes["exclusion"] == "").all() and (changes["num_seeds"] == 5).all()
    moved = changes["excludes_zero"].sel(quantity="test_accuracy", learning_rate=0.1)
    np.testing.assert_array_equal(moved, [[True, False], [False, False]])
    of_both = changes.sel(learning_rate=0.1, weight_decay=DECAY, normalization="batch")
    expected = {"test_accuracy": 0.05, "test_error": -0.1, "threshold": 7000 * np.expm1(-2.0)}
    for name, change in expected.items():
        np.testing.assert_allclose(of_both["change"].sel(quantity=name), change, rtol=1e-9)
    assert of_both["mean_at_fit"].sel(quantity="test_error") == pytest.approx(1.1)
    np.testing.assert_allclose(changes.sel(weight_decay=0.0)["change"], 0.0, atol=1e-12)


def test_the_mean_change_and_its_interval_are_those_of_the_seeds():
    dataset = fitted(normalizations=None, noise=0.01)
    changes = sf.experiments.generalization(dataset).isel(learning_rate=0)
    values = dataset["test_error"].isel(learning_rate=0).values
    by_hand = values[..., -4:].mean(axis=-1) - values[..., FIT_ROW]  # a tenth of 40 records
    error = changes.sel(quantity="test_error")
    np.testing.assert_allclose(error["change"], by_hand, rtol=1e-12)
    mean, reach = by_hand.mean(axis=0), 2.776445 * by_hand.std(axis=0, ddof=1) / np.sqrt(5)
    np.testing.assert_allclose(error["mean_change"], mean, rtol=1e-9)
    np.testing.assert_allclose(error["change_low"], mean - reach, rtol=1e-6)
    np.testing.assert_allclose(error["change_high"], mean + reach, rtol=1e-6)
    np.testing.assert_array_equal(error["excludes_zero"], np.abs(mean) > reach)


def test_a_column_that_was_recorded_rarely_counts_from_its_first_value_after_the_fit():
    dataset = fitted(normalizations=None)
    changes = sf.experiments.generalization(dataset).sel(quantity="sharpness_iterate")
    first = dataset["sharpness_iterate"][..., 6, 0]  # every third record has a value
    np.testing.assert_allclose(changes["at_fit"], first)
    once = dataset["sharpness_iterate"].copy(deep=True)
    once[..., 7:, :] = np.nan
    alone = sf.experiments.generalization(dataset.assign(sharpness_iterate=once))
    assert (alone["num_seeds"].sel(quantity="sharpness_iterate") == 0).all()
    assert (alone["num_seeds"].sel(quantity="test_error") == 5).all()


def test_what_is_left_out_is_counted_with_its_reason():
    dataset = fitted(normalizations=None, decays=(DECAY,), seeds=6)
    dataset = grids.ended(dataset, grids.DIVERGED, at=9, seed=1)
    dataset = grids.ended(dataset, grids.PENDING, at=9, seed=2)
    dataset["train_accuracy"][3] = 0.99
    dataset["train_accuracy"][4, ..., :37] = 0.99
    changes = sf.experiments.generalization(dataset)
    reasons = ["", DIVERGED, UNFINISHED, UNFITTED, TOO_LATE, ""]
    assert changes["exclusion"].values.ravel().tolist() == reasons
    assert (
        np.isnan(changes["fit_step"].values.ravel()).tolist() == [False] * 3 + [True] + [False] * 2
    )
    assert (changes["num_seeds"] == 2).all()
    assert np.isfinite(changes["change"]).any("quantity").values.ravel().tolist() == [
        reason == "" for reason in reasons
    ]
    told = str(sf.experiments.generalization_summary(dataset))
    for reason in reasons[1:5]:
        assert f"1 {reason}" in told
    lower = sf.experiments.generalization(dataset, level=0.99)
    assert (lower["num_seeds"].sel(quantity="test_error") == 4).all()


def test_steps_of_each_points_own_are_the_steps_of_its_fit():
    dataset = fitted(normalizations=None).drop_vars("tau")
    own = dataset.rename(step="record").drop_vars("record")
    steps = np.arange(1, 3)[None, :, None] * dataset["step"].values
    own = own.assign_coords(step=(("learning_rate", "weight_decay", "record"), steps))
    found = sf.experiments.generalization(own)["fit_step"].isel(seed=0, learning_rate=0)
    np.testing.assert_array_equal(found, steps[0, :, FIT_ROW])
    ends = [line.get_xdata()[-1] for line in _lines(plots.generalization_panel(own)[0])]
    assert ends == steps[0, :, -1].tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.drop_vars("train_accuracy"), "train_accuracy"),
        (lambda d: d.drop_vars(METRICS), "test_"),
        (lambda d: d.drop_vars("status"), "status"),
    ],
)
def test_a_grid_that_cannot_tell_is_refused(change, message):
    for function in (
        sf.experiments.generalization,
        sf.experiments.generalization_summary,
        plots.generalization_panel,
    ):
        with pytest.raises(ValueError, match=message):
            function(change(fitted()))


def test_a_summary_says_in_plain_words_what_rises_and_what_does_not():
    told = str(sf.experiments.generalization_summary(fitted(normalizations=None, spread=0.005)))
    lines = told.splitlines()
    assert len(lines) <= 12 and all(len(line) <= 96 and "…" not in line for line in lines)
    of_decay, of_none = told.split("no weight decay")
    assert "test accuracy" in of_decay and "rises: +0.0" in of_decay and "falls: -0.0" in of_decay
    assert of_none.count("no clear change") == 2 and "5 seeds" in of_none
    four = str(sf.experiments.generalization_summary(fitted())).splitlines()
    assert len(four) <= 12 and sum("test accuracy" in line for line in four) == 4
    one = str(sf.experiments.generalization_summary(fitted(seeds=1, normalizations=None)))
    assert "one seed: no interval" in one


def test_a_panel_has_the_means_the_intervals_and_the_names_of_its_curves():
    dataset = fitted(predicted=True, noise=0.003)
    accuracy, error, sharpness = plots.generalization_panel(dataset)
    names = [text.get_text() for text in accuracy.figure.legends[0].get_texts()]
    assert [name.replace("$", "") for name in names[:4]] == [
        r"normalization and weight decay \lambda = 0.01",
        "normalization, no weight decay",
        "no normalization",
        r"no normalization, weight decay \lambda = 0.01",
    ]
    for ax, name in ((accuracy, "test_accuracy"), (error, "test_error")):
        curves = _lines(ax)
        assert len(curves) == 4 and len(ax.collections) == 4
        assert len({line.get_color() for line in curves}) == 4
        values = dataset[name].sel(learning_rate=0.1, weight_decay=DECAY, normalization="batch")
        np.testing.assert_allclose(curves[0].get_ydata(), values.mean("seed"), rtol=1e-12)
        band = ax.collections[0].get_paths()[0].vertices
        between = mean_interval(values.values)
        late = band[band[:, 0] == dataset["step"].values[20], 1]
        np.testing.assert_allclose([late.min(), late.max()], [between.low[20], between.high[20]])
        low, high = ax.get_ylim()
        assert low < between.low[FIT_ROW:].min() and between.high[FIT_ROW:].max() < high
    assert len(_lines(sharpness)) == 2 and len(_lines(sharpness, "--")) == 2  # the thresholds
    (expected,) = _lines(error, "--")
    predicted = dataset["predicted_test_error"].sel(weight_decay=DECAY, normalization="batch")
    assert expected.get_ydata()[-1] == pytest.approx(float(predicted[..., -1].mean()))
    fits = [line for line in error.lines if line.get_marker() == "o" and len(line.get_xdata()) == 1]
    step = float(dataset["step"][FIT_ROW])
    assert [float(line.get_xdata()[0]) for line in fits] == 4 * [step]
    assert not _lines(accuracy, "--")


def test_two_seeds_have_no_band_and_the_note_says_so():
    whole = fitted(normalizations=None, noise=0.003)
    _, error, _ = plots.generalization_panel(whole)
    assert "drawn for" not in error.figure.legends[0].get_title().get_text()
    num_bands = len(error.collections)
    unfitted = whole.copy(deep=True)
    unfitted["train_accuracy"][2:, 0, 0] = 0.9  # two seeds of five are left
    _, error, _ = plots.generalization_panel(unfitted)
    assert len(error.collections) == num_bands - 1
    assert "drawn for 3 or more" in error.figure.legends[0].get_title().get_text()


def test_a_trajectory_that_diverges_is_in_no_mean_and_ends_in_a_cross():
    whole = fitted(normalizations=None, noise=0.003)
    dataset = grids.ended(whole, grids.DIVERGED, at=15, seed=1, weight_decay=0)
    dataset["test_error"][1, 0, 0, 14] = 1e6
    _, error, _ = plots.generalization_panel(dataset)
    curve = max(_lines(error), key=lambda line: line.get_linewidth())
    rest = whole["test_error"].isel(learning_rate=0, weight_decay=0, seed=[0, 2, 3, 4])
    np.testing.assert_allclose(curve.get_ydata(), rest.mean("seed"), rtol=1e-12)
    (cross,) = [line for line in error.lines if line.get_marker() == "X"]
    assert cross.get_xdata()[0] == whole["step"][14] and cross.get_ydata()[0] == error.get_ylim()[1]
    assert error.get_ylim()[1] < 2.0
    note = error.figure.legends[0].get_title().get_text()
    assert "of 10 trajectories 1 diverged" in note
    unfitted = whole.copy(deep=True)
    unfitted["train_accuracy"][1, 0, 0] = 0.9
    curves = _lines(plots.generalization_panel(unfitted)[1])
    np.testing.assert_allclose(curves[0].get_ydata(), rest.mean("seed"), rtol=1e-12)
    np.testing.assert_array_equal(curves[1].get_ydata(), whole["test_error"][1, 0, 0])
    assert curves[1].get_linewidth() < curves[0].get_linewidth()
    gone = grids.ended(whole, grids.DIVERGED, at=15, weight_decay=0)
    panels = plots.generalization_panel(gone)
    assert len([line for line in panels[1].lines if line.get_marker() == "X"]) == 5
    assert all(np.isfinite(ax.get_ylim()).all() for ax in panels)


@pytest.mark.parametrize(
    ("given", "missing", "names", "num_curves"),
    [
        ({"sharpness": False}, [], [*METRICS, "threshold"], 4),
        ({"decays": (0.0,), "seeds": 1}, ["threshold"], [*METRICS, "sharpness_iterate"], 2),
        ({"normalizations": ("layer",), "sharpness": False}, ["threshold"], METRICS, 2),
    ],
)
def test_a_panel_has_the_axes_that_the_columns_allow(given, missing, names, num_curves):
    dataset = fitted(**given).drop_vars(missing)
    axes = plots.generalization_panel(dataset)
    assert len(axes) == len(names) and len(_lines(axes[0])) == num_curves


def test_a_panel_takes_as_many_axes_of_a_user_as_it_has():
    dataset = fitted(normalizations=None).drop_vars(["test_accuracy", "threshold"])
    _, mine = pyplot.subplots(1, 3)
    with pytest.raises(ValueError, match="axes must be 2 axes, for test_error, sharpness_iterate"):
        plots.generalization_panel(dataset, axes=mine)
    assert plots.generalization_panel(dataset, axes=mine[1:]) == list(mine[1:])


def test_steps_are_logarithmic_where_the_fit_comes_early_and_several_decays_have_shades():
    early = fitted(normalizations=None, rows=500, sharpness=False).drop_vars(METRICS[:1])
    assert {ax.get_xscale() for ax in plots.generalization_panel(early)} == {"log"}
    several = fitted(normalizations=None, decays=(0.0, 0.01, 0.02, 0.03), sharpness=False)
    (ax, *_) = plots.generalization_panel(several.drop_vars(["test_error", "threshold"]))
    assert ax.get_xscale() == "linear"
    colours = [line.get_color() for line in _lines(ax)]
    assert len({to_rgb(colour) for colour in colours}) == 4


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (fitted(decays=np.linspace(0.0, 0.1, 7), normalizations=None), "7 pairs"),
        (fitted().isel(learning_rate=[0, 0]), "learning_rate"),
        (fitted().expand_dims(width=2).assign(width=[8, 16]), "width"),
    ],
)
def test_more_than_one_panel_shows_is_refused(dataset, message):
    if "width" in dataset.dims:
        dataset = dataset.transpose(..., "width", "step", "sharpness_iterate_0")
    with pytest.raises(ValueError, match=message):
        plots.generalization_panel(dataset)


def test_a_scatter_has_the_last_values_and_says_what_is_left_out():
    dataset = grids.ended(fitted(), grids.DIVERGED, at=9, seed=1, weight_decay=0, normalization=0)
    ax = plots.sharpness_against_error(dataset)
    x, y = (last_values(dataset, name) for name in ("sharpness_iterate", "test_error"))
    normalized = {"normalization": 0, "learning_rate": 0}
    for line, decay in zip(ax.lines, (1, 0), strict=True):  # rising with the weight decay
        np.testing.assert_array_equal(
            np.sort(line.get_xdata()[np.isfinite(line.get_xdata())]),
            np.sort(x.isel(normalized | {"weight_decay": decay}).dropna("seed")),
        )
    note = ax.figure.legends[0].get_title().get_text().replace("\n", " ")
    assert "of 9 points" in note and "1 diverged, 10 without normalization" in note
    shown = [v.isel(normalization=0).values.reshape(5, -1) for v in (x, y)]
    assert f"rank correlation {rank_correlation(*shown).value:.2f}" in note.replace("−", "-")


def test_a_scatter_of_too_few_points_or_one_seed_says_so():
    few = plots.sharpness_against_error(fitted(seeds=1, normalizations=None))
    assert "2 points: too few" in few.figure.legends[0].get_title().get_text()
    rates = grids.grid((1, 6, 1))
    one = plots.sharpness_against_error(rates, sharpness="threshold").figure.legends[0]
    assert "fewer than five seeds, no interval" in one.get_title().get_text().replace("\n", " ")
    with pytest.raises(ValueError, match="a sharpness"):
        plots.sharpness_against_error(fitted()[["train_accuracy", "test_error", "status"]])


@pytest.mark.parametrize(
    ("change", "tells"),
    [
        (lambda d: d, True),
        (lambda d: d.isel(weight_decay=[0]), True),
        (lambda d: d.isel(normalization=0, drop=True), True),
        (lambda d: d.isel(normalization=0, weight_decay=[0], drop=True), False),
        (lambda d: d.assign(train_accuracy=0.9 * d["train_accuracy"]), False),
        (lambda d: d.drop_vars(METRICS), False),
        (lambda d: d.drop_vars("train_accuracy"), False),
        (lambda d: d.assign(train_accuracy=d["status"].astype(float)), False),
    ],
)
def test_only_a_grid_with_something_to_compare_tells_of_generalization(change, tells):
    assert tells_of_generalization(change(fitted())) == tells


def test_plot_grid_draws_both_first_and_each_learning_rate_has_its_panel(tmp_path, monkeypatch):
    def empty(*arguments, **options):
        return pyplot.figure()

    for name in ("seed_band_panels", "heat_maps", "outcome_maps"):
        monkeypatch.setattr(f"sharpflow.experiments.plots.folder.{name}", empty)
    dataset = fitted(normalizations=None)[["train_accuracy", "test_error", "threshold", "status"]]
    names = [path.stem for path in plots.plot_grid(dataset, tmp_path)]
    assert names[:3] == ["generalization", "sharpness-against-error", "final-train-accuracy"]
    for name in ("_panel_figure", "_scatter_figure"):
        monkeypatch.setattr(f"sharpflow.experiments.plots.folder.{name}", empty)
    two = dataset.isel(learning_rate=[0, 0]).assign_coords(learning_rate=[0.1, 0.2])
    names = [path.stem for path in plots.plot_grid(two, tmp_path / "two")]
    panels = [
        f"generalization-{place}-learning_rate={rate}" for place, rate in ((0, 0.1), (1, 0.2))
    ]
    assert names[:3] == [*panels, "sharpness-against-error"]
    order = ["outcomes", "final-loss", "sharpness-against-error", *panels]
    assert sorted(order, key=figures._order)[:3] == [*panels, "sharpness-against-error"]
    assert figures.caption(panels[1]).endswith("over seeds, at learning_rate=0.2.")


def test_a_report_begins_with_the_panel_and_the_changes_with_their_intervals(tmp_path, monkeypatch):
    def two_figures(dataset, folder, **_):
        figure = pyplot.figure(figsize=(1.0, 0.5))
        return [
            plots.save(figure, f"{folder}/{name}.png") for name in ("outcomes", "generalization")
        ]

    monkeypatch.setattr("sharpflow.experiments.plots.plot_grid", two_figures)
    dataset = grids.ended(fitted(), grids.DIVERGED, at=9, seed=1, weight_decay=0, normalization=0)
    page = reports.Page(write_report(reports.write_run(tmp_path / "run", dataset)))
    shown = [given["id"] for tag, given in page.tags if tag == "figure"]
    assert shown == ["figure-generalization", "figure-outcomes"]
    sections = [given["id"] for tag, given in page.tags if tag == "section"]
    assert sections[0] == "generalization"
    rows = page.tables["generalization-table"]
    changes = sf.experiments.generalization(dataset).isel(learning_rate=0)
    both = changes.sel(weight_decay=DECAY, normalization="batch", quantity="test_accuracy")
    assert rows[1][0]["text"] == "normalization and weight decay λ = 0.01"
    told = [page.column("generalization-table", head)[0] for head in ("change", "to", "seeds")]
    expected = [float(both[name]) for name in ("mean_change", "change_high", "num_seeds")]
    assert told == pytest.approx(expected)
    verdicts = {row[0]["text"]: row[7]["text"] for row in rows[1:] if "accuracy" in row[1]["text"]}
    assert verdicts["normalization and weight decay λ = 0.01"] == "yes"
    assert verdicts["normalization, no weight decay"] == "no"
    assert not [
        row for row in rows if row[0]["text"] == "no normalization" and "λ" in row[1]["text"]
    ]
    assert "of 20 trajectories 1 diverged." in page.text


def test_a_report_without_anything_to_compare_has_no_such_part(tmp_path, monkeypatch):
    monkeypatch.setattr("sharpflow.experiments.plots.plot_grid", lambda *_, **__: [])
    page = reports.Page(write_report(reports.write_run(tmp_path / "run", grids.grid((1, 1, 1)))))
    assert "generalization-table" not in page.tables


def test_the_tables_of_the_poster_are_of_its_runs():
    changes = poster.table_of_changes(fitted(spread=0.0)).splitlines()[2:]
    named = [row.split(" | ")[0].strip("| ") for row in changes]
    assert [name for name in named if name] == [
        f"normalization and weight decay λ = {DECAY:g}",
        "normalization, no weight decay",
        "no normalization",
        f"no normalization, weight decay λ = {DECAY:g}",
    ]
    # the threshold is that of networks with normalization alone
    assert len(changes) == 3 + 3 + 2 + 2
    cells = [cell.strip() for cell in changes[1].split("|")]
    measured = sf.experiments.generalization(fitted(spread=0.0)).sel(quantity="test_error")
    at = measured.isel(learning_rate=0, weight_decay=0, normalization=0)
    assert cells[2] == "test error" and cells[5] == f"{float(at.mean_change):+.3f}"
    search, plain = fitted(normalizations=("batch",)), fitted(normalizations=("none",))
    rows = poster.table_of_choices(search, plain).splitlines()[2:]
    assert [float(row.split("|")[2]) for row in rows] == [DECAY, 0.0]  # the smaller error first
    assert all("trains" in row for row in rows)
    lost = grids.ended(plain, grids.DIVERGED, at=9, seed=1, weight_decay=0, normalization=0)
    assert "diverges" in poster.table_of_choices(search, lost)


def test_the_table_after_the_fit_tells_how_far_it_is_lost_and_what_follows():
    def held(values):
        return xarray.DataArray(np.broadcast_to(values, (2, 1, 2, 5)), dims=dims)

    dims = ("seed", "learning_rate", "weight_decay", "step")
    # with decay the fit of the second record is lost and comes back; without it stays
    train = [[0.5, 1.0, 1.0, 1.0, 1.0], [0.5, 1.0, 0.3, 0.9, 1.0]]
    test = [[0.2, 0.4, 0.4, 0.4, 0.4], [0.2, 0.4, 0.1, 0.5, 0.6]]
    search = xarray.Dataset({"train_accuracy": held(train), "test_accuracy": held(test)})
    search["status"] = (dims[:3], np.zeros((2, 1, 2), np.int32))  # all of them succeed
    search = search.assign_coords(learning_rate=[0.1], weight_decay=[0.0, DECAY], seed=[5, 6])
    never = search.train_accuracy.where(search.seed == 5, 0.9)
    search = search.assign(train_accuracy=never).expand_dims(normalization=["batch"])
    rows = poster.table_after_fit(search).splitlines()[2:]
    assert rows == [
        "| 0.1 | 0 | 1 of 2 | 1.000 | 0.400 | 0.400 |",
        f"| 0.1 | {DECAY:g} | 1 of 2 | 0.300 | 0.400 | 0.600 |",
    ]
    lost = search.assign(train_accuracy=search.train_accuracy * 0.5)
    assert "| 0 of 2 |  |  |  |" in poster.table_after_fit(lost)


def test_the_page_of_the_poster_says_how_long_its_runs_took(tmp_path):
    launch = {
        "device": "cpu", "jax_version": "0.10.1", "created": "2026-11-28T03:00:00+00:00",
        "predicted_memory_bytes": 1,
    }  # fmt: skip
    idle = {name: launch[name] for name in ("device", "jax_version", "created")}
    known = [launch | {"seconds": 100.0}, launch | {"seconds": 140.0}, idle]
    for name, launches in {"known": known, "killed": [launch, known[0]], "none": []}.items():
        (tmp_path / name).mkdir()
        made = json.dumps({"launches": launches})
        (tmp_path / name / "provenance.json").write_text(made)
    said = poster.times_in_words({name: tmp_path / name for name in ("known", "killed", "none")})
    assert said == (
        "By the clock known took 4.0 minutes (cpu, jax 0.10.1, 2026-11-28); "
        "killed does not know its time; none does not know its time."
    )


@pytest.mark.parametrize("preset", poster.STEMS)
def test_the_page_of_the_poster_has_a_place_for_every_table(preset):
    marks = [f"<!-- table of {preset}{part} -->" for part in poster.PICTURES]
    assert [poster.PAGE.read_text().count(mark) for mark in marks] == [1, 1, 1]


def test_intervals_of_accuracies_are_drawn_up_to_one():
    dataset = fitted(normalizations=None)
    dataset["test_accuracy"] = dataset["test_accuracy"] * 0.0 + xarray.DataArray(
        [0.9, 1.0, 1.0, 1.0, 1.0], dims="seed"
    )
    drawn = drawn_curves(with_point_axes(dataset), sf.experiments.generalization(dataset))
    seeds = over_seeds(drawn[0], "test_accuracy", is_log=False)
    np.testing.assert_allclose(seeds.mean, 0.98)
    assert np.all(seeds.high == 1.0) and np.all(seeds.low < 0.98)


def test_the_line_of_a_preconditioned_hessian_is_not_drawn_beside_the_plain_one():
    lines = xarray.Dataset(
        {"hessian_sharpness": ("step", [1.0]), "stability_line": ("step", [2.0])}
    )
    assert quantities.edge_of(lines, "hessian_sharpness") == "stability_line"
    both = lines.assign(preconditioned_sharpness=("step", [3.0]))
    assert quantities.edge_of(both, "hessian_sharpness") is None
    assert quantities.edge_of(both, "preconditioned_sharpness") == "stability_line"

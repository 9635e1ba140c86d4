"""Figures of a grid: a panel for each combination, room for all of it, and files."""

import itertools

import grids
import jax
import numpy as np
import pytest
from grids import DIVERGED
from matplotlib import pyplot

import sharpflow as sf
from sharpflow.experiments import plots
from sharpflow.experiments.plots import cells, drawing

pytestmark = pytest.mark.usefixtures("settings_stay")

AXES = {"init_scale": [0.1, 1.0, 10.0], "activation": ["relu", "tanh"]}


def _mesh(ax):
    (mesh,) = ax.collections
    return mesh


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.drop_vars("loss_mean"), "loss_mean"),
        (lambda d: d.drop_vars("status"), "status"),
        (lambda d: d.isel(seed=0, drop=True), "seed"),
        (lambda d: d.assign(loss_mean=d["num_steps"].astype(str)), "loss_mean"),
        (lambda d: d.assign(loss_mean=d["num_steps"].isel(seed=0)), "loss_mean"),
        (lambda d: d.assign(loss_mean=d["loss"].expand_dims(layer=2)), "layer"),
    ],
)
def test_a_dataset_that_lacks_something_is_refused_with_its_name(change, message):
    for draw in (plots.heat_map, plots.heat_maps, plots.seed_band_panels):
        with pytest.raises(ValueError, match=message):
            draw(change(grids.grid()), "loss_mean")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.isel(step=0), "step"),
        (lambda d: d.assign(loss_mean=d["num_steps"]), "loss_mean"),
    ],
)
def test_bands_are_of_columns_in_time(change, message):
    with pytest.raises(ValueError, match=message):
        plots.seed_band_panels(change(grids.grid()), "loss_mean")


@pytest.mark.parametrize("draw", [lambda d: plots.heat_maps(d, "loss_mean"), plots.outcome_maps])
def test_each_combination_of_further_axes_has_its_own_panel(draw):
    dataset = grids.grid((3, 4, 2), axes=AXES)
    figure = draw(dataset)
    panels = figure.axes[:6]
    combinations = [(i, j) for i in range(3) for j in range(2)]
    for ax, (i, j) in zip(panels, combinations, strict=True):
        name = f"init scale = {AXES['init_scale'][i]:g}, activation = {AXES['activation'][j]}"
        assert ax.get_title().replace("\n", " ") == name
        alone = draw(dataset.isel(init_scale=[i], activation=[j])).axes[0]
        np.testing.assert_array_equal(_mesh(ax).get_array(), _mesh(alone).get_array())
    assert len({(_mesh(ax).norm.vmin, _mesh(ax).norm.vmax) for ax in panels}) == 1


def test_more_than_six_combinations_are_cut_off_and_the_title_says_so():
    figure = plots.heat_maps(grids.grid((2, 2, 2), axes={"copy": list(range(9))}), "loss_mean")
    assert [ax.get_title() for ax in figure.axes[:-1]] == [f"copy = {i}" for i in range(6)]
    assert "the first 6 of 9 combinations" in figure.get_suptitle()


def test_a_single_panel_refuses_further_axes():
    dataset = grids.grid((2, 2, 1), axes=AXES)
    for draw in (
        lambda: plots.heat_map(dataset, "loss_mean"),
        lambda: plots.outcome_map(dataset),
        lambda: plots.seed_bands(dataset, "loss_mean"),
    ):
        with pytest.raises(ValueError, match=r"init_scale.*activation"):
            draw()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.01, 0.0316227766, 0.1], ["0.01", "0.032", "0.1"]),
        ([0.0, 1e-5, 3.2e-4], ["0", "$10^{-5}$", r"$3.2\!\times\!10^{-4}$"]),
        ([0.1, 0.1001], ["0.1", "0.1001"]),
        ([1.0, 256.0, 1e5], ["1", "256", "$10^{5}$"]),
    ],
)
def test_labels_of_cells_are_short_and_different(values, expected):
    assert cells.category_labels(np.array(values)) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.123, "0.12"), (0.0046, "0.0046"), (5481.3, "5481"), (12.34, "12"), (1.0, "1.0"),
        (4.6e-4, "4.6e−4"), (3.7e4, "3.7e4"), (-0.5, "-0.50"), (0.0, "0.0"), (np.nan, ""),
    ],
)  # fmt: skip
def test_numbers_in_cells_have_two_digits(value, expected):
    assert cells.number(value) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.05, 1.27, np.nan], 3), ([0.338, 0.353], 3), ([1.0, 1.0001], 4), ([1.0, 1.0], 2),
        ([0.1, 5000.0], 2), ([np.nan], 2), ([-2.05, -2.0], 4), ([0.0, 0.0], 2),
    ],
)  # fmt: skip
def test_numbers_that_are_close_together_have_the_digits_in_which_they_differ(values, expected):
    assert cells.num_digits(np.array(values)) == expected
    known = [value for value in values if np.isfinite(value)]
    if len(set(known)) > 1 and expected < 4:
        assert len({cells.number(value, expected) for value in known}) == len(set(known))


LONG = [0.012345, 0.0123456, 0.5, 123456.0]
FIGURES = {
    "values": lambda dataset: plots.heat_maps(dataset, "loss_mean"),
    "ratios": lambda dataset: plots.heat_maps(dataset, "edge_ratio_iterate"),
    "outcomes": plots.outcome_maps,
}


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize(
    "dataset",
    [
        grids.grid((1, 1, 1)),
        grids.grid((3, 4, 3)),
        grids.grid((3, 12, 4)).map(lambda values: 1e-10 * values if values.ndim > 3 else values),
        grids.grid((3, 20, 20), rows=3, rates=np.geomspace(1.1e-5, 1e-3, 20)),
        grids.grid((2, 2, 60), rows=3),
        grids.grid((2, 60, 2), rows=3),
        grids.grid((2, 4, 5), rates=LONG, axes={"init_scale": [0.1, 1.0, 10.0]}),
        grids.grid((2, 4, 5), rates=LONG, axes=AXES),
    ],
    ids=["one", "few", "tiny numbers", "many", "tall", "wide", "panels in a row", "panels in rows"],
)
def test_nothing_is_clipped_and_no_labels_overlap(name, dataset):
    dataset = grids.ended(dataset, DIVERGED, seed=0, learning_rate=0, weight_decay=0)
    figure = FIGURES[name](dataset)
    with drawing.in_force():
        figure.draw_without_rendering()
        for ax in figure.axes:
            _require_room(figure, ax)
    turned = {label.get_rotation() for ax in figure.axes for label in ax.get_xticklabels()}
    assert len(turned) == 1


def _require_room(figure, ax):
    """Axes on their page, tick labels apart from each other, texts inside of their cells."""
    for corner in (ax.get_tightbbox().min, ax.get_tightbbox().max):
        assert figure.bbox.contains(*corner)
    for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
        boxes = [label.get_window_extent() for label in labels if label.get_text()]
        assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))
    for text in ax.texts:
        box = text.get_window_extent()
        x, y = (np.floor(place) for place in text.get_position())
        (left, bottom), (right, top) = ax.transData.transform([(x, y), (x + 1, y + 1)])
        assert left <= box.x0 and box.x1 <= right and bottom <= box.y0 and box.y1 <= top


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax: plots.heat_map(grids.grid((2, 2, 1)), "loss_mean", ax),
        lambda ax: plots.outcome_map(grids.grid((2, 2, 1)), ax),
        lambda ax: plots.seed_bands(grids.grid((2, 2, 1)), "loss_mean", ax),
    ],
)
def test_drawings_use_the_axes_given_and_open_no_other_figure(draw):
    figure, ax = pyplot.subplots()
    assert draw(ax) is ax
    assert pyplot.get_fignums() == [figure.number]


def test_figures_take_what_simulate_grid_returns(tmp_path):
    x = np.random.default_rng(0).normal(size=(4, 6))
    problem = sf.models.linear_regression(x, x[:, 0])
    rates, decays = (0.2, 0.1), (1e-2, 3e-2)
    observables = ("loss", "threshold", sf.simulator.sharpness(2, every=4))
    dataset = sf.simulate_grid(
        problem,
        seeds=[0, 1, 2],
        learning_rates=rates,
        weight_decays=decays,
        tau=0.1,
        num_records=10,
        observables=observables,
        progress=False,
    )
    last = np.empty((2, 2, 3))
    for (row, decay), (place, rate), seed in itertools.product(
        enumerate(decays), enumerate(reversed(rates)), range(3)
    ):
        steps = round(0.1 / (rate * decay))
        at = np.arange(10) * steps // 10
        params = problem.init(jax.random.key(seed))
        rule = sf.gdwd(rate, decay)
        alone = sf.simulate(problem, params, rule, steps, record_at=at, observables=["loss"])
        last[row, place, seed] = alone["loss"][-1]
    drawn = _mesh(plots.heat_map(dataset, "loss")).get_array()
    np.testing.assert_allclose(drawn, np.median(last, axis=-1), rtol=1e-9)
    pyplot.close("all")
    names = {path.stem for path in plots.plot_grid(dataset, tmp_path)}
    columns = ("loss", "sharpness-iterate", "edge-ratio-iterate")
    figures = {f"{kind}-{column}" for column in columns for kind in ("final", "bands")}
    assert names == {"outcomes"} | figures


def test_plot_grid_draws_what_was_recorded(tmp_path):
    paths = plots.plot_grid(grids.grid((2, 2, 2)), tmp_path / "new")
    columns = ("loss-mean", "sharpness-iterate", "edge-ratio-iterate", "test-accuracy")
    kinds = [f"{kind}-{column}" for column in columns for kind in ("final", "bands")]
    names = ("sharpness-against-error", "outcomes", *kinds)
    assert [path.name for path in paths] == [f"{name}.png" for name in names]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    assert not pyplot.get_fignums()


def test_plot_grid_needs_no_sharpness_and_names_further_axes(tmp_path):
    dataset = grids.grid((2, 1, 1), axes={"name": ["a b", "a/b"]})
    kept = ["loss", "status", "num_steps"]
    paths = plots.plot_grid(dataset[kept], tmp_path, suffix=".svg")
    assert [path.name for path in paths] == [
        "outcomes.svg", "final-loss.svg", "bands-loss-0-name=a-b.svg", "bands-loss-1-name=a-b.svg",
    ]  # fmt: skip


def test_plot_grid_refuses_what_is_no_grid(tmp_path):
    trajectory = grids.grid().isel(seed=0, learning_rate=0, weight_decay=0)
    with pytest.raises(ValueError, match="seed"):
        plots.plot_grid(trajectory, tmp_path)
    with pytest.raises(ValueError, match="loss"):
        plots.plot_grid(grids.grid()[["threshold", "status"]], tmp_path)
    with pytest.raises(ValueError, match=r"suffix must be one of \.png, .*, got '\.jpg'"):
        plots.plot_grid(grids.grid((1, 1, 1)), tmp_path, suffix=".jpg")

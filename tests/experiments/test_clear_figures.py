"""Nothing in a figure is cut off or covered, on its own axes and on a user's; fonts are alike."""

import itertools

import grids
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
import xarray
from examples import COMPARISON, FLOW, PREDICTED, RECORD, RESTING
from fitted import fitted
from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from test_plots import ALL

import sharpflow as sf
from sharpflow.experiments import plots
from sharpflow.experiments.plots import drawing, trajectory_panel
from sharpflow.experiments.plots.record import Record

pytestmark = pytest.mark.usefixtures("settings_stay")

GRID = grids.ended(grids.grid((3, 4, 3)), grids.DIVERGED, at=9, seed=1, learning_rate=3)
WIDE = grids.grid((2, 3, 2), axes={"init_scale": [0.1, 1.0]})
ONE_DECAY, ONE_RATE = GRID.isel(weight_decay=[0]), GRID.isel(learning_rate=[0])


def _with_accuracies():
    """All that a panel can name: means of losses, metrics of both data, and predictions."""
    names = ("train_accuracy", "test_accuracy", "loss", "loss_mean")
    recorded = RECORD.assign(dict.fromkeys(names, RECORD["test_error"]))
    metrics = {name: lambda w: w.sum() for name in names[:2]}
    problem = sf.Problem(init=lambda _: jnp.ones(3), loss=lambda w: w.sum(), metrics=metrics)
    return {"trajectory": recorded, "flow": FLOW, "comparison": COMPARISON, "problem": problem}


ACCURACIES = _with_accuracies()
FITTED = fitted(predicted=True, noise=0.003)
ONE_LOST = grids.ended(FITTED, grids.DIVERGED, at=15, seed=1, weight_decay=0, normalization=0)
ACCURACY_ALONE = fitted(normalizations=None).drop_vars(
    ["test_error", "threshold", "sharpness_iterate"]
)
LAYERS = xarray.Dataset(
    {
        "step_angle": (("step", "layer"), np.geomspace(1e-3, 2e-2, 12).reshape(6, 2)),
        "predicted_step_angle": (("step", "layer"), np.geomspace(1e-3, 2e-2, 12).reshape(6, 2)),
    },
    {"tau": ("step", np.linspace(0.0, 1.0, 6)), "layer": ["Dense_0.kernel", "Dense_1.kernel"]},
    {"equilibrium_angle": 0.03},
)
CURVATURE = np.linspace(-20.0, 120.0, 80)
DENSITY = np.exp(-0.02 * CURVATURE**2) * np.array([[0.03], [0.04]]) + 1e-5
SPECTRA = xarray.Dataset(
    {
        "density": (("step", "curvature"), DENSITY),
        "density_low": (("step", "curvature"), 0.5 * DENSITY),
        "density_high": (("step", "curvature"), 2.0 * DENSITY),
        "threshold": ("step", [90.0, 30.0]),
    },
    {"step": [0, 1000], "curvature": CURVATURE},
    {"dimension": 400, "width": 2.0},
)
ON_AXES = ALL | {
    "heat_map": lambda ax=None: plots.heat_map(GRID, "edge_ratio_iterate", ax),
    "outcome_map": lambda ax=None: plots.outcome_map(GRID, ax),
    "seed_bands": lambda ax=None: plots.seed_bands(ONE_DECAY, "sharpness_iterate", ax),
    "seed_bands over": lambda ax=None: plots.seed_bands(
        ONE_RATE, "test_accuracy", ax, over="weight_decay"
    ),
    "generalization_panel": lambda ax=None: plots.generalization_panel(
        ACCURACY_ALONE, axes=None if ax is None else [ax]
    )[0],
    "sharpness_against_error": lambda ax=None: plots.sharpness_against_error(GRID, ax=ax),
    "spectral_densities": lambda ax=None: plots.spectral_densities(SPECTRA, ax),
    "layer_angles": lambda ax=None: plots.layer_angles(LAYERS, ax),
    "sharpness alone": lambda ax=None: plots.sharpness_and_threshold(RECORD, None, ax),
    "panel": lambda ax=None: plots.panel(
        RECORD, FLOW, None if ax is None else [ax], columns=["sharpness_manifold"]
    )[0],
    "panel of several": lambda ax=None: plots.panel(
        RECORD,
        None,
        None if ax is None else [ax],
        columns=[("sharpness_manifold", "threshold", "test_error")],
    )[0],
}
PAGES = {
    "heat_maps": lambda: plots.heat_maps(WIDE, "loss"),
    "outcome_maps": lambda: plots.outcome_maps(WIDE),
    "panels": lambda: plots.panel(RECORD, FLOW, comparison=COMPARISON)[0].figure,
    "panels of accuracies": lambda: plots.panel(**ACCURACIES)[0].figure,
    "generalization_panel of four": lambda: plots.generalization_panel(ONE_LOST)[0].figure,
    "generalization_panel of one": lambda: (
        plots.generalization_panel(
            fitted(seeds=1, decays=(0.01,), normalizations=None, sharpness=False)
        )[0].figure
    ),
    "prediction_panel": lambda: (
        plots.prediction_panel(COMPARISON, FLOW, RECORD, RESTING, PREDICTED)[0].figure
    ),
    "seed_band_panels": lambda: plots.seed_band_panels(GRID, "edge_ratio_iterate"),
}
NOT_DRAWN = {"basis_from", "plot_grid", "save", "sphere_coordinates", "style"}
PIXEL = 1.0  # of glyphs that are drawn beyond the box that is told for them


def _box(artist):
    return artist.get_window_extent()


def _texts(figure, axes=None):
    """All that is written, on some axes or on all of them and beside them."""
    for ax in figure.axes if axes is None else axes:
        if not ax.axison:  # the sphere
            continue
        yield from (ax.title, ax._left_title, ax._right_title, *ax.texts)
        for axis in (ax.xaxis, ax.yaxis):
            yield from (axis.label, axis.get_offset_text())
            low, high = sorted(axis.get_view_interval())
            room = 1e-9 * (high - low)
            for tick in axis.get_major_ticks():
                if low - room <= tick.get_loc() <= high + room:
                    yield from (tick.label1, tick.label2)
    for legend in _legends(figure):
        yield from (*legend.get_texts(), legend.get_title())
    if figure._suptitle is not None:
        yield figure._suptitle


def _legends(figure):
    own = [ax.get_legend() for ax in figure.axes]
    return [legend for legend in (*own, *figure.legends) if legend is not None]


def _is_seen(text):
    return text.get_visible() and text.get_text().strip() != ""


def _overlap(one, other):
    """Whether two boxes share more than a pixel in both directions."""
    shared = Bbox.intersection(one, other)
    return shared is not None and min(shared.width, shared.height) > PIXEL


def _faults(figure):
    """What is cut off at the border, written over something else, or covered by a legend."""
    figure.draw_without_rendering()
    inside = figure.bbox.padded(PIXEL)
    texts = [text for text in _texts(figure) if _is_seen(text)]
    boxes = [(text.get_text(), _box(text)) for text in texts]
    cut = [words for words, box in boxes if not (inside.containsx(box.x0) and inside.containsx(
        box.x1) and inside.containsy(box.y0) and inside.containsy(box.y1))]  # fmt: skip
    faults = [f"{words!r} is cut off" for words in cut]
    faults += [
        f"{one[0]!r} lies on {other[0]!r}"
        for one, other in itertools.combinations(boxes, 2)
        if _overlap(one[1], other[1])
    ]
    for legend, ax in itertools.product(_legends(figure), figure.axes):
        covered = Bbox.intersection(_box(legend), ax.bbox)
        if covered is None or not ax.axison:
            continue
        for line in ax.lines:
            path = line.get_transform().transform_path(line.get_path())
            if path.intersects_bbox(covered, filled=False):
                faults.append(f"a legend covers the line {line.get_label()!r}")
    return faults


def test_every_function_that_draws_is_looked_at():
    drawing_functions = {name for name in plots.__all__ if callable(getattr(plots, name))}
    named = {name.split(" ")[0] for name in (*ON_AXES, *PAGES)}
    assert drawing_functions - NOT_DRAWN <= named


@pytest.mark.parametrize("name", [*ON_AXES, *PAGES])
def test_a_figure_of_its_own_shows_all_of_everything(name):
    drawn = (ON_AXES | PAGES)[name]()
    figure = drawn if isinstance(drawn, Figure) else drawn.figure
    assert not _faults(figure)
    assert figure.get_size_inches()[0] in (drawing.COLUMN[0], drawing.PAGE[0], 3.4)


@pytest.mark.parametrize("name", ON_AXES)
def test_on_axes_of_a_user_all_of_everything_is_shown_and_fonts_are_ours(name):
    figure = pyplot.figure(figsize=(7.5, 6.0), layout="constrained")
    mine = [
        figure.add_subplot(2, 2, place, title="mine", xlabel="x", ylabel="y") for place in (1, 3, 4)
    ]
    ax = figure.add_subplot(2, 2, 2, projection="3d" if name == "sphere" else None)
    ON_AXES[name](ax)
    assert not _faults(figure)
    others = [each for each in figure.axes if each not in mine]  # a colour bar among them
    ours = [text for text in _texts(figure, others) if _is_seen(text)]
    assert {text.get_fontfamily()[0] for text in ours} == {drawing.RC["font.family"]}
    assert {text.get_math_fontfamily() for text in ours} == {drawing.RC["mathtext.fontset"]}
    sizes = [text.get_fontsize() for text in ours]
    assert min(sizes) >= 6.0 and max(sizes) <= drawing.RC["axes.labelsize"]


@pytest.mark.parametrize(
    "name", ["sharpness alone", "seed_bands", "metric", "panel", "generalization_panel"]
)
@pytest.mark.parametrize("when", ["before", "after", "alone"])
def test_a_title_of_the_user_is_clear_of_the_legend(name, when):
    ax = None if when == "alone" else pyplot.subplots(figsize=(5.0, 3.5), layout="constrained")[1]
    if when == "before":
        ax.set_title("a title of mine, in the middle and over all of it")
    ax = ON_AXES[name](ax)
    if when != "before":
        ax.set_title("mine", loc="left")
        ax.set_title("mine, too")
    assert _legends(ax.figure)
    assert not _faults(ax.figure)


def test_a_panel_tells_predictions_of_several_metrics_apart():
    axes = plots.panel(**ACCURACIES)
    looks = {
        line.get_label(): (line.get_color(), str(line._unscaled_dash_pattern))
        for ax in axes
        for line in ax.lines
        if line.get_label().startswith("predicted") and line.get_linestyle() == "--"
    }
    assert looks.keys() == {
        "predicted flow", "predicted training accuracy", "predicted test accuracy",
    }  # fmt: skip
    assert looks["predicted training accuracy"] != looks["predicted test accuracy"]


@pytest.mark.parametrize(("fall", "trimmed"), [(0.1, True), (1.0, False), (0.0, False)])
def test_a_panel_leaves_out_the_transient_of_a_metric_that_dwarfs_the_rest(fall, trimmed):
    error = np.where(np.arange(20) < 1, 2.0, 1.0 - fall * np.linspace(-0.5, 0.5, 20))
    recorded = RECORD.assign(test_error=("step", error))
    (ax,) = plots.panel(recorded, columns=["test_error"])
    low, high = ax.get_ylim()
    assert (high < 1.2) == trimmed and low <= error[2:].min() and high >= error[2:].max()


def test_a_panel_leaves_out_the_transient_of_a_prediction_that_begins_with_the_training():
    """A central flow begins at step 0, where a metric is far from all that comes later."""
    error = np.where(np.arange(20) < 2, 2.0, 1.0 - 0.1 * np.linspace(-0.5, 0.5, 20))
    recorded = RECORD.assign(test_error=("step", error))
    times = np.asarray(RECORD.tau)[[0, 3, 10, 19]]
    curve = trajectory_panel.Curve(times, np.array([2.2, 1.1, 1.0, 0.98]))
    for first, trimmed in ((0, True), (1, False)):  # later it is shown whole
        values = curve.values.copy()
        values[first] = 2.2
        _, ax = pyplot.subplots()
        ax.plot(RECORD.tau, error)
        trajectory_panel._leave_transient_out(
            ax,
            Record(recorded, "tau"),
            ("test_error",),
            {"test_error": curve._replace(values=values)},
        )
        low, high = ax.get_ylim()
        assert (high < 1.3) == trimmed and low <= 0.96


@pytest.mark.parametrize(
    ("values", "begin"),
    [
        ([2.0, 0.4, 0.3, 1.2, 1.0], 1),  # a later leap is one of the flow
        ([0.1, 0.9, 0.95, 1.0, 1.0], 1),
        ([1.0, 0.9, 0.8, 0.7, 0.6], 0),
        ([1e4, 1e3, 1e2, 1e1, 1.0], 0),  # all of it leaps: it is what there is
        ([np.nan, 2.0, 0.1, 0.1, 0.1], 0),
    ],
)
def test_a_prediction_is_drawn_from_where_it_no_longer_leaps(values, begin):
    curve = trajectory_panel.Curve(np.arange(5.0), np.array(values))
    drawn = trajectory_panel._without_leaps(curve)
    np.testing.assert_array_equal(drawn.values, values[begin:])
    np.testing.assert_array_equal(drawn.time, np.arange(5.0)[begin:])


def test_a_covered_line_a_cut_label_and_an_overlap_are_found():
    figure, ax = pyplot.subplots(figsize=(2.0, 1.5), dpi=100)
    ax.plot([0.0, 1.0], [0.0, 1.0], label="a line")
    ax.legend(loc="center")
    ax.set_xticks([0.0, 0.01], ["left", "also left"])
    ax.set_ylabel("a label that is longer than the whole figure is high")
    faults = " ".join(_faults(figure))
    assert "covers the line 'a line'" in faults
    assert "'left' lies on 'also left'" in faults and "is cut off" in faults


def test_axes_under_the_public_style_look_as_ours_and_settings_come_back():
    before = dict(matplotlib.rcParams)

    @plots.style()
    def mine():
        _, (left, right) = pyplot.subplots(1, 2, figsize=plots.PAGE)
        plots.mean_loss(COMPARISON, left)
        right.plot([1e-3, 2e-3], [1.0, 2.0])
        right.set(xlabel="of mine", ylabel="$x^2$")
        return left, right

    left, right = mine()
    assert dict(matplotlib.rcParams) == before
    figure = left.figure
    assert not _faults(figure)
    texts = [text for text in _texts(figure) if _is_seen(text)]
    assert {text.get_fontfamily()[0] for text in texts} == {drawing.RC["font.family"]}
    for axis in ("xaxis", "yaxis"):
        one, other = (getattr(ax, axis) for ax in (left, right))
        assert one.label.get_fontsize() == other.label.get_fontsize()
        labels = [axis.get_ticklabels()[0].get_fontsize() for axis in (one, other)]
        assert labels[0] == labels[1]
    assert not right.spines["top"].get_visible()
    np.testing.assert_array_equal(figure.get_size_inches(), plots.PAGE)

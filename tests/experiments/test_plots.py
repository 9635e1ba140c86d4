"""Figures show the numbers that they are given, and leave everything else alone."""

import copy
import subprocess
import sys
from types import SimpleNamespace

import jax
import matplotlib
import numpy as np
import pytest
import xarray

import sharpflow as sf
from sharpflow.experiments import plots

matplotlib.use("Agg")

from matplotlib import pyplot
from mpl_toolkits.mplot3d import proj3d
from PIL import Image

TAU = np.linspace(0.2, 2.0, 10)
FIT = SimpleNamespace(exponent=0.5, interval=(0.4, 0.6), prefactor=2.0)
RATES = np.array([1e-4, 4e-4, 1.6e-3])
ERRORS = 2.0 * np.sqrt(RATES)


def _flow():
    threshold = 10.0 * np.exp(-TAU)
    return sf.FlowSolution(
        tau=TAU,
        theta=np.ones((10, 3)),
        threshold=threshold,
        eigenvalues=threshold[:, None] * np.array([1.0, 0.8, 0.3]),
        edge_covariance=np.zeros((10, 3, 3)),
        status=0,
        num_steps=1,
        num_rejected=0,
        b=2.0,
        on_sphere=True,
    )


def _comparison():
    values = {
        "sharpness": 9.0 * np.exp(-TAU),
        "predicted_sharpness": 9.1 * np.exp(-TAU),
        "threshold": 9.2 * np.exp(-TAU),
        "predicted_threshold": 9.3 * np.exp(-TAU),
        "loss_mean": np.where(TAU > 0.5, 1e-3 * TAU, np.nan),
        "predicted_loss": np.where(TAU > 0.5, 1.1e-3 * TAU, np.nan),
    }
    return xarray.Dataset(
        {name: ("tau", value) for name, value in values.items()},
        {"tau": TAU},
        {"predicted_entry_step": 400.0, "intrinsic_rate": 1e-3},
    )


def _record(intrinsic_rate=1e-3):
    step = np.arange(0, 2000, 100)
    values = {
        "threshold": ("step", 20.0 * np.exp(-1e-3 * step)),
        "stability_line": ("step", np.full(20, 4.0)),
        "hessian_sharpness": (("step", "k"), np.outer(1.0 + 1e-3 * step, [1.0, 0.5])),
        "sharpness_manifold": (("step", "k"), np.outer(np.exp(-1e-3 * step), [20.0, 12.0])),
        "test_error": ("step", 1.0 / (1.0 + step + intrinsic_rate)),
    }
    return xarray.Dataset(values, {"step": step, "tau": ("step", intrinsic_rate * step)})


def _circle(angles):
    return np.stack([np.cos(angles), np.sin(angles), np.zeros_like(angles)], axis=-1)


FLOW, COMPARISON, RECORD, RESTING = _flow(), _comparison(), _record(), _record(0.0)
PREDICTED = (TAU, 1.0 / TAU)
GAMMA = _circle(np.linspace(-0.5 * np.pi, 0.5 * np.pi, 91))
POINTS, FLOW_POINTS = _circle(np.linspace(-1.2, 0.0, 40)), _circle(np.linspace(-1.2, 0.0, 9))

DRAWINGS = {
    "angle": lambda ax=None: plots.angle(TAU, TAU, 2.0 * TAU, 3.0 * TAU, ax),
    "edge_eigenvalues": lambda ax=None: plots.edge_eigenvalues(FLOW, RECORD, ax),
    "edge_of_stability": lambda ax=None: plots.edge_of_stability(RECORD, ax, entry_step=500),
    "mean_loss": lambda ax=None: plots.mean_loss(COMPARISON, ax),
    "metric": lambda ax=None: plots.metric(RECORD, "test_error", PREDICTED, ax, other=RESTING),
    "sharpness_and_threshold": lambda ax=None: plots.sharpness_and_threshold(
        COMPARISON, FLOW, ax, trajectory=RECORD, single_edge=PREDICTED
    ),
    "single_edge_failure": lambda ax=None: plots.single_edge_failure(
        TAU, 0.1 * TAU, 0.2 * TAU, ax, crossing=0.5
    ),
    "tracking_error": lambda ax=None: plots.tracking_error(RATES, ERRORS, FIT, ax),
}
ALL = DRAWINGS | {"sphere": lambda ax=None: plots.sphere(POINTS, FLOW_POINTS, GAMMA, ax)}


@pytest.fixture(autouse=True)
def nothing_else_changes():
    """After every test: the settings of matplotlib as before, and no figure left."""
    before = copy.deepcopy(dict(matplotlib.rcParams))
    yield
    pyplot.close("all")
    assert dict(matplotlib.rcParams) == before


def _line(ax, label):
    """x and y of the one line with this label."""
    (found,) = [line for line in ax.lines if line.get_label() == label]
    return np.stack(found.get_data())


def _projection(name):
    return {"projection": "3d"} if name == "sphere" else {}


@pytest.mark.parametrize("name", ALL)
def test_every_drawing_uses_the_axes_given_and_opens_no_other_figure(name):
    figure, ax = pyplot.subplots(subplot_kw=_projection(name))
    assert ALL[name](ax) is ax
    assert pyplot.get_fignums() == [figure.number] and figure.axes == [ax]


@pytest.mark.parametrize("name", ALL)
def test_every_drawing_without_axes_makes_one_figure(name):
    ax = ALL[name]()
    assert pyplot.get_fignums() == [ax.figure.number] and ax.figure.axes == [ax]


@pytest.mark.parametrize("name", DRAWINGS)
def test_every_drawing_labels_its_axes_and_its_lines(name):
    ax = DRAWINGS[name]()
    assert ax.get_xlabel() and ax.get_ylabel()
    assert all(text.get_text() for text in ax.get_legend().get_texts())


@pytest.mark.parametrize("name", ALL)
def test_drawing_and_saving_the_same_twice_gives_the_same_bytes(name, tmp_path):
    first, second = (plots.save(ALL[name]().figure, tmp_path / f"{i}.png", title="t") for i in "12")
    assert first.read_bytes() == second.read_bytes()


def test_sharpness_and_threshold_draws_the_comparison_and_the_flow():
    ax = plots.sharpness_and_threshold(COMPARISON, FLOW, single_edge=PREDICTED)
    np.testing.assert_array_equal(_line(ax, r"$\lambda_1$ measured"), [TAU, COMPARISON.sharpness])
    measured = _line(ax, r"$\lambda^{\ast}$ measured")
    np.testing.assert_array_equal(measured, [TAU, COMPARISON.threshold])
    np.testing.assert_array_equal(_line(ax, "predicted flow"), [TAU, FLOW.eigenvalues[:, 0]])
    np.testing.assert_array_equal(ax.lines[2].get_data(), [TAU, FLOW.threshold])
    np.testing.assert_array_equal(_line(ax, "single-edge flow"), PREDICTED)
    np.testing.assert_allclose(ax.lines[-1].get_xdata(), 0.4)  # 400 steps of 1e-3
    assert ax.get_yscale() == "log"


def test_without_a_flow_the_prediction_inside_the_comparison_is_drawn():
    ax = plots.sharpness_and_threshold(COMPARISON, trajectory=RECORD)
    expected = [TAU, COMPARISON.predicted_sharpness]
    np.testing.assert_array_equal(_line(ax, "predicted flow"), expected)
    np.testing.assert_array_equal(ax.lines[2].get_data(), [TAU, COMPARISON.predicted_threshold])
    measured = _line(ax, r"$\lambda^{\ast}$ measured")
    np.testing.assert_array_equal(measured, [RECORD.tau, RECORD.threshold])


@pytest.mark.parametrize("step", [np.nan, -1.0, 0.0, 1e9])
def test_an_entry_outside_of_the_picture_is_not_marked(step):
    comparison = COMPARISON.assign_attrs(predicted_entry_step=step)
    lines = plots.sharpness_and_threshold(comparison, FLOW).lines
    assert len(lines) == 4


def test_edge_of_stability_draws_the_largest_eigenvalue_and_the_line():
    ax = plots.edge_of_stability(RECORD, entry_step=500)
    drawn = _line(ax, r"$\lambda_1(\nabla^2 L(w_t))$")
    np.testing.assert_array_equal(drawn, [RECORD.step, RECORD.hessian_sharpness[:, 0]])
    np.testing.assert_array_equal(_line(ax, r"$2/\eta$"), [RECORD.step, RECORD.stability_line])
    np.testing.assert_array_equal(ax.lines[-1].get_xdata(), [500, 500])


def test_edge_eigenvalues_are_drawn_over_the_threshold():
    edge, *lines = plots.edge_eigenvalues(FLOW, RECORD).lines
    np.testing.assert_array_equal(edge.get_ydata(), 1.0)
    for line, ratio in zip(lines, (1.0, 0.6, 1.0, 0.8, 0.3), strict=True):
        np.testing.assert_allclose(line.get_ydata(), ratio, rtol=1e-12)
    np.testing.assert_array_equal(lines[0].get_xdata(), RECORD.tau)
    np.testing.assert_array_equal(lines[2].get_xdata(), TAU)


def test_mean_loss_draws_both_means():
    ax = plots.mean_loss(COMPARISON)
    np.testing.assert_array_equal(_line(ax, "measured"), [TAU, COMPARISON.loss_mean])
    np.testing.assert_array_equal(ax.lines[1].get_data(), [TAU, COMPARISON.predicted_loss])


def test_metric_without_a_clock_of_its_own_is_drawn_on_the_clock_of_the_other():
    ax = plots.metric(RECORD, "test_error", PREDICTED, other=RESTING)
    drawn = _line(ax, "with weight decay")
    np.testing.assert_array_equal(drawn, [RECORD.tau, RECORD.test_error])
    x, y = _line(ax, "without weight decay")
    np.testing.assert_allclose(x, RECORD.tau, rtol=1e-12)
    np.testing.assert_array_equal(y, RESTING.test_error)
    np.testing.assert_array_equal(_line(ax, "predicted flow"), PREDICTED)
    assert ax.get_ylabel() == "test error"


def test_metric_has_its_own_clock_or_the_one_given():
    other = _record(3e-3)
    ax = plots.metric(RECORD, "test_error", other=other)
    np.testing.assert_array_equal(_line(ax, "without weight decay")[0], other.tau)
    ax = plots.metric(RESTING, "test_error", other=other, clock=0.5)
    for label in ("with weight decay", "without weight decay"):
        np.testing.assert_array_equal(_line(ax, label)[0], 0.5 * RESTING.step)


@pytest.mark.parametrize("record", [RESTING, RECORD.drop_vars("tau")])
def test_metric_without_any_clock_is_refused(record):
    with pytest.raises(ValueError, match="clock"):
        plots.metric(record, "test_error")


def test_trajectory_and_its_dataset_give_the_same_lines():
    x = np.random.default_rng(0).normal(size=(4, 5))
    problem = sf.models.linear_regression(x, x[:, 0])
    trajectory = sf.simulate(
        problem,
        problem.init(jax.random.key(0)),
        sf.gdwd(0.1, 0.01),
        6,
        observables=("threshold", "loss", "hessian_sharpness", "sharpness_manifold"),
        progress=False,
    )
    for draw in (
        lambda record: plots.edge_of_stability(record),
        lambda record: plots.metric(record, "loss"),
        lambda record: plots.edge_eigenvalues(FLOW, record),
        lambda record: plots.sharpness_and_threshold(COMPARISON, trajectory=record),
    ):
        drawn = [draw(record).lines for record in (trajectory, trajectory.to_dataset())]
        for one, other in zip(*drawn, strict=True):
            np.testing.assert_array_equal(one.get_data(), other.get_data())


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        (
            [1e-4, 2e-3],
            [
                "$10^{-4}$",
                r"$2\times10^{-4}$",
                r"$5\times10^{-4}$",
                "$10^{-3}$",
                r"$2\times10^{-3}$",
            ],
        ),
        ([0.05, 9.0], ["0.1", "0.3", "1", "3", "10"]),
        ([0.01, 0.03], ["0.01", "0.02", "0.03"]),
    ],
)
def test_logarithmic_axes_have_readable_labels_over_few_decades(rates, expected):
    ax = plots.tracking_error(rates, rates)
    low, high = ax.get_xlim()
    ticks = [tick for tick in ax.get_xticks() if low <= tick <= high]
    assert [ax.xaxis.get_major_formatter()(tick) for tick in ticks] == expected


@pytest.mark.parametrize("errors", [ERRORS, np.outer(ERRORS, [1.0, 1.5])])
def test_tracking_error_draws_points_and_the_power_law(errors):
    ax = plots.tracking_error(RATES, errors, FIT)
    *points, fit = ax.lines
    drawn = np.stack([line.get_ydata() for line in points], axis=1)
    np.testing.assert_array_equal(drawn, errors.reshape(3, -1))
    assert all(np.array_equal(line.get_xdata(), RATES) for line in points)
    ends = RATES[[0, -1]]
    np.testing.assert_allclose(fit.get_data(), [ends, 2.0 * np.sqrt(ends)], rtol=1e-12)
    assert ax.get_xscale() == ax.get_yscale() == "log"
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert len(names) == 2
    assert all(number in names[1] for number in ("0.50", "0.40", "0.60"))


def test_single_edge_failure_ends_at_the_error_of_a_prediction_that_nothing_moves():
    ax = plots.single_edge_failure(TAU, 0.01 / TAU, TAU**2, crossing=0.5)
    np.testing.assert_array_equal(_line(ax, "predicted flow"), [TAU, 0.01 / TAU])
    np.testing.assert_array_equal(_line(ax, "single-edge flow"), [TAU, TAU**2])
    assert ax.get_ylim() == (0.0, 1.0)
    np.testing.assert_array_equal(ax.lines[-1].get_xdata(), [0.5, 0.5])


def test_angle_draws_all_three():
    ax = plots.angle(TAU, TAU, 2.0 * TAU, 3.0 * TAU)
    for label, factor in (("exact", 1.0), ("predicted flow", 2.0), ("GD+WD", 3.0)):
        np.testing.assert_array_equal(_line(ax, label), [TAU, factor * TAU])


def test_panel_shares_the_time_and_draws_on_the_axes_given():
    arguments = (COMPARISON, FLOW, RECORD, RESTING, PREDICTED)
    left, right = plots.prediction_panel(*arguments)
    assert left.figure is right.figure and left.get_xlim() == right.get_xlim()
    np.testing.assert_array_equal(_line(left, "predicted flow"), [TAU, FLOW.eigenvalues[:, 0]])
    np.testing.assert_array_equal(_line(right, "predicted flow"), PREDICTED)
    for ax in (left, right):
        np.testing.assert_allclose(ax.lines[-1].get_xdata(), 0.4)
    figure, axes = pyplot.subplots(2)
    assert plots.prediction_panel(*arguments, axes=axes) == tuple(axes)
    assert len(pyplot.get_fignums()) == 2 and len(figure.axes) == 2


# --- the sphere ---


def test_sphere_draws_the_points_given():
    ax = plots.sphere(POINTS, FLOW_POINTS, GAMMA)
    by_label = {line.get_label(): np.stack(line.get_data_3d(), axis=1) for line in ax.lines}
    np.testing.assert_array_equal(by_label[r"GD+WD $\theta_t$"], POINTS)
    np.testing.assert_array_equal(by_label[r"flow $\zeta(\tau)$"], FLOW_POINTS)
    # seen from its middle, the whole half circle is on the near side
    np.testing.assert_array_equal(by_label[r"minimizers $\Gamma$"], GAMMA)


@pytest.mark.parametrize("seed", range(3))
def test_the_flow_runs_to_the_right_in_equal_scale_however_the_sphere_is_turned(seed):
    turn = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    ax = plots.sphere(POINTS @ turn, FLOW_POINTS @ turn, GAMMA @ turn)
    ax.figure.canvas.draw()

    def seen(points):
        x, y, _ = proj3d.proj_transform(*points.T, ax.get_proj())
        return ax.transData.transform(np.stack([x, y], axis=1))

    centre, end = seen(np.zeros((1, 3)))[0], seen(FLOW_POINTS[-1:] @ turn)[0]
    tips = seen(np.array([[0.0, 1.0, 0.0], [0.0, -1.0, 0.0]]) @ turn) - centre
    radius = np.linalg.norm(tips[0])
    np.testing.assert_allclose(np.abs(tips[:, 0]), radius, rtol=1e-9)  # Γ ends at the rim
    assert seen(FLOW_POINTS[:1] @ turn)[0, 0] < end[0]
    # the middle of Γ lies below the centre by the sine of the tilt
    np.testing.assert_allclose((centre - end) / radius, [0.0, np.sin(np.deg2rad(27.0))], atol=1e-9)
    assert 2.0 * radius <= min(ax.bbox.width, ax.bbox.height)


def test_the_far_side_is_hidden():
    whole = _circle(np.linspace(-np.pi, np.pi, 41)[:-1])
    ax = plots.sphere(POINTS, FLOW_POINTS, whole, cloud=True)
    by_label = {line.get_label(): np.stack(line.get_data_3d(), axis=1) for line in ax.lines}
    near = by_label[r"minimizers $\Gamma$"]
    shown = np.isfinite(near[:, 0])
    np.testing.assert_array_equal(near[shown], whole[shown])
    facing = whole @ FLOW_POINTS.mean(axis=0)
    assert np.all(shown == (facing >= -1e-9)) and 0 < shown.sum() < len(whole)


def test_sphere_coordinates_keep_all_distances_in_three_dimensions():
    points = np.random.default_rng(0).normal(size=(30, 3))
    basis = plots.basis_from(np.abs(points))
    np.testing.assert_allclose(basis @ basis.T, np.eye(3), atol=1e-14)
    seen = plots.sphere_coordinates(points, basis)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    np.testing.assert_allclose(seen @ seen.T, unit @ unit.T, atol=1e-13)


def test_basis_holds_a_flow_that_spreads_in_two_directions_of_many():
    rng = np.random.default_rng(1)
    frame = np.linalg.qr(rng.normal(size=(12, 3)))[0].T
    inside = np.stack([np.ones(20), 0.3 * rng.normal(size=20), 0.2 * rng.normal(size=20)], axis=1)
    flat = inside @ frame
    tree = {"a": flat[:, :4].reshape(20, 2, 2), "b": flat[:, 4:]}
    seen = plots.sphere_coordinates(tree, plots.basis_from(tree))
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    np.testing.assert_allclose(seen @ seen.T, unit @ unit.T, atol=1e-13)


@pytest.mark.parametrize("d", [3, 7])
def test_points_of_a_great_circle_get_a_complete_basis(d):
    rows = np.zeros((9, d))
    rows[:, :3] = FLOW_POINTS
    basis = plots.basis_from(rows)
    np.testing.assert_allclose(basis @ basis.T, np.eye(3), atol=1e-14)
    seen = plots.sphere_coordinates(rows, basis)
    np.testing.assert_allclose(seen @ seen.T, rows @ rows.T, atol=1e-14)


@pytest.mark.parametrize("points", [np.ones((4, 2)), np.array([[1.0, 0, 0], [-1.0, 0, 0]])])
def test_basis_refuses_points_without_a_sphere_or_a_mean(points):
    with pytest.raises(ValueError, match="flow_points"):
        plots.basis_from(points)


# --- files ---


def test_png_has_its_size_and_its_title(tmp_path):
    ax = plots.mean_loss(COMPARISON)
    path = plots.save(ax.figure, tmp_path / "new" / "mean_loss.png")
    with Image.open(path) as image:
        assert image.size == tuple(int(200 * inches) for inches in ax.figure.get_size_inches())
        assert image.text == {"Title": "mean loss"}


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

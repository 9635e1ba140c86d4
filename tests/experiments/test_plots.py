"""Figures show the numbers that they are given, and leave everything else alone."""

import jax
import numpy as np
import pytest
from examples import (
    COMPARISON,
    ERRORS,
    FIT,
    FLOW,
    FLOW_POINTS,
    GAMMA,
    POINTS,
    PREDICTED,
    RATES,
    RECORD,
    RESTING,
    TAU,
    record,
)
from matplotlib import pyplot

import sharpflow as sf
from sharpflow.experiments import plots
from sharpflow.experiments.plots import quantities

pytestmark = pytest.mark.usefixtures("settings_stay")

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
    drawn = _line(ax, r"$\lambda_1(\nabla^2L(w_t))$")
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
    other = record(3e-3)
    ax = plots.metric(RECORD, "test_error", other=other)
    np.testing.assert_array_equal(_line(ax, "without weight decay")[0], other.tau)
    ax = plots.metric(RESTING, "test_error", other=other, clock=0.5)
    for label in ("with weight decay", "without weight decay"):
        np.testing.assert_array_equal(_line(ax, label)[0], 0.5 * RESTING.step)


@pytest.mark.parametrize("clockless", [RESTING, RECORD.drop_vars("tau")])
def test_metric_without_any_clock_is_refused(clockless):
    with pytest.raises(ValueError, match="clock"):
        plots.metric(clockless, "test_error")


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
        lambda of: plots.edge_of_stability(of),
        lambda of: plots.metric(of, "loss"),
        lambda of: plots.edge_eigenvalues(FLOW, of),
        lambda of: plots.sharpness_and_threshold(COMPARISON, trajectory=of),
    ):
        drawn = [draw(of).lines for of in (trajectory, trajectory.to_dataset())]
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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("threshold λ*", r"threshold $\lambda^{\ast}$"),
        ("sharpness λ₁(P⁻¹∇²L(wₜ))", r"sharpness $\lambda_1(P^{-1}\nabla^2L(w_t))$"),
        ("norm ‖w‖²", r"norm $\|w\|^2$"),
        ("mean loss L̄", r"mean loss $\bar L$"),
        ("step η̃ₜL", r"step $\tilde\eta_tL$"),
        ("ηL of λ₁₂", r"$\eta L$ of $\lambda_{12}$"),
        ("a $x$ of mine, 2*x and λ₁²₁", r"a \$x\$ of mine, 2*x and λ₁²₁"),  # two indices below
        ("κ$ \\frac é", r"κ\$ \frac é"),
    ],
)
def test_symbols_are_set_as_formulas_and_all_else_as_it_stands(text, expected):
    assert quantities.mathtext(text) == expected
    figure, ax = pyplot.subplots()
    ax.set_title(quantities.mathtext(text))
    figure.draw_without_rendering()

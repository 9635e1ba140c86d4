"""Figures show the numbers that they are given, and leave everything else alone."""

import dataclasses

import grids
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
from matplotlib.figure import Figure

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
    measured = _line(ax, r"$\lambda^{\ast}$")
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
    measured = _line(ax, r"$\lambda^{\ast}$")
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
    np.testing.assert_array_equal(_line(ax, "stability line"), [RECORD.step, RECORD.stability_line])
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
    np.testing.assert_array_equal(_line(ax, "other")[0], other.tau)
    ax = plots.metric(RESTING, "test_error", other=other, clock=0.5)
    for label in ("with weight decay", "without weight decay"):
        np.testing.assert_array_equal(_line(ax, label)[0], 0.5 * RESTING.step)


def test_metric_hides_no_trajectory_under_the_other_where_they_coincide():
    ax = plots.metric(RECORD, "test_error", other=RECORD)
    first, second = ax.lines
    np.testing.assert_array_equal(first.get_xydata(), second.get_xydata())
    # the lower one is seen for more than half a point on each side of the upper one
    assert first.get_zorder() > second.get_zorder()
    assert second.get_linewidth() > first.get_linewidth() + 1.0


def test_metric_names_weight_decay_only_where_it_tells_two_trajectories_apart():
    def named(trajectory, other=None, **labels):
        ax = plots.metric(trajectory, "test_error", other=other, **labels)
        return [line.get_label() for line in ax.lines]

    decay, none = "with weight decay", "without weight decay"
    assert named(RECORD) == named(RESTING) == ["measured"]
    assert named(RECORD, RESTING) == [decay, none] == named(RESTING, RECORD)[::-1]
    assert named(RECORD, RECORD) == ["trajectory", "other"] == named(RESTING, RESTING)
    assert named(RECORD, RESTING, label="mine", other_label="yours") == ["mine", "yours"]


@pytest.mark.parametrize("clockless", [RESTING, RECORD.drop_vars("tau")])
@pytest.mark.parametrize("other", [None, RESTING, record(3e-3)])
def test_metric_without_a_flow_time_is_drawn_against_steps(clockless, other):
    ax = plots.metric(clockless, "test_error", other=other)
    assert ax.get_xlabel() == "step $t$"
    drawn = {line.get_label(): line.get_xdata() for line in ax.lines}
    assert len(drawn) == (1 if other is None else 2)
    for steps in drawn.values():
        np.testing.assert_array_equal(steps, RECORD.step)


@pytest.mark.parametrize("clockless", [RESTING, RECORD.drop_vars("tau")])
def test_metric_has_no_place_for_a_prediction_without_a_flow_time(clockless):
    with pytest.raises(ValueError, match="predicted .*: give clock"):
        plots.metric(clockless, "test_error", PREDICTED)
    ax = plots.metric(clockless, "test_error", PREDICTED, clock=0.5)
    assert ax.get_xlabel() == "flow time $\\tau$"


SMALL = grids.grid((1, 2, 2))  # of which seed_bands would draw one weight decay alone
OBSERVABLES = ("threshold", "loss", "hessian_sharpness", "sharpness_manifold")


@pytest.fixture(scope="module")
def regression():
    """Batch-norm linear regression, and six steps of it."""
    x = np.random.default_rng(0).normal(size=(4, 5))
    problem = sf.models.linear_regression(x, x[:, 0])
    start = problem.init(jax.random.key(0))
    rule = sf.gdwd(0.1, 0.01)
    trajectory = sf.simulate(problem, start, rule, 6, observables=OBSERVABLES, progress=False)
    return problem, trajectory


def test_trajectory_and_its_dataset_give_the_same_lines(regression):
    _, trajectory = regression
    for draw in (
        lambda of: plots.panel(of)[0],
        lambda of: plots.panel(of)[1],
        lambda of: plots.sharpness_and_threshold(of),
        lambda of: plots.edge_of_stability(of),
        lambda of: plots.metric(of, "loss"),
        lambda of: plots.edge_eigenvalues(FLOW, of),
        lambda of: plots.sharpness_and_threshold(COMPARISON, trajectory=of),
    ):
        drawn = [draw(of).lines for of in (trajectory, trajectory.to_dataset())]
        assert drawn[0]
        for one, other in zip(*drawn, strict=True):
            np.testing.assert_array_equal(one.get_data(), other.get_data())


def test_panel_draws_what_was_recorded_and_what_the_flow_says_of_it(regression):
    _, trajectory = regression
    loss, sharpness, hessian = plots.panel(trajectory)
    tau = trajectory.tau
    np.testing.assert_array_equal(_line(loss, "measured"), [tau, trajectory["loss"]])
    measured = [tau, trajectory["sharpness_manifold"][:, 0]]
    np.testing.assert_array_equal(_line(sharpness, "measured"), measured)
    beside = _line(sharpness, r"threshold $\lambda^{\ast}$")
    np.testing.assert_array_equal(beside, [tau, trajectory["threshold"]])
    beside = _line(hessian, "stability line")
    np.testing.assert_allclose(beside[1], 20.0)
    assert [ax.get_ylabel() for ax in (loss, sharpness)] == [
        "training loss $L$", r"sharpness $\lambda_1$ at $\Phi(\theta_t)$",
    ]  # fmt: skip

    steps = plots.panel(trajectory, FLOW, columns=["sharpness_manifold"], against="step")
    drawn = [line.get_data() for line in steps[0].lines if line.get_linestyle() == "--"]
    at = TAU / trajectory.intrinsic_rate
    expected = [[at, FLOW.eigenvalues[:, 0]], [at, FLOW.threshold]]
    np.testing.assert_allclose(drawn, expected, rtol=1e-12)

    columns = ["sharpness", "test_error"]
    compared, error = plots.panel(RECORD, comparison=COMPARISON, columns=columns)
    np.testing.assert_array_equal(_line(compared, "measured"), [TAU, COMPARISON.sharpness])
    np.testing.assert_array_equal(_line(compared, "predicted entry")[0], 0.4)
    np.testing.assert_array_equal(_line(error, "measured"), [RECORD.tau, RECORD.test_error])


def test_panel_draws_metrics_and_mean_loss_of_the_problem_along_the_flow(regression):
    problem, trajectory = regression
    accuracies = {"train_accuracy": lambda w: w.sum(), "test_accuracy": lambda w: w.max()}
    problem = sf.Problem(init=problem.init, loss=problem.loss, metrics=accuracies)
    columns = trajectory.columns | dict.fromkeys(accuracies, np.ones(6))
    with_metrics = dataclasses.replace(trajectory, columns=columns | {"loss_mean": np.ones(6)})
    at_edge = np.where(TAU > 1.0, 0.5, 0.0)[:, None, None] * np.diag([1.0, 0.0, 0.0])
    flow = dataclasses.replace(FLOW, theta=np.outer(TAU, np.ones(5)), edge_covariance=at_edge)
    loss, accuracy = plots.panel(with_metrics, flow, problem=problem)[:2]
    small = sf.Problem(init=lambda _: np.ones(4), loss=problem.loss, metrics=accuracies)
    with pytest.raises(ValueError, match=r"points of flow do not fit the problem.* \(5,\) instead"):
        plots.panel(with_metrics, flow, problem=small)
    mean = 0.5 * trajectory.intrinsic_rate * FLOW.threshold * 0.5
    expected = [TAU, np.where(TAU > 1.0, mean, np.nan)]
    np.testing.assert_allclose(_line(loss, "predicted flow"), expected, rtol=1e-12)
    dashed = [line.get_ydata() for line in accuracy.lines if line.get_linestyle() == "--"]
    np.testing.assert_allclose(dashed, [5.0 * TAU, TAU], rtol=1e-12)
    assert accuracy.get_ylabel() == "accuracy"
    assert {line.get_label() for line in accuracy.lines} >= {"training accuracy", "test accuracy"}


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda run: plots.panel(run, columns=["los"]), ["'los'", 'did you mean "loss"?']),
        (lambda run: plots.metric(run, "treshold"), ["'treshold'", 'did you mean "threshold"?']),
        (lambda run: plots.metric(run, "gradient_norm"), ['observables=[..., "gradient_norm"]']),
        (
            lambda run: plots.panel(run, columns=["sharpness"]),
            ["columns has 'sharpness'", "comparison=", "there are ['sharpness_manifold',"],
        ),
        (lambda run: plots.seed_bands(SMALL, "los"), ["no column 'los'; did you mean \"loss\"?"]),
        (lambda run: plots.seed_band_panels(SMALL, "los"), ['did you mean "loss"?']),
        (lambda run: plots.heat_map(SMALL, "los"), ['did you mean "loss"?']),
        (lambda run: plots.heat_maps(SMALL, "los"), ['did you mean "loss"?']),
    ],
)  # fmt: skip
def test_a_column_that_is_not_there_is_told_first_with_what_is_meant(regression, draw, said):
    with pytest.raises(ValueError) as caught:
        draw(regression[1])
    assert all(part in str(caught.value) for part in said), caught.value


def test_one_record_is_a_point_and_axes_without_values_say_so(regression):
    _, trajectory = regression
    first = dataclasses.replace(
        trajectory, step=trajectory.step[:1], snapshot_row=np.zeros(0, int),
        columns={name: values[:1] for name, values in trajectory.columns.items()},
    )  # fmt: skip
    nothing = {"loss": np.full(6, np.nan)}
    empty = dataclasses.replace(trajectory, columns=trajectory.columns | nothing)
    drawings = (
        lambda of: plots.panel(of, columns=["loss"])[0],
        lambda of: plots.metric(of, "loss"),
    )
    for draw in drawings:
        (line,) = draw(first).lines
        assert line.get_marker() == "o"
        np.testing.assert_array_equal(line.get_ydata(), trajectory["loss"][:1])
        (line,) = draw(trajectory).lines
        assert line.get_marker() == "None"
        assert [text.get_text() for text in draw(empty).texts] == ["no values"]
        assert not draw(trajectory).texts


def test_a_zero_of_a_loss_leaves_its_axis_logarithmic(regression):
    _, trajectory = regression
    loss = 10.0 ** -np.arange(6.0)
    loss[4] = 0.0
    columns = trajectory.columns | {"loss": loss, "share_of_wrong_answers": loss}
    vanishing = dataclasses.replace(trajectory, columns=columns)
    axes = plots.panel(vanishing, columns=["loss", "share_of_wrong_answers"])
    assert [ax.get_yscale() for ax in axes] == ["log", "linear"]  # such a share may well be 0
    grid = grids.grid((2, 2, 1))
    grid["loss"][...] = 10.0 ** -np.linspace(0.0, 6.0, grid["loss"].shape[-1])
    grid["loss"][0, :, :, 7] = grid["loss"][:, 1] = 0.0
    ax = plots.seed_bands(grid, "loss")
    assert ax.get_yscale() == "log" and ax.get_ylim()[0] > 1e-7
    (mesh,) = plots.heat_map(grid, "loss").collections
    assert np.ma.count_masked(mesh.norm(mesh.get_array())) == 0


def test_panel_takes_one_point_of_a_grid_and_passes_over_records_without_a_value():
    dataset = grids.grid((1, 1, 1))
    dataset["sharpness_iterate"][..., 1::2, :] = np.nan
    (ax,) = plots.panel(dataset, columns=["sharpness_iterate"], against="step")
    step, drawn = _line(ax, "measured")
    np.testing.assert_array_equal(step, dataset["step"][::2])
    np.testing.assert_array_equal(drawn, dataset["sharpness_iterate"].values[0, 0, 0, ::2, 0])
    selected = plots.panel(dataset.isel(seed=0, learning_rate=0, weight_decay=0))
    assert len(selected) == 3  # loss, accuracy, sharpness
    with pytest.raises(ValueError, match=r"\{'seed': 2\}.*\.isel\(seed=0\)"):
        plots.panel(grids.grid((2, 1, 1)))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"columns": ["test_error", "missing"]}, "missing"),
        ({"axes": [Figure().add_subplot()]}, "axes must be 3"),
        ({"against": "time"}, "against must be one of"),
        ({"trajectory": RESTING, "flow": FLOW}, "no flow time"),
        ({"trajectory": RESTING, "against": "tau"}, "no flow time"),
        ({"trajectory": RECORD[["threshold"]]}, "name columns"),
    ],
)
def test_panel_refuses_what_it_cannot_draw(arguments, match):
    with pytest.raises(ValueError, match=match):
        plots.panel(**{"trajectory": RECORD} | arguments)


def test_sharpness_and_threshold_of_a_trajectory_alone_is_drawn_without_a_prediction(regression):
    _, trajectory = regression
    ax = plots.sharpness_and_threshold(trajectory)
    assert len(ax.lines) == 2
    drawn = _line(ax, r"$\lambda^{\ast}$")
    np.testing.assert_array_equal(drawn, [trajectory.tau, trajectory["threshold"]])
    resting = plots.sharpness_and_threshold(RESTING)
    assert resting.get_xlabel() == "step $t$"
    np.testing.assert_array_equal(resting.lines[0].get_xdata(), RESTING.step)
    with pytest.raises(ValueError, match="no flow time"):
        plots.sharpness_and_threshold(RESTING, FLOW)
    with pytest.raises(ValueError, match="observables="):
        plots.sharpness_and_threshold(RECORD[["threshold"]])


def test_metric_draws_what_its_column_is_compared_with():
    ax = plots.metric(RECORD, "hessian_sharpness")
    drawn = _line(ax, "stability line")
    np.testing.assert_array_equal(drawn, [RECORD.tau, RECORD.stability_line])
    measured = _line(ax, "measured")
    np.testing.assert_array_equal(measured[1], RECORD.hessian_sharpness[:, 0])
    ratio = RECORD.assign(edge_ratio_iterate=RECORD.test_error)
    lines = plots.metric(ratio, "edge_ratio_iterate").lines
    np.testing.assert_array_equal(lines[1].get_ydata(), [1.0, 1.0])


def test_metric_draws_the_threshold_of_each_of_two_trajectories():
    other = RECORD.assign(stability_line=2.0 * RECORD.stability_line)
    labels = {"label": "η", "other_label": "η/2"}
    ax = plots.metric(RECORD, "hessian_sharpness", other=other, **labels)
    for of, run in (("η", RECORD), ("η/2", other)):
        np.testing.assert_array_equal(_line(ax, f"stability line, {of}")[1], run.stability_line)
    entries = [text.get_text() for text in ax.get_legend().get_texts()]
    assert entries == ["η", "η/2", "stability line, η", "stability line, η/2"]
    alone = plots.metric(RECORD, "hessian_sharpness", other=RECORD.drop_vars("stability_line"))
    assert len(alone.lines) == 3 and alone.lines[2].get_label() == "stability line"


def test_lines_of_one_kind_are_equally_wide_whatever_draws_them():
    def widths(ax):
        return {line.get_label(): line.get_linewidth() for line in ax.lines}

    panel, *_ = plots.panel(RECORD, columns=["sharpness_manifold"])
    metric = plots.metric(RECORD, "sharpness_manifold")
    both = plots.sharpness_and_threshold(RECORD[["sharpness_manifold", "threshold"]])
    sharpness = [
        widths(panel)["measured"],
        widths(metric)["measured"],
        both.lines[1].get_linewidth(),
    ]
    assert len({*sharpness}) == 1
    line = {panel.lines[1].get_linewidth(), metric.lines[1].get_linewidth()}
    assert line == {both.lines[0].get_linewidth()}
    # what the rule tells is not measured
    assert both.lines[0].get_label() == r"$\lambda^{\ast}$"


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
        ([0.01, 0.03], ["0.01", "0.015", "0.02", "0.025", "0.03"]),
    ],
)
def test_logarithmic_axes_have_readable_labels_over_few_decades(rates, expected):
    ax = plots.tracking_error(rates, rates)
    low, high = ax.get_xlim()
    ticks = [tick for tick in ax.get_xticks() if low <= tick <= high]
    assert [ax.xaxis.get_major_formatter()(tick) for tick in ticks] == expected
    # a logarithmic axis is seen to be one
    between = [tick for tick in ax.xaxis.get_minorticklocs() if low <= tick <= high]
    assert len(between) >= 4


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

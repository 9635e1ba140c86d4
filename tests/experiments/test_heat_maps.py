"""Heat maps and outcomes of a grid show its medians, its marks and its strips."""

import grids
import numpy as np
import pytest
from grids import DIVERGED, PENDING, SUCCESS

from sharpflow.experiments import plots
from sharpflow.experiments.grid_summary import Outcome

pytestmark = pytest.mark.usefixtures("settings_stay")

LABELS = {
    "loss_mean": r"mean training loss $\bar L$",
    "edge_ratio_iterate": r"edge ratio $\lambda_1/\lambda^{\ast}$ at $\theta_t$",
    "sharpness_iterate": r"sharpness $\lambda_1$ at $\theta_t$",
    "test_accuracy": "test accuracy",
}


def _mesh(ax):
    (mesh,) = ax.collections
    return mesh


def _written(ax):
    return sorted(text.get_text() for text in ax.texts)


def test_outcome_map_sorts_the_seeds_of_a_cell_by_outcome():
    dataset = grids.grid((3, 2, 2), rates=[0.5, 0.1], decays=[1e-3, 1e-4])
    dataset["loss"][:], dataset["loss_mean"][:] = 1.0, 1.0
    dataset["edge_ratio_iterate"][:] = 0.5
    dataset["edge_ratio_iterate"][{"learning_rate": 0, "weight_decay": 0, "seed": 2}] = 1.0
    dataset = grids.ended(dataset, DIVERGED, at=5, seed=0, learning_rate=1, weight_decay=1)
    dataset = grids.ended(dataset, PENDING, at=5, seed=[0, 1], learning_rate=0, weight_decay=1)
    ax = plots.outcome_map(dataset)
    edge, training, lost, waiting = (
        Outcome.AT_EDGE, Outcome.TRAINING, Outcome.DIVERGED, Outcome.PENDING
    )  # fmt: skip
    # learning rates 0.1 and 0.5, weight decays 1e-4 below 1e-3
    below = [training, training, lost, training, waiting, waiting]
    above = [training, training, training, edge, training, training]
    np.testing.assert_array_equal(_mesh(ax).get_array(), [below, above])
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0.1", "0.5"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["$10^{-4}$", "0.001"]
    names = [text.get_text() for text in ax.figure.legends[0].get_texts()]
    assert names == ["at the edge", "training", "diverged", "pending"]
    (hatched,) = ax.patches
    np.testing.assert_allclose(
        [hatched.get_x(), hatched.get_y(), hatched.get_width()], [4.0 / 3.0, 0.0, 2.0 / 3.0]
    )


def test_outcome_map_has_the_colours_of_its_legend():
    ax = plots.outcome_map(grids.grid())
    colours = _mesh(ax).to_rgba(np.array(list(Outcome)))
    expected = {outcome.label: tuple(colours[outcome]) for outcome in Outcome}
    for patch in ax.figure.legends[0].get_patches():
        assert patch.get_facecolor() == expected[patch.get_label()]


def test_outcome_map_says_where_the_edge_was_not_measured():
    measured = grids.grid((1, 2, 2))
    title = plots.outcome_map(measured).figure.legends[0].get_title().get_text()
    assert title == "outcome"
    ax = plots.outcome_map(measured.drop_vars("edge_ratio_iterate"))
    assert "edge ratio was not recorded" in ax.figure.legends[0].get_title().get_text()


@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 4, 2), (4, 20, 20)])
def test_heat_map_draws_the_medians(name, shape):
    dataset = grids.grid(shape)
    values = dataset[name].values.reshape(*shape, 30, -1)[..., -3:, 0].mean(axis=-1)
    ax = plots.heat_map(dataset, name)
    np.testing.assert_allclose(_mesh(ax).get_array(), np.median(values, axis=0).T, rtol=1e-12)
    bar = ax.figure.axes[1]
    assert bar.get_ylabel() == LABELS[name]
    assert ("median over" in ax.figure.get_suptitle()) == (shape[0] > 1)


def test_heat_map_writes_its_values_in_rising_order_of_both_axes():
    dataset = grids.grid((1, 3, 2), rates=[0.5, 0.01, 0.1], decays=[1e-2, 1e-5])
    dataset["test_accuracy"][:] = dataset["learning_rate"] + 100.0 * dataset["weight_decay"]
    ax = plots.heat_map(dataset, "test_accuracy")
    expected = np.add.outer([1e-3, 1.0], [0.01, 0.1, 0.5])
    np.testing.assert_allclose(_mesh(ax).get_array(), expected, rtol=1e-12)
    written = {text.get_position(): text.get_text() for text in ax.texts}
    assert written == {
        (0.5, 0.5): "0.011", (1.5, 0.5): "0.10", (2.5, 0.5): "0.50",
        (0.5, 1.5): "1.0", (1.5, 1.5): "1.1", (2.5, 1.5): "1.5",
    }  # fmt: skip
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0.01", "0.1", "0.5"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["$10^{-5}$", "0.01"]


def test_heat_map_passes_over_seeds_that_diverged_and_counts_them():
    dataset = grids.ended(
        grids.grid(), DIVERGED, at=25, seed=[0, 2], learning_rate=1, weight_decay=0
    )
    dataset = grids.ended(dataset, DIVERGED, at=5, learning_rate=2, weight_decay=1)
    dataset = grids.ended(dataset, PENDING, seed=1, learning_rate=0, weight_decay=0)
    dataset = grids.ended(dataset, PENDING, learning_rate=3, weight_decay=0)
    ax = plots.heat_map(dataset, "edge_ratio_iterate")
    drawn = _mesh(ax).get_array()
    last = dataset["edge_ratio_iterate"].values[..., -3:].mean(axis=-1)
    assert drawn[0, 1] == pytest.approx(last[1, 1, 0])
    assert drawn[0, 0] == pytest.approx((last[0, 0, 0] + last[2, 0, 0]) / 2.0)
    assert np.argwhere(drawn.mask).tolist() == [[0, 3], [1, 2]]
    marks = {t.get_text(): t.get_position() for t in ax.texts if t.get_text()[-1] in "×…"}
    assert marks == {"2×": (1.95, 0.95), "×": (2.5, 1.5), "1…": (0.05, 0.95), "…": (3.5, 0.5)}
    note = ax.figure.get_suptitle().splitlines()[1]
    assert all(words in note for words in ("2×: two seeds diverged", "×: all", "…: unfinished"))


@pytest.mark.parametrize(("status", "mark"), [(DIVERGED, "×"), (PENDING, "…"), (SUCCESS, "–")])
def test_a_heat_map_without_any_value_has_marks_and_no_colour_bar(status, mark):
    ax = plots.heat_map(grids.ended(grids.grid((2, 2, 2)), status), "loss_mean")
    assert _written(ax) == [mark] * 4 and ax.figure.axes == [ax]
    assert _mesh(ax).get_array().mask.all()


@pytest.mark.parametrize(
    ("ratios", "reach", "beyond"),
    [((0.97, 1.04), 0.1, False), ((0.4, 1.1), 0.6, False), ((0.9, 5.0), 1.0, True)],
)
def test_edge_ratios_have_colours_around_one(ratios, reach, beyond):
    dataset = grids.grid((1, 2, 1))
    dataset["edge_ratio_iterate"][:] = np.array(ratios)[None, :, None, None]
    ax = plots.heat_map(dataset, "edge_ratio_iterate")
    norm = _mesh(ax).norm
    np.testing.assert_allclose([norm.vmin, norm.vmax], [1.0 - reach, 1.0 + reach])
    red, green, blue = _mesh(ax).cmap(norm(1.0))[:3]
    assert min(red, green, blue) > 0.95
    assert (len(ax.figure.axes[1].patches) > 0) == beyond  # the arrow at the end of the bar


@pytest.mark.parametrize(("largest", "scale"), [(29.0, "linear"), (31.0, "log")])
def test_values_over_more_than_a_factor_of_thirty_have_a_logarithmic_scale(largest, scale):
    dataset = grids.grid((1, 2, 1))
    dataset["loss_mean"][:] = np.array([1.0, largest])[None, :, None, None]
    ax = plots.heat_map(dataset, "loss_mean")
    assert ax.figure.axes[1].get_yscale() == scale
    norm = _mesh(ax).norm
    np.testing.assert_allclose([norm.vmin, norm.vmax], [1.0, largest])


def test_a_single_value_has_no_scale_about_it():
    dataset = grids.grid((1, 2, 2))
    dataset["test_accuracy"][:] = 1.0
    ax = plots.heat_map(dataset, "test_accuracy")
    (bar,) = [other for other in ax.figure.axes if other is not ax]
    ax.figure.draw_without_rendering()
    shown = [text.get_text() for text in bar.get_yticklabels() if text.get_text()]
    assert [float(text) for text in shown] == [1.0]

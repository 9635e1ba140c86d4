"""The sphere shows its points, seen from where they face, and drops what it says it drops."""

import numpy as np
import pytest
from examples import (
    FLOW_POINTS,
    GAMMA,
    POINTS,
    circle,
)
from mpl_toolkits.mplot3d import proj3d

from sharpflow.experiments import plots

pytestmark = pytest.mark.usefixtures("settings_stay")


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
    whole = circle(np.linspace(-np.pi, np.pi, 41)[:-1])
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

"""The last values and the outcomes of a grid are those that one finds by hand."""

import grids
import numpy as np
import pytest
import xarray

from sharpflow.experiments import grid_summary
from sharpflow.experiments.grid_summary import Outcome
from sharpflow.theory.status import Status

POINT = grids.POINT
PENDING, SUCCESS, DIVERGED = grids.PENDING, grids.SUCCESS, grids.DIVERGED


# --- the last values ---


@pytest.mark.parametrize(("rows", "averaged"), [(3, 1), (10, 1), (11, 2), (30, 3), (100, 10)])
def test_last_values_are_means_over_the_last_tenth_rounded_up(rows, averaged):
    dataset = grids.grid((2, 2, 1), rows)
    expected = dataset["loss_mean"].values[..., -averaged:].mean(axis=-1)
    found = grid_summary.last_values(dataset, "loss_mean")
    assert found.dims == POINT
    np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_a_fraction_that_rounds_up_in_binary_does_not_add_a_value():
    dataset = grids.grid((2, 2, 1), rows=100)
    assert 0.07 * 100 > 7
    expected = dataset["loss"].values[..., -7:].mean(axis=-1)
    found = grid_summary.last_values(dataset, "loss", fraction=0.07)
    np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_last_values_count_what_was_measured_and_take_the_largest_eigenvalue():
    dataset = grids.grid((2, 2, 1), rows=100)
    dataset["sharpness_iterate"][{"step": np.arange(100) % 5 != 0}] = np.nan
    # 20 are left: the last two of them
    expected = dataset["sharpness_iterate"].values[..., [90, 95], 0].mean(axis=-1)
    found = grid_summary.last_values(dataset, "sharpness_iterate")
    np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_last_values_end_with_a_trajectory_that_has_fewer_steps():
    dataset = grids.grid((2, 2, 1), rows=100)
    dataset["loss"][{"learning_rate": 1, "step": slice(40, None)}] = np.nan
    found = grid_summary.last_values(dataset, "loss")
    expected = dataset["loss"].values[:, 1, :, 36:40].mean(axis=-1)
    np.testing.assert_allclose(found[:, 1], expected, rtol=1e-14)


def test_only_finished_trajectories_have_last_values():
    dataset = grids.ended(grids.grid(), DIVERGED, at=20, seed=0, learning_rate=1, weight_decay=0)
    dataset = grids.ended(dataset, PENDING, at=10, seed=2, learning_rate=0, weight_decay=1)
    dataset["loss"][{"seed": 1, "learning_rate": 3, "weight_decay": 0}] = np.inf
    missing = {(0, 1, 0), (2, 0, 1), (1, 3, 0)}
    found = np.isnan(grid_summary.last_values(dataset, "loss").values)
    assert set(map(tuple, np.argwhere(found).tolist())) == missing


@pytest.mark.parametrize("seeds", [1, 2, 5])
def test_median_over_seeds_passes_over_nan(seeds):
    values = np.random.default_rng(0).normal(size=(seeds, 6, 5))
    values[np.random.default_rng(1).random(values.shape) < 0.3] = np.nan
    values[:, 0, 0], values[0, 1:] = np.nan, 1.0
    found = grid_summary.median_over_seeds(xarray.DataArray(values, dims=POINT))
    assert np.isnan(found[0, 0])
    expected = np.nanmedian(values[:, 1:], axis=0)
    np.testing.assert_allclose(found[1:], expected, rtol=1e-14)


# --- outcomes ---


def _outcome(ratio, loss, status=SUCCESS, **columns):
    """The outcome of one trajectory of 20 rows, which starts at loss 2."""
    values = {"loss": np.full(20, loss), "edge_ratio_iterate": np.full(20, ratio)}
    values["loss"][0] = 2.0
    values["loss_mean"] = np.full(20, loss)
    values |= {name: np.full(20, value) for name, value in columns.items()}
    dims = (*POINT, "step")
    shaped = {name: (dims, value.reshape(1, 1, 1, 20)) for name, value in values.items()}
    shaped["status"] = (POINT, np.full((1, 1, 1), status, np.int8))
    dataset = xarray.Dataset(shaped, {"step": np.arange(20)})
    if ratio is None:
        dataset = dataset.drop_vars("edge_ratio_iterate")
    return Outcome(grid_summary.outcomes(dataset).item())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((0.5, 1.9e-3), Outcome.CONVERGED),
        ((0.5, 2.1e-3), Outcome.TRAINING),
        ((0.89, 1e-9), Outcome.CONVERGED),
        ((0.9, 1e-9), Outcome.AT_EDGE),
        ((1.3, 1.0), Outcome.AT_EDGE),
        ((1.31, 1e-9), Outcome.ABOVE_EDGE),
        ((np.nan, 1e-9), Outcome.CONVERGED),
        ((None, 1e-9), Outcome.CONVERGED),
        ((None, 1.0), Outcome.TRAINING),
        ((np.nan, np.nan), Outcome.TRAINING),
        ((1.0, 1e-9, DIVERGED), Outcome.DIVERGED),
        ((1.0, 1e-9, int(Status.NOT_FINITE)), Outcome.DIVERGED),
        ((1.0, 1e-9, PENDING), Outcome.PENDING),
    ],
)
def test_outcomes_by_hand(arguments, expected):
    assert _outcome(*arguments) is expected


def test_the_edge_ratio_nearest_to_theory_decides():
    assert _outcome(2.0, 1.0, edge_ratio_midpoint=1.0) is Outcome.AT_EDGE
    both = {"edge_ratio_midpoint": 2.0, "edge_ratio_manifold": 1.0}
    assert _outcome(2.0, 1.0, **both) is Outcome.AT_EDGE


@pytest.mark.parametrize(("last", "expected"), [(0.9e-3, "CONVERGED"), (1.1e-3, "TRAINING")])
def test_a_loss_above_zero_converges_by_its_gradient_on_the_sphere(last, expected):
    # ‖w‖ grows from 1 to 4, so the gradient in w must fall by as much to stay the same
    dataset = grids.grid((1, 1, 1), rows=20)
    dataset["edge_ratio_iterate"][:] = 0.5
    dataset["loss"][:], dataset["loss_mean"][:] = 1.0, 1.0
    norm = np.append(1.0, np.full(19, 16.0)).reshape(1, 1, 1, 20)
    gradient = np.append(3.0, np.full(19, 3.0 * last / 4.0)).reshape(1, 1, 1, 20)
    dims = (*POINT, "step")
    dataset = dataset.assign(norm_squared=(dims, norm), gradient_norm=(dims, gradient))
    assert Outcome(grid_summary.outcomes(dataset).item()) is Outcome[expected]


def test_outcomes_need_a_loss():
    with pytest.raises(ValueError, match="loss"):
        grid_summary.outcomes(grids.grid().drop_vars(["loss", "loss_mean"]))

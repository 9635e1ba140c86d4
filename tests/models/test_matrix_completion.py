"""Matrix completion, against statistics that numpy computes by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sharpflow as sf

ROWS, COLUMNS = 5, 7


@pytest.fixture
def data():
    random = np.random.default_rng(0)
    matrix = random.normal(size=(ROWS, 2)) @ random.normal(size=(2, COLUMNS)) + 4.0
    observed = random.uniform(size=(ROWS, COLUMNS)) < 0.6
    return matrix, observed


def _entries(params):
    return np.asarray(params["u"], float) @ np.asarray(params["v"], float).T


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_residual_is_that_of_observed_entries_standardized_over_the_observed(data, dtype):
    matrix, observed = data
    problem = sf.models.matrix_completion(matrix, observed, width=3, dtype=dtype)
    params = problem.init(jax.random.key(0))
    predictions = _entries(params)[observed]
    predictions = (predictions - predictions.mean()) / predictions.std()
    targets = (matrix[observed] - matrix[observed].mean()) / matrix[observed].std()

    residual = problem.residual(params)
    assert residual.dtype == dtype
    expected = (predictions - targets) / np.sqrt(observed.sum())
    np.testing.assert_allclose(residual, expected, atol=10 * np.finfo(dtype).eps)


def test_predictions_at_the_observed_entries_have_mean_zero_and_deviation_one(data):
    matrix, observed = data
    problem = sf.models.matrix_completion(matrix, observed, init_scale=3.0)
    residual = np.asarray(problem.residual(problem.init(jax.random.key(1))))
    seen = matrix[observed]
    predictions = residual * np.sqrt(len(seen)) + (seen - seen.mean()) / seen.std()
    np.testing.assert_allclose(predictions.mean(), 0.0, atol=1e-14)
    np.testing.assert_allclose(predictions.std(), 1.0, rtol=1e-14)


def test_the_test_error_uses_the_statistics_of_the_observed_entries(data):
    matrix, observed = data
    problem = sf.models.matrix_completion(matrix, observed)
    params = problem.init(jax.random.key(2))
    entries = _entries(params)
    predictions = (entries[~observed] - entries[observed].mean()) / entries[observed].std()
    targets = (matrix[~observed] - matrix[observed].mean()) / matrix[observed].std()
    expected = np.mean((predictions - targets) ** 2)
    np.testing.assert_allclose(problem.metrics["test_error"](params), expected, rtol=1e-13)


def test_factors_of_the_matrix_itself_have_zero_loss_and_test_error(data):
    matrix, observed = data
    left, sizes, right = np.linalg.svd(matrix)
    factors = {"u": jnp.asarray(left * sizes[:ROWS]), "v": jnp.asarray(right[:ROWS].T)}
    problem = sf.models.matrix_completion(matrix, observed)
    np.testing.assert_allclose(problem.loss_value(factors), 0.0, atol=1e-28)
    np.testing.assert_allclose(problem.metrics["test_error"](factors), 0.0, atol=1e-28)


def test_the_default_matrix_has_the_shape_and_share_of_observed_entries_asked_for():
    problem = sf.models.matrix_completion(shape=(8, 5), width=3, observed_fraction=0.25)
    params = problem.init(jax.random.key(3))
    assert params["u"].shape == (8, 3)
    assert params["v"].shape == (5, 3)
    assert problem.residual(params).shape == (10,)


def test_the_seed_alone_decides_the_random_matrix_and_mask():
    first, same, other = (sf.models.matrix_completion(shape=(6, 6), seed=s) for s in (1, 1, 2))
    params = first.init(jax.random.key(4))
    np.testing.assert_array_equal(first.residual(params), same.residual(params))
    assert not np.allclose(first.residual(params), other.residual(params))


def _marked(*entries):
    mask = np.zeros((ROWS, COLUMNS), bool)
    for entry in entries:
        mask[entry] = True
    return mask


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"matrix": np.ones(4)}, r"matrix must have shape \(rows, columns\), got \(4,\)"),
        ({"matrix": np.full((3, 3), np.nan)}, "matrix has NaN.*finite"),
        ({"matrix": np.full((3, 3), 2.0)}, "matrix is constant"),
        ({"matrix": np.full((9, 9), 0.1)}, "matrix is constant"),
        ({"rank": 0}, "rank must be an integer from 1"),
        ({"shape": (1, 4)}, "shape must be two integers of at least 2"),
        ({"width": 0}, "width must be an integer from 1 to .*, got 0"),
        ({"init_scale": 0.0}, "init_scale must be positive and finite, got 0.0"),
        ({"observed_fraction": 1.0}, "observed_fraction must be in"),
        ({"observed": np.ones((2, 2), bool)}, r"observed must be.*\(30, 30\)"),
        ({"observed": np.ones((30, 30))}, "observed must be a boolean mask.*float64"),
        ({"observed": np.ones((30, 30), bool)}, "observed must mark.*got 900 of 900"),
        ({"matrix": np.eye(ROWS, COLUMNS), "observed": _marked((0, 0))}, "observed must mark"),
    ],
)
def test_unusable_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        sf.models.matrix_completion(**arguments)

"""Batch-norm linear regression, against its formula in numpy."""

import jax
import numpy as np
import pytest

import sharpflow as sf

NUM_EXAMPLES, DIMENSION = 6, 9


@pytest.fixture
def data():
    random = np.random.default_rng(0)
    x = random.normal(size=(NUM_EXAMPLES, DIMENSION)) + 3.0
    return x, random.normal(size=NUM_EXAMPLES)


def _standardized(values):
    return (values - values.mean()) / np.sqrt(np.mean((values - values.mean()) ** 2))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_residual_is_that_of_standardized_predictions_and_targets(data, dtype):
    x, y = data
    problem = sf.models.linear_regression(x, y, dtype=dtype)
    w = np.asarray(problem.init(jax.random.key(0)))
    assert w.shape == (DIMENSION,)
    assert w.dtype == dtype
    residual = problem.residual(w)
    assert residual.dtype == dtype
    expected = (_standardized(x @ w.astype(float)) - _standardized(y)) / np.sqrt(NUM_EXAMPLES)
    # inputs around 3 make products around 10, that centring then cancels
    np.testing.assert_allclose(residual, expected, atol=100 * np.finfo(dtype).eps)


def test_the_loss_is_half_the_mean_square_error(data):
    x, y = data
    problem = sf.models.linear_regression(x, y)
    w = np.random.default_rng(1).normal(size=DIMENSION)
    expected = 0.5 * np.mean((_standardized(x @ w) - _standardized(y)) ** 2)
    np.testing.assert_allclose(problem.loss_value(w), expected, rtol=1e-13)


def test_the_least_squares_solution_and_its_negative_are_best_and_worst(data):
    x, y = data
    problem = sf.models.linear_regression(x, y)
    w = np.linalg.lstsq(x - x.mean(axis=0), y - y.mean(), rcond=None)[0]
    # correlation 1 gives L = 0, correlation −1 gives ½ mean (2y)² = 2
    np.testing.assert_allclose(problem.loss_value(w), 0.0, atol=1e-26)
    np.testing.assert_allclose(problem.loss_value(-w), 2.0, rtol=1e-13)


def test_integer_targets_are_numbers_and_not_classes(data):
    x, _ = data
    y = np.array([0, 1, 2, 3, 4, 7])
    w = np.random.default_rng(2).normal(size=DIMENSION)
    as_integers = sf.models.linear_regression(x, y).residual(w)
    as_reals = sf.models.linear_regression(x, y.astype(float)).residual(w)
    np.testing.assert_array_equal(as_integers, as_reals)


def test_targets_outside_the_column_space_are_refused():
    random = np.random.default_rng(3)
    x, y = random.normal(size=(12, 4)), random.normal(size=12)
    with pytest.raises(ValueError, match="y must lie in the column space of the centred x"):
        sf.models.linear_regression(x, y)
    centred = x - x.mean(axis=0)
    sf.models.linear_regression(x, centred @ random.normal(size=4))  # inside, with n > d


def test_a_constant_target_is_refused(data):
    x, _ = data
    with pytest.raises(ValueError, match="y is constant"):
        sf.models.linear_regression(x, np.full(NUM_EXAMPLES, 0.1))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["x", "y"])
def test_data_that_is_not_finite_is_refused_by_name(data, name, bad):
    arrays = dict(zip("xy", data, strict=True))
    arrays[name] = arrays[name].copy()
    arrays[name].flat[1] = bad
    with pytest.raises(ValueError, match=f"{name} has NaN or infinite"):
        sf.models.linear_regression(**arrays)


@pytest.mark.parametrize(
    ("x_shape", "y_shape", "message"),
    [
        ((6,), (6,), r"x must have shape \(n, \.\.\.\)"),
        ((6, 3, 3), (6,), r"x must have shape \(n, d\).*\(6, 3, 3\)"),
        ((1, 9), (1,), r"x must have shape.*n >= 2"),
        ((6, 9), (5,), r"y must have shape \(6,\).*\(5,\)"),
        ((6, 9), (6, 1), r"y must have shape \(6,\).*\(6, 1\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_by_name(x_shape, y_shape, message):
    random = np.random.default_rng(4)
    with pytest.raises(ValueError, match=message):
        sf.models.linear_regression(random.normal(size=x_shape), random.normal(size=y_shape))


@pytest.mark.parametrize("name", ["x", "y"])
def test_complex_data_is_refused_by_name(data, name):
    arrays = dict(zip("xy", data, strict=True))
    arrays[name] = arrays[name] + 1j
    with pytest.raises(ValueError, match=f"{name} must be.*complex128"):
        sf.models.linear_regression(**arrays)

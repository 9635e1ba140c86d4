"""Units change no result: what is found of a problem is found of it in metres or in ångström."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sharpflow as sf
from sharpflow.theory.least_squares import least_norm_solution
from sharpflow.theory.scaling import norm, power_of_two

# JJᵀ is a matrix of normal numbers in all of these
DTYPES = {np.float32: (2.0**-50, 2.0**-30, 2.0**40), np.float64: (2.0**-400, 2.0**-30, 2.0**400)}
UNITS = [(dtype, unit) for dtype, units in DTYPES.items() for unit in units]
METHODS = ("dense", "gram", "iterative")
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(5, 12)), RNG.normal(size=5)


def _regression(dtype, unit):
    """Underdetermined least squares whose residuals are ``unit`` times those of order one."""
    x, y = jnp.asarray(unit * X, dtype), jnp.asarray(unit * Y, dtype)
    return sf.Problem(
        lambda key: jnp.ones(12, dtype), residual=lambda w: x @ w - y, scale_invariant=False
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_norm_is_that_of_the_standard_library_at_every_scale(dtype):
    # vectors whose entries, and whose norm, are normal numbers of the dtype
    limits = jnp.finfo(dtype)
    for exponent in range(limits.minexp + 30, limits.maxexp - 4, 7):
        vector = jnp.asarray(np.ldexp(Y, exponent), dtype)
        right = np.ldexp(np.linalg.norm(np.asarray(Y, dtype).astype(np.float64)), exponent)
        np.testing.assert_allclose(np.float64(norm(vector)), right, rtol=4 * limits.eps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_of_order_one_the_norm_has_the_bits_of_jax(dtype):
    vectors = jnp.asarray(RNG.normal(size=(200, 33)), dtype)
    np.testing.assert_array_equal(
        jax.jit(jax.vmap(norm))(vectors), jax.jit(jax.vmap(jnp.linalg.norm))(vectors)
    )


def test_the_norm_of_zeros_is_zero_and_of_nan_is_nan():
    assert norm(jnp.zeros(3)) == 0.0
    assert norm(jnp.zeros((0, 3)), axis=1).shape == (0,)
    assert np.isnan(norm(jnp.array([1.0, jnp.nan])))
    assert np.isinf(norm(jnp.array([1.0, jnp.inf])))
    assert power_of_two(jnp.array([1.0, jnp.nan])) == 0.0


def test_the_norm_has_the_derivative_of_a_norm():
    np.testing.assert_allclose(jax.grad(norm)(jnp.asarray(Y)), Y / np.linalg.norm(Y), rtol=1e-6)


@pytest.mark.parametrize(("dtype", "unit"), UNITS)
def test_least_norm_solutions_do_not_depend_on_units(dtype, unit):
    x, y = jnp.asarray(unit * X, dtype), jnp.asarray(unit * Y, dtype)
    found = least_norm_solution(
        lambda w: x @ w, lambda u: x.T @ u, y, tolerance=1e-6, max_steps=100
    )
    np.testing.assert_allclose(found, np.linalg.pinv(X) @ Y, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("dtype", "unit"), UNITS)
def test_a_retraction_moves_to_the_manifold_of_small_residuals_too(dtype, unit, method):
    found = sf.theory.retract(
        _regression(dtype, unit), jnp.ones(12, dtype), on_sphere=False, method=method
    )
    right = np.ones(12) - np.linalg.pinv(X) @ (X @ np.ones(12) - Y)
    tolerance = 1e-4 if dtype == np.float32 else 1e-9
    np.testing.assert_allclose(found, right, rtol=tolerance, atol=tolerance)


def test_a_point_that_only_seems_on_the_manifold_is_no_start_of_a_flow():
    problem = _regression(np.float64, 1e-12)
    with pytest.raises(ValueError, match="theta0 must lie on the minimizer manifold"):
        sf.theory.sharpness_flow(problem, jnp.ones(12), jnp.array([0.0, 1.0]), on_sphere=False)

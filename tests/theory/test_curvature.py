"""Eigenvalues of the Hessian against dense linear algebra."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import sharpflow as sf
from sharpflow.theory import Status

_DEFAULT_TOLERANCE = {np.float64: 1e-8, np.float32: 1e-4}
_dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32])
_methods = pytest.mark.parametrize("method", ["dense", "lanczos"])


@cache
def _problem(dtype: type) -> sf.Problem:
    """A small network whose Hessian has eigenvalues of both signs; d = 54."""
    random = np.random.default_rng(2)
    x = jnp.asarray(random.normal(size=(20, 8)).astype(np.float32), dtype)
    y = jnp.asarray(random.normal(size=20).astype(np.float32), dtype)

    def residual(params: dict) -> jax.Array:
        hidden = jnp.tanh(x @ params["a"])
        return jnp.sin(hidden @ params["b"]) - y

    def init(key: jax.Array) -> dict:
        key_a, key_b = jax.random.split(key)
        return {
            "a": jax.random.normal(key_a, (8, 6), dtype),
            "b": jax.random.normal(key_b, (6,), dtype),
        }

    return sf.Problem(init=init, residual=residual)


@partial(jax.jit, static_argnames=("problem",))
def _hessian(problem: sf.Problem, params: dict) -> jax.Array:
    flat, unravel = ravel_pytree(params)
    return jax.hessian(lambda point: problem.loss_value(unravel(point)))(flat)


def _dense_spectrum(params: dict) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues, descending, and eigenvectors in rows, of the float64 Hessian."""
    params = jax.tree.map(lambda leaf: leaf.astype(np.float64), params)
    values, vectors = np.linalg.eigh(_hessian(_problem(np.float64), params))
    return values[::-1], vectors[:, ::-1].T


def _flat_rows(vectors: dict) -> np.ndarray:
    """A pytree with a leading axis as float64 rows."""
    return np.asarray(jax.vmap(lambda tree: ravel_pytree(tree)[0])(vectors), np.float64)


@_dtypes
@_methods
def test_top_eigenpairs_match_the_dense_hessian(method: str, dtype: type) -> None:
    problem = _problem(dtype)
    params = problem.init(jax.random.key(0))
    found = sf.theory.top_eigenpairs(problem, params, 3, method=method)
    values, vectors = _dense_spectrum(params)
    size = np.abs(values).max()
    assert int(found.status) == Status.SUCCESS
    residuals = np.asarray(found.residuals, np.float64)
    assert np.all(residuals <= _DEFAULT_TOLERANCE[dtype] * size)
    # a Ritz value is within its residual of an eigenvalue; the products round by d eps
    rounding = 54 * np.finfo(dtype).eps * size
    assert np.all(np.abs(np.asarray(found.values) - values[:3]) <= residuals + rounding)
    rows = _flat_rows(found.vectors)
    gaps = np.abs(values[:3, None] - values[None, :])
    gaps[np.arange(3), np.arange(3)] = np.inf
    sines = np.sqrt(np.maximum(0.0, 1.0 - np.sum(rows * vectors[:3], axis=1) ** 2))
    # sin of the angle <= residual/gap; a cosine known to 54 eps gives a sine to its root
    allowed = (residuals + rounding) / gaps.min(axis=1)
    assert np.all(sines <= 2 * allowed + np.sqrt(2 * 54 * np.finfo(dtype).eps))


@_methods
def test_numbers_may_be_arrays(method: str) -> None:
    problem = _problem(np.float64)
    params = problem.init(jax.random.key(1))
    k, tolerance, basis_size = jnp.int32(2), jnp.float64(1e-3), np.int64(12)
    found = sf.theory.top_eigenpairs(
        problem, params, k, method=method, tolerance=tolerance, basis_size=basis_size
    )
    expected = sf.theory.top_eigenpairs(
        problem, params, 2, method=method, tolerance=1e-3, basis_size=12
    )
    np.testing.assert_array_equal(found.values, expected.values)


@_methods
def test_reported_residuals_are_those_of_the_dense_hessian(method: str) -> None:
    problem = _problem(np.float64)
    params = problem.init(jax.random.key(1))
    found = sf.theory.top_eigenpairs(problem, params, 3, method=method, tolerance=1e-3)
    values, vectors = _dense_spectrum(params)
    hessian = (vectors.T * values) @ vectors
    rows = _flat_rows(found.vectors)
    true = np.linalg.norm(rows @ hessian - np.asarray(found.values)[:, None] * rows, axis=1)
    np.testing.assert_allclose(found.residuals, true, atol=1e-12 * np.abs(values).max())


@_methods
def test_jit_and_vmap_give_the_eigenvalues_of_every_replica(method: str) -> None:
    problem = _problem(np.float64)
    params = jax.vmap(problem.init)(jax.random.split(jax.random.key(3), 3))
    batched = jax.jit(
        jax.vmap(lambda point: sf.theory.top_eigenpairs(problem, point, 2, method=method))
    )
    found = batched(params)
    for replica in range(3):
        expected, _ = _dense_spectrum(jax.tree.map(lambda leaf, i=replica: leaf[i], params))
        np.testing.assert_allclose(
            found.values[replica], expected[:2], atol=1e-8 * np.abs(expected).max()
        )
    np.testing.assert_array_equal(found.status, Status.SUCCESS)


def test_a_start_at_another_eigenvector_still_finds_the_top() -> None:
    problem = _problem(np.float64)
    params = problem.init(jax.random.key(0))
    values, vectors = _dense_spectrum(params)
    _, unravel = ravel_pytree(params)
    found = sf.theory.top_eigenpairs(
        problem, params, 2, method="lanczos", start=unravel(jnp.asarray(vectors[4]))
    )
    np.testing.assert_allclose(found.values, values[:2], atol=1e-8 * np.abs(values).max())


@_methods
def test_a_tolerance_at_the_rounding_of_the_products_is_told_apart(method: str) -> None:
    problem = _problem(np.float32)
    # one pair may reach a tolerance as small as its rounding by chance, five together do not
    found = sf.theory.top_eigenpairs(
        problem, problem.init(jax.random.key(0)), 5, method=method, tolerance=1.3e-7
    )
    assert int(found.status) == Status.PRECISION
    assert np.any(np.isnan(found.values))
    assert np.all(np.isfinite(found.residuals))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_tolerance_below_the_precision_is_refused(dtype: type) -> None:
    problem = _problem(dtype)
    params = problem.init(jax.random.key(0))
    with pytest.raises(ValueError, match=f"the precision of {np.dtype(dtype)}, got 1e-16"):
        sf.theory.top_eigenpairs(problem, params, tolerance=1e-16)


def test_an_eigenvalue_that_too_few_products_leave_open_is_nan_and_says_so() -> None:
    """A basis of three vectors and fifty restarts do not separate a dense top."""
    spectrum = jnp.linspace(0.9999, 1.0, 4000)
    problem = sf.Problem(
        init=lambda key: jnp.ones(4000), loss=lambda w: 0.5 * jnp.sum(spectrum * w**2)
    )
    found = sf.theory.top_eigenpairs(problem, jnp.ones(4000), basis_size=6, tolerance=1e-12)
    assert int(found.status) == Status.NOT_CONVERGED
    assert np.all(np.isnan(found.values))
    assert np.all(np.isfinite(found.residuals))


@_methods
def test_a_hessian_that_is_not_symmetric_is_reported(method: str) -> None:
    """A custom derivative that is no gradient of anything."""
    matrix = jnp.asarray(np.random.default_rng(0).normal(size=(20, 20)))

    @jax.custom_vjp
    def loss(w: jax.Array) -> jax.Array:
        return 0.5 * w @ matrix @ w

    loss.defvjp(lambda w: (loss(w), w), lambda w, cotangent: (cotangent * (matrix @ w),))
    problem = sf.Problem(init=lambda key: jnp.ones(20), loss=loss)
    found = sf.theory.top_eigenpairs(problem, jnp.ones(20), 2, method=method)
    assert int(found.status) == Status.NOT_SYMMETRIC
    with pytest.raises(RuntimeError, match="not symmetric"):
        sf.theory.spherical_sharpness(problem, jnp.ones(20), 2, method=method)


@_methods
def test_an_operator_with_nan_is_reported_as_not_finite(method: str) -> None:
    problem = sf.Problem(
        init=lambda key: jnp.ones(3), loss=lambda w: jnp.sum(jnp.sqrt(w - 2.0)) + w @ w
    )
    found = sf.theory.top_eigenpairs(problem, jnp.ones(3), method=method)
    assert int(found.status) == Status.NOT_FINITE
    with pytest.raises(RuntimeError, match="NaN or infinite"):
        sf.theory.spherical_sharpness(problem, jnp.ones(3), method=method)


def test_a_flat_loss_has_zero_curvature() -> None:
    problem = sf.Problem(init=lambda key: jnp.ones(40), loss=lambda w: jnp.sum(w))
    found = sf.theory.top_eigenpairs(problem, jnp.ones(40), 3, method="lanczos")
    np.testing.assert_array_equal(found.values, np.zeros(3))
    assert int(found.status) == Status.SUCCESS


@pytest.mark.parametrize("k", [0, 4])
def test_more_eigenvalues_than_dimensions_are_refused(k: int) -> None:
    problem = sf.Problem(init=lambda key: jnp.ones(3), loss=lambda w: w @ w)
    with pytest.raises(ValueError, match=f"k must be between 1 and the dimension 3, got {k}"):
        sf.theory.top_eigenpairs(problem, jnp.ones(3), k)


def test_an_unknown_method_is_refused() -> None:
    problem = sf.Problem(init=lambda key: jnp.ones(3), loss=lambda w: w @ w)
    with pytest.raises(ValueError, match="method must be .* got 'lobpcg'"):
        sf.theory.top_eigenpairs(problem, jnp.ones(3), method="lobpcg")


def test_curvature_falls_with_the_square_of_the_norm(tiny_mlp) -> None:
    problem, theta = tiny_mlp
    params = jax.tree.map(lambda leaf: 2.5 * leaf, theta)
    hessian = np.asarray(_hessian(problem, params))
    at_params = np.linalg.eigvalsh(hessian)[::-1][:3]
    norm_squared = sum(float(jnp.sum(leaf**2)) for leaf in jax.tree.leaves(params))
    values, vectors = sf.theory.spherical_sharpness(problem, params, 3)
    np.testing.assert_allclose(values, at_params * norm_squared, rtol=1e-7)
    rows = _flat_rows(vectors)
    np.testing.assert_allclose(rows @ rows.T, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(rows @ hessian, at_params[:, None] * rows, atol=1e-7 * at_params[0])


def test_sharpness_inside_jit_is_the_sharpness_outside(tiny_mlp) -> None:
    problem, theta = tiny_mlp
    inside = jax.jit(lambda point: sf.theory.spherical_sharpness(problem, point, 3)[0])(theta)
    outside, _ = sf.theory.spherical_sharpness(problem, theta, 3)
    np.testing.assert_allclose(inside, outside, rtol=1e-8)


def test_the_zero_vector_has_no_sharpness(tiny_mlp) -> None:
    problem, theta = tiny_mlp
    with pytest.raises(ValueError, match="zero vector"):
        sf.theory.spherical_sharpness(problem, jax.tree.map(jnp.zeros_like, theta))

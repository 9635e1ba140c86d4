"""Thick-restart Lanczos on matrices with prescribed spectra."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sharpflow.theory.lanczos import lanczos

_bulk = np.random.default_rng(7).uniform(0.0, 0.8, 112)
SPECTRA = {
    "clustered as at the edge": np.concatenate([1.0 - 1e-4 * np.arange(8), _bulk]),
    "all negative": -np.geomspace(1.0, 100.0, 120),
    "dominated by a negative eigenvalue": np.linspace(-50.0, 1.0, 120),
    "low rank": np.concatenate([[3.0, 2.0, 1.0], np.zeros(117)]),
    "decaying below rounding": np.geomspace(1.0, 1e-25, 120),
    "nearly low rank": np.concatenate([[3.0, 2.0, 1.0], 1e-14 * np.linspace(0, 1, 117)]),
    "as many as the basis holds": np.array([5.0, 3.0, 3.0, 0.5, -1.0, -8.0]),
}
TOLERANCE = {np.float64: 1e-9, np.float32: 1e-4}


def _matrix(spectrum: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A symmetric matrix with this spectrum, and its eigenvectors in columns."""
    random = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(random.normal(size=(spectrum.size,) * 2))
    return (basis * spectrum) @ basis.T, basis


@partial(jax.jit, static_argnames=("k", "basis_size"))
def _solve(matrix, start, k, tolerance, basis_size=None):
    return lanczos(lambda v: matrix @ v, start, k, tolerance=tolerance, basis_size=basis_size)


def _start(dimension: int, dtype: type) -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).normal(size=dimension), dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", SPECTRA)
def test_prescribed_eigenvalues_are_found_within_their_residuals(name: str, dtype: type) -> None:
    spectrum, k = SPECTRA[name], 4
    dimension, size = spectrum.size, np.abs(spectrum).max()
    matrix = jnp.asarray(_matrix(spectrum)[0], dtype)
    found = _solve(matrix, _start(dimension, dtype), k, TOLERANCE[dtype])
    values, rows, residuals, largest = (np.asarray(part, np.float64) for part in found[:4])
    rounding = 2 * dimension * np.finfo(dtype).eps * size
    assert np.all(residuals <= TOLERANCE[dtype] * size)
    assert 0.9 * size <= largest <= size + rounding  # a Ritz value never leaves the spectrum
    distance = np.abs(values[:, None] - spectrum).min(axis=1)
    assert np.all(distance <= residuals + rounding)
    # eigenvalues closer than the tolerance, as the cluster in float32, are not told apart
    expected = np.sort(spectrum)[::-1][:k]
    assert np.all(np.abs(values - expected) <= TOLERANCE[dtype] * size + rounding)
    np.testing.assert_allclose(rows @ rows.T, np.eye(k), atol=2 * dimension * np.finfo(dtype).eps)
    true = np.linalg.norm(rows @ np.asarray(matrix, np.float64) - values[:, None] * rows, axis=1)
    assert np.all(true <= residuals + rounding)


@pytest.mark.parametrize("tolerance", [0.3, 1e-2])
def test_a_residual_bounds_the_distance_to_an_eigenvalue(tolerance: float) -> None:
    spectrum = np.sort(np.random.default_rng(4).standard_cauchy(200).clip(-30, 30))
    matrix = jnp.asarray(_matrix(spectrum)[0])
    values, _, residuals, _, _ = _solve(
        matrix, _start(200, np.float64), 4, tolerance, basis_size=10
    )
    distance = np.abs(np.asarray(values)[:, None] - spectrum).min(axis=1)
    assert np.all(distance <= np.asarray(residuals) + 200 * np.finfo(float).eps * 30)


def test_a_krylov_space_that_ends_at_once_goes_on_elsewhere() -> None:
    spectrum = np.linspace(0.0, 1.0, 120)
    matrix, basis = _matrix(spectrum)
    values, *_ = _solve(jnp.asarray(matrix), jnp.asarray(basis[:, 3]), 4, 1e-9)
    np.testing.assert_allclose(values, spectrum[::-1][:4], atol=1e-9)


def test_a_multiple_eigenvalue_is_found_at_least_once() -> None:
    spectrum = np.concatenate([[2.0, 2.0, 2.0], np.linspace(0.0, 1.0, 117)])
    values, _, residuals, _, _ = _solve(
        jnp.asarray(_matrix(spectrum)[0]), _start(120, np.float64), 4, 1e-9
    )
    np.testing.assert_allclose(values[0], 2.0, atol=1e-9)
    distance = np.abs(np.asarray(values)[:, None] - spectrum).min(axis=1)
    assert np.all(distance <= np.asarray(residuals) + 1e-13)


def test_restarts_cost_the_products_that_are_reported() -> None:
    matrix, calls = jnp.asarray(_matrix(SPECTRA["clustered as at the edge"])[0]), []

    def counted(vector: jax.Array) -> jax.Array:
        jax.debug.callback(lambda: calls.append(1))
        return matrix @ vector

    *_, products = lanczos(counted, _start(120, np.float64), 4, tolerance=1e-9)
    jax.effects_barrier()
    assert len(calls) == int(products)
    assert int(products) > 32  # one basis of 3k + 20 did not suffice


def test_an_exhausted_basis_costs_as_many_products_as_there_are_dimensions() -> None:
    spectrum = SPECTRA["as many as the basis holds"]
    *_, products = _solve(jnp.asarray(_matrix(spectrum)[0]), _start(6, np.float64), 4, 1e-9)
    assert int(products) == 6


def test_replicas_under_vmap_do_not_disturb_each_other() -> None:
    names = ["clustered as at the edge", "decaying below rounding"]
    spectra = [SPECTRA[name] for name in names]
    matrices = jnp.asarray(np.stack([_matrix(spectrum)[0] for spectrum in spectra]))
    start = _start(120, np.float64)
    together = jax.jit(
        jax.vmap(lambda matrix: lanczos(lambda v: matrix @ v, start, 4, tolerance=1e-9))
    )(matrices)
    for index, spectrum in enumerate(spectra):
        np.testing.assert_allclose(together[0][index], np.sort(spectrum)[::-1][:4], atol=1e-9)

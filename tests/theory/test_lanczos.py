"""Lanczos with restarts on matrices with prescribed spectra."""

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


@partial(jax.jit, static_argnames=("k", "stop", "basis_size"))
def _solve(matrix, start, k, tolerance, stop="residual", basis_size=None):
    return lanczos(
        lambda v: matrix @ v, start, k, tolerance=tolerance, stop=stop, basis_size=basis_size
    )


def _start(dimension: int, dtype: type, rows: int = 1) -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).normal(size=(rows, dimension)), dtype)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", SPECTRA)
def test_prescribed_eigenvalues_are_found_within_their_residuals(name: str, dtype: type) -> None:
    spectrum, k = SPECTRA[name], 4
    dimension, size = spectrum.size, np.abs(spectrum).max()
    matrix = jnp.asarray(_matrix(spectrum)[0], dtype)
    found = _solve(matrix, _start(dimension, dtype, rows=2), k, TOLERANCE[dtype])
    parts = (found.values, found.vectors, found.residuals, found.largest)
    values, rows, residuals, largest = (np.asarray(part, np.float64) for part in parts)
    rounding = 2 * dimension * np.finfo(dtype).eps * size
    assert np.all(residuals <= TOLERANCE[dtype] * size)
    # a Ritz value never leaves the spectrum, whose far end a few products have only neared
    assert 0.75 * size <= largest <= size + rounding
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
    found = _solve(matrix, _start(200, np.float64), 4, tolerance, basis_size=10)
    distance = np.abs(np.asarray(found.values)[:, None] - spectrum).min(axis=1)
    assert np.all(distance <= np.asarray(found.residuals) + 200 * np.finfo(float).eps * 30)


def test_a_krylov_space_that_ends_at_once_goes_on_elsewhere() -> None:
    spectrum = np.linspace(0.0, 1.0, 120)
    matrix, basis = _matrix(spectrum)
    found = _solve(jnp.asarray(matrix), jnp.asarray(basis[None, :, 3]), 4, 1e-9)
    np.testing.assert_allclose(found.values, spectrum[::-1][:4], atol=1e-9)


REPEATED = {
    "a triple top": np.concatenate([[2.0, 2.0, 2.0, 1.5, 1.5], np.linspace(-1.0, 1.0, 115)]),
    "pairs above a cluster": np.concatenate(
        [[3.0, 3.0, 2.0, 2.0], 1.0 + 1e-3 * np.arange(10), np.linspace(-2.0, 0.5, 106)]
    ),
    "negative pairs": np.concatenate([[-1.0, -1.0, -1.1, -1.1, -1.2], np.linspace(-9, -2, 115)]),
    "five times the same": np.concatenate([[1.0] * 5, np.linspace(-3.0, 0.9, 115)]),
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("name", REPEATED)
def test_eigenvalues_are_found_as_often_as_they_occur(name: str, dtype: type) -> None:
    spectrum = REPEATED[name]
    matrix = jnp.asarray(_matrix(spectrum)[0], dtype)
    found = _solve(matrix, _start(120, dtype, rows=5), 5, TOLERANCE[dtype])
    size = np.abs(spectrum).max()
    assert np.all(np.asarray(found.converged))
    assert np.all(np.asarray(found.residuals) <= TOLERANCE[dtype] * size)
    np.testing.assert_allclose(
        found.values, np.sort(spectrum)[::-1][:5], atol=TOLERANCE[dtype] * size
    )


def test_the_estimate_of_an_error_covers_it_and_saves_products() -> None:
    covered, saved = [], []
    for seed in range(20):
        spectrum = np.random.default_rng(seed).standard_cauchy(150).clip(-20, 20)
        matrix = jnp.asarray(_matrix(spectrum, seed)[0])
        start = _start(150, np.float64, rows=2)
        estimated = _solve(matrix, start, 1, 1e-10, stop="estimate")
        bounded = _solve(matrix, start, 1, 1e-10)
        true = np.abs(np.asarray(estimated.values) - np.sort(spectrum)[::-1][:1])
        covered.append(np.all(true <= np.asarray(estimated.errors) + 1e-13))
        saved.append(int(bounded.num_products) - int(estimated.num_products))
    assert np.mean(covered) == 1.0
    assert np.mean(saved) >= 0.5  # the random vector must be followed in either case


def test_the_eigenvectors_of_a_nearby_operator_are_no_worse_a_start() -> None:
    spectrum = np.concatenate([1.0 - 0.02 * np.arange(6), _bulk])
    matrix, basis = _matrix(spectrum)
    nothing = jnp.zeros((1, 118))
    cold = _solve(jnp.asarray(matrix), nothing, 3, 1e-6)
    noise = np.random.default_rng(2).normal(size=(4, 118)) * 1e-3
    warm = _solve(jnp.asarray(matrix), jnp.asarray(basis[:, :4].T + noise), 3, 1e-6)
    np.testing.assert_allclose(warm.values, cold.values, rtol=1e-10)
    assert int(warm.num_products) <= int(cold.num_products)


def test_an_operator_that_is_not_symmetric_is_seen() -> None:
    matrix = np.random.default_rng(0).normal(size=(60, 60))
    skewed = _solve(jnp.asarray(matrix), _start(60, np.float64), 2, 1e-9)
    assert float(skewed.asymmetry) > 0.1
    even = _solve(jnp.asarray(matrix + matrix.T), _start(60, np.float64), 2, 1e-9)
    assert float(even.asymmetry) <= 1e-13 * float(even.largest)


def test_restarts_cost_the_products_that_are_reported() -> None:
    matrix, calls = jnp.asarray(_matrix(SPECTRA["clustered as at the edge"])[0]), []

    def counted(vector: jax.Array) -> jax.Array:
        jax.debug.callback(lambda: calls.append(1))
        return matrix @ vector

    found = lanczos(counted, _start(120, np.float64), 4, tolerance=1e-9, basis_size=20)
    jax.effects_barrier()
    assert len(calls) == int(found.num_products)
    assert int(found.num_products) > 20


def test_an_exhausted_basis_costs_as_many_products_as_there_are_dimensions() -> None:
    spectrum = SPECTRA["as many as the basis holds"]
    matrix = jnp.asarray(_matrix(spectrum)[0])
    found = _solve(matrix, _start(6, np.float64, rows=2), 4, 1e-14)
    assert int(found.num_products) == 6


def test_replicas_under_vmap_do_not_disturb_each_other() -> None:
    names = ["clustered as at the edge", "decaying below rounding"]
    spectra = [SPECTRA[name] for name in names]
    matrices = jnp.asarray(np.stack([_matrix(spectrum)[0] for spectrum in spectra]))
    start = _start(120, np.float64)
    together = jax.jit(
        jax.vmap(lambda matrix: lanczos(lambda v: matrix @ v, start, 4, tolerance=1e-9))
    )(matrices)
    for index, spectrum in enumerate(spectra):
        np.testing.assert_allclose(together.values[index], np.sort(spectrum)[::-1][:4], atol=1e-9)


def test_a_restart_keeps_what_the_random_vector_has_excluded() -> None:
    """A spectrum as at the edge: fourteen eigenvalues in the upper half, and a decaying rest."""
    spectrum = np.concatenate([np.linspace(1.0, 0.5, 14), 0.45 * np.exp(-np.arange(586) / 60)])
    diagonal, start = jnp.asarray(spectrum, np.float32), jnp.eye(2, 600, dtype=np.float32)

    @partial(jax.jit, static_argnames="basis_size")
    def products(seed, basis_size):
        found = lanczos(
            lambda v: diagonal * v, start, 1, tolerance=1e-4, basis_size=basis_size, seed=seed
        )
        return found.num_products, found.converged, found.overlooked

    counts = {}
    for basis_size in (16, 18, 40):  # the larger is never full
        found = [products(seed, basis_size) for seed in range(12)]
        counts[basis_size] = np.array([int(count) for count, _, _ in found])
        assert all(bool(converged[0]) for _, converged, _ in found)
        # ten units of rounding over a margin of a tenth: docs/theory.md, section 8
        allowed = 100 * 600**0.5 * np.finfo(np.float32).eps
        assert all(float(overlooked) <= allowed for _, _, overlooked in found)
    assert max(counts[16].mean(), counts[18].mean()) <= counts[40].mean() + 2

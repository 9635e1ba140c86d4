"""Eigenpairs from those of a matrix close by, on matrices with a known spectrum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sharpflow.theory.linearization.davidson import davidson, num_followed

M, K = 60, 5


@jax.jit
def _from_nearby(matrix, nearby):
    values, basis = jnp.linalg.eigh(nearby)
    return davidson(lambda rows: rows @ matrix, values[::-1], basis[:, ::-1], K, tolerance=1e-10)


def _pair(distance: float) -> tuple[np.ndarray, np.ndarray]:
    """A matrix whose largest eigenvalues are dense, as at the edge, and one at a distance."""
    random = np.random.default_rng(3)
    basis, _ = np.linalg.qr(random.normal(size=(M, M)))
    spectrum = np.concatenate([np.linspace(1.0, 0.8, 2 * K), np.geomspace(0.5, 1e-12, M - 2 * K)])
    matrix = (basis * spectrum) @ basis.T
    change = random.normal(size=(M, M))
    return matrix, matrix + distance * (change + change.T) / np.linalg.norm(change + change.T, 2)


@pytest.mark.parametrize("distance", [0.0, 1e-3, 3e-2, 0.1])
def test_davidson_finds_the_eigenpairs_from_a_matrix_nearby(distance) -> None:
    """Eigenvalues to the tolerance of 1e-10; of vectors its root over gaps of 0.02 or more."""
    matrix, nearby = _pair(distance)
    values, rows = map(np.asarray, _from_nearby(matrix, nearby))
    np.testing.assert_allclose(values, np.linalg.eigvalsh(matrix)[::-1][:K], atol=1e-10)
    remainder = rows @ matrix - values[:, None] * rows
    assert np.linalg.norm(remainder, axis=1).max() <= 1e-5
    np.testing.assert_allclose(rows @ rows.T, np.eye(K), atol=1e-10)


def test_what_is_not_finite_is_no_eigenvalue() -> None:
    matrix, nearby = _pair(1e-3)
    values, _ = _from_nearby(np.full_like(matrix, np.nan), nearby)
    assert np.all(np.isnan(values))


def test_a_matrix_that_is_too_small_is_refused() -> None:
    assert num_followed(20, M) == 40
    assert num_followed(21, M) is None
    with pytest.raises(ValueError, match="a third of the size of the matrix, 60, got 21"):
        davidson(lambda rows: rows, jnp.ones(M), jnp.eye(M), 21, tolerance=1e-8)

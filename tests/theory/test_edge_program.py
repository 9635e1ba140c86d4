"""The convex program for the oscillation covariance: optimality, uniqueness, closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sharpflow.theory.edge import (
    solve_edge_program,
    symmetric_to_vector,
    vector_to_symmetric,
)

_solve = jax.jit(solve_edge_program)
_vector = jax.jit(symmetric_to_vector)
_symmetric = jax.jit(vector_to_symmetric, static_argnums=1)
_dtypes = pytest.mark.parametrize("dtype", [np.float64, np.float32])


def _to_vector(matrix: np.ndarray) -> np.ndarray:
    rows, columns = np.triu_indices(len(matrix))
    return matrix[rows, columns] * np.where(rows == columns, 1.0, np.sqrt(2.0))


def _to_matrix(vector: np.ndarray, k: int) -> np.ndarray:
    rows, columns = np.triu_indices(k)
    matrix = np.zeros((k, k))
    matrix[rows, columns] = vector * np.where(rows == columns, 1.0, np.sqrt(0.5))
    return matrix + np.triu(matrix, 1).T


def _random_program(random, k: int, rank: int, size: float, step: float, b: float):
    """𝒢 of a given rank and size, and the drive of a step from eigenvalues at or below the edge."""
    gradients = random.normal(size=(k * (k + 1) // 2, rank)) * np.sqrt(size)
    turn, _ = np.linalg.qr(random.normal(size=(k, k)))
    below = np.where(random.uniform(size=k) < 0.5, 0.0, random.uniform(-1e-3, 0.5, size=k))
    drive = b * np.eye(k) - (turn * below) @ turn.T / step
    return gradients @ gradients.T, drive


def _slack(gram: np.ndarray, drive: np.ndarray, b: float, covariance: np.ndarray) -> np.ndarray:
    """R(M) = 𝒢M + 2b tr(M) I − C."""
    k = len(drive)
    lowered = _to_matrix(gram @ _to_vector(covariance), k)
    return lowered + 2.0 * b * np.trace(covariance) * np.eye(k) - drive


@_dtypes
@given(
    seed=st.integers(0, 2**32 - 1),
    k=st.sampled_from([1, 2, 4]),
    share=st.floats(0.0, 1.0),
    log_size=st.floats(-3.0, 3.0),
    log_step=st.floats(-3.0, 0.0),
    b=st.floats(0.25, 4.0),
)
def test_solution_satisfies_the_optimality_conditions(
    dtype, seed, k, share, log_size, log_step, b
) -> None:
    rank = round(share * k * (k + 1) / 2)
    program = _random_program(
        np.random.default_rng(seed), k, rank, 10.0**log_size, 10.0**log_step, b
    )
    gram, drive = (part.astype(dtype) for part in program)
    found = _solve(jnp.asarray(gram), jnp.asarray(drive), jnp.asarray(b, dtype))
    covariance = np.asarray(found.covariance, np.float64)
    gram, drive = gram.astype(np.float64), drive.astype(np.float64)
    slack = _slack(gram, drive, b, covariance)
    # the method stops at eps^0.65 of the sizes of C and of ⟨M, C⟩; evaluating R in dtype
    # costs a few eps of the terms that cancel in it, turning M back to its basis a few of M
    precision = np.finfo(dtype).eps ** 0.65
    trace = np.trace(covariance)
    terms = np.abs(drive).max() + (np.linalg.norm(gram, 2) + 2.0 * b * k) * trace
    infeasible = k * (precision * (1.0 + np.abs(drive).max()) + 8 * np.finfo(dtype).eps * terms)
    generic = b * len(gram) / (np.trace(gram) + 2.0 * b * k)  # tr M where 𝒢 is of full rank
    assert np.linalg.eigvalsh(covariance)[0] >= -32 * np.finfo(dtype).eps * max(trace, 1.0)
    assert np.linalg.eigvalsh(slack)[0] >= -infeasible
    assert (
        abs(np.sum(covariance * slack))
        <= k * precision * b * max(generic, trace) + infeasible * trace
    )


@_dtypes
@given(gram=st.floats(0.0, 1e4), drive=st.floats(-1e4, 4.0), b=st.floats(0.25, 4.0))
def test_one_eigenvalue_has_the_closed_form(dtype, gram, drive, b) -> None:
    found = _solve(
        jnp.asarray([[gram]], dtype), jnp.asarray([[drive]], dtype), jnp.asarray(b, dtype)
    )
    expected = max(0.0, drive / (gram + 2.0 * b))
    # a gap g leaves M within √(g/curvature) of the optimum: where C = 0 both M and R are zero
    curvature = gram + 2.0 * b
    gap = np.finfo(dtype).eps ** 0.65 * b**2 / curvature
    allowed = 2.0 * np.sqrt(gap / curvature) + 1e-5 * (dtype == np.float32)
    np.testing.assert_allclose(float(found.covariance[0, 0]), expected, atol=allowed)


def _projected_gradient(gram, drive, b, num_steps=20_000):
    """The same program by accelerated projected gradients."""
    k = len(drive)
    rate = 1.0 / (np.linalg.norm(gram, 2) + 2.0 * b * k)
    covariance = ahead = np.zeros((k, k))
    momentum = 1.0
    for _ in range(num_steps):
        values, vectors = np.linalg.eigh(ahead - rate * _slack(gram, drive, b, ahead))
        following = (vectors * np.maximum(values, 0.0)) @ vectors.T
        faster = 0.5 * (1.0 + np.sqrt(1.0 + 4.0 * momentum**2))
        ahead = following + (momentum - 1.0) / faster * (following - covariance)
        if np.sum((ahead - following) * (following - covariance)) < 0:
            faster = 1.0
        moved = np.abs(following - covariance).max()
        covariance, momentum = following, faster
        if moved < 1e-14:
            break
    return covariance


@pytest.mark.parametrize(("seed", "step"), [(0, 1.0), (1, 0.1), (2, 0.03), (3, 0.01)])
def test_covariance_is_the_one_of_projected_gradients(seed: int, step: float) -> None:
    gram, drive = _random_program(np.random.default_rng(seed), 4, 10, 2.0, step, 2.0)
    expected = _projected_gradient(gram, drive, 2.0)
    found = _solve(jnp.asarray(gram), jnp.asarray(drive), 2.0)
    # strongly convex with modulus μ, the smallest eigenvalue of 𝒢: a gap g bounds the distance
    modulus = np.linalg.eigvalsh(gram)[0]
    allowed = np.sqrt(2.0 * float(found.gap) / modulus) + 1e-8
    assert allowed < 1e-3
    np.testing.assert_allclose(found.covariance, expected, rtol=0, atol=allowed)


def test_linearly_dependent_gradients_leave_the_motion_and_the_trace_unique() -> None:
    """With rank-one 𝒢 = ggᵀ only ⟨g, M⟩ and tr M are determined."""
    random = np.random.default_rng(8)
    direction = _to_vector((lambda a: a + a.T)(random.normal(size=(3, 3))))
    gram, drive = np.outer(direction, direction), 2.0 * np.eye(3)
    expected = _projected_gradient(gram, drive, 2.0)
    found = np.asarray(_solve(jnp.asarray(gram), jnp.asarray(drive), 2.0).covariance)
    # the objective is known to 1e-9; along ⟨g, M⟩ and tr M it is strongly convex
    np.testing.assert_allclose(np.trace(found), np.trace(expected), rtol=1e-5)
    np.testing.assert_allclose(
        direction @ _to_vector(found), direction @ _to_vector(expected), rtol=0, atol=1e-5
    )


def test_eigenvalues_well_below_the_edge_do_not_oscillate() -> None:
    gram = np.eye(6)
    drive = 2.0 * np.eye(3) - np.diag([0.0, 0.4, 0.9]) / 1e-2
    covariance = np.asarray(_solve(jnp.asarray(gram), jnp.asarray(drive), 2.0).covariance)
    expected = np.zeros((3, 3))
    expected[0, 0] = 2.0 / (4.0 + 1.0)
    np.testing.assert_allclose(covariance, expected, atol=1e-9)


@given(seed=st.integers(0, 2**32 - 1), k=st.sampled_from([1, 3, 4]))
def test_vector_coordinates_are_an_isometry(seed: int, k: int) -> None:
    random = np.random.default_rng(seed)
    first, second = random.normal(size=(2, k, k))
    first, second = first + first.T, second + second.T
    vectors = [_vector(jnp.asarray(matrix)) for matrix in (first, second)]
    assert vectors[0].shape == (k * (k + 1) // 2,)
    np.testing.assert_allclose(vectors[0] @ vectors[1], np.sum(first * second), atol=1e-12)
    np.testing.assert_allclose(_symmetric(vectors[0], k), first, rtol=4e-16)


def test_vector_coordinates_keep_trailing_axes() -> None:
    tensors = np.random.default_rng(0).normal(size=(3, 3, 7))
    tensors = tensors + np.swapaxes(tensors, 0, 1)
    found = symmetric_to_vector(jnp.asarray(tensors))
    expected = np.stack([_to_vector(tensors[..., i]) for i in range(7)], axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-15)

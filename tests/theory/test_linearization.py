"""The Jacobian formed, through its Gram matrix, and by products: one result."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import sharpflow as sf
from sharpflow.theory.linearization import linearize, resolve_method
from sharpflow.theory.linearization.spectrum import product_with_transpose
from sharpflow.theory.residuals import residual_form

_matrix_free = pytest.mark.parametrize("method", ["gram", "iterative"])


@pytest.fixture(scope="module")
def wide():
    """A 64-16-16-10 network on 24 digits, 240 residuals, d = 1440, and a point of its Γ."""
    problem = sf.models.mlp(*sf.models.digits(24), widths=(16, 16))
    run = sf.simulate(problem, problem.init(jax.random.key(0)), sf.gdwd(0.3, 0.0), 2000)
    return problem, sf.theory.retract(problem, run.final_params)


def _at(problem, theta, method):
    residual = residual_form(problem, theta)

    @jax.jit
    def found(point, vectors):
        at_point = linearize(residual, point, method)
        values, frame = at_point.top_eigenpairs(12)
        # r restricted to the range of J: as the steps of a retraction have it
        reached = jax.jvp(residual, (point,), (vectors[0],))[1]
        gram = at_point.projected_gram(vectors)
        return values, frame, at_point.project(vectors), at_point.solve(reached), gram

    flat, _ = ravel_pytree(theta)
    vectors = jnp.asarray(np.random.default_rng(0).normal(size=(3, flat.size)))
    return found(flat, vectors)


@_matrix_free
def test_matrix_free_operations_are_the_dense_ones(wide, method) -> None:
    expected, found = _at(*wide, "dense"), _at(*wide, method)
    values, frame, projected, solved, gram = map(np.asarray, found)
    np.testing.assert_allclose(values, expected[0], rtol=1e-8)
    overlap = np.abs(np.sum(frame * np.asarray(expected[1]), axis=1))
    np.testing.assert_allclose(overlap, 1.0, atol=1e-8)
    for one, other in ((projected, expected[2]), (solved, expected[3])):
        assert np.linalg.norm(one - other) <= 1e-6 * np.linalg.norm(other)
    # the products of the projections themselves, of which neither "dense" nor "gram" forms one
    for projected_gram in (gram, expected[4]):
        np.testing.assert_allclose(projected_gram, projected @ projected.T, rtol=1e-6, atol=1e-6)


def test_a_product_with_the_transpose_is_that_of_its_blocks() -> None:
    for rows in (1, 127, 128, 130, 161):
        matrix = np.random.default_rng(rows).normal(size=(rows, 7))
        product = np.asarray(product_with_transpose(jnp.asarray(matrix)))
        np.testing.assert_allclose(product, matrix @ matrix.T, rtol=1e-12, atol=1e-12)
        np.testing.assert_array_equal(product, product.T)


@_matrix_free
def test_a_matrix_free_retraction_is_the_dense_one_to_second_order(wide, method) -> None:
    problem, theta = wide
    apart = []
    for distance in (1e-3, 2.5e-4):
        start = jax.tree.map(
            lambda leaf, size=distance: (
                leaf + size * jax.random.normal(jax.random.key(1), leaf.shape)
            ),
            theta,
        )
        dense = ravel_pytree(sf.theory.retract(problem, start, method="dense"))[0]
        found = sf.theory.retract(problem, start, method=method)
        flat = ravel_pytree(found)[0]
        assert float(jnp.linalg.norm(problem.residual(found))) <= 1e-10
        assert abs(float(jnp.linalg.norm(flat)) - 1.0) <= 1e-14
        apart.append(float(jnp.linalg.norm(flat - dense)))
    # Both lie within O(dist²) of the nearest point: four times closer, sixteen times nearer. With
    # "gram" they make the same steps, and differ by rounding alone.
    assert apart[1] <= max(apart[0] / 12.0, 1e-10), apart


@_matrix_free
def test_a_matrix_free_flow_is_the_dense_flow(tiny_mlp, method) -> None:
    tau = np.linspace(0.0, 0.5, 6)
    dense = sf.sharpness_flow(*tiny_mlp, tau, max_edge=3, method="dense")
    found = sf.sharpness_flow(*tiny_mlp, tau, max_edge=3, method=method)
    distance = _rows(dense)[-1] - _rows(dense)[0]
    error = np.linalg.norm(_rows(found) - _rows(dense), axis=1)
    assert error.max() <= 1e-4 * np.linalg.norm(distance)
    np.testing.assert_allclose(found.threshold, dense.threshold, rtol=1e-6)
    np.testing.assert_allclose(found.eigenvalues, dense.eigenvalues, rtol=1e-5)


def test_the_edge_dimension_grows_when_an_eigenvalue_arrives(tiny_mlp) -> None:
    """From room for one to room for three: λ_2 arrives at τ = 0.8, λ_3 at 1.6."""
    tau = np.linspace(0.0, 1.8, 7)
    wide = sf.sharpness_flow(*tiny_mlp, tau, max_edge=4, rtol=1e-4)
    grown = sf.sharpness_flow(*tiny_mlp, tau, max_edge=4, edge_dimension=1, rtol=1e-4)
    assert grown.eigenvalues.shape == (7, 4)
    assert grown.edge_covariance.shape == (7, 4, 4)
    moved = np.linalg.norm(_rows(wide)[-1] - _rows(wide)[0])
    assert np.linalg.norm(_rows(grown) - _rows(wide), axis=1).max() <= 5e-4 * moved
    np.testing.assert_allclose(grown.threshold, wide.threshold, rtol=5e-4)
    np.testing.assert_allclose(grown.eigenvalues, wide.eigenvalues, rtol=5e-3)
    np.testing.assert_allclose(grown.edge_trace, wide.edge_trace, rtol=0.03)
    at_edge = np.sum(np.asarray(wide.eigenvalues / wide.threshold[:, None]) > 0.999, axis=1)
    assert at_edge[0] == 1
    assert at_edge[-1] >= 3


def test_too_many_residuals_for_a_jacobian_choose_another_method() -> None:
    assert resolve_method("auto", 240, 3392) == "dense"
    assert resolve_method("auto", 5000, 120_000) == "gram"
    assert resolve_method("auto", 100_000, 1_000_000) == "iterative"
    assert resolve_method("iterative", 3, 4) == "iterative"


def test_an_unknown_method_is_refused(tiny_mlp) -> None:
    with pytest.raises(ValueError, match="method must be one of .* got 'sparse'"):
        sf.theory.retract(*tiny_mlp, method="sparse")
    with pytest.raises(
        ValueError, match="edge_dimension must be between 1 and max_edge = 2, got 3"
    ):
        sf.sharpness_flow(*tiny_mlp, [0.0], max_edge=2, edge_dimension=3)


def _rows(flow: sf.FlowSolution) -> np.ndarray:
    return np.asarray(jax.vmap(lambda tree: ravel_pytree(tree)[0])(flow.theta))

"""How the edge eigenvalues change along Γ, against finite differences of dense Hessians."""

from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

import sharpflow as sf
from sharpflow.theory.edge import symmetric_to_vector
from sharpflow.theory.edge_geometry import (
    EdgeSpace,
    continuing_turn,
    edge_gradients,
    edge_space,
    weighted_edge_gradient,
)
from sharpflow.theory.linearization import linearize
from sharpflow.theory.residuals import residual_form


class Edge(NamedTuple):
    """A problem, a point of its Γ, the edge space there and its gradients."""

    problem: sf.Problem
    theta: sf.models.Params
    space: EdgeSpace
    gradients: jax.Array

    def residual(self, flat: jax.Array) -> jax.Array:
        return residual_form(self.problem, self.theta)(flat)

    def hessian(self, params: sf.models.Params) -> np.ndarray:
        return np.asarray(_hessian_function(self.problem)(params))


_continuing_turn = jax.jit(continuing_turn)


@cache
def _hessian_function(problem: sf.Problem):
    def hessian(params):
        flat, unravel = ravel_pytree(params)
        return jax.hessian(lambda point: problem.loss_value(unravel(point)))(flat)

    return jax.jit(hessian)


@pytest.fixture(
    scope="module", params=["fewer residuals than parameters", "more residuals than parameters"]
)
def edge(request) -> Edge:
    if request.param == "fewer residuals than parameters":
        problem, theta = request.getfixturevalue("tiny_mlp")
    else:
        tall = request.getfixturevalue("tall_regression")
        problem, theta = tall.problem, tall.at(0.7)
    residual, (flat, _) = residual_form(problem, theta), ravel_pytree(theta)
    k = 3 if flat.size > 10 else 2

    @jax.jit
    def edge_at(point: jax.Array) -> tuple[EdgeSpace, jax.Array]:
        space = edge_space(linearize(residual, point), k)
        return space, edge_gradients(space)

    return Edge(problem, theta, *edge_at(flat))


def test_edge_space_holds_the_top_eigenpairs_of_the_dense_hessian(edge: Edge) -> None:
    hessian, k = edge.hessian(edge.theta), edge.space.eigenvalues.shape[0]
    values = np.linalg.eigvalsh(hessian)[::-1]
    scale = values[0]
    # on Γ up to ‖r‖ = 1e-11 the Hessian is JᵀJ
    np.testing.assert_allclose(edge.space.eigenvalues, values[:k], atol=1e-9 * scale)
    np.testing.assert_allclose(edge.space.next_eigenvalue, values[k], atol=1e-9 * scale)
    frame = np.asarray(edge.space.frame)
    np.testing.assert_allclose(frame @ frame.T, np.eye(k), atol=1e-12)
    np.testing.assert_allclose(frame @ hessian, values[:k, None] * frame, atol=1e-8 * scale)


def test_edge_gradients_are_the_finite_differences_of_the_hessian_along_the_manifold(
    edge: Edge,
) -> None:
    flat, unravel = ravel_pytree(edge.theta)
    frame = np.asarray(edge.space.frame)
    gradients = np.asarray(edge.gradients)
    for seed in range(3):
        vector = np.random.default_rng(seed).normal(size=flat.size)
        tangent, _ = ravel_pytree(
            sf.theory.tangent_projection(edge.problem, edge.theta, unravel(jnp.asarray(vector)))
        )
        tangent = tangent / jnp.linalg.norm(tangent)
        blocks, errors = [], []
        for size in (2e-3, 1e-3):
            ahead, behind = (
                sf.theory.retract(edge.problem, unravel(flat + sign * size * tangent))
                for sign in (1.0, -1.0)
            )
            change = edge.hessian(ahead) - edge.hessian(behind)
            blocks.append(frame @ change @ frame.T / (2.0 * size))
            found = gradients @ np.asarray(tangent)
            errors.append(np.abs(found - symmetric_to_vector(jnp.asarray(blocks[-1]))).max())
        # central differences: the error is of second order, and extrapolation removes it
        extrapolated = (4.0 * blocks[1] - blocks[0]) / 3.0
        np.testing.assert_allclose(
            found,
            symmetric_to_vector(jnp.asarray(extrapolated)),
            atol=1e-7 * float(edge.space.eigenvalues[0]),
        )


def test_edge_gradients_are_tangent(edge: Edge) -> None:
    flat, _ = ravel_pytree(edge.theta)
    jacobian = jax.jit(jax.jacobian(edge.residual))(flat)
    gradients, scale = edge.gradients, float(jnp.linalg.norm(edge.gradients))
    assert scale > 0.1
    np.testing.assert_allclose(gradients @ flat, 0.0, atol=1e-10 * scale)
    np.testing.assert_allclose(
        gradients @ jacobian.T, 0.0, atol=1e-10 * scale * float(jnp.linalg.norm(jacobian))
    )


def test_regression_sharpness_gradient_is_known(tall_regression) -> None:
    """λ_1 ∝ 1/cos² α, so ‖∇_Γ log λ_1‖ = 2 tan α, away from û."""
    theta, residual = tall_regression.at(0.7), tall_regression.problem.residual

    @jax.jit
    def slope_at(point: jax.Array) -> jax.Array:
        space = edge_space(linearize(residual, point), 1)
        return edge_gradients(space)[0] / space.eigenvalues[0]

    slope = np.asarray(slope_at(theta))
    away = (np.asarray(tall_regression.at(0.7 + 1e-6)) - np.asarray(theta)) / 1e-6
    np.testing.assert_allclose(np.linalg.norm(slope), 2.0 * np.tan(0.7), rtol=1e-10)
    np.testing.assert_allclose(slope @ away, 2.0 * np.tan(0.7), rtol=1e-5)


def test_weighted_gradient_is_the_weighted_sum_of_the_pairs(edge: Edge) -> None:
    k = edge.space.eigenvalues.shape[0]
    weights = np.random.default_rng(0).normal(size=(k, k))
    weights = jnp.asarray(weights @ weights.T)
    expected = symmetric_to_vector(weights) @ edge.gradients
    found = jax.jit(weighted_edge_gradient)(edge.space, weights)
    np.testing.assert_allclose(
        found, expected, atol=1e-12 * float(jnp.linalg.norm(expected)), rtol=0
    )


def test_directions_beyond_the_rank_have_no_eigenvector_and_no_gradient(tall_regression) -> None:
    """Three independent features under batch norm leave a Hessian of rank two."""
    theta, residual = tall_regression.at(0.7), tall_regression.problem.residual
    space = edge_space(linearize(residual, theta), 4)
    rank = np.linalg.matrix_rank(np.asarray(jax.jacobian(residual)(theta)), tol=1e-8)
    assert rank == 2
    np.testing.assert_allclose(space.eigenvalues[2:], 0.0, atol=1e-12 * space.eigenvalues[0])


def _frame(seed: int, k: int, dimension: int = 9) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(dimension, k)))[0].T


@given(seed=st.integers(0, 2**32 - 1), k=st.sampled_from([1, 2, 4]))
def test_a_turn_brings_a_frame_of_coinciding_eigenvalues_back(seed: int, k: int) -> None:
    frame = _frame(seed, k)
    turned = _frame(seed + 1, k, k) @ frame
    turn = _continuing_turn(jnp.asarray(frame), jnp.asarray(turned), jnp.zeros((k, k)))
    np.testing.assert_allclose(turn @ turn.T, np.eye(k), atol=1e-13)
    np.testing.assert_allclose(turn @ turned, frame, atol=1e-12)


@given(seed=st.integers(0, 2**32 - 1), k=st.sampled_from([1, 2, 4]))
def test_well_separated_eigenvectors_are_continued_one_by_one(seed: int, k: int) -> None:
    """They differ in sign and by a slight rotation, which belongs to them and stays."""
    frame, random = _frame(seed, k), np.random.default_rng(seed)
    skew = 0.1 * random.normal(size=(k, k))
    signs = np.where(random.uniform(size=k) < 0.5, -1.0, 1.0)
    turned = signs[:, None] * ((np.eye(k) + 0.5 * (skew - skew.T)) @ frame)
    apart = 10.0 * (np.arange(k)[:, None] - np.arange(k)[None, :])
    turn = _continuing_turn(jnp.asarray(frame), jnp.asarray(turned), jnp.asarray(apart))
    np.testing.assert_allclose(turn, np.diag(signs), atol=1e-12)

"""The retraction to Γ and the projection to its tangent space."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

import sharpflow as sf
from sharpflow.theory import Status

# Gauss–Newton stops at eps^(3/4); where rounding stops it first, 30 times that is accepted
_ON_MANIFOLD = 30 * np.finfo(np.float64).eps ** 0.75


def _perturbed(theta, seed: int, size: float):
    """θ plus a random direction of this norm."""
    flat, unravel = ravel_pytree(theta)
    direction = np.random.default_rng(seed).normal(size=flat.size)
    return unravel(flat + jnp.asarray(size * direction / np.linalg.norm(direction)))


@given(seed=st.integers(0, 2**32 - 1), size=st.floats(0.0, 0.1), scale=st.floats(0.01, 100.0))
def test_retraction_lands_on_the_manifold_and_stays_there(tiny_mlp, seed, size, scale) -> None:
    problem, theta = tiny_mlp
    start = jax.tree.map(lambda leaf: scale * leaf, _perturbed(theta, seed, size))
    landed = sf.theory.retract(problem, start)
    flat, _ = ravel_pytree(landed)
    assert np.linalg.norm(problem.residual(landed)) <= _ON_MANIFOLD
    np.testing.assert_allclose(np.linalg.norm(flat), 1.0, rtol=4e-16)
    again, _ = ravel_pytree(sf.theory.retract(problem, landed))
    np.testing.assert_allclose(again, flat, rtol=0, atol=4e-16)


def test_retraction_differs_from_flow_limit_and_nearest_point_by_the_distance_squared(
    regression,
) -> None:
    """Both are known: the gradient flow keeps ‖w‖ and the part of w outside the span."""
    theta = regression.at(0.8)
    solution, null = regression.solution, regression.null
    distances = 0.1 * 0.5 ** np.arange(4)
    errors = []
    for distance in distances:
        start = np.asarray(_perturbed(theta, 5, float(distance)))
        start = start / np.linalg.norm(start)
        found = np.asarray(sf.theory.retract(regression.problem, jnp.asarray(start)))
        outside = null.T @ (null @ start)
        flow_limit = outside + np.sqrt(1.0 - outside @ outside) * solution
        nearest = outside + (start @ solution) * solution
        nearest /= np.linalg.norm(nearest)
        errors.append([np.linalg.norm(found - flow_limit), np.linalg.norm(found - nearest)])
    orders = np.log2(np.asarray(errors)[:-1] / np.asarray(errors)[1:])
    np.testing.assert_allclose(orders, 2.0, atol=0.2)
    assert np.all(np.asarray(errors) <= 2.0 * distances[:, None] ** 2)


def test_retraction_off_the_sphere_follows_the_gradient_flow_to_second_order() -> None:
    """For L = ½(uv − 1)² the gradient flow conserves u² − v²."""
    problem = sf.Problem(
        init=lambda key: jnp.ones(2), residual=lambda w: w[:1] * w[1:] - 1.0, scale_invariant=False
    )
    errors = []
    for distance in 0.1 * 0.5 ** np.arange(4):
        u, v = 2.0 + 0.6 * distance, 0.5 + 0.8 * distance
        found = np.asarray(sf.theory.retract(problem, jnp.asarray([u, v]), on_sphere=False))
        np.testing.assert_allclose(found[0] * found[1], 1.0, rtol=1e-11)
        conserved = u**2 - v**2
        u_limit = np.sqrt(0.5 * (conserved + np.sqrt(conserved**2 + 4.0)))
        errors.append(np.linalg.norm(found - np.array([u_limit, 1.0 / u_limit])))
    np.testing.assert_allclose(np.log2(np.array(errors[:-1]) / errors[1:]), 2.0, atol=0.2)


def test_a_point_far_from_the_manifold_is_refused_with_its_residual(regression) -> None:
    """At −û the outputs are −y: a maximum, where the Gauss–Newton step is zero and ‖r‖ = 2."""
    with pytest.raises(ValueError, match=r"too far .* ‖residual‖ = 2,"):
        sf.theory.retract(regression.problem, jnp.asarray(-regression.solution))


@pytest.mark.parametrize(
    ("params", "message"), [(np.zeros(10), "zero vector"), (np.full(10, np.nan), "NaN")]
)
def test_params_without_a_direction_are_refused(regression, params, message) -> None:
    with pytest.raises(ValueError, match=message):
        sf.theory.retract(regression.problem, jnp.asarray(params))


def test_retraction_inside_jit_tells_for_every_replica_whether_it_arrived(regression) -> None:
    near = _perturbed(regression.at(0.8), 5, 0.05)
    starts = jnp.stack([near, jnp.asarray(-regression.solution)])
    compiled = jax.jit(
        jax.vmap(lambda params: sf.theory.retract_with_status(regression.problem, params))
    )
    theta, status = compiled(starts)
    np.testing.assert_array_equal(status, [Status.SUCCESS, Status.RETRACTION_FAILED])
    np.testing.assert_allclose(
        theta[0], sf.theory.retract(regression.problem, near), rtol=0, atol=1e-12
    )


@pytest.fixture(params=["fewer residuals than parameters", "more residuals than parameters"])
def on_manifold(request):
    """A problem with a rank-deficient Jacobian, and a point of its Γ."""
    if request.param == "fewer residuals than parameters":
        return request.getfixturevalue("tiny_mlp")
    tall = request.getfixturevalue("tall_regression")
    return tall.problem, tall.at(0.7)


def _dense(problem: sf.Problem, theta) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """θ, J and I − J⁺J − θθᵀ; singular values are either zero or well above 1e-6."""
    flat, unravel = ravel_pytree(theta)
    jacobian = np.asarray(jax.jacobian(lambda point: problem.residual(unravel(point)))(flat))
    sizes = np.linalg.svd(jacobian, compute_uv=False)
    assert not np.any((sizes > 1e-10 * sizes[0]) & (sizes < 1e-4 * sizes[0]))
    point = np.asarray(flat)
    pseudo_inverse = np.linalg.pinv(jacobian, rcond=1e-6)
    projection = np.eye(flat.size) - pseudo_inverse @ jacobian - np.outer(point, point)
    return point, jacobian, projection


def test_tangent_projection_is_the_dense_projector(on_manifold) -> None:
    problem, theta = on_manifold
    point, jacobian, projection = _dense(problem, theta)
    _, unravel = ravel_pytree(theta)
    vectors = np.random.default_rng(0).normal(size=(5, point.size))

    def project(rows: np.ndarray) -> np.ndarray:
        return np.stack(
            [
                ravel_pytree(sf.theory.tangent_projection(problem, theta, unravel(row)))[0]
                for row in jnp.asarray(rows)
            ]
        )

    # J⁺J is known to eps times the condition number 1e4 allowed above
    projected, tolerance = project(vectors), 1e4 * np.finfo(float).eps * np.sqrt(point.size)
    np.testing.assert_allclose(projected, vectors @ projection, rtol=0, atol=tolerance)
    np.testing.assert_allclose(project(projected), projected, rtol=0, atol=tolerance)
    np.testing.assert_allclose(
        projected @ vectors.T, vectors @ projected.T, rtol=0, atol=tolerance * np.sqrt(point.size)
    )
    size = np.linalg.norm(jacobian, 2)
    np.testing.assert_allclose(projected @ jacobian.T, 0.0, atol=tolerance * size)
    np.testing.assert_allclose(projected @ point, 0.0, atol=tolerance)
    assert np.linalg.norm(projected) > 0.1 * np.linalg.norm(vectors)  # Γ has a tangent space


def test_off_the_sphere_the_radial_direction_is_tangent(on_manifold) -> None:
    problem, theta = on_manifold
    radial = sf.theory.tangent_projection(problem, theta, theta, on_sphere=False)
    np.testing.assert_allclose(ravel_pytree(radial)[0], ravel_pytree(theta)[0], rtol=0, atol=1e-11)


def test_along_the_tangent_space_the_residual_stays_zero_to_second_order(tiny_mlp) -> None:
    problem, theta = tiny_mlp
    flat, unravel = ravel_pytree(theta)
    vector = unravel(jnp.asarray(np.random.default_rng(1).normal(size=flat.size)))
    tangent, _ = ravel_pytree(sf.theory.tangent_projection(problem, theta, vector))
    tangent = tangent / jnp.linalg.norm(tangent)
    residuals = np.array(
        [
            np.linalg.norm(problem.residual(unravel(flat + size * tangent)))
            for size in 1e-2 * 0.5 ** np.arange(3)
        ]
    )
    np.testing.assert_allclose(np.log2(residuals[:-1] / residuals[1:]), 2.0, atol=0.1)

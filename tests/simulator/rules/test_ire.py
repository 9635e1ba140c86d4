"""IRE: which directions count as flat, and what follows from it."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sharpflow as sf
from sharpflow.simulator import (
    flattest_coordinates,
    ire,
    outside_edge_space,
    tangent_at_manifold,
)
from sharpflow.simulator.loop import run_chunk
from sharpflow.simulator.rules import edge_dynamics
from sharpflow.theory import exact

ETA, RATE = 0.5, 2e-4
ANGLE = 1.2


class Regression(NamedTuple):
    """Batch-norm linear regression, a point of Γ and the unit tangent that raises λ_1."""

    x: np.ndarray
    problem: sf.Problem
    theta: jax.Array
    tangent: np.ndarray


@pytest.fixture(scope="module")
def regression() -> Regression:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(6, 10)), random.normal(size=6)
    solution = exact.minimum_norm_direction(x, y)
    away = np.linalg.svd(x - x.mean(axis=0))[2][5:].sum(axis=0)
    away /= np.linalg.norm(away)
    theta = np.cos(ANGLE) * solution + np.sin(ANGLE) * away
    tangent = np.cos(ANGLE) * away - np.sin(ANGLE) * solution
    return Regression(x, sf.models.linear_regression(x, y), jnp.asarray(theta), tangent)


def _off_manifold(regression, distance: float) -> jax.Array:
    """A unit vector at a distance from Γ along the top eigenvector."""
    _, vectors = sf.theory.spherical_sharpness(regression.problem, regression.theta)
    moved = regression.theta + distance * vectors[0]
    return moved / jnp.linalg.norm(moved)


@partial(jax.jit, static_argnums=0)
def _gradient(problem: sf.Problem, params: jax.Array) -> jax.Array:
    return jax.grad(problem.loss_value)(params)


def _hessian(problem: sf.Problem, params: jax.Array, step: float = 1e-5) -> np.ndarray:
    """By central differences."""
    shifts = step * np.eye(params.shape[0])
    rows = [_gradient(problem, params + d) - _gradient(problem, params - d) for d in shifts]
    return np.stack(rows) / (2.0 * step)


def _extra(regression, projection, params, decay: float = 0.0) -> np.ndarray:
    """P u/η for gradient descent with weight decay."""
    base, kappa = sf.gdwd(0.1, decay), 3.0
    rule = ire(base, kappa, projection)
    gradient = _gradient(regression.problem, params)
    plain, _ = base.update(gradient, base.init(params), params)
    found, _ = jax.jit(rule.update)(gradient, rule.init(params), params)
    return np.asarray(found - plain) / (0.1 * kappa)


def test_at_the_manifold_the_extra_motion_is_that_of_the_flow(regression) -> None:
    """P_Γ u = −½ h² ∇_Γ λ_1 for a displacement h v_1, and ‖∇_Γ λ_1‖ = 2 tan α λ_1."""
    h = 1e-3
    extra = _extra(
        regression, tangent_at_manifold(regression.problem), _off_manifold(regression, h)
    )
    sharpness = float(sf.theory.spherical_sharpness(regression.problem, regression.theta)[0][0])
    drift = -0.5 * h**2 * 2.0 * np.tan(ANGLE) * sharpness
    # to relative order h, with constants of the size of tan α
    np.testing.assert_allclose(extra, drift * regression.tangent, atol=20 * h * abs(drift))


def test_at_the_iterate_the_jacobian_leaves_nothing(regression) -> None:
    """∇L = Jᵀr is orthogonal to the kernel of J."""
    theta = _off_manifold(regression, 1e-2)
    gradient = _gradient(regression.problem, theta)
    left = sf.theory.tangent_projection(regression.problem, theta, gradient)
    assert np.linalg.norm(left) <= 1e-12 * np.linalg.norm(gradient)
    useful = _extra(regression, tangent_at_manifold(regression.problem), theta)
    assert np.linalg.norm(useful) >= 1e-3 * np.linalg.norm(gradient)


def test_at_the_iterate_the_flat_eigenspace_of_the_hessian_turns_the_motion_round(
    regression,
) -> None:
    """Its eigenvectors u' = u − H⁺∇³L[x] u see ½ − 1 of ⟨u, ∇³L[x, x]⟩: the factor is 1 − κ."""
    h = 1e-3
    theta = _off_manifold(regression, h)
    gradient = np.asarray(_gradient(regression.problem, theta))
    values, vectors = np.linalg.eigh(_hessian(regression.problem, theta))
    flat = vectors[:, np.abs(values) < 1e-2 * values[-1]]
    assert flat.shape[1] == 6  # ten features, of which the outputs see four
    found = -(flat @ (flat.T @ gradient)) @ regression.tangent
    at_manifold = _extra(regression, tangent_at_manifold(regression.problem), theta)
    np.testing.assert_allclose(found / (at_manifold @ regression.tangent), -1.0, atol=20 * h)


def test_the_radial_part_and_weight_decay_are_left_alone(regression) -> None:
    theta = _off_manifold(regression, 1e-3)
    projection = tangent_at_manifold(regression.problem)
    without, decayed = (_extra(regression, projection, theta, decay) for decay in (0.0, 1e-2))
    under = np.asarray(sf.theory.retract(regression.problem, theta))
    size = np.linalg.norm(without)
    assert abs(under @ without) <= 1e-8 * size
    # λ P_Γ θ = λ P_Γ (θ − Φ), and θ − Φ is normal up to O(h²): here λ h² against h²
    np.testing.assert_allclose(decayed, without, atol=1e-2 * size)


def test_without_kappa_the_update_is_that_of_the_base(regression) -> None:
    theta = _off_manifold(regression, 1e-2)
    gradient = _gradient(regression.problem, theta)
    for base in (sf.gdwd(0.1, 0.01), optax.sgd(0.1, momentum=0.9), sf.quasi_rmsprop(0.05)):
        rule = ire(base, 0.0, tangent_at_manifold(regression.problem))
        ours, _ = jax.jit(rule.update)(gradient, rule.init(theta), theta)
        theirs, _ = jax.jit(base.update)(gradient, base.init(theta), theta)
        np.testing.assert_array_equal(ours, theirs)


def test_all_normal_directions_count_as_sharp_or_none_lasts(regression) -> None:
    """Four eigenvalues are not zero: outside their eigenvectors there is only Γ."""
    theta = _off_manifold(regression, 1e-2)
    along = _extra(regression, tangent_at_manifold(regression.problem), theta)
    outside = _extra(regression, outside_edge_space(regression.problem, 4), theta)
    np.testing.assert_allclose(outside, along, atol=1e-9 * np.linalg.norm(along))


def test_far_from_the_manifold_the_base_goes_on_alone() -> None:
    """A residual that is nowhere zero: the retraction fails."""
    problem = sf.Problem(
        init=lambda key: jnp.ones(3), residual=lambda w: jnp.stack([w[0] / jnp.linalg.norm(w), 1.0])
    )
    theta, gradient = jnp.array([0.6, 0.8, 0.0]), jnp.array([1.0, -2.0, 3.0])
    rule = ire(sf.gdwd(0.1, 0.01), 2.0, tangent_at_manifold(problem))
    found, _ = rule.update(gradient, rule.init(theta), theta)
    np.testing.assert_allclose(found, -0.1 * (gradient + 0.01 * theta), rtol=1e-14)


def _at_edge(regression, rule, num_steps: int = 4001) -> sf.Trajectory:
    start = sf.theory.start_at_edge(
        regression.problem, regression.theta, ETA, RATE / ETA, perturbation=5e-4
    )
    return sf.simulate(
        regression.problem, start, rule, num_steps, record_every=400, snapshot_every=1
    )


def test_gd_with_ire_tracks_its_flow_and_its_closed_form(regression) -> None:
    base = sf.gdwd(ETA, RATE / ETA)
    projection = tangent_at_manifold(regression.problem)
    trajectory = _at_edge(regression, ire(base, 4.0, projection))
    flow = sf.predict(regression.problem, trajectory, max_edge=1)
    assert trajectory.kappa == flow.kappa == 4.0 and trajectory.attributes["kappa"] == 4.0
    found = sf.compare(trajectory, flow, regression.problem)
    assert found.attrs["final_relative_error"] <= 0.01
    angle = exact.angle_to_span(trajectory.params, regression.x)[-1]
    closed = exact.linear_regression_angle(ANGLE, trajectory.tau[-1], kappa=4.0)
    plain = exact.linear_regression_angle(ANGLE, trajectory.tau[-1])
    assert abs(angle - closed) <= 0.02 * abs(plain - closed)

    before = run_chunk._cache_size()
    _at_edge(regression, ire(base, 2.0, tangent_at_manifold(regression.problem)))
    assert run_chunk._cache_size() == before, "another κ must share the compiled loop"
    with pytest.raises(ValueError, match="the same numbers"):
        sf.simulate(regression.problem, trajectory, ire(base, 2.0, projection), 1)


def test_a_sharp_direction_that_is_missed_breaks_the_prediction(regression) -> None:
    """λ_2 = 0.94 λ_1 exceeds λ*/(1+κ) at κ = 1; λ_3 = 0.17 λ_1 does not."""
    errors = []
    for k in (1, 2):
        rule = ire(sf.gdwd(ETA, RATE / ETA), 1.0, outside_edge_space(regression.problem, k))
        trajectory = _at_edge(regression, rule)
        flow = sf.predict(regression.problem, trajectory, max_edge=1)
        compared = sf.compare(trajectory, flow, regression.problem)
        errors.append(compared.attrs["final_relative_error"])
    assert errors[0] > 0.2 and errors[1] < 0.01, errors


def test_nested_rules_multiply_and_a_diagonal_estimate_has_no_flow(regression) -> None:
    problem, base = regression.problem, sf.gdwd(ETA, RATE / ETA)
    along, coordinates = tangent_at_manifold(problem), flattest_coordinates(problem)
    twice = optax.chain(ire(ire(base, 1.0, along), 2.0, along)).init(regression.theta)
    assert float(edge_dynamics(twice).kappa) == 5.0
    np.testing.assert_allclose(edge_dynamics(twice).intrinsic_rate, RATE, rtol=1e-14)
    assert edge_dynamics(base.init(regression.theta)).kappa == 0.0
    trajectory = _at_edge(regression, ire(base, 1.0, coordinates), 401)
    assert np.isnan(trajectory.kappa)
    with pytest.raises(ValueError, match="no flow is known"):
        sf.predict(problem, trajectory)


SCALES = np.array([3.0, 0.1, 30.0, 0.01, 1.0])


@pytest.fixture(scope="module")
def stretched() -> sf.Problem:
    """r = c w: the diagonal of JᵀJ is c²."""
    return sf.Problem(
        init=lambda key: jnp.ones(5),
        residual=lambda w: jnp.asarray(SCALES) * w,
        scale_invariant=False,
    )


def _changed(rule, state) -> tuple[np.ndarray, object]:
    """The update over −η, for a gradient of ones without weight decay, and the state."""
    changes, state = rule.update(jnp.ones(5), state, jnp.ones(5))
    return -np.asarray(changes) / 0.1, state


def test_the_smallest_share_of_coordinates_is_multiplied(stretched) -> None:
    rule = ire(sf.gdwd(0.1, 0.0), 2.0, flattest_coordinates(stretched, 0.6, num_probes=64))
    changes, _ = _changed(rule, rule.init(jnp.ones(5)))
    np.testing.assert_allclose(changes, [1.0, 3.0, 1.0, 3.0, 3.0], rtol=1e-14)


def test_the_estimate_is_the_diagonal_and_waits_for_its_turn(stretched) -> None:
    projection = flattest_coordinates(stretched, refresh_every=3, decay=0.5, num_probes=4000)
    rule = ire(sf.gdwd(0.1, 0.0), 1.0, projection)
    state, found = rule.init(jnp.ones(5)), []
    for _ in range(4):
        _, state = _changed(rule, state)
        found.append(np.asarray(state.projection.diagonal))
    # five deviations √(2/4000) of the mean of 4000 squares of normal numbers
    np.testing.assert_allclose(found[0], 0.5 * SCALES**2, rtol=0.12)
    np.testing.assert_array_equal(found[2], found[0])
    np.testing.assert_allclose(found[3], 0.75 * SCALES**2, rtol=0.12)


def test_the_coordinates_can_leave_the_norm_to_the_base(stretched) -> None:
    """Then weight decay alone is not multiplied at all, and otherwise it is."""
    w = jnp.arange(1.0, 6.0)
    for radial, expected in ((True, 2.0), (False, 1.0)):
        projection = flattest_coordinates(stretched, 1.0, radial=radial)
        rule = ire(sf.gdwd(0.1, 0.3), 1.0, projection)
        changes, _ = rule.update(jnp.zeros(5), rule.init(w), w)
        np.testing.assert_allclose(changes, -0.03 * expected * w, rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda p: ire(sf.gdwd(0.1, 0.1), -1.0, tangent_at_manifold(p)), "kappa"),
        (lambda p: ire(sf.gdwd(0.1, 0.1), float("nan"), tangent_at_manifold(p)), "kappa"),
        (lambda p: outside_edge_space(p, 0), "k must be an integer from 1"),
        (lambda p: tangent_at_manifold(p, method="fast"), "method"),
        (lambda p: flattest_coordinates(p, 0.0), "share"),
        (lambda p: flattest_coordinates(p, 1.5), "share"),
        (lambda p: flattest_coordinates(p, refresh_every=0), "refresh_every"),
        (lambda p: flattest_coordinates(p, decay=1.0), "decay"),
        (lambda p: flattest_coordinates(p, num_probes=0), "num_probes"),
    ],
)
def test_arguments_out_of_range_are_refused(stretched, make, name) -> None:
    with pytest.raises(ValueError, match=name):
        make(stretched)


@pytest.mark.parametrize(
    "make", [tangent_at_manifold, flattest_coordinates, lambda p: outside_edge_space(p, 1)]
)
def test_a_loss_alone_has_no_flat_directions(make) -> None:
    problem = sf.Problem(init=lambda key: jnp.ones(2), loss=lambda w: jnp.sum(w**2))
    with pytest.raises(ValueError, match="defines no minimizer manifold"):
        make(problem)


def test_update_without_params_says_what_is_missing(stretched) -> None:
    rule = ire(sf.gdwd(0.1, 0.1), 1.0, tangent_at_manifold(stretched))
    with pytest.raises(ValueError, match="ire needs params"):
        rule.update(jnp.ones(5), rule.init(jnp.ones(5)))

"""Outputs with a criterion define the same Γ, curvature and flow as a residual form."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sharpflow as sf
from sharpflow.theory.residuals import residual_form

_random = np.random.default_rng(11)
_FACTOR = _random.normal(size=(6, 6)) + 2.0 * np.eye(6)  # A = C Cᵀ weighs the outputs' errors


@pytest.fixture(scope="module")
def forms(regression) -> tuple[sf.Problem, sf.Problem]:
    """½‖Cᵀ(f − y)‖², and Σ (cosh e − 1) with e = Cᵀ(f − y): the same to second order."""
    x, factor = jnp.asarray(regression.x), jnp.asarray(_FACTOR)
    y = jnp.asarray((regression.y - regression.y.mean()) / regression.y.std())

    def outputs(w: jax.Array) -> jax.Array:
        return sf.models.batch_normalize(x @ w)

    init = regression.problem.init
    return (
        sf.Problem(init=init, residual=lambda w: factor.T @ (outputs(w) - y)),
        sf.Problem(
            init=init,
            outputs=outputs,
            criterion=lambda f: jnp.sum(jnp.cosh(factor.T @ (f - y)) - 1.0),
        ),
    )


def test_both_forms_retract_to_the_same_manifold(regression, forms) -> None:
    start = regression.at(0.8) + jnp.asarray(0.02 * _random.normal(size=10))
    by_residual, by_criterion = (sf.theory.retract(problem, start) for problem in forms)
    np.testing.assert_allclose(regression.problem.residual(by_criterion), np.zeros(6), atol=1e-10)
    # the residuals are the same but for a rotation, so only rounding differs
    np.testing.assert_allclose(by_criterion, by_residual, rtol=0, atol=1e-10)


def test_both_forms_have_the_dense_hessian_of_the_criterion(regression, forms) -> None:
    """∇²L = Jᵀ A J on Γ, with J the Jacobian of the outputs."""
    theta = regression.at(0.8)
    jacobian = np.asarray(jax.jacobian(forms[1].outputs)(theta))
    expected = np.linalg.eigvalsh(jacobian.T @ _FACTOR @ _FACTOR.T @ jacobian)[::-1][:3]
    for problem in forms:
        values, _ = sf.theory.spherical_sharpness(problem, theta, 3)
        np.testing.assert_allclose(values, expected, rtol=1e-9)


def test_both_forms_have_the_same_flow(regression, forms) -> None:
    theta0, tau = regression.at(1.0), np.array([0.0, 0.4, 0.8])
    by_residual, by_criterion = (
        sf.sharpness_flow(problem, theta0, tau, max_edge=2) for problem in forms
    )
    moved = float(jnp.linalg.norm(by_residual.theta[-1] - theta0))
    assert moved > 0.1
    # the residuals are the same but for a rotation, so only rounding differs
    np.testing.assert_allclose(by_criterion.theta, by_residual.theta, rtol=0, atol=1e-8)
    np.testing.assert_allclose(by_criterion.threshold, by_residual.threshold, rtol=1e-8)
    np.testing.assert_allclose(by_criterion.eigenvalues, by_residual.eigenvalues, rtol=1e-8)


def test_smoothed_cross_entropy_has_the_residual_form_of_its_closed_form() -> None:
    """r_ic = √(q_ic/n) (u_ic − Σ_k q_ik u_ik), u = z − log q: docs/theory.md, section 8."""
    classes, smoothing = np.array([0, 1, 2, 0, 1, 2]), 0.3
    targets = (1.0 - smoothing) * np.eye(3)[classes] + smoothing / 3.0

    def criterion(logits: jax.Array) -> jax.Array:
        return -jnp.mean(jnp.sum(jnp.asarray(targets) * jax.nn.log_softmax(logits), axis=1))

    problem = sf.Problem(
        init=lambda key: jax.random.normal(key, (6, 3)), outputs=lambda z: z, criterion=criterion
    )
    logits = np.random.default_rng(0).normal(size=(6, 3))
    found = np.asarray(residual_form(problem, jnp.asarray(logits))(jnp.asarray(logits.ravel())))
    excess = logits - np.log(targets)
    centred = excess - np.sum(targets * excess, axis=1, keepdims=True)
    expected = np.sqrt(targets / 6.0) * centred
    # the two differ by a rotation of the residuals, hence compare norms and Gram matrices;
    # Newton's method leaves the minimiser at eps^(3/4) over the smallest curvature, 0.02
    np.testing.assert_allclose(np.sum(found**2), np.sum(expected**2), rtol=1e-8)
    jacobian = np.asarray(
        jax.jacobian(residual_form(problem, jnp.asarray(logits)))(jnp.asarray(logits.ravel()))
    )
    blocks = [(np.diag(q) - np.outer(q, q)) / 6.0 for q in targets]
    hessian = np.zeros((18, 18))
    for sample, block in enumerate(blocks):
        hessian[3 * sample : 3 * sample + 3, 3 * sample : 3 * sample + 3] = block
    np.testing.assert_allclose(jacobian.T @ jacobian, hessian, atol=1e-9)


@dataclasses.dataclass
class _Cosh:
    """Has no hash, as every dataclass that may be compared and changed."""

    centre: jax.Array

    def __call__(self, outputs: jax.Array) -> jax.Array:
        return jnp.sum(jnp.cosh(outputs - self.centre) - 1.0)


def test_a_criterion_needs_no_hash() -> None:
    centre, w = jnp.arange(3.0), jnp.asarray([0.5, -0.2, 2.0])
    criterion = _Cosh(centre)
    with pytest.raises(TypeError, match="unhashable"):
        hash(criterion)
    problem = sf.Problem(
        init=lambda key: jax.random.normal(key, (3,)), outputs=lambda z: z, criterion=criterion
    )
    np.testing.assert_allclose(residual_form(problem, w)(w), w - centre, atol=1e-12)


@pytest.mark.parametrize("use", ["retract", "tangent_projection", "sharpness_flow"])
def test_a_loss_alone_has_no_manifold(regression, use: str) -> None:
    problem = sf.Problem(init=regression.problem.init, loss=regression.problem.loss)
    theta = regression.at(0.8)
    call = {
        "retract": lambda: sf.theory.retract(problem, theta),
        "tangent_projection": lambda: sf.theory.tangent_projection(problem, theta, theta),
        "sharpness_flow": lambda: sf.sharpness_flow(problem, theta, np.array([0.0, 1.0])),
    }[use]
    with pytest.raises(ValueError, match="loss alone, which defines no minimizer manifold"):
        call()


def _cross_entropy(logits: jax.Array) -> jax.Array:
    return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(6), jnp.array([0, 1, 2, 0, 1, 2])])


def _logistic(outputs: jax.Array) -> jax.Array:
    return jnp.mean(jax.nn.softplus(outputs * jnp.asarray(np.tile([1, -1], 9), outputs.dtype)))


@pytest.mark.parametrize(
    ("criterion", "shape", "dtype"),
    [(_cross_entropy, (6, 3), np.float32), (_logistic, (18,), np.float64)],
)
def test_a_criterion_without_a_minimum_has_no_manifold(criterion, shape, dtype) -> None:
    """Both fall to zero at infinity only: Newton's steps do not shrink with the slope."""
    problem = sf.Problem(
        init=lambda key: jnp.ones(shape, dtype),
        outputs=lambda z: z,
        criterion=criterion,
        scale_invariant=False,
    )
    call = partial(sf.theory.retract, problem, jnp.ones(shape, dtype), on_sphere=False)
    with pytest.raises(ValueError, match="attains no minimum"):
        call()

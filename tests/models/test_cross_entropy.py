"""Smoothed cross-entropy: its residual form, which logits reach its infimum, and its flow."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.optimize import minimize

import sharpflow as sf
from sharpflow.models import (
    SmoothedCrossEntropy,
    from_flax,
    smallest_label_smoothing,
    smallest_logit_scale,
    smoothed_targets,
)
from sharpflow.theory.residuals import residual_form

EPS = np.finfo(float).eps
CLASSES = np.array([5, 2, 9, 5, 9, 2, 2, 9])
CROSS_ENTROPY = {"loss": "smoothed_cross_entropy", "label_smoothing": 0.1, "logit_scale": 2.0}


def _targets(classes=CLASSES, smoothing=0.2):
    return smoothed_targets(classes, smoothing, np.float64)


def _log_softmax(z):
    return z - np.log(np.sum(np.exp(z), axis=1, keepdims=True))


@pytest.fixture
def logits():
    return np.random.default_rng(0).normal(size=(8, 3))


def test_the_smoothed_targets_mix_the_one_hot_columns_with_the_uniform_distribution():
    one_hot = CLASSES[:, None] == np.array([2, 5, 9])
    np.testing.assert_allclose(_targets(), np.where(one_hot, 0.8 + 0.2 / 3, 0.2 / 3), rtol=4 * EPS)


def test_the_criterion_is_the_mean_cross_entropy_and_its_infimum_the_entropy_of_the_targets(logits):
    q = _targets()
    criterion = SmoothedCrossEntropy(jnp.asarray(q))
    expected = -np.mean(np.sum(q * _log_softmax(logits), axis=1))
    np.testing.assert_allclose(criterion(jnp.asarray(logits)), expected, rtol=10 * EPS)
    entropy = -np.mean(np.sum(q * np.log(q), axis=1))
    np.testing.assert_allclose(criterion.infimum, entropy, rtol=10 * EPS)
    shifted = jnp.asarray(np.log(q) + logits[:, :1])  # logits mean nothing but their differences
    np.testing.assert_allclose(criterion(shifted), entropy, rtol=10 * EPS)
    np.testing.assert_allclose(criterion.residual(shifted), np.zeros(24), atol=20 * EPS)


def test_the_gram_matrix_of_the_residual_is_the_hessian_where_it_vanishes(logits):
    q = _targets()
    criterion = SmoothedCrossEntropy(jnp.asarray(q))
    best = jnp.asarray(np.log(q) + logits[:, :1])
    jacobian = np.asarray(jax.jacobian(criterion.residual)(best)).reshape(24, 24)
    hessian = np.asarray(jax.hessian(criterion)(best)).reshape(24, 24)
    np.testing.assert_allclose(jacobian.T @ jacobian, hessian, atol=10 * EPS)
    # the shift of an example's logits is free: r_i is orthogonal to √q_i
    orthogonal = np.sum(np.sqrt(q) * np.asarray(criterion.residual(logits)).reshape(8, 3), axis=1)
    np.testing.assert_allclose(orthogonal, np.zeros(8), atol=10 * EPS)


def test_half_the_square_of_the_residual_departs_from_the_loss_by_the_third_cumulant(logits):
    q = _targets()
    criterion = SmoothedCrossEntropy(jnp.asarray(q))
    centred = logits - np.sum(q * logits, axis=1, keepdims=True)
    cumulant = np.mean(np.sum(q * centred**3, axis=1))
    fourth = np.mean(np.sum(q * centred**4, axis=1))
    for size in (1e-2, 1e-3):
        z = jnp.asarray(np.log(q) + size * logits)
        excess = float(criterion(z) - criterion.infimum)
        half_square = 0.5 * float(jnp.sum(jnp.square(criterion.residual(z))))
        # log E e^{tu} = κ₁t + κ₂t²/2 + κ₃t³/6 + κ₄t⁴/24, |κ₄| ≤ 4 E u⁴; the loss is of order one
        bound = fourth * size**4 / 6 + 10 * EPS
        np.testing.assert_allclose(excess - half_square, cumulant * size**3 / 6, atol=bound)
        assert bound < 0.5 * abs(cumulant) * size**3 / 6


@pytest.mark.parametrize(("num_classes", "scale"), [(3, 1.0), (4, 1.5), (10, 1.0)])
def test_at_the_smallest_smoothing_standardized_one_hot_logits_are_optimal(num_classes, scale):
    smoothing = smallest_label_smoothing(num_classes, scale)
    classes = np.repeat(np.arange(num_classes), 2)
    one_hot = np.eye(num_classes)[classes]
    z = scale * (one_hot - one_hot.mean(axis=0)) / one_hot.std(axis=0)
    criterion = SmoothedCrossEntropy(jnp.asarray(_targets(classes, smoothing)))
    np.testing.assert_allclose(criterion.residual(z), np.zeros(z.size), atol=20 * EPS)
    np.testing.assert_allclose(smallest_logit_scale(num_classes, smoothing), scale, rtol=10 * EPS)


def test_batch_normed_logits_reach_the_infimum_above_the_smallest_smoothing_and_not_below():
    """Minimised by BFGS over free logits, normalised per class to mean square γ²."""
    scale, classes = 1.0, np.repeat(np.arange(3), 3)
    smallest = smallest_label_smoothing(3, scale)
    np.testing.assert_allclose(smallest_label_smoothing(10), 0.270039, atol=1e-6)
    random = np.random.default_rng(0)

    @jax.jit
    def excess(flat, targets):
        logits = scale * sf.models.batch_normalize(flat.reshape(9, 3))
        criterion = SmoothedCrossEntropy(targets)
        return criterion(logits) - criterion.infimum

    slope = jax.jit(jax.grad(excess))

    def lowest(smoothing):
        q = jnp.asarray(_targets(classes, smoothing))
        starts = np.eye(3)[classes].ravel() + 0.5 * random.normal(size=(3, 27))
        found = [
            minimize(
                lambda z: float(excess(jnp.asarray(z), q)),
                start,
                jac=lambda z: np.asarray(slope(jnp.asarray(z), q)),
                options={"gtol": 1e-10},
            ).fun
            for start in starts
        ]
        return min(found)

    # at the slope 1e-10 BFGS stops at, an attained minimum is exact to rounding; the bound
    # below is the excess of the best one-hot logits, on which only smaller gaps are possible
    assert abs(lowest(1.05 * smallest)) < 20 * EPS
    one_hot = jnp.asarray(np.eye(3)[classes].ravel())
    at_bound = float(excess(one_hot, jnp.asarray(_targets(classes, 0.95 * smallest))))
    np.testing.assert_allclose(lowest(0.95 * smallest), at_bound, rtol=1e-6)
    assert at_bound > 1e-4


@pytest.fixture(scope="module")
def on_manifold():
    """An 8-3 network on twelve digits, four of each class, and a point of its Γ."""
    images, labels = sf.models.digits(40, classes=(0, 1, 2))
    rows = np.concatenate([np.flatnonzero(labels == digit)[:4] for digit in range(3)])
    problem = sf.models.mlp(images[rows, ::3], labels[rows], widths=(8,), **CROSS_ENTROPY)
    flat, unravel = ravel_pytree(problem.init(jax.random.key(0)))
    gradient = jax.grad(lambda theta: problem.loss_value(unravel(theta)))

    @jax.jit
    def trained(theta):
        def step(_, theta):
            theta = theta - 0.1 * gradient(theta)
            return theta / jnp.linalg.norm(theta)

        return jax.lax.fori_loop(0, 3000, step, theta / jnp.linalg.norm(theta))

    return problem, sf.theory.retract(problem, unravel(trained(flat)))


def test_a_trained_network_is_retracted_to_the_probabilities_of_the_targets(on_manifold):
    problem, theta = on_manifold
    probabilities = jax.nn.softmax(problem.outputs(theta), axis=1)
    # ‖r‖ ≤ 100 eps^(3/4) is accepted, and √(q/n) is at least 0.05
    np.testing.assert_allclose(probabilities, problem.criterion.targets, atol=1e-8)
    np.testing.assert_allclose(problem.loss_value(theta), problem.criterion.infimum, rtol=1e-14)
    assert sf.models.check_scale_invariance(problem, theta) < 100 * EPS


def test_on_the_manifold_both_ways_to_a_residual_have_the_dense_hessian_of_the_loss(on_manifold):
    problem, theta = on_manifold
    flat, unravel = ravel_pytree(theta)
    hessian = jax.jit(jax.hessian(lambda flat: problem.loss_value(unravel(flat))))(flat)
    generic = sf.Problem(
        init=problem.init,
        outputs=problem.outputs,
        criterion=lambda logits: problem.criterion(logits),  # hides its residual
    )
    size = float(jnp.max(jnp.abs(hessian)))
    for form in (problem, generic):
        jacobian = jax.jit(jax.jacobian(residual_form(form, theta)))(flat)
        # Newton's method and the retraction stop at eps^(3/4) = 2e-12
        np.testing.assert_allclose(jacobian.T @ jacobian, hessian, atol=1e-9 * size)


def test_the_flow_stays_on_the_manifold_with_the_eigenvalues_of_the_loss(on_manifold):
    problem, theta = on_manifold
    flow = sf.sharpness_flow(problem, theta, np.array([0.0, 0.1, 0.2]), max_edge=4)
    points = [jax.tree.map(lambda leaf, row=row: leaf[row], flow.theta) for row in range(3)]
    moved = jax.tree.map(jnp.subtract, points[2], points[0])
    assert float(jnp.linalg.norm(ravel_pytree(moved)[0])) > 0.01
    for point, eigenvalues in zip(points, flow.eigenvalues, strict=True):
        np.testing.assert_allclose(problem.loss_value(point), problem.criterion.infimum, rtol=1e-12)
        values, _ = sf.theory.spherical_sharpness(problem, point, 4)
        # ‖r‖ is 1e-12 at most, and JᵀJ departs from the Hessian by a multiple of it
        np.testing.assert_allclose(eigenvalues, values, rtol=1e-10)
    assert float(flow.eigenvalues[2, 0]) < float(flow.eigenvalues[0, 0])


def test_the_residual_of_many_outputs_needs_no_dense_hessian():
    """m = 30,000: a dense Hessian would hold 7 GB."""
    classes = np.arange(3000) % 10
    criterion = SmoothedCrossEntropy(jnp.asarray(_targets(classes)))
    problem = sf.Problem(init=jnp.zeros, outputs=lambda z: z, criterion=criterion)
    z = np.random.default_rng(0).normal(size=(3000, 10))
    found = residual_form(problem, jnp.asarray(z))(jnp.asarray(z.ravel()))
    q = _targets(classes)
    u = z - np.log(q)
    expected = np.sqrt(q / 3000) * (u - np.sum(q * u, axis=1, keepdims=True))
    np.testing.assert_allclose(found, expected.ravel(), atol=20 * EPS)


def test_the_metrics_are_cross_entropy_and_the_largest_logit_with_training_statistics():
    random = np.random.default_rng(1)
    x, x_test = random.normal(size=(8, 5)), random.normal(size=(7, 5)) + 0.5
    labels, test_labels = np.array([4, 7, 4, 7, 4, 7, 4, 7]), np.array([7, 4, 4, 7, 7, 7, 4])
    problem = sf.models.mlp(x, labels, widths=(6,), test=(x_test, test_labels), **CROSS_ENTROPY)
    assert set(problem.metrics) == {"train_accuracy", "test_accuracy", "test_loss"}
    params = problem.init(jax.random.key(0))

    def forward(rows):
        fit, values = x, rows
        for index in range(2):
            weight = np.asarray(params[f"Dense_{index}"]["kernel"])
            fit, values = fit @ weight, values @ weight
            mean, deviation = fit.mean(axis=0), fit.std(axis=0)
            fit, values = (fit - mean) / deviation, (values - mean) / deviation
            if index == 0:
                fit, values = np.log1p(np.exp(fit)), np.log1p(np.exp(values))
        return 2.0 * values

    logits, test_logits = forward(x), forward(x_test)
    expected = {
        "train_accuracy": np.mean((logits[:, 1] > logits[:, 0]) == (labels == 7)),
        "test_accuracy": np.mean((test_logits[:, 1] > test_logits[:, 0]) == (test_labels == 7)),
        "test_loss": -np.mean(np.sum(_targets(test_labels, 0.1) * _log_softmax(test_logits), 1)),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(problem.metrics[name](params), value, rtol=1e-13)


def _mlp(classes, **arguments):
    x = np.random.default_rng(0).normal(size=(len(classes), 4))
    return sf.models.mlp(x, np.asarray(classes), widths=(5,), **(CROSS_ENTROPY | arguments))


@pytest.mark.parametrize(
    ("classes", "arguments", "message"),
    [
        (
            [0, 1, 2] * 3,
            {"label_smoothing": 0.04},
            r"label_smoothing must be at least 0.042 .*0.04",
        ),
        ([0, 1, 2] * 3, {"logit_scale": 1.0}, r"got 0.1; .* raise logit_scale to at least 1.57"),
        ([0, 1, 2] * 3, {"logit_scale": -1.0}, "logit_scale must be positive and finite, got -1"),
        ([0, 1, 2] * 3, {"label_smoothing": 0.0}, "label_smoothing must be between 0 and 1.*got 0"),
        ([0, 1, 2] * 3, {"label_smoothing": 1.0}, "label_smoothing must be between 0 and 1"),
        ([0, 1, 2, 2], {}, r"equally many examples of each class.*\{0: 1, 1: 1, 2: 2\}"),
        ([0, 1, 2], {}, "equally many examples of each class, at least two"),
        ([0, 0, 0], {}, "at least two classes"),
        ([0.0, 1.0, 2.0], {}, "y must be integer classes.*float64"),
        ([[0, 1], [1, 0], [1, 0]], {}, r"y must be integer classes.*\(3, 2\)"),
        (
            [0, 1] * 2,
            {"test": (np.ones((2, 4)), np.array([3, 1]))},
            r"test y holds the classes \[3\]",
        ),
        ([0, 1] * 2, {"loss": "mse"}, "logit_scale is for the cross-entropy.*got 2.0"),
        ([0, 1] * 2, {"loss": "hinge"}, "loss must be one of.*'hinge'"),
        ([0, 1] * 2, {"loss": np.abs}, "loss must be one of.*make a Problem of outputs"),
    ],
)
def test_what_has_no_minimizer_or_no_classes_is_refused_by_name(classes, arguments, message):
    with pytest.raises(ValueError, match=message):
        _mlp(classes, **arguments)


def test_what_an_error_allows_is_allowed():
    assert _mlp([0, 1, 2] * 3, label_smoothing=0.042).has_manifold_form
    assert _mlp([0, 1, 2] * 3, logit_scale=1.5709).has_manifold_form


def test_logits_that_are_not_normalised_are_free_of_the_bound():
    problem = _mlp([0, 1, 2, 2], normalization="none", label_smoothing=0.01)
    assert not problem.scale_invariant
    x = np.random.default_rng(0).normal(size=(4, 4))
    linear = from_flax(
        nn.Dense(3, param_dtype=float), x, np.array([0, 1, 2, 2]), "smoothed_cross_entropy"
    )
    # four points in four dimensions: a linear map reaches any logits
    theta = sf.theory.retract(linear, linear.init(jax.random.key(0)), on_sphere=False)
    np.testing.assert_allclose(linear.loss_value(theta), linear.criterion.infimum, rtol=1e-12)


@pytest.mark.parametrize(
    ("bound", "arguments", "name"),
    [
        (smallest_label_smoothing, (1,), "num_classes"),
        (smallest_label_smoothing, (3, 0.0), "logit_scale"),
        (smallest_logit_scale, (1, 0.1), "num_classes"),
        (smallest_logit_scale, (3, 0.0), "label_smoothing"),
    ],
)
def test_a_bound_without_a_meaning_is_refused_by_name(bound, arguments, name):
    with pytest.raises(ValueError, match=f"{name} must be"):
        bound(*arguments)

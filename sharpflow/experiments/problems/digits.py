"""Digits that come with the package, and networks and regressions on them."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from sharpflow.experiments.starts import direction_at_angle, row_space
from sharpflow.models import digits, linear_regression, mlp
from sharpflow.models.arguments import COUNT, FINITE, KEY, checked, number, require_within
from sharpflow.models.inputs import resolve_dtype, standardized_targets
from sharpflow.models.problem import Params, Problem
from sharpflow.theory.arguments import validate_rates
from sharpflow.theory.exact import minimum_norm_direction


@checked(num_images=COUNT, num_test_images=COUNT)
def mlp_digits(
    num_images: int = 128,
    num_test_images: int = 512,
    widths: tuple[int, ...] = (64, 64),
    normalization: str = "batch",
    activation: str = "softplus",
    *,
    loss: str = "mse",
    label_smoothing: float = 0.1,
    logit_scale: float = 1.0,
    dtype: object = None,
) -> Problem:
    """Batch-norm multilayer perceptron on handwritten digits, as ``mlp`` makes it.

    Args:
      num_images, num_test_images: trained on, and those after them that are tested on.
      widths, normalization, activation: of the network.
      loss, label_smoothing, logit_scale: as in ``mlp``.
      dtype: float32 or float64; by default that of jax.

    Returns:
      A Problem with metrics ``train_accuracy``, ``test_accuracy`` and ``test_error``, or
      ``test_loss`` for the cross-entropy.

    Raises:
      ValueError: more images than there are, or what ``mlp`` refuses.
    """
    return mlp(
        *digits(num_images),
        widths=widths,
        normalization=normalization,
        activation=activation,
        loss=loss,
        label_smoothing=label_smoothing,
        logit_scale=logit_scale,
        test=digits(num_test_images, offset=num_images),
        dtype=dtype,
    )


@checked(num_images=COUNT)
def linear_regression_digits(num_images: int = 20, *, dtype: object = None) -> Problem:
    """Batch-norm linear regression from the pixels of digits to their numbers.

    The metric ``angle_to_solution`` is α, with sin α the share of w outside the span of the centred
    images: the angle to the minimum-norm solution, where the loss is 0. Its flow is
    tan α(τ) = tan α(0) e^{−τ}.

    Args:
      num_images: at most about 60, or nothing fits their numbers exactly.
      dtype: float32 or float64; by default that of jax.

    Returns:
      A Problem whose params are one array of shape (64,).

    Raises:
      ValueError: numbers that the images cannot fit, or another dtype.
    """
    x, y = _numbered_digits(num_images)
    problem = linear_regression(x, y, dtype=dtype)
    span = jnp.asarray(row_space(x), resolve_dtype(dtype))

    def angle(w: jax.Array) -> jax.Array:
        inside = span @ w
        # By arctan2: arcsin of the share outside would lose half of the digits near π/2, and arccos
        # of the share inside near 0.
        return jnp.arctan2(jnp.linalg.norm(w - inside @ span), jnp.linalg.norm(inside))

    # A problem of its own around the functions of the other one, so that the metric is beside its
    # residual; init and residual are bound to their data already.
    metrics = {"angle_to_solution": angle}
    return Problem(
        init=problem.init, residual=problem.residual, metrics=metrics, scale_invariant=True
    )


@checked(key=KEY, angle=number(least=0, below=np.pi / 2), num_images=COUNT, perturbation=FINITE)
def start_at_angle(
    key: jax.Array,
    learning_rate: float,
    weight_decay: float,
    *,
    angle: float = 1.2,
    num_images: int = 20,
    perturbation: float = 1e-4,
    dtype: object = None,
) -> Params:
    """Params of ``linear_regression_digits`` at the edge, over a point of Γ at an angle.

    Γ holds all directions cos α · (minimum-norm solution) + sin α · (unit vector outside
    the span of the images); the key draws the latter. There J = (I − yyᵀ/n) x / (√n s),
    s the standard deviation of the outputs, so that the top eigenvector of JᵀJ is the
    same at every point.

    Args:
      key: of the direction outside the span.
      learning_rate, weight_decay: η and λ, which set the norm.
      angle: α in radians, in [0, π/2).
      num_images, dtype: as of the problem.
      perturbation: along the top eigenvector, relative to the norm.

    Returns:
      √(η λ_1/(2(1−ηλ))) (θ + perturbation · v_1), shape (64,).

    Raises:
      ValueError: another dtype, or a number out of range.

    Source: docs/theory.md, sections 5 and 6.
    """
    resolved = resolve_dtype(dtype)
    validate_rates(learning_rate, weight_decay)
    require_within(resolved, learning_rate=learning_rate, weight_decay=weight_decay)
    require_within(resolved, perturbation=perturbation)
    x, y = _numbered_digits(num_images)
    centred, inside = x - x.mean(axis=0), minimum_norm_direction(x, y)
    targets = standardized_targets(y[:, None], np.dtype(np.float64))[:, 0]
    # In numpy and from given data, so that it is a constant of the program: eigenvectors inside of
    # compiled code would be computed anew at every start of a grid.
    jacobian = centred - np.outer(targets, targets @ centred) / num_images
    _, sizes, rows = np.linalg.svd(jacobian, full_matrices=False)
    flattest = np.square(sizes[0] / np.std(centred @ inside)) / num_images  # λ_1 at α = 0
    alpha, eta, decay = (
        jnp.asarray(value, resolved) for value in (angle, learning_rate, weight_decay)
    )
    theta = direction_at_angle(x, y, alpha, jax.random.normal(key, inside.shape, resolved))
    sharpness = jnp.asarray(flattest, resolved) / jnp.square(jnp.cos(alpha))
    norm = jnp.sqrt(0.5 * eta * sharpness / (1.0 - eta * decay))
    # Exactly on Γ the gradient is zero and gradient descent would never leave.
    return norm * (theta + perturbation * jnp.asarray(rows[0], resolved))


@cache
def _numbered_digits(num_images: int) -> tuple[np.ndarray, np.ndarray]:
    x, labels = digits(num_images)
    return x, labels.astype(np.float64)

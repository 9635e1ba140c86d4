"""What is watched beside the loss: accuracy, and the error on test data."""

from collections.abc import Callable, Iterable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sharpflow.models.cross_entropy import SmoothedCrossEntropy, smoothed_targets
from sharpflow.models.inputs import holds_classes, target_columns, validated_inputs

Scores = dict[str, Callable[[Float[Array, "n c"]], Float[Array, ""]]]


def validated_test(
    test: Iterable[np.ndarray], labels: np.ndarray, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """Test inputs and targets, refused where they do not go with the training targets.

    Args:
      test: a pair (x, y).
      labels: the training targets, shape (n,) or (n, c).
      dtype: of the inputs.

    Returns:
      Inputs, shape (k, ...), and targets, shape (k,) or (k, c).

    Raises:
      ValueError: inputs that are not finite numbers, or targets of another shape.
    """
    x, y = test
    inputs, targets = validated_inputs(x, dtype, "test x"), np.asarray(y)
    expected = (inputs.shape[0], *labels.shape[1:])
    if targets.shape != expected:
        raise ValueError(f"test y must have shape {expected}, got {targets.shape}")
    return inputs, targets


def mean_square_scores(labels: np.ndarray, scored: np.ndarray, dtype: np.dtype) -> Scores:
    """Scores of outputs fitted to standardised targets.

    Args:
      labels: training targets, which the outputs are in units of.
      scored: the targets of the outputs to be scored.
      dtype: of the outputs.

    Returns:
      ``error``, the mean square difference in those units, and for classes
      ``accuracy``: the share of outputs whose most probable class, in units of the
      one-hot columns, is right.
    """
    columns = target_columns(labels, labels)
    mean, deviation = columns.mean(axis=0), columns.std(axis=0)
    targets = jnp.asarray(((target_columns(scored, labels) - mean) / deviation).astype(dtype))
    scores: Scores = {"error": lambda outputs: jnp.mean(jnp.square(outputs - targets))}
    if holds_classes(labels):
        right = _accuracy(labels, scored)
        scale, shift = (jnp.asarray(part.astype(dtype))[None] for part in (deviation, mean))
        scores["accuracy"] = lambda outputs: right(outputs * scale + shift)
    return scores


def cross_entropy_scores(
    labels: np.ndarray, scored: np.ndarray, dtype: np.dtype, label_smoothing: float
) -> Scores:
    """Scores of logits: ``loss``, the smoothed cross-entropy, and ``accuracy``.

    Args:
      labels: the training classes, shape (n,).
      scored: the classes of the logits to be scored.
      dtype: of the logits.
      label_smoothing: ε, in (0, 1).

    Returns:
      Both by name.

    Raises:
      ValueError: a class to be scored that is not among the training classes.
    """
    classes = np.unique(labels)
    targets = smoothed_targets(scored, label_smoothing, dtype, classes=classes, name="test y")
    return {
        "loss": SmoothedCrossEntropy(jnp.asarray(targets)),
        "accuracy": _accuracy(labels, scored),
    }


def _accuracy(labels: np.ndarray, scored: np.ndarray) -> Callable[[Array], Array]:
    """Share of rows whose largest entry is that of the right class."""
    classes = np.unique(labels)
    indices = jnp.asarray(np.searchsorted(classes, scored))
    known = jnp.asarray(np.isin(scored, classes))

    def accuracy(probabilities: Array) -> Array:
        right = (jnp.argmax(probabilities, axis=1) == indices) & known
        return jnp.mean(right.astype(probabilities.dtype))

    return accuracy

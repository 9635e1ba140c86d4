"""What is watched beside the loss: accuracy, and the error on test data."""

from collections.abc import Callable, Iterable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sharpflow.models.cross_entropy import SmoothedCrossEntropy, smoothed_targets
from sharpflow.models.inputs import validated_inputs

Scores = dict[str, Callable[[Float[Array, "n c"]], Float[Array, ""]]]


def holds_classes(y: np.ndarray) -> bool:
    """Whether targets are integer classes."""
    return y.ndim == 1 and np.issubdtype(y.dtype, np.integer)


def validated_test(
    test: Iterable[np.ndarray], labels: np.ndarray, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """Test inputs and targets, refused where they do not go with the training targets.

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
    columns = _columns(labels, labels)
    mean, deviation = columns.mean(axis=0), columns.std(axis=0)
    targets = jnp.asarray(((_columns(scored, labels) - mean) / deviation).astype(dtype))
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

    Raises:
      ValueError: a class to be scored that is not among the training classes.
    """
    classes = np.unique(labels)
    targets = smoothed_targets(scored, label_smoothing, dtype, classes=classes, name="test y")
    return {
        "loss": SmoothedCrossEntropy(jnp.asarray(targets)),
        "accuracy": _accuracy(labels, scored),
    }


def _columns(y: np.ndarray, labels: np.ndarray) -> np.ndarray:
    if holds_classes(labels):
        return (y[:, None] == np.unique(labels)[None, :]).astype(np.float64)
    return (y if y.ndim == 2 else y[:, None]).astype(np.float64)


def _accuracy(labels: np.ndarray, scored: np.ndarray) -> Callable[[Array], Array]:
    """Share of rows whose largest entry is that of the right class."""
    classes = np.unique(labels)
    indices = jnp.asarray(np.searchsorted(classes, scored))
    known = jnp.asarray(np.isin(scored, classes))

    def accuracy(probabilities: Array) -> Array:
        right = (jnp.argmax(probabilities, axis=1) == indices) & known
        return jnp.mean(right.astype(probabilities.dtype))

    return accuracy

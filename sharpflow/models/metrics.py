"""What is watched beside the loss: accuracy, and the error on test data."""

import dataclasses
from collections.abc import Iterable
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from sharpflow.models.cross_entropy import SmoothedCrossEntropy, smoothed_targets
from sharpflow.models.inputs import holds_classes, target_columns, validated_inputs


class Score(Protocol):
    """A number that says how good outputs are: a pytree of what they are compared with."""

    @property
    def num_rows(self) -> int:
        """Of the outputs that it takes."""
        ...

    def __call__(self, outputs: Float[Array, "n c"], /) -> Float[Array, ""]:
        """The number, shape ()."""
        ...


Scores = dict[str, Score]  # by the name of the metric


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class MeanSquareError:
    """Mean square difference of outputs and targets.

    Attributes:
      targets: shape (n, c).
    """

    targets: Float[Array, "n c"]

    @property
    def num_rows(self) -> int:
        """How many rows the outputs have."""
        return self.targets.shape[0]

    def __call__(self, outputs: Float[Array, "n c"]) -> Float[Array, ""]:
        """The error, shape ()."""
        return jnp.mean(jnp.square(outputs - self.targets))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Accuracy:
    """Share of rows whose largest entry, in units of probabilities, is that of the right class.

    Attributes:
      classes: the column of the right class, shape (n,).
      known: whether a row's class has a column at all, shape (n,).
      scale, shift: shape (1, c), which turn outputs into units of probabilities; or None.
    """

    classes: Int[Array, " n"]
    known: Bool[Array, " n"]
    scale: Float[Array, "1 c"] | None = None
    shift: Float[Array, "1 c"] | None = None

    @property
    def num_rows(self) -> int:
        """How many rows the outputs have."""
        return self.classes.shape[0]

    def __call__(self, outputs: Float[Array, "n c"]) -> Float[Array, ""]:
        """The share, shape ()."""
        if self.scale is not None and self.shift is not None:
            # Each column of one-hot targets was divided by a deviation of its own, smaller for
            # rarer classes. The largest standardized output is therefore not the most probable
            # class unless all classes are equally frequent.
            outputs = outputs * self.scale + self.shift
        right = (jnp.argmax(outputs, axis=1) == self.classes) & self.known
        return jnp.mean(right.astype(outputs.dtype))


def validated_test(
    test: Iterable[np.ndarray], labels: np.ndarray, dtype: np.dtype
) -> tuple[np.ndarray, np.ndarray]:
    """Test inputs and targets, refused where they do not go with the training targets.

    Args:
      test: a pair (x, y).
      labels: the training targets, shape (n,) or (n, c).
      dtype: of the training inputs.

    Returns:
      Inputs, shape (k, ...), of this dtype, and targets, shape (k,) or (k, c).

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
    # The statistics are those of the training targets, also for test targets: test outputs are in
    # the units in which the network was fitted.
    columns = target_columns(labels, labels)
    mean, deviation = columns.mean(axis=0), columns.std(axis=0)
    targets = jnp.asarray(((target_columns(scored, labels) - mean) / deviation).astype(dtype))
    scores: Scores = {"error": MeanSquareError(targets)}
    if holds_classes(labels):
        scale, shift = (jnp.asarray(part.astype(dtype))[None] for part in (deviation, mean))
        scores["accuracy"] = _accuracy(labels, scored, scale, shift)
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


def _accuracy(
    labels: np.ndarray,
    scored: np.ndarray,
    scale: Array | None = None,
    shift: Array | None = None,
) -> Accuracy:
    classes = np.unique(labels)
    return Accuracy(
        classes=jnp.asarray(np.searchsorted(classes, scored)),
        # searchsorted gives a column for every number, so that a class that was never trained on
        # would be compared with its neighbour.
        known=jnp.asarray(np.isin(scored, classes)),
        scale=scale,
        shift=shift,
    )

"""Cross-entropy with label smoothing, and the residual form that it has around its minimizers."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from sharpflow.models.arguments import DATA, FINITE, INTEGER, TEXT, checked, optional
from sharpflow.models.inputs import floating_dtype, one_hot
from sharpflow.models.representation import summarized


@summarized
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class SmoothedCrossEntropy:
    """Mean cross-entropy of logits, L = −(1/n) Σ_ic q_ic log p_ic with p = softmax(z).

    A criterion for a Problem with outputs, and a pytree whose leaf is the targets. Where every
    q is positive, L attains its infimum, the mean entropy of q, at p = q; there it has a
    residual form.

    Attributes:
      targets: q, probabilities of every class, shape (n, c), positive; see
        ``smoothed_targets``.
    """

    targets: Float[Array, "n c"]

    @property
    def num_rows(self) -> int:
        """How many rows the outputs have."""
        return self.targets.shape[0]

    def __call__(self, logits: Float[Array, "n c"]) -> Float[Array, ""]:
        """L for logits of shape (n, c), a scalar."""
        # By log_softmax, which subtracts the largest logit first: log(softmax) would be −∞ for a
        # class whose probability underflows, from a gap of 88 on in float32.
        return -jnp.mean(jnp.sum(self.targets * jax.nn.log_softmax(logits, axis=1), axis=1))

    @property
    def infimum(self) -> Float[Array, ""]:
        """inf L, the mean entropy of the targets."""
        return -jnp.mean(jnp.sum(self.targets * jnp.log(self.targets), axis=1))

    def residual(self, logits: Float[Array, "n c"]) -> Float[Array, " n*c"]:
        """r_ic = √(q_ic/n) (u_ic − Σ_k q_ik u_ik) with u = z − log q.

        ½‖r‖² = L − inf L up to the third cumulant of u under q, and where r = 0
        JᵀJ = ∇²L. For every example r_i is orthogonal to √q_i.

        Args:
          logits: z, shape (n, c).

        Returns:
          r, shape (n·c,).

        Source: docs/theory.md, section 8.
        """
        q = self.targets
        u = logits - jnp.log(q)
        centred = u - jnp.sum(q * u, axis=1, keepdims=True)
        return (jnp.sqrt(q / q.shape[0]) * centred).ravel()


@checked(y=DATA, label_smoothing=FINITE, classes=optional(DATA), name=TEXT)
def smoothed_targets(
    y: np.ndarray,
    label_smoothing: float,
    dtype: np.dtype,
    *,
    classes: np.ndarray | None = None,
    name: str = "y",
) -> np.ndarray:
    """Smoothed one-hot targets, q = (1 − ε) onehot + ε/C.

    Args:
      y: integer classes, shape (n,).
      label_smoothing: ε, in (0, 1).
      dtype: of the result.
      classes: the classes in the order of the columns, shape (C,); by default those
        of ``y``, ascending.
      name: what to call ``y`` in errors.

    Returns:
      Shape (n, C); every row sums to one.

    Raises:
      ValueError: targets that are not integer classes, fewer than two classes, a
        class that is not among ``classes``, or ε outside (0, 1).

    Source: Szegedy et al. 2016, section 7.
    """
    _require_smoothing(label_smoothing)
    dtype = floating_dtype(dtype)
    y = np.asarray(y)
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(
            f"{name} must be integer classes of shape (n,) for smoothed_cross_entropy, "
            f"got shape {y.shape} of dtype {y.dtype}"
        )
    columns = np.unique(y) if classes is None else np.asarray(classes)
    _require_two(columns, name)
    unknown = np.setdiff1d(y, columns)
    if unknown.size:
        raise ValueError(
            f"{name} holds the classes {unknown.tolist()}, which no training example has: "
            f"a cross-entropy knows {columns.tolist()} alone"
        )
    # In float64, and rounded once at the end, so that a row sums to one to a rounding of the dtype.
    right = one_hot(y, columns)
    return ((1.0 - label_smoothing) * right + label_smoothing / columns.size).astype(dtype)


@checked(num_classes=INTEGER, logit_scale=FINITE)
def smallest_label_smoothing(num_classes: int, logit_scale: float = 1.0) -> float:
    """The smallest ε at which batch-normed logits of mean square γ² reach p = q.

    With equal class counts the widest gap between the logit of the right class and
    the others is that of γ times the standardised one-hot columns, γC/√(C − 1); the
    targets need log(q_right/q_wrong).

    Args:
      num_classes: C, at least 2.
      logit_scale: γ, the root mean square of each logit over the examples.

    Returns:
      C / (C − 1 + exp(γC/√(C − 1))).

    Raises:
      ValueError: fewer than two classes, or γ not positive.

    Source: docs/theory.md, section 8.
    """
    _require_class_count(num_classes)
    _require_scale(logit_scale)
    gap = logit_scale * num_classes / math.sqrt(num_classes - 1)
    # Numerator and denominator are multiplied by exp(−gap): for a large γ exp(gap) overflows, where
    # exp(−gap) goes to 0 as the result does.
    return num_classes * math.exp(-gap) / ((num_classes - 1) * math.exp(-gap) + 1.0)


@checked(num_classes=INTEGER, label_smoothing=FINITE)
def smallest_logit_scale(num_classes: int, label_smoothing: float) -> float:
    """The smallest γ at which batch-normed logits reach p = q: the other way round.

    Args:
      num_classes: C, at least 2.
      label_smoothing: ε, in (0, 1).

    Returns:
      √(C − 1)/C · log(1 + C(1 − ε)/ε).

    Raises:
      ValueError: fewer than two classes, or ε outside (0, 1).

    Source: docs/theory.md, section 8.
    """
    _require_class_count(num_classes)
    _require_smoothing(label_smoothing)
    gap = math.log1p(num_classes * (1.0 - label_smoothing) / label_smoothing)
    return gap * math.sqrt(num_classes - 1) / num_classes


def require_reachable(y: np.ndarray, label_smoothing: float, logit_scale: float) -> None:
    """Refuse smoothed targets that logits batch-normed per class do not reach.

    Every class has the same mean and mean square of its logit, hence the classes must
    be equally frequent and the gap between right and wrong logits is bounded. At the
    bound itself the minimizers degenerate: stay clear of it.

    Args:
      y: integer classes, shape (n,).
      label_smoothing: ε.
      logit_scale: γ.

    Raises:
      ValueError: naming the argument, its value and what is allowed.

    Source: docs/theory.md, section 8.
    """
    _require_smoothing(label_smoothing)
    _require_scale(logit_scale)
    classes, counts = np.unique(y, return_counts=True)
    _require_two(classes, "y")
    reason = "otherwise batch-normed logits reach the smoothed targets for no parameters"
    if np.any(counts != counts[0]) or counts[0] < 2:
        counts_by_class = dict(zip(classes.tolist(), counts.tolist(), strict=True))
        raise ValueError(
            f"y must hold equally many examples of each class, at least two; {reason}. "
            f"Got the counts {counts_by_class}"
        )
    smallest = smallest_label_smoothing(classes.size, logit_scale)
    if label_smoothing < smallest:
        raise ValueError(
            f"label_smoothing must be at least {_rounded_up(smallest)} for {classes.size} classes "
            f"at logit_scale={logit_scale}, got {label_smoothing}; {reason}. Or raise logit_scale "
            f"to at least {_rounded_up(smallest_logit_scale(classes.size, label_smoothing))}"
        )


def _require_smoothing(label_smoothing: float) -> None:
    if not 0.0 < label_smoothing < 1.0:
        raise ValueError(
            f"label_smoothing must be between 0 and 1, both excluded, got {label_smoothing}: "
            "without it the loss attains no minimum"
        )


def _require_scale(logit_scale: float) -> None:
    if not 0.0 < logit_scale < math.inf:
        raise ValueError(f"logit_scale must be positive and finite, got {logit_scale}")


def _require_two(classes: np.ndarray, name: str) -> None:
    if classes.size < 2:
        raise ValueError(f"{name} must hold at least two classes, got {classes.tolist()}")


def _require_class_count(num_classes: int) -> None:
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes}")


def _rounded_up(value: float) -> float:
    """To four decimals, so that what an error allows is allowed."""
    return math.ceil(1e4 * value) / 1e4

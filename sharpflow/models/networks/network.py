"""What all networks share: normalized layers, an activation, and a head."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypedDict

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Float

from sharpflow.models.activations import ACTIVATIONS, second_moment, variance
from sharpflow.models.arguments import COUNT, POSITIVE, choice, optional
from sharpflow.models.convolution import conv_general_dilated
from sharpflow.models.cross_entropy import require_reachable
from sharpflow.models.flax_adapter import LOSS, from_flax
from sharpflow.models.inputs import holds_classes, resolve_dtype
from sharpflow.models.normalization import NORMALIZATIONS, normalized
from sharpflow.models.problem import Problem
from sharpflow.models.representation import summarized

HEADS = ("normalized", "fixed", "trained")


@summarized
class NormalizedNetwork(nn.Module):
    """Linear layers without biases, each normalized, with an activation between them.

    Attributes:
      normalization: one of ``NORMALIZATIONS``.
      activation: a key of ``ACTIVATIONS``. Before normalized weights it is divided by the
        standard deviation (``"standardized"``) or root mean square (``"weight"``) that it
        has of a standard normal input, so that signals keep their size.
      head: of the last layer, ``"normalized"`` as the others, ``"fixed"`` for a plain one
        that is to be held constant, or ``"trained"`` for a plain one.
      num_groups: of group normalization.
      logit_scale: γ, what the outputs are multiplied with.
    """

    normalization: str = "batch"
    activation: str = "softplus"
    head: str = "normalized"
    num_groups: int = 4
    logit_scale: float = 1.0

    @property
    def floating_inputs(self) -> bool:
        """True: integers are taken for the numbers that they are."""
        return True

    @property
    def scale_invariant(self) -> bool:
        """Whether the loss is invariant to what is trained, a ``"fixed"`` head held constant."""
        return self.normalization != "none" and self.head != "trained"

    def normalized(self, layer: nn.Module) -> Callable[[Array], Array]:
        """A linear layer with the normalization of this network."""
        return normalized(layer, self.normalization, num_groups=self.num_groups)

    def activated(self, x: Array) -> Array:
        """The activation of what a layer puts out."""
        moment = {"weight": second_moment, "standardized": variance}.get(self.normalization)
        y = ACTIVATIONS[self.activation](x)
        # The mean of an activation is taken off by standardized kernels, which sum to 0, so that
        # its variance counts there; a kernel of norm 1 lets the mean through, and the mean square
        # counts.
        return y if moment is None else y / np.sqrt(moment(self.activation)).astype(y.dtype)

    def dense(self, features: int, x: Array, name: str | None = None) -> nn.Dense:
        """A plain dense layer for inputs such as ``x``."""
        return nn.Dense(features, kernel_init=self._initializer(), name=name, **_of(x))

    def conv(self, features: int, x: Array, stride: int = 1) -> nn.Conv:
        """A plain 3 × 3 convolution that keeps the size of its map, but for the stride."""
        return nn.Conv(
            features,
            (3, 3),
            strides=stride,
            padding=1,
            kernel_init=self._initializer(),
            conv_general_dilated=conv_general_dilated,
            **_of(x),
        )

    def outputs(
        self, x: Float[Array, "n f"], number: int, name: str | None = "head"
    ) -> Float[Array, "n c"]:
        """What the head makes of features, for ``number`` outputs."""
        layer = self.dense(number, x, name)
        y = (self.normalized(layer) if self.head == "normalized" else layer)(x)
        # No product at 1: it would be one more operation in every program with a squared loss.
        return y if self.logit_scale == 1.0 else self.logit_scale * y

    def _initializer(self) -> nn.initializers.Initializer:
        """Variance 1/fan-in, or what keeps the size of signals where nothing normalizes."""
        # Where something normalizes, any variance gives the same loss, and this is Flax's own
        # default. Without normalization a tanh would leave 0.39 of the square of its signal, layer
        # after layer.
        scale = 1.0 if self.normalization != "none" else 1.0 / second_moment(self.activation)
        # Truncated as in Flax's default, so that no weight lies beyond two deviations.
        return nn.initializers.variance_scaling(scale, "fan_in", "truncated_normal")


class Options(TypedDict, total=False):
    """What every network takes beside its own arguments; see ``mlp``."""

    head: str | None
    num_groups: int
    loss: str
    label_smoothing: float
    logit_scale: float
    test: Iterable[np.ndarray] | None
    micro_batch: int | None
    devices: Sequence[jax.Device] | None
    fixed_seed: int
    dtype: object


def network_problem(
    build: Callable[..., NormalizedNetwork],
    x: np.ndarray,
    y: np.ndarray,
    normalization: str,
    activation: str,
    *,
    head: str | None = None,
    head_name: str = "head",
    num_groups: int = 4,
    loss: str = "mse",
    label_smoothing: float = 0.1,
    logit_scale: float = 1.0,
    test: Iterable[np.ndarray] | None = None,
    micro_batch: int | None = None,
    devices: Sequence[jax.Device] | None = None,
    fixed_seed: int = 0,
    dtype: object = None,
) -> Problem:
    """A network and its data as a Problem, its options as ``mlp`` tells.

    Args:
      build: makes the network of keywords: the attributes of ``NormalizedNetwork``.
      x, y, normalization, activation: as in ``mlp``.
      head_name: of the last layer's parameters.

    Raises:
      ValueError: an unknown normalization, activation, head or loss, unusable data, or
        smoothed targets that the logits do not reach.
    """
    # Here and not by `checked`: vgg11, resnet20 and transformer hand these on as keywords that they
    # do not name.
    choice(NORMALIZATIONS).require("normalization", normalization)
    choice(ACTIVATIONS).require("activation", activation)
    optional(choice(HEADS)).require("head", head)
    LOSS.require("loss", loss)
    COUNT.require("num_groups", num_groups)
    POSITIVE.require("logit_scale", logit_scale)
    if loss == "mse" and logit_scale != 1.0:
        raise ValueError(
            f"logit_scale is for the cross-entropy and must be 1.0 for mse, got {logit_scale}"
        )
    head = head or usual_head(normalization)
    # Only there are the logits known to have mean 0 and mean square γ². For any other head nothing
    # can be said before training, and the retraction says it afterwards.
    batch_normed = (normalization, head) == ("batch", "normalized")
    if loss != "mse" and batch_normed and holds_classes(np.asarray(y)):
        require_reachable(np.asarray(y), label_smoothing, logit_scale)
    return from_flax(
        build(
            normalization=normalization,
            activation=activation,
            head=head,
            num_groups=num_groups,
            logit_scale=logit_scale,
        ),
        x,
        y,
        loss,
        label_smoothing=label_smoothing,
        test=test,
        fixed=(head_name,) if head == "fixed" else (),
        fixed_seed=fixed_seed,
        micro_batch=micro_batch,
        devices=devices,
        dtype=resolve_dtype(dtype, x),
    )


def usual_head(normalization: str) -> str:
    """The head of a network unless another is asked for.

    A normalization of each example leaves no outputs that fit targets in general, so that
    the last layer is fixed there.
    """
    if normalization == "none":
        return "trained"
    return "normalized" if normalization in ("batch", "weight", "standardized") else "fixed"


def num_outputs(y: np.ndarray) -> int:
    """Columns of targets as a network fits them: a column for each class."""
    y = np.asarray(y)
    if y.ndim == 2:
        return y.shape[1]
    return len(np.unique(y)) if holds_classes(y) else 1


def require_images(x: np.ndarray, multiple: int = 1) -> None:
    """Refuse what is no batch of images, channels last.

    Args:
      x: inputs.
      multiple: what height and width must be multiples of.

    Raises:
      ValueError: another shape.
    """
    shape = np.shape(x)
    if len(shape) != 4 or shape[1] % multiple or shape[2] % multiple:
        rule = f", height and width multiples of {multiple}" if multiple > 1 else ""
        raise ValueError(
            f"x must be images of shape (n, height, width, channels){rule}, got {shape}"
        )


def _of(x: Array) -> dict:
    return {"use_bias": False, "dtype": x.dtype, "param_dtype": x.dtype}

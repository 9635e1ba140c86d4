"""Update rules that a config names without their module."""

import inspect
from collections.abc import Callable

import optax

from sharpflow.models.arguments import Kind, checked, number
from sharpflow.simulator.rules import gdwd, momentum, projected_gd, quasi_rmsprop, rmsprop, sam

GridOptimizer = Callable[..., optax.GradientTransformation]

# A grid hands its weight decay to every rule. One that has none would drop it without a word, and
# the axis of the result would promise what was never done.
_NONE = Kind("0, since this rule has no weight decay", number(least=0, most=0).fits)


@checked(weight_decay=_NONE)
def quasi_rmsprop_of_grid(
    learning_rate: float, weight_decay: float = 0.0, b: float = 2.0, v0: float = 1.0
) -> optax.GradientTransformation:
    """Quasi-RMSprop as a grid calls an optimizer.

    Args:
      learning_rate: η, whose square sets the clock: τ = η²/2 · step.
      weight_decay: 0, the one value on this axis of the grid.
      b, v0: as in ``quasi_rmsprop``; axes, where a config names them.
    """
    del weight_decay
    return quasi_rmsprop(learning_rate, b, v0=v0)


@checked(weight_decay=_NONE)
def rmsprop_of_grid(
    learning_rate: float, weight_decay: float = 0.0, decay: float = 0.99, epsilon: float = 1e-8
) -> optax.GradientTransformation:
    """RMSprop by coordinate as a grid calls an optimizer.

    Args:
      learning_rate, decay, epsilon: as in ``rmsprop``; the last two are axes.
      weight_decay: 0, as in ``quasi_rmsprop_of_grid``.
    """
    del weight_decay
    return rmsprop(learning_rate, decay, epsilon=epsilon)


@checked(weight_decay=_NONE)
def projected_gd_of_grid(
    learning_rate: float, weight_decay: float = 0.0
) -> optax.GradientTransformation:
    """Projected gradient descent as a grid calls an optimizer.

    Args:
      learning_rate: η̃, the effective learning rate.
      weight_decay: 0, as in ``quasi_rmsprop_of_grid``.
    """
    del weight_decay
    return projected_gd(learning_rate)


OPTIMIZERS: dict[str, GridOptimizer] = {
    "gdwd": gdwd,
    "quasi_rmsprop": quasi_rmsprop_of_grid,
    "momentum": momentum,
    "rmsprop": rmsprop_of_grid,
    "projected_gd": projected_gd_of_grid,
    "sam": sam,
}


def default_decay(optimizer: object) -> float | None:
    """The weight decay of a rule of ours where none is given; None where one must be.

    Args:
      optimizer: as a config names it, or whatever stands there.
    """
    if not isinstance(optimizer, str) or optimizer not in OPTIMIZERS:
        return None
    parameter = inspect.signature(OPTIMIZERS[optimizer]).parameters["weight_decay"]
    return None if parameter.default is parameter.empty else parameter.default

"""What a metric may be called: it becomes a column beside those that every result has."""

import re
from collections.abc import Iterable

# The coordinates, arrays and columns that results have. They are defined where they are made, by
# the simulator, of which this room knows nothing; a test compares the two. They are needed here,
# because a metric should be refused where it is named, and not hours later where it is recorded.
TAKEN = frozenset(
    {
        *("seed", "learning_rate", "weight_decay", "key"),
        *("step", "record", "snapshot", "tau", "intrinsic_rate"),
        *("clock_step", "clock_tau"),
        *("status", "final_step", "num_steps"),
        *("loss", "loss_mean", "loss_rises", "norm_squared", "gradient_norm", "step_angle"),
        *("effective_learning_rate", "threshold", "stability_line"),
        *("sharpness_iterate", "sharpness_midpoint", "sharpness_manifold"),
        *("hessian_sharpness", "preconditioned_sharpness"),
        *("edge_ratio", "edge_ratio_iterate", "edge_ratio_midpoint", "edge_ratio_manifold"),
    }
)

# variables of params and of optimizer states, and the dimensions of params that are one array
_OF_PARAMS = re.compile(r"(final_)?params(\..*|_+\d+)?|optimizer_state(\..*)?", re.DOTALL)


def is_of_params(name: str) -> bool:
    """Whether this is what arrays of params and of optimizer states, or dimensions, are called.

    Args:
      name: of a column.
    """
    return _OF_PARAMS.fullmatch(name) is not None


def is_text(name: object) -> bool:
    """Whether this is text that can be written down, of at least one character.

    Args:
      name: of a column, a metric or an observable.
    """
    if not isinstance(name, str) or not name:
        return False
    return not any("\ud800" <= character <= "\udfff" for character in name)


def require_free(argument: str, names: Iterable[str]) -> None:
    """Refuse names that a column of every result has, all of them at once.

    Args:
      argument: what to call it in the error.
      names: of metrics.

    Raises:
      ValueError: names that are taken, or cannot be written down.
    """
    taken = [name for name in names if not is_text(name) or name in TAKEN or is_of_params(name)]
    if taken:
        raise ValueError(
            f"{argument} has {', '.join(map(repr, taken))}; a metric is a column of the result, "
            "and may be any text but params, final_params, optimizer_state and "
            f"{', '.join(sorted(TAKEN))}: rename it, as in 'my_loss'"
        )

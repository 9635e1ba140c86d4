"""What the arrays of params are called in a dataset."""

from sharpflow.models import Params
from sharpflow.models.problem import parameter_paths


def parameter_names(params: Params, prefix: str) -> list[str]:
    """The variable of every leaf, ``prefix.path``.

    Args:
      params: a pytree; of params that are one array the name is ``prefix``.
      prefix: ``"params"`` for snapshots, ``"final_params"`` for the last ones.

    Returns:
      A name for every leaf, in their order.
    """
    return [f"{prefix}.{path}".rstrip(".") for path in parameter_paths(params, ".")]

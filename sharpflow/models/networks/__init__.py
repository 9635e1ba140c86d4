"""Networks whose loss is invariant to the scale of all that is trained."""

from sharpflow.models.networks.mlp import MLP, mlp

__all__ = ["MLP", "mlp"]

"""The residual and its Jacobian at a point: formed, through its Gram matrix, or by products."""

from sharpflow.theory.linearization.choice import is_costly, linearize, resolve_method
from sharpflow.theory.linearization.protocol import METHODS, Linearization, Method, Residual

__all__ = [
    "METHODS",
    "Linearization",
    "Method",
    "Residual",
    "is_costly",
    "linearize",
    "resolve_method",
]

"""Gradient descent with weight decay on scale-invariant losses, beside its predicted flow."""

from sharpflow import models, theory
from sharpflow.models.problem import Problem
from sharpflow.theory import FlowSolution, Status, sharpness_flow

__version__ = "0.1.0"

__all__ = [
    "FlowSolution",
    "Problem",
    "Status",
    "models",
    "sharpness_flow",
    "theory",
]

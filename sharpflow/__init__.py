"""Gradient descent with weight decay on scale-invariant losses, beside its predicted flow."""

from sharpflow import models, simulator, theory
from sharpflow.models.problem import Problem
from sharpflow.simulator import (
    Trajectory,
    compare,
    gdwd,
    predict,
    quasi_rmsprop,
    sharpness,
    simulate,
)
from sharpflow.theory import FlowSolution, Status, sharpness_flow

__version__ = "0.1.0"

__all__ = [
    "FlowSolution",
    "Problem",
    "Status",
    "Trajectory",
    "compare",
    "gdwd",
    "models",
    "predict",
    "quasi_rmsprop",
    "sharpness",
    "sharpness_flow",
    "simulate",
    "simulator",
    "theory",
]

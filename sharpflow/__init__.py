"""Gradient descent with weight decay on scale-invariant losses, beside its predicted flow."""

from sharpflow import models, simulator, theory
from sharpflow.models.problem import Problem
from sharpflow.simulator import (
    Trajectory,
    compare,
    gdwd,
    load,
    open_run,
    predict,
    quasi_rmsprop,
    sharpness,
    simulate,
    simulate_grid,
)
from sharpflow.theory import (
    CentralFlowSolution,
    FlowSolution,
    Status,
    central_flow,
    sharpness_flow,
)

__version__ = "0.1.0"

__all__ = [
    "CentralFlowSolution",
    "FlowSolution",
    "Problem",
    "Status",
    "Trajectory",
    "central_flow",
    "compare",
    "gdwd",
    "load",
    "models",
    "open_run",
    "predict",
    "quasi_rmsprop",
    "sharpness",
    "sharpness_flow",
    "simulate",
    "simulate_grid",
    "simulator",
    "theory",
]

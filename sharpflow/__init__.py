"""Gradient descent with weight decay on scale-invariant losses, beside its predicted flow."""

import importlib
from typing import TYPE_CHECKING, Any

from sharpflow import models, simulator, theory
from sharpflow.models.problem import Problem
from sharpflow.simulator import (
    Trajectory,
    compare,
    gdwd,
    load,
    open_run,
    predict,
    predict_grid,
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

if TYPE_CHECKING:
    from sharpflow import experiments
    from sharpflow.experiments import plots

__version__ = "0.1.0"

__all__ = [
    "CentralFlowSolution",
    "FlowSolution",
    "Problem",
    "Status",
    "Trajectory",
    "central_flow",
    "compare",
    "experiments",
    "gdwd",
    "load",
    "models",
    "open_run",
    "plots",
    "predict",
    "predict_grid",
    "quasi_rmsprop",
    "sharpness",
    "sharpness_flow",
    "simulate",
    "simulate_grid",
    "simulator",
    "theory",
]


def __getattr__(name: str) -> Any:
    """The last room and its ``plots`` are loaded when they are first used.

    Most who simulate draw nothing, and configs and reports are for the command line.
    """
    if name in ("experiments", "plots"):
        experiments = importlib.import_module("sharpflow.experiments")
        return experiments if name == "experiments" else experiments.plots
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """All public names, for those who complete them at a prompt."""
    return sorted({*globals(), *__all__})

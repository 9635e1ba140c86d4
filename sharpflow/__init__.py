"""Gradient descent with weight decay on scale-invariant losses, beside its predicted flow."""

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
    """``plots`` is loaded when it is first used: most who simulate draw nothing."""
    if name == "plots":
        from sharpflow.experiments import plots

        return plots
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """All public names, for those who complete them at a prompt."""
    return sorted({*globals(), *__all__})

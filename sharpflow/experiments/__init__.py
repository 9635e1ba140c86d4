"""How people run it: the command line, the demo, figures, and what grids tell."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sharpflow.experiments import config, plots, problems, report
    from sharpflow.experiments.late_generalization import generalization, generalization_summary

__all__ = [
    "config",
    "generalization",
    "generalization_summary",
    "plots",
    "problems",
    "report",
]

_FUNCTIONS = {
    "generalization": "late_generalization",
    "generalization_summary": "late_generalization",
}


def __getattr__(name: str) -> Any:
    """Each part is loaded when it is first used: who draws a figure needs no reader of configs."""
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(f"{__name__}.{_FUNCTIONS[name]}"), name)
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """All public names, for those who complete them at a prompt."""
    return sorted({*globals(), *__all__})

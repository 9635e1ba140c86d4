"""How people run it: the command line, the demo, figures."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sharpflow.experiments import config, plots, problems, report

__all__ = ["config", "plots", "problems", "report"]


def __getattr__(name: str) -> Any:
    """Each part is loaded when it is first used: who draws a figure needs no reader of configs."""
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """All public names, for those who complete them at a prompt."""
    return sorted({*globals(), *__all__})

"""Theory as measured statements: each part runs, fits, draws and judges."""

from sharpflow.experiments.checks import Check
from sharpflow.experiments.validate.findings import Findings

__all__ = ["Check", "Findings"]

"""One self-contained HTML page of a run, a demo or a validation."""

from sharpflow.experiments.report.write import write_report

__all__ = ["write_report"]

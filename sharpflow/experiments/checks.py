"""Measured statements and the table they are printed in."""

import dataclasses
import json
import math
from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from sharpflow.experiments.power_law import PowerLaw
from sharpflow.models.arguments import Kind, real

# Not known, and no bound, are numbers too.
_FIGURE = Kind("a number, which may be NaN or infinite", lambda value: real(value) is not None)


@dataclasses.dataclass(frozen=True)
class Check:
    """One measured statement.

    Attributes:
      part: of the run it belongs to.
      statement: what is measured, in a few words.
      measured: the figure.
      low, high: what is allowed; infinite where there is no bound.
      note: what else a reader wants to know, for instance a confidence interval.

    Raises:
      ValueError: a figure or a bound that is no number.
    """

    part: str
    statement: str
    measured: float
    low: float = -math.inf
    high: float = math.inf
    note: str = ""

    def __post_init__(self) -> None:
        for name in ("measured", "low", "high"):
            _FIGURE.require(name, getattr(self, name))

    @property
    def holds(self) -> bool | None:
        """Whether the figure is within its bounds; None where it has none."""
        if math.isinf(self.low) and math.isinf(self.high):
            return None
        # NaN compares as false, so that what could not be measured fails its bounds.
        return bool(self.low <= self.measured <= self.high)

    @property
    def allowed(self) -> str:
        """The bounds in words."""
        if math.isfinite(self.low) and math.isfinite(self.high):
            return f"{self.low:.4g} to {self.high:.4g}"
        if math.isfinite(self.high):
            return f"at most {self.high:.4g}"
        return f"at least {self.low:.4g}" if math.isfinite(self.low) else ""


def report(
    checks: Sequence[Check],
    out: Path,
    made: dict[str, object],
    command: str,
    options: str = "",
) -> None:
    """Print the statements and keep them in ``checks.json`` and ``checks.md``.

    Args:
      checks: the statements.
      out: an existing folder.
      made: how they were made: ``provenance()`` and ``seconds``.
      command: what made them.
      options: what it was given, with a space before.
    """
    took = f"{made['seconds']:.0f} s"
    caption = (
        f"`{command}{options}`, {str(made['created'])[:10]}, {made['device']}, "
        f"jax {made['jax_version']}, {took}."
    )
    write_json(checks, out / "checks.json", made)
    write_markdown(checks, out / "checks.md", caption)
    print_table(checks, f"{command}, {took}")


def print_table(checks: Sequence[Check], title: str) -> None:
    """Print the statements with their figures, part by part; failures stand out."""
    table = Table(title=title, title_justify="left", box=box.HORIZONTALS, pad_edge=False)
    table.add_column("statement")
    table.add_column("measured", justify="right")
    table.add_column("allowed")
    table.add_column("holds")
    part = ""
    for check in checks:
        mark = {None: "", True: "[green]yes[/green]", False: "[bold red]NO[/bold red]"}
        if check.part != part:
            table.add_section()
            table.add_row(f"[bold]{check.part}[/bold]")
        table.add_row(
            check.statement + (f" [dim]({check.note})[/dim]" if check.note else ""),
            f"{check.measured:.4g}",
            check.allowed,
            mark[check.holds],
        )
        part = check.part
    Console().print(table)


def exponent_check(
    part: str, statement: str, fit: PowerLaw, low: float = -math.inf, high: float = math.inf
) -> Check:
    """The exponent of a fitted power law as a statement, with its confidence interval.

    Args:
      part, statement, low, high: as of ``Check``.
      fit: the power law.
    """
    note = "95 % interval {:.2f} to {:.2f}".format(*fit.interval)
    return Check(part, statement, fit.exponent, low, high, note)


def write_markdown(checks: Sequence[Check], path: Path, caption: str) -> None:
    """Write the table as Markdown, for README."""
    lines = [
        caption,
        "",
        "| part | statement | measured | allowed | note |",
        "|---|---|---:|---|---|",
    ]
    for check in checks:
        mark = {None: check.note, True: check.note or "holds", False: f"**fails** {check.note}"}
        cells = (check.part, check.statement, f"{check.measured:.4g}", check.allowed,
                 mark[check.holds])  # fmt: skip
        lines.append("| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_json(checks: Sequence[Check], path: Path, attributes: dict[str, object]) -> None:
    """Write the statements and how they were made as JSON."""
    rows = [dataclasses.asdict(check) | {"holds": check.holds} for check in checks]
    for row in rows:
        # JSON has no infinity, and readers in other languages refuse the word that Python writes.
        row["low"], row["high"] = (
            None if math.isinf(value) else value for value in (row["low"], row["high"])
        )
    text = json.dumps({"made": attributes, "checks": rows}, indent=1) + "\n"
    path.write_text(text, encoding="utf-8")

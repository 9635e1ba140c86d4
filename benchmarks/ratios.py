"""The ratios that one run of the benchmarks found, in one table."""

import json
import math
from collections import Counter
from pathlib import Path

from sharpflow.experiments.checks import Check

# how their statements end, and how many of each a whole run has
RATIOS = {
    "import sharpflow / import jax": 1,
    "time of GD to τ = 2 / time of the flow, best of each": 2,
    "Hessian products / ours": 5,
    "time a record / ours": 5,
    "time added by λ₁ every 100 steps, of that without, best of each": 1,
    "XLA's time / ours": 1,
    "ours / PyTorch's, best of each": 4,
    "arithmetic / matrix product of n = 1024, best of each": 1,
    "time added, of that in memory, best of each": 1,
    "peak memory at 1,000,000 steps / at 1,000, median of each": 1,
}


def ratio_table(results: Path) -> str:
    """The ratios of a whole run, in Markdown.

    Args:
      results: the JSON that ``python -m benchmarks --peers PYTHON`` wrote.

    Raises:
      ValueError: a ratio is missing, as where peers or a benchmark were left out.
    """
    run = json.loads(results.read_text())
    found = Counter(
        ending
        for check in run["checks"]
        for ending in RATIOS
        if check["statement"].endswith(ending)
    )
    wrong = {
        end: f"{found[end]} of {count}" for end, count in RATIOS.items() if found[end] != count
    }
    if wrong:
        raise ValueError(f"{results} must have every ratio, and once; it has {wrong}")
    checks = [check for check in run["checks"] if check["statement"].endswith(tuple(RATIOS))]
    return _table(checks, run["made"], "make bench", results.name)


def vgg_table(results: Path) -> str:
    """What ``benchmarks/vgg.py`` measured, in Markdown.

    Args:
      results: the JSON that it wrote.
    """
    run = json.loads(results.read_text())
    name = f"{results.parent.name}/{results.name}"
    return _table(run["checks"], run["made"], "make bench-vgg", name)


def _table(checks: list[dict], made: dict, command: str, name: str) -> str:
    lines = [
        f"`{command}`, {made['created'][:10]}, {made['device']}, cores: {made['cores']}, "
        f"jax {made['jax_version']}: `benchmarks/results/{name}`.",
        "",
        "| of | ratio | measured | goal | |",
        "|---|---|---:|---|---|",
        *map(_row, checks),
    ]
    return "\n".join(lines)


def _row(row: dict) -> str:
    low = -math.inf if row["low"] is None else row["low"]
    high = math.inf if row["high"] is None else row["high"]
    check = Check(row["part"], row["statement"], row["measured"], low, high, row["note"])
    goal = check.allowed + (" (missed)" if check.holds is False else "")
    cells = (check.part, check.statement, f"{check.measured:.3g}", goal, check.note)
    return f"| {' | '.join(cells)} |"

"""The ratios that one run of the benchmarks found, in one table."""

import json
import math
from pathlib import Path

from sharpflow.experiments.checks import Check

# how their statements end
RATIOS = (
    "import sharpflow / import jax",
    "time of GD to τ = 2 / time of the flow, best of each",
    "Hessian products / ours",
    "time a record / ours",
    "time added by λ₁ every 100 steps, of that without, best of each",
    "XLA's time / ours",
    "ours / PyTorch's, best of each",
    "arithmetic / matrix product of n = 1024, best of each",
    "time added, of that in memory, best of each",
    "peak memory at 1,000,000 steps / at 1,000, median of each",
)


def ratio_table(results: Path) -> str:
    """The ratios of a whole run, in Markdown.

    Args:
      results: the JSON that ``python -m benchmarks --peers PYTHON`` wrote.

    Raises:
      ValueError: a ratio is missing, as where peers or a benchmark were left out.
    """
    run = json.loads(results.read_text())
    made = run["made"]
    lines = [
        f"`make bench`, {made['created'][:10]}, {made['device']}, cores: {made['cores']}, "
        f"jax {made['jax_version']}: `benchmarks/results/{results.name}`.",
        "",
        "| of | ratio | measured | goal | |",
        "|---|---|---:|---|---|",
    ]
    missing = set(RATIOS)
    for check in run["checks"]:
        found = {ending for ending in RATIOS if check["statement"].endswith(ending)}
        if found:
            missing -= found
            lines.append(_row(check))
    if missing:
        raise ValueError(f"{results} must have every ratio; it lacks {sorted(missing)}")
    return "\n".join(lines)


def _row(row: dict) -> str:
    low = -math.inf if row["low"] is None else row["low"]
    high = math.inf if row["high"] is None else row["high"]
    check = Check(row["part"], row["statement"], row["measured"], low, high, row["note"])
    goal = check.allowed + (" (missed)" if check.holds is False else "")
    cells = (check.part, check.statement, f"{check.measured:.3g}", goal, check.note)
    return f"| {' | '.join(cells)} |"

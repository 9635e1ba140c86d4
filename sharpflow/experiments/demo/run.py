"""The demo: three problems, one table, the figures and the numbers."""

import time
from pathlib import Path

from rich.console import Console

from sharpflow.experiments.checks import Check, report
from sharpflow.experiments.demo import circle, completion, digits, figures, linear
from sharpflow.experiments.demo.dataset import write_numbers
from sharpflow.simulator.provenance import launch_provenance


def run_demo(out: Path, *, quick: bool = False, progress: bool | None = None) -> int:
    """Run all parts; write figures, ``demo.nc``, ``checks.json`` and ``checks.md``.

    Args:
      out: an existing folder.
      quick: smaller problems and a shorter ladder.
      progress: whether to show progress bars; by default on a terminal.

    Returns:
      How many statements fail.
    """
    console, began = Console(), time.perf_counter()
    results = {}
    parts = (
        ("linear", "batch-norm linear regression against its exact solution", linear),
        ("completion", "matrix completion with and without weight decay", completion),
        ("digits", "batch-norm network on digits over a ladder of ηλ", digits),
    )
    for index, (name, title, part) in enumerate(parts, start=1):
        console.print(f"[bold]{index}/{len(parts)}[/bold] {title}")
        results[name] = part.run(quick=quick, progress=progress)
    console.print("drawing figures")
    shown = results["linear"], results["completion"], results["digits"], circle.run()
    drawn = figures.draw(*shown, out)
    made = launch_provenance() | {"quick": str(quick), "seconds": time.perf_counter() - began}
    numbers = write_numbers(*shown, made, out / "demo.nc")
    checks: list[Check] = [check for result in results.values() for check in result.checks]
    report(checks, out, made, "sharpflow demo", " --quick" if quick else "")
    console.print(f"figures: {', '.join(path.name for path in drawn)}; numbers: {numbers.name}")
    console.print(f"in {out}")
    return sum(check.holds is False for check in checks)

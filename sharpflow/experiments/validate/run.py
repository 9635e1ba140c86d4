"""Run parts of the validation, and keep what they find."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from sharpflow.experiments.checks import Check, report
from sharpflow.experiments.plots.drawing import save
from sharpflow.experiments.validate.findings import Findings
from sharpflow.experiments.validate.parts import DEFAULT, part_named
from sharpflow.models.arguments import ArgumentError, shown
from sharpflow.simulator.provenance import launch_provenance
from sharpflow.simulator.quantities import described, is_described, quantity_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def run_validation(names: Sequence[str], out: Path, *, progress: bool | None = None) -> list[Check]:
    """Run parts one after the other; write figures, numbers and ``checks`` into a folder.

    Args:
      names: of ``PARTS``, or ``"module:function"``; the default ones where there are none.
      out: folder, made where it is missing. A part writes its figures as PNG, its numbers as
        ``<part>.nc``, with ``-`` for a colon; all statements go to ``checks.json`` and
        ``checks.md``.
      progress: whether to show progress bars; by default on a terminal.

    Returns:
      The statements.

    Raises:
      ValueError: an unknown part, or two that would write the same file.
      OSError: the folder cannot be made.
    """
    # All parts before the first runs: a name with a mistake in it, the last of ten, shows at once.
    parts = {name: part_named(name) for name in names or DEFAULT}
    files = _files(parts)
    out.mkdir(parents=True, exist_ok=True)
    console, began = Console(), time.perf_counter()
    checks: list[Check] = []
    drawn: list[str] = []
    for index, (name, part) in enumerate(parts.items(), start=1):
        since = time.perf_counter()
        console.print(f"[bold]{index}/{len(parts)}[/bold] {escape(f'{name}: {part.title}')}")
        result = part.run(progress)
        if not isinstance(result, Findings):
            allowed = "sharpflow.experiments.validate.Findings"
            raise ArgumentError(f"what {name} returns", allowed, shown(result))
        made = launch_provenance() | {"part": name, "seconds": time.perf_counter() - since}
        told = {
            n: v.attrs for n, v in result.numbers.variables.items() if not is_described(v.attrs)
        }
        numbers = described(
            result.numbers, {str(n): quantity_of(str(n), a) for n, a in told.items()}
        )
        numbers = numbers.assign_attrs(made)
        numbers.to_netcdf(out / files[name], engine="h5netcdf")
        # After each part, so that what is done is kept where a later part fails or is interrupted.
        for title, figure in result.figures.items():
            # two parts may give one title, and neither is to lose its figure to the other
            free = f"{title}.png" not in drawn
            path = out / (f"{title}.png" if free else f"{Path(files[name]).stem}-{title}.png")
            drawn.append(_saved(figure, path))
        checks += result.checks
    made = launch_provenance() | {"parts": list(parts), "seconds": time.perf_counter() - began}
    report(checks, out, made, "sharpflow validate", "".join(f" {name}" for name in names))
    if drawn:
        console.print(f"figures: {', '.join(drawn)}")
    console.print(f"in {out}")
    return checks


def _files(names: Iterable[str]) -> dict[str, str]:
    """The file of the numbers of each part.

    Raises:
      ValueError: two parts that would write the same one.
    """
    files: dict[str, str] = {}
    for name in names:
        file = f"{name.replace(':', '-')}.nc"
        # a file system may take small and capital letters for the same
        other = next((n for n, known in files.items() if known.lower() == file.lower()), None)
        if other is not None:
            raise ValueError(
                f"PARTS: {other} and {name} would both write {file}: run them one after the other, "
                "each into a folder of its own, by --out"
            )
        files[name] = file
    return files


def _saved(figure: "Figure", path: Path) -> str:
    from matplotlib import pyplot

    save(figure, path)
    pyplot.close(figure)
    return path.name

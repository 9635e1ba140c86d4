"""The page of a demo or of a validation: statements, figures and, of a demo, the sphere."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sharpflow.experiments.checks import Check
from sharpflow.experiments.report.figures import embedded, is_whole
from sharpflow.experiments.report.page import Cell, Page, Sphere, Table, number, words
from sharpflow.models.files import read_json

_HEADS = ("part", "statement", "measured", "allowed", "holds", "note")
_DEMO = (
    "Three problems set against theory: batch-norm linear regression beside its exact solution, "
    "matrix completion with and without weight decay, and a batch-norm network on digits over a "
    "ladder of ηλ."
)
_VALIDATION = "What theory states, measured over ladders of the intrinsic rate ηλ."


def checked_page(folder: Path) -> Page:
    """The page of a folder that ``sharpflow demo`` or ``validate`` wrote.

    Raises:
      ValueError: its ``checks.json`` or ``demo.nc`` is damaged.
    """
    path = folder / "checks.json"
    try:
        stored = read_json(path)
        made, checks = dict(stored["made"]), [_check(row) for row in stored["checks"]]
        table = Table("statements-table", _HEADS, [_row(check) for check in checks])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read: {error!r}") from error
    is_demo = (folder / "demo.nc").is_file()
    numbers = sorted(file.name for file in folder.glob("*.nc"))
    command = _demo_command(made) if is_demo else _validation_command(made)
    spheres = _spheres(folder / "demo.nc") if is_demo else []
    pictures = [
        file
        for file in sorted(folder.iterdir())
        if file.suffix in (".png", ".svg") and not (spheres and file.stem == "sphere")
    ]
    damaged = [file.name for file in pictures if not is_whole(file)]
    figures = embedded(file for file in pictures if file.name not in damaged)
    return Page(
        title=f"sharpflow demo: {folder.absolute().name}"
        if is_demo
        else f"sharpflow validation: {folder.absolute().name}",
        sentence=_DEMO if is_demo else _VALIDATION,
        facts=_facts(checks, made),
        command=command,
        statements=table,
        notes=["A statement without allowed bounds is a figure for the reader, not a test."],
        provenance={"How it was made": {name: _text(value) for name, value in made.items()}},
        reading="import xarray\n\n"
        + "\n".join(f"print(xarray.open_dataset({name!r}))" for name in numbers),
        spheres=spheres,
        figures=figures,
        figure_note=f"Left out, since the file is damaged: {', '.join(damaged)}."
        if damaged
        else ""
        if figures
        else "The folder holds no figures.",
    )


def _check(stored: Mapping[str, Any]) -> Check:
    bounds = {name: stored[name] for name in ("low", "high") if stored[name] is not None}
    kept = {name: stored[name] for name in ("part", "statement", "measured", "note")}
    return Check(**kept, **bounds)


def _row(check: Check) -> list[Cell]:
    verdict = {None: Cell(""), True: Cell("yes", "yes", "holds"), False: Cell("NO", "NO", "fails")}
    return [
        words(check.part),
        words(check.statement, "statement"),
        number(check.measured),
        words(check.allowed),
        verdict[check.holds],
        words(check.note),
    ]


def _facts(checks: Sequence[Check], made: Mapping[str, Any]) -> dict[str, str]:
    held = [check.holds for check in checks if check.holds is not None]
    failed = held.count(False)
    return {
        "statements": f"{len(held) - failed} of {len(held)} hold"
        + (f", {failed} fail" if failed else "")
        + f"; {len(checks) - len(held)} figures without bounds",
        "made": f"{str(made.get('created', ''))[:10]} on {made.get('device', '?')}, "
        f"jax {made.get('jax_version', '?')}",
        "took": f"{float(made.get('seconds', 0.0)):.0f} s",
    }


def _demo_command(made: Mapping[str, Any]) -> str:
    return "sharpflow demo --quick" if made.get("quick") == "True" else "sharpflow demo"


def _validation_command(made: Mapping[str, Any]) -> str:
    return shlex.join(["sharpflow", "validate", *map(str, made.get("parts", []))])


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _spheres(path: Path) -> list[Sphere]:
    """The circle problem of the demo, where its points were kept."""
    import xarray

    try:
        with xarray.open_dataset(path, engine="h5netcdf") as stored:
            names = ("circle_trajectory", "circle_flow", "circle_manifold")
            if not all(name in stored for name in names):
                return []
            points, flow, manifold = (stored[name].values for name in names)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    title = "batch-norm linear regression with three features"
    return [Sphere(title, points, flow, manifold)]

"""``python -m benchmarks.accelerator.table FOLDER``: put the figures of a run into a page."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from benchmarks.accelerator import record
from benchmarks.accelerator.sections import SECTIONS
from benchmarks.tables import DOCS, put_table, renew_readme
from sharpflow.experiments.checks import Check

RESULTS = Path(__file__).parents[1] / "results" / "accelerator"
NAME = "the accelerator"
PAGE = DOCS / "howto-gpu.md"
NOTHING = "No GPU has run `make accelerator` yet: there is nothing to show."

# how the statements end that have a row without a goal, too
FIGURES = (
    "points·steps/s, best of 2",
    "ours / PyTorch's loop",
    "ours / PyTorch's vmap of 256",
    "ours / PyTorch's vmap of 4096",
    "share of the card's peak in the updates",
    "seconds a step",
    "seconds of the first step, which compiles",
    "most memory so far, GiB",
    "share of the card's peak",
    "time of λ₁ over that of 100 steps",
    "share of columns with the bits of a run in one piece",
    "the CPU's seconds over those here",
)


def accelerator_table(folder: Path | None) -> str:
    """What a run measured, in Markdown; that there is none where there is no folder.

    Args:
      folder: with the JSON of the sections, those that were run.

    Raises:
      ValueError: the folder has no results.
    """
    if folder is None:
        return NOTHING
    contents = [record.read_section(folder / f"{section.name}.json") for section in SECTIONS]
    known = [content for content in contents if content is not None and "made" in content]
    if not known:
        raise ValueError(f"{folder} has the results of no section")
    made = [_made(content["made"]) for content in known]
    lines = [
        f"`make accelerator`, {made[0]}: `benchmarks/results/accelerator/{folder.name}`.",
        "",
        "| of | statement | measured | goal | note |",
        "|---|---|---:|---|---|",
    ]
    for content, how in zip(known, made, strict=True):
        lines.append(_summary(content, [how] if how != made[0] else []))
        lines += (_row(check) for check in _shown(content))
    return "\n".join(lines)


def publish(folder: Path | None) -> None:
    """Put the table of a run into the page on GPUs, and its rows into README.

    Raises:
      ValueError: the folder is none of those that the page can name.
    """
    if folder is not None and folder.resolve().parent != RESULTS.resolve():
        raise ValueError(f"the page names a folder of {RESULTS}, got {folder}")
    put_table(PAGE, accelerator_table(folder), NAME)
    if folder is not None:
        renew_readme()


def named_folder() -> Path | None:
    """Of the results that the page shows; None where it says that there are none."""
    found = re.findall(r"`benchmarks/results/accelerator/([\w.-]+)`", PAGE.read_text())
    return RESULTS / found[0] if found else None


def _shown(content: record.Values) -> Iterator[Check]:
    """What the page has a row for: the figures, and whatever fails."""
    for check in record.checks_of(content):
        if check.holds is False or check.statement.endswith(FIGURES):
            yield check


def _made(made: record.Values) -> str:
    """When, on what and by which code a section was measured."""
    words = (made["created"][:10], made["device"], f"jax {made['jax_version']}")
    return ", ".join([*words, record.code_in_words(made)])


def _summary(content: record.Values, apart: list[str]) -> str:
    """How a section ended, and how many of its statements hold.

    Args:
      content: of its file.
      apart: how it was measured, where that differs from what stands above the table.
    """
    holds = [check.holds for check in record.checks_of(content) if check.holds is not None]
    notes = [f"{name}: {value}" for name, value in content.get("notes", {}).items()]
    notes += [f"failed: {name}" for name in content["failures"]]
    notes += [f"no time for: {name}" for name in content["left_out"]]
    share = f"{sum(holds)} of {len(holds)}" if holds else "none has a goal"
    state = f"{content['state']}, {content['seconds']:.0f} s"
    said = "; ".join([state, *apart, *notes])
    cells = (content["section"], "statements that hold", share, "", said)
    return f"| {' | '.join(cells)} |"


def _row(check: Check) -> str:
    goal = check.allowed + (" (missed)" if check.holds is False else "")
    note = check.note
    if check.statement.startswith("ours / "):
        # it begins with what the measurement itself is a ratio to
        peer = check.statement.removeprefix("ours / ")
        note = note.replace(";", f" points·steps/s of {peer};", 1)
    cells = (check.part, check.statement, f"{check.measured:.3g}", goal, note)
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="of the results; none says so")
    try:
        publish(parser.parse_args().folder)
    except ValueError as error:  # a folder without results, or with damaged ones
        parser.error(str(error))

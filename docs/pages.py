"""``python -m docs.pages``: draw pictures, make the notebook and tables.

A page is run as a reader would run it: its Python blocks from top to bottom, in one
namespace. What a block prints may stand below it as a ``text`` block; the figures
that it leaves open are the pictures that follow it, in their order. Both are
written here, and ``tests/test_documentation.py`` compares.
"""

import argparse
import base64
import contextlib
import io
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from nbformat import NotebookNode

DOCS = Path(__file__).resolve().parent
DRAWN = ("tutorial", "gallery")  # pages whose pictures their own code draws
NOTEBOOK = "tutorial"
NOTEBOOK_DPI = 100
QUANTITIES = "quantities"  # the page whose tables the package itself holds

FENCED = re.compile(
    r"^```(\w*)[^\n]*\n(.*?)^```[^\S\n]*$", re.MULTILINE | re.DOTALL
)
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PICTURE = re.compile(r"^!\[[^\]]*\]\(([^)]+)\)$", re.MULTILINE)


class Block(NamedTuple):
    """A block of code, and the text after it up to the next.

    Attributes:
      language: python, shell, console, toml, pycon, bibtex or text.
      code: what stands between the fences.
      after: the Markdown that follows.
    """

    language: str
    code: str
    after: str

    @property
    def pictures(self) -> list[str]:
        """Where the pictures lie that follow the block."""
        return PICTURE.findall(self.after)


class Ran(NamedTuple):
    """What a block printed, and the figures that it left open."""

    printed: str
    figures: "list[Figure]"


def blocks(text: str) -> list[Block]:
    """All blocks of a page."""
    parts = FENCED.split(text)[1:]
    return [Block(*parts[start : start + 3]) for start in range(0, len(parts), 3)]


def python_blocks(text: str) -> list[Block]:
    """The Python blocks of a page; what follows one reaches to the next of them."""
    parts = PYTHON.split(text)
    return [
        Block("python", *pair)
        for pair in zip(parts[1::2], parts[2::2], strict=True)
    ]


def run(codes: Sequence[str], name: str = "page") -> Iterator[Ran]:
    """Run blocks in one namespace; the figures of one are closed before the next.

    Files that they write land in the working directory.
    """
    from matplotlib import pyplot

    namespace = {"__name__": name}
    for number, code in enumerate(codes):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, f"{name}, Python block {number}", "exec"), namespace)
        yield Ran(
            printed.getvalue(),
            [pyplot.figure(label) for label in pyplot.get_fignums()],
        )
        pyplot.close("all")


def printed_below(block: Block) -> str | None:
    """What the page says that a block prints, or None where it says nothing."""
    found = FENCED.match(block.after.lstrip("\n"))
    return found[2] if found and found[1] == "text" else None


def with_printed(text: str, printed: Sequence[str]) -> str:
    """A page in which the texts below its blocks are what the blocks printed."""
    told = iter(printed)

    def renewed(found: re.Match) -> str:
        now = next(told)
        return found[0] if found[2] is None else f"{found[1]}\n\n```text\n{now}```"

    pattern = r"(^```python\n.*?^```)(\n\n```text\n.*?^```)?"
    return re.sub(pattern, renewed, text, flags=re.MULTILINE | re.DOTALL)


def notebook(
    text: str, outputs: "Sequence[list[NotebookNode]] | None" = None
) -> "NotebookNode":
    """A page as a notebook: its Python blocks are the code cells.

    Args:
      text: of the page.
      outputs: to be shown below each of the blocks; none by default.
    """
    from nbformat import v4

    parts = PYTHON.split(text)
    cells = []
    for place, part in enumerate(parts):
        if place % 2:
            number = place // 2
            cell = v4.new_code_cell(part.rstrip("\n"))
            if outputs is not None:
                cell.update(outputs=outputs[number], execution_count=number + 1)
        elif words := _for_notebook(part, after_code=place > 0):
            cell = v4.new_markdown_cell(words)
        else:
            continue
        cell.id = f"cell-{place}"  # the same whenever it is made
        cells.append(cell)
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return v4.new_notebook(
        cells=cells,
        metadata={"kernelspec": kernel, "language_info": {"name": "python"}},
    )


TABLE = re.compile(r"(<!-- quantities: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
HEADS = (
    "name",
    "label",
    "definition",
    "unit",
    "further dimensions",
    "compared with",
    "axis",
)


def with_quantities(text: str) -> str:
    """A page whose tables of quantities hold what the package says of them."""
    from sharpflow.experiments import generalization_quantities
    from sharpflow.simulator import (
        average,
        comparison_quantities,
        layers,
        observables,
        oscillation,
        quantities,
        spectra,
    )
    from sharpflow.simulator.grid import prediction_quantities

    tables = {
        "result": quantities.RESULT,
        "recorded": observables.COLUMNS,
        "metrics": observables.METRICS,
        "comparison": comparison_quantities.COMPARISON,
        "numbers": comparison_quantities.COMPARISON_NUMBERS,
        "average": average.AVERAGE,
        "predictions": prediction_quantities.PREDICTION,
        "oscillation": oscillation.OSCILLATION,
        "layers": layers.LAYERS,
        "spectra": spectra.SPECTRA,
        "generalization": generalization_quantities.GENERALIZATION,
    }

    def renewed(found: re.Match) -> str:
        rows = [HEADS, ["---"] * len(HEADS)]
        for each in tables[found[2]].values():
            beside, dims = each.reference, ", ".join(each.dims)
            if isinstance(beside, str):
                beside = f"`{beside}`"
            words = (each.label, each.definition, each.unit, dims)
            line = "" if beside is None else beside
            rows.append([f"`{each.name}`", *words, line, each.scale or ""])
        cells = [[str(cell).replace("|", r"\|") for cell in row] for row in rows]
        table = "".join(f"| {' | '.join(row)} |\n" for row in cells)
        return f"{found[1]}\n{table}\n{found[3]}"

    return TABLE.sub(renewed, text)


def _for_notebook(words: str, *, after_code: bool) -> str:
    """Markdown as Jupyter reads it, without what the outputs show."""
    if after_code:
        words = re.sub(
            r"\A\n*```text\n.*?^```$", "", words, flags=re.MULTILINE | re.DOTALL
        )
        words = PICTURE.sub("", words)
    words = re.sub(r"\\[()]", "$", words)
    words = re.sub(r"\\[\[\]]", "$$", words)
    words = re.sub(r"\[([^\]]+)\]\[[\w.]+\]", r"\1", words)  # links into the API
    return re.sub(r"\n{3,}", "\n\n", words).strip()


def _cell_outputs(ran: Ran) -> "list[NotebookNode]":
    from nbformat import v4

    shown = []
    if ran.printed:
        shown.append(v4.new_output("stream", name="stdout", text=ran.printed))
    for figure in ran.figures:
        picture = io.BytesIO()
        figure.savefig(
            picture, format="png", dpi=NOTEBOOK_DPI, metadata={"Software": None}
        )
        data = {"image/png": base64.b64encode(picture.getvalue()).decode()}
        shown.append(v4.new_output("display_data", data=data))
    return shown


def make(name: str) -> None:
    """Run a page; write its pictures, what it prints, and the notebook."""
    import nbformat
    from sharpflow.experiments.plots import save

    path = DOCS / f"{name}.md"
    text = path.read_text()
    page = python_blocks(text)
    printed, shown = [], []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for block, ran in zip(
            page, run([block.code for block in page], name), strict=True
        ):
            for picture, figure in zip(block.pictures, ran.figures, strict=True):
                save(figure, DOCS / picture)
            printed.append(ran.printed)
            shown.append(_cell_outputs(ran))
    text = with_printed(text, printed)
    path.write_text(text)
    if name == NOTEBOOK:
        nbformat.write(notebook(text, shown), path.with_suffix(".ipynb"))


def main() -> None:
    """Make the pages that are named, by default all that draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "pages", nargs="*", default=DRAWN, help=f"of {', '.join(DRAWN)}"
    )
    for name in parser.parse_args().pages:
        make(name)
    told = DOCS / f"{QUANTITIES}.md"
    told.write_text(with_quantities(told.read_text()))


if __name__ == "__main__":
    import matplotlib

    matplotlib.use("agg")
    main()

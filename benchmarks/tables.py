"""``python -m benchmarks.tables TABLE``: put a table into a page of the documentation."""

import argparse
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"
DOCS = Path(__file__).parents[1] / "docs"
VALIDATION = "the validation"
SHOWN = "these pages"  # whose tables README shows some rows of
PAGES = ("validation.md", "howto-gpu.md")
END = "<!-- end of the table -->\n"


def put_table(page: Path, table: str, name: str) -> None:
    """Replace what stands between the marks of a table.

    Args:
      page: has the mark ``<!-- table of {name} -->`` and, after it, the end mark.
      table: in Markdown.
      name: of what printed it.
    """
    begin = f"<!-- table of {name} -->\n"
    head, rest = page.read_text().split(begin)
    _, tail = rest.split(END, 1)
    page.write_text(f"{head}{begin}\n{table.strip()}\n\n{END}{tail}")


def renew_rows(page: Path, table: str, name: str) -> None:
    """Renew those rows of a table that a page shows by what another table says of them.

    Args:
      page: has the mark ``<!-- rows of {name} -->`` and, after it, the end mark.
      table: in Markdown; a row is known by its first two cells.
      name: of what printed it.

    Raises:
      KeyError: a row of the page is none of the table.
    """
    begin = f"<!-- rows of {name} -->\n"
    head, rest = page.read_text().split(begin)
    shown, tail = rest.split(END, 1)
    renewed = {_statement(line): line for line in table.splitlines() if line.startswith("|")}
    rows = "".join(
        f"{renewed[_statement(line)]}\n" if line.startswith("|") else f"{line}\n"
        for line in shown.splitlines()
    )
    page.write_text(f"{head}{begin}{rows}{END}{tail}")


def renew_readme() -> None:
    """Renew the rows of README by what the pages say now."""
    renew_rows(README, "".join((DOCS / page).read_text() for page in PAGES), SHOWN)


def _statement(row: str) -> tuple[str, ...]:
    """What a row is about: its first two cells."""
    return tuple(cell.strip() for cell in row.split("|")[1:3])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path, help="what the demo or the validation wrote")
    page = "by default the one on validation"
    parser.add_argument("--page", type=Path, default=DOCS / "validation.md", help=page)
    parser.add_argument("--name", default="the demo", help="as in the mark: table of ...")
    asked = parser.parse_args()
    put_table(asked.page, asked.table.read_text(), asked.name)
    if asked.name == VALIDATION:
        renew_readme()

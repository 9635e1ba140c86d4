"""``python -m benchmarks.tables TABLE``: put a table into a page of the documentation."""

import argparse
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path, help="what the demo or the validation wrote")
    page = "by default the one on validation"
    parser.add_argument("--page", type=Path, default=DOCS / "validation.md", help=page)
    parser.add_argument("--name", default="the demo", help="as in the mark: table of ...")
    asked = parser.parse_args()
    put_table(asked.page, asked.table.read_text(), asked.name)

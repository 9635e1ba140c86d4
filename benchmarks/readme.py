"""``python -m benchmarks.readme runs/demo/checks.md``: put a printed table into README."""

import argparse
from pathlib import Path

BEGIN, END = "<!-- table of the demo -->\n", "<!-- end of the table -->\n"


def replace_table(text: str, table: str) -> str:
    """README with what stands between its two marks replaced."""
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    return f"{head}{BEGIN}\n{table.strip()}\n\n{END}{tail}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table", type=Path, help="what the demo wrote")
    readme = Path(__file__).parents[1] / "README.md"
    readme.write_text(replace_table(readme.read_text(), parser.parse_args().table.read_text()))

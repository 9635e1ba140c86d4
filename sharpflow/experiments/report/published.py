"""Published numbers beside those of the run: a part of a page."""

import tomllib
from typing import TYPE_CHECKING

from sharpflow.experiments.config.published import read_published
from sharpflow.experiments.published import HEADS, beside
from sharpflow.experiments.report.page import Cell, Table, words

if TYPE_CHECKING:
    import xarray


def published_table(dataset: "xarray.Dataset", config: str | None) -> Table | None:
    """Each published number of the config beside what was measured; None where there are none.

    Args:
      dataset: of the run.
      config: the text of its config, or None.
    """
    if config is None:
        return None
    # what is wrong with a config is told where it is loaded; here it only leaves the table away
    numbers, _ = read_published(tomllib.loads(config).get("published", []))
    if not numbers:
        return None
    rows = [
        [words(what, "statement"), words(where), Cell(number, number, "number"), words(here),
         words(source)]
        for what, where, number, here, source in (each.row for each in beside(dataset, numbers))
    ]  # fmt: skip
    return Table("published-table", HEADS, rows)

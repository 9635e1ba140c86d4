"""What a report holds, before it is written as HTML."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Cell:
    """An entry of a table.

    Attributes:
      text: as it is shown.
      value: what rows are sorted by, a number or a text; None sorts last.
      kind: ``"number"``, ``"text"``, ``"statement"``, ``"holds"`` or ``"fails"``.
      link: where it leads, ``"#point-3"``.
    """

    text: str
    value: float | str | None = None
    kind: str = "text"
    link: str | None = None


@dataclasses.dataclass(frozen=True)
class Table:
    """A table whose columns can be sorted.

    Attributes:
      name: its id in the page.
      heads: of the columns.
      rows: of cells, as many as heads.
    """

    name: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]


@dataclasses.dataclass(frozen=True)
class Figure:
    """A picture.

    Attributes:
      name: of its file, without suffix.
      caption: what is seen in it.
      source: itself, as a data URI.
      size: width and height, in pixels or points.
    """

    name: str
    caption: str
    source: str
    size: tuple[int, int]

    @property
    def is_wide(self) -> bool:
        """Whether it takes the whole width of a page."""
        return self.size[0] > 1.8 * self.size[1]


@dataclasses.dataclass(frozen=True)
class Sphere:
    """A trajectory on the unit sphere.

    Attributes:
      title: whose.
      points: θ_t, shape (T, 3).
      flow: ζ(τ), shape (S, 3), or None.
      manifold: Γ, shape (G, 3), or None.
      dimension: d; only for 3 the picture is exact.
    """

    title: str
    points: np.ndarray
    flow: np.ndarray | None = None
    manifold: np.ndarray | None = None
    dimension: int = 3


@dataclasses.dataclass(frozen=True)
class Generalization:
    """What becomes of test metrics after the training data are fitted.

    Attributes:
      figures: that show it.
      table: the changes with their intervals.
      notes: how to read the tables, and what is not in them.
      predicted: what was measured beside what is predicted, where anything is.
    """

    figures: Sequence[Figure]
    table: Table
    notes: Sequence[str]
    predicted: Table | None = None


@dataclasses.dataclass(frozen=True)
class Page:
    """A report.

    Attributes:
      title, sentence: what was run.
      facts: what a reader wants to know first, by name.
      command: makes it again.
      statements: what theory says beside what was measured; None of a published setting of which
        it says nothing.
      notes: on the statements: what they mean, and what is absent and why.
      provenance: tables of how it was made, by name.
      reading: Python that reads the numbers.
      command_note: what the command needs, where that is not in the folder.
      config: text of the config, or None.
      published: numbers of papers beside those of the run, or None.
      grid: a row for each point, or None.
      generalization: what comes first on the page, where the run can tell of it.
      curves: of the points, for the page's script, or None.
      curve_note: how they were thinned.
      spheres: trajectories on the sphere.
      figures: all pictures.
      figure_note: why there are none, or which are left out.
    """

    title: str
    sentence: str
    facts: Mapping[str, str]
    command: str
    statements: Table | None
    notes: Sequence[str]
    provenance: Mapping[str, Mapping[str, str]]
    reading: str
    command_note: str = ""
    config: str | None = None
    published: Table | None = None
    grid: Table | None = None
    generalization: Generalization | None = None
    curves: Mapping[str, Any] | None = None
    curve_note: str = ""
    spheres: Sequence[Sphere] = ()
    figures: Sequence[Figure] = ()
    figure_note: str = ""


def number(value: float, text: str | None = None) -> Cell:
    """A number to four digits; a dash, sorted last, where it is none."""
    value = float(value)
    if not np.isfinite(value):
        return Cell("–", None, "number")
    return Cell(shown(value) if text is None else text, value, "number")


def shown(value: float) -> str:
    """A number to four digits, an integer in full."""
    if float(value).is_integer() and abs(value) < 1e9:
        return f"{int(value)}"
    return f"{value:.4g}"


def words(text: str, kind: str = "text") -> Cell:
    """A text, sorted as one."""
    return Cell(text, text, kind)

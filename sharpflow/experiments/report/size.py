"""A page that is not too large to send: its curves give way."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from sharpflow.experiments.report.curves import FEWEST_BUCKETS, envelope, packed, times
from sharpflow.experiments.report.page import Page, Table

LARGEST = 8_000_000  # bytes


def fitted(page: Page, size: int, largest: int = LARGEST) -> Page:
    """The page with curves of fewer values, then of fewer points, until it is small enough.

    Args:
      page: what was too large.
      size: of its file, in bytes.
      largest: that the file may have. Where even no curves are too many it is larger.

    Returns:
      The page, with a note that says what it lost; itself where it is small enough.
    """
    if size <= largest or not page.curves or not page.curves["points"]:
        return page
    points, said = page.curves["points"], [page.curve_note]
    room, halvings = largest - (size - _bytes(points)), 0
    while _bytes(points) > room and max(len(p["step"]) for p in points) > 4 * FEWEST_BUCKETS:
        points, halvings = [_halved(point) for point in points], halvings + 1
    if halvings:
        said.append(f"To keep the page small they have {2**halvings} times fewer values still.")
    ends = np.cumsum([_bytes(point) + 1 for point in points])
    kept = int(np.searchsorted(ends, room, side="right"))
    if kept < len(points):
        said.append(f"Only the first {kept} points have curves: the page would be too large.")
    return dataclasses.replace(
        page,
        curves={**page.curves, "points": points[:kept]},
        curve_note=" ".join(said),
        grid=None if page.grid is None else _linked(page.grid, kept),
    )


def _bytes(value: Any) -> int:
    return len(json.dumps(value, separators=(",", ":")))


def _halved(point: Mapping[str, Any]) -> dict[str, Any]:
    """The curves of a point with the extremes of four values in place of those of two."""
    columns = {
        name: packed(envelope(np.array(values, float), 4))
        for name, values in point["columns"].items()
    }
    tau = None if point["tau"] is None else packed(times(np.array(point["tau"], float), 4))
    step = [int(value) for value in times(np.array(point["step"]), 4)]
    return {**point, "step": step, "tau": tau, "columns": columns}


def _linked(grid: Table, count: int) -> Table:
    """The table with links of its first rows alone."""
    rows = [
        row if number < count else [dataclasses.replace(cell, link=None) for cell in row]
        for number, row in enumerate(grid.rows)
    ]
    return dataclasses.replace(grid, rows=rows)

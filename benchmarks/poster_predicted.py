"""``python -m benchmarks.poster_predicted RUN``: put the poster with its prediction into its page.

``make poster`` makes the run first, of the preset ``poster-mlp-predicted``. The page is
docs/poster.md, and the figure lies in docs/figures.
"""

import argparse
from pathlib import Path

import numpy as np
import xarray

import sharpflow as sf
from benchmarks.poster import FIGURES, PAGE, SHOWN, table_of_changes
from benchmarks.tables import put_table
from sharpflow.experiments.late_predictions import late_comparisons

# Of the sharpness too, which has no row of its own in the table of changes.
_DIGITS = SHOWN | {"sharpness_midpoint": ".0f"}


def main() -> None:
    """Renew the figure and the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of poster-mlp-predicted")
    run = sf.open_run(parser.parse_args().run).load()
    panels = sf.plots.generalization_panel(run)
    sf.plots.save(panels[0].figure, FIGURES / "poster-predicted.png")
    put_table(PAGE, table_of_changes(run), "poster-mlp-predicted changes")
    put_table(PAGE, table_of_predictions(run), "poster-mlp-predicted")


def table_of_predictions(run: xarray.Dataset) -> str:
    """What was measured beside what is predicted, and where the prediction leaves the band."""
    rows = ["| | | measured | predicted | 95 % band | records inside | leaves at τ | until τ |",
            "|---|---|---:|---:|---:|---:|---:|---:|"]  # fmt: skip
    for each in late_comparisons(run):
        if (digits := _DIGITS.get(each.name)) is None:
            continue
        leaves = "–" if np.isnan(each.leaves_at) else f"{each.leaves_at:.2f}"
        rows.append(
            f"| {each.curve.words} | {each.name.replace('_', ' ')} | {each.measured:{digits}} | "
            f"{each.predicted:{digits}} | {each.low:{digits}} to {each.high:{digits}} | "
            f"{100.0 * each.inside:.0f} % | {leaves} | {each.ends_at:.2f} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    main()

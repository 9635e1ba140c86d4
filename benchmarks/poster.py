"""``python -m benchmarks.poster RUN SEARCH PLAIN``: put what the poster's runs show into its page.

``make poster`` makes the runs first, of the presets ``poster-mlp`` and ``poster-mlp-search``. The
page is docs/poster.md, and its figures lie in docs/figures.
"""

import argparse
from pathlib import Path

import numpy as np
import xarray
from matplotlib.figure import Figure

import sharpflow as sf
from benchmarks.tables import DOCS, put_table
from sharpflow.experiments.grid_summary import last_values
from sharpflow.experiments.late_generalization import curves

PAGE, FIGURES = DOCS / "poster.md", DOCS / "figures"
# What is told of every curve, and with how many digits.
SHOWN = {"test_accuracy": ".4f", "test_error": ".3f", "threshold": ".0f"}
# A search ends with this training accuracy, the mean of its last tenth, or its rates are no choice.
FITTED = 0.999
SHOWN_RATES = 5


def main() -> None:
    """Renew the page and its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="folder of poster-mlp")
    parser.add_argument("search", type=Path, help="folder of poster-mlp-search")
    parser.add_argument("plain", type=Path, help="folder of the search without normalization")
    asked = parser.parse_args()
    run, search, plain = (
        sf.open_run(folder).load() for folder in (asked.run, asked.search, asked.plain)
    )
    panels = sf.plots.generalization_panel(run)
    sf.plots.save(panels[0].figure, FIGURES / "poster.png")
    put_table(PAGE, table_of_changes(run), "poster-mlp")
    sf.plots.save(search_maps(search), FIGURES / "poster-search.png")
    points = sf.plots.sharpness_against_error(as_validation(search))
    sf.plots.save(points.figure, FIGURES / "poster-flatter.png")
    put_table(PAGE, table_of_choices(search, plain), "poster-mlp-search")


def table_of_changes(run: xarray.Dataset) -> str:
    """Every curve at its fit and at its end, and the change with its interval over seeds."""
    changes = sf.experiments.generalization(run)
    rows = ["| | | at the fit | at the end | change | 95 % interval | seeds |",
            "|---|---|---:|---:|---:|---:|---:|"]  # fmt: skip
    for curve in curves(run):
        words = curve.words
        for name, digits in SHOWN.items():
            at = changes.sel(quantity=name).isel(curve.place)
            fit, end, change, low, high = (
                float(at[column])
                for column in (
                    "mean_at_fit", "mean_at_end", "mean_change", "change_low", "change_high"
                )
            )  # fmt: skip
            if not curve.is_normalized and name == "threshold":
                continue  # of the direction of weights whose scale matters
            if not int(at.num_seeds):
                rows.append(f"| {words} | {name.replace('_', ' ')} | | | | no seed fits | 0 |")
                words = ""
                continue
            rows.append(
                f"| {words} | {name.replace('_', ' ')} | {fit:{digits}} | {end:{digits}} | "
                f"{change:+{digits}} | {low:+{digits}} to {high:+{digits}} | {int(at.num_seeds)} |"
            )
            words = ""
    return "\n".join(rows)


def as_validation(search: xarray.Dataset) -> xarray.Dataset:
    """The search with its metrics called by what they are of, for figures."""
    named = {
        f"test_{metric}": search[f"test_{metric}"].assign_attrs(long_name=f"validation {metric}")
        for metric in ("error", "accuracy")
    }
    return search.assign(named)


def search_maps(search: xarray.Dataset) -> Figure:
    """Error and accuracy on the images held out, over both rates."""
    from matplotlib import pyplot

    with sf.plots.style():
        figure, axes = pyplot.subplots(1, 2, figsize=(7.0, 2.6), layout="constrained")
        for ax, name in zip(axes, ("test_error", "test_accuracy"), strict=True):
            sf.plots.heat_map(as_validation(search), name, ax)
    return figure


def table_of_choices(search: xarray.Dataset, plain: xarray.Dataset) -> str:
    """Rates whose every seed fits to the end, by the error on the images held out, best first."""
    survives = (plain.status == sf.Status.SUCCESS).all(["seed", "weight_decay", "normalization"])
    grid = search.squeeze("normalization")
    fitted = (last_values(grid, "train_accuracy") >= FITTED).all("seed")
    held_out = {name: last_values(grid, name) for name in ("test_error", "test_accuracy")}
    means = xarray.Dataset(held_out).mean("seed").where(fitted)
    rates = means.stack(rates=["learning_rate", "weight_decay"]).dropna("rates")
    rows = ["| η | λ | validation error | validation accuracy | without normalization |",
            "|---:|---:|---:|---:|---|"]  # fmt: skip
    for place in np.argsort(rates.test_error.values)[:SHOWN_RATES]:
        (eta, decay), at = rates.rates.values[place], rates.isel(rates=place)
        error, accuracy = float(at.test_error), float(at.test_accuracy)
        words = "trains" if bool(survives.sel(learning_rate=eta)) else "diverges"
        rows.append(f"| {eta:g} | {decay:g} | {error:.3f} | {accuracy:.4f} | {words} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()

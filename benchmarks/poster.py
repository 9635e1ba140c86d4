"""``python -m benchmarks.poster PRESET RUN SEARCH PLAIN``: show a poster's runs in its page.

``make poster`` and ``make poster-vgg`` make the runs first, of the presets ``poster-mlp`` and
``poster-vgg`` and their searches. The page is docs/poster.md, and its figures lie in docs/figures.
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
from sharpflow.models.representation import duration_in_words
from sharpflow.simulator.store.folder import RunFolder

PAGE, FIGURES = DOCS / "poster.md", DOCS / "figures"
# What the names of a preset's figures begin with; README shows the first of poster-mlp.
STEMS = {"poster-mlp": "poster", "poster-vgg": "poster-vgg"}
# What is told of every curve, and with how many digits.
SHOWN = {"test_accuracy": ".4f", "test_error": ".3f", "threshold": ".0f"}
# A search ends with this training accuracy, the mean of its last tenth, or its rates are no choice.
FITTED = 0.999
SHOWN_RATES = 5
ROUNDING = 1e-6  # of a training accuracy in single precision


def main() -> None:
    """Renew the part of the page that is of one preset, and its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset", choices=STEMS)
    parser.add_argument("run", type=Path, help="folder of the preset")
    parser.add_argument("search", type=Path, help="folder of its search")
    parser.add_argument("plain", type=Path, help="folder of the search without normalization")
    asked = parser.parse_args()
    folders = {"the run": asked.run, "its search": asked.search,
               "the search without normalization": asked.plain}  # fmt: skip
    run, search, plain = (sf.open_run(folder).load() for folder in folders.values())
    named, stem = as_validation(search), STEMS[asked.preset]
    figures = {
        "": sf.plots.generalization_panel(run)[0].figure,
        "-search": search_maps(named),
        "-flatter": sf.plots.sharpness_against_error(named).figure,
    }
    for part, figure in figures.items():
        sf.plots.save(figure, FIGURES / f"{stem}{part}.png")
    pictures = {part: f"![{words}](figures/{stem}{part}.png)" for part, words in PICTURES.items()}
    tables = {
        "": f"{pictures['']}\n\n{table_of_changes(run)}\n\n{times_in_words(folders)}",
        "-search": f"{pictures['-search']}\n\n{table_of_choices(search, plain)}",
        "-flatter": f"{pictures['-flatter']}\n\n{table_after_fit(search)}",
    }
    for part, table in tables.items():
        put_table(PAGE, table, f"{asked.preset}{part}")


PICTURES = {
    "": "Test accuracy, test error and threshold after training accuracy 1",
    "-search": "Validation error and accuracy over learning rate and weight decay",
    "-flatter": "Validation error against the threshold at the end of the search",
}


def times_in_words(folders: dict[str, Path]) -> str:
    """How long each run took, on what and when, where all of its launches say it."""
    said = []
    for name, folder in folders.items():
        # a launch that found nothing left to do has predicted no memory, and no seconds either
        launches = [
            made for made in RunFolder(folder).launches() if "predicted_memory_bytes" in made
        ]
        seconds = [made.get("seconds") for made in launches]
        if not launches or None in seconds:  # made by an earlier version, or killed
            said.append(f"{name} does not know its time")
            continue
        made = launches[-1]
        by = f"{made['device']}, jax {made['jax_version']}, {made['created'][:10]}"
        said.append(f"{name} took {duration_in_words(sum(seconds))} ({by})")
    return f"By the clock {'; '.join(said)}."


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


def search_maps(named: xarray.Dataset) -> Figure:
    """Error and accuracy on the images held out, over both rates; of ``as_validation``."""
    from matplotlib import pyplot

    with sf.plots.style():
        figure, axes = pyplot.subplots(1, 2, figsize=(7.0, 2.6), layout="constrained")
        for ax, name in zip(axes, ("test_error", "test_accuracy"), strict=True):
            sf.plots.heat_map(named, name, ax)
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


def table_after_fit(search: xarray.Dataset) -> str:
    """What happens at each pair of rates after the fit: how far the fit is lost, and what follows.

    A destabilisation of the kind that the poster of the paper shows is a training accuracy that
    falls far below 1 after it was there, and a test accuracy that is higher than before at the end.
    """
    grid = search.squeeze("normalization")
    fitted = grid["train_accuracy"] >= 1.0 - ROUNDING
    is_after = fitted.cumsum("step") > 0
    columns = {
        "lowest": grid["train_accuracy"].where(is_after).min("step"),
        "before": grid["test_accuracy"].isel(step=fitted.argmax("step")).where(fitted.any("step")),
        "end": last_values(grid, "test_accuracy").where(fitted.any("step")),
    }
    over_seeds = xarray.Dataset(columns).mean("seed").assign(lowest=columns["lowest"].min("seed"))
    rows = ["| η | λ | seeds that fit | lowest training accuracy after it | "
            "validation accuracy at the fit | at the end |",
            "|---:|---:|---:|---:|---:|---:|"]  # fmt: skip
    for eta in grid.learning_rate.values:
        for decay in grid.weight_decay.values:
            rates = {"learning_rate": eta, "weight_decay": decay}
            fits, at = fitted.sel(rates).any("step"), over_seeds.sel(rates)
            values = [float(at[name]) for name in columns]
            cells = ["" if np.isnan(value) else f"{value:.3f}" for value in values]
            head = f"| {eta:g} | {decay:g} | {int(fits.sum())} of {fits.size} |"
            rows.append(f"{head} {' | '.join(cells)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()

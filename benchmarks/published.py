"""``python -m benchmarks.published FOLDER``: put runs of published settings into their page.

``make published`` makes the runs first, each in a folder of the name of its preset. The page is
docs/published.md, and its figures lie in docs/figures. A preset of which there is no run keeps the
table that it has.
"""

import argparse
from pathlib import Path

import numpy as np
import xarray
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import sharpflow as sf
from benchmarks.tables import DOCS, put_table
from sharpflow.experiments.config import load
from sharpflow.experiments.grid_summary import is_diverged, is_pending, last_values
from sharpflow.experiments.published import beside

PAGE, FIGURES = DOCS / "published.md", DOCS / "figures"
BESIDE = (
    *("tanh-cifar10-small", "central-flow-cifar10", "central-flow-cifar10-small"),
    *("central-flow-sorting-small", "chebyshev-regression"),
    *("matrix-factorization", "matrix-factorization-two-factors"),
)


def main() -> None:
    """Renew the page and its figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of the runs")
    folder = parser.parse_args().folder
    every = {
        path.name: sf.open_run(path).load()
        for path in sorted(folder.iterdir())
        if (path / "run.json").is_file()
    }
    runs = {name: run for name, run in every.items() if not is_pending(run).any()}
    for name in BESIDE:
        if name in runs:
            put_table(PAGE, table_of_numbers(runs[name], name), name)
    for name, table in (
        ("diagonal-network", table_of_step_sizes),
        ("three-regimes", table_of_regimes),
        ("three-regimes-mlp", table_of_network_regimes),
    ):
        if name in runs:
            put_table(PAGE, f"{table(runs[name])}\n\n{made_at(runs[name])}", name)
    if {"tanh-cifar10-small", "chebyshev-regression", "matrix-factorization"} <= runs.keys():
        sf.plots.save(sharpness_panels(runs), FIGURES / "published-sharpness.png")
    if {"three-regimes", "three-regimes-mlp"} <= runs.keys():
        figure = regime_panels(runs["three-regimes"], runs["three-regimes-mlp"])
        sf.plots.save(figure, FIGURES / "published-regimes.png")


def made_at(run: xarray.Dataset) -> str:
    """When and on what a run was made, as a sentence."""
    made = run.attrs
    return f"*{made['created'][:10]}, device {made['device']}, jax {made['jax_version']}.*"


def table_of_numbers(run: xarray.Dataset, name: str) -> str:
    """The published numbers of a preset beside those of its run."""
    rows = ["| quantity | where | published | here |", "|---|---|---:|---:|"]
    rows += [
        "| " + " | ".join(entry.row[:-1]) + " |" for entry in beside(run, load(name).published)
    ]
    return "\n".join(rows) + f"\n\n{made_at(run)}"


def table_of_step_sizes(run: xarray.Dataset) -> str:
    """The diagonal network over its step sizes."""
    ratio = run.assign(ratio=run.hessian_sharpness.isel(hessian_sharpness_0=0) / run.stability_line)
    last = {name: last_values(ratio, name).squeeze() for name in ("ratio", "loss", "test_error",
                                                                  "gain")}  # fmt: skip
    rows = ["| η | sharpness / stability line | training loss | ‖β − β*‖² | gain |",
            "|---:|---:|---:|---:|---:|"]  # fmt: skip
    rows += [
        f"| {rate:g} | {last['ratio'][place]:.3f} | {last['loss'][place]:.1e} | "
        f"{last['test_error'][place]:.4f} | {last['gain'][place]:.2f} |"
        for place, rate in enumerate(run.learning_rate.values)
    ]
    return "\n".join(rows)


def table_of_regimes(run: xarray.Dataset) -> str:
    """The loss of the groups on the sphere beside its closed form."""
    total = sum(load("three-regimes").problem_options["weights"])
    loss, ratio = (last_values(run, name).squeeze() for name in ("loss_mean", "edge_ratio_iterate"))
    rows = ["| η̃ | mean loss, of the seeds | period of two | edge ratio |",
            "|---:|---:|---:|---:|"]  # fmt: skip
    for place, rate in enumerate(run.learning_rate.values):
        low, high = (float(end(loss[:, place])) for end in (np.min, np.max))
        told = f"{low:.4f}" if f"{low:.4f}" == f"{high:.4f}" else f"{low:.4f} to {high:.4f}"
        expected = period_two_loss(total, rate)
        rows.append(f"| {rate:g} | {told} | {expected:.4f} | {float(ratio[:, place].mean()):.4g} |")
    return "\n".join(rows)


def period_two_loss(total: float, rate: float) -> float:
    """(Σα − 2/η̃)/4 above η̃ = 2/Σα, and 0 below."""
    return max(0.0, (total - 2.0 / rate) / 4.0)


def table_of_network_regimes(run: xarray.Dataset) -> str:
    """Loss, accuracy and edge ratio of the network, means over the seeds."""
    names = ("loss_mean", "train_accuracy", "edge_ratio_iterate")
    means = [last_values(run, name).squeeze().mean("seed", skipna=True) for name in names]
    lost = is_diverged(run).squeeze().sum("seed")
    rows = ["| η̃ | mean loss | training accuracy | edge ratio | seeds that diverged |",
            "|---:|---:|---:|---:|---:|"]  # fmt: skip
    for place, rate in enumerate(run.learning_rate.values):
        values = " | ".join(f"{float(mean[place]):.3g}" for mean in means)
        rows.append(f"| {rate:g} | {values} | {int(lost[place])} |")
    return "\n".join(rows)


def sharpness_panels(runs: dict[str, xarray.Dataset]) -> Figure:
    """The sharpness of three settings against step, with 2/η of each learning rate."""
    from matplotlib import pyplot

    degree = {"degree": 5, "seed": 0}
    shown = [
        ("tanh-cifar10-small", {}, "Tanh network, CIFAR-10", None),
        ("chebyshev-regression", degree, "Chebyshev polynomial, degree 5", None),
        ("matrix-factorization", {}, "Product of four numbers", 600),
    ]
    with sf.plots.style():
        figure, axes = pyplot.subplots(1, 3, figsize=(7.0, 2.5), layout="constrained")
        for ax, (name, chosen, title, end) in zip(axes, shown, strict=True):
            _draw_sharpness(ax, runs[name].sel(chosen), end)
            ax.set_title(title)
        axes[0].set_ylabel(r"sharpness $\lambda_1(\nabla^2 L)$")
    return figure


def _draw_sharpness(ax: Axes, run: xarray.Dataset, end: int | None) -> None:
    for number, rate in enumerate(run.learning_rate.values):
        line = run.sel(learning_rate=rate).squeeze()
        sharpness = line.hessian_sharpness.isel(hessian_sharpness_0=0, missing_dims="ignore")
        ax.plot(run.step, sharpness, color=f"C{number}", label=rf"$\eta = {rate:.3g}$")
        ax.axhline(2.0 / rate, color=f"C{number}", linestyle="--", linewidth=0.8)
    ax.set_xlabel("step $t$")
    ax.set_xlim(0, end)
    ax.set_ylim(0, None)
    ax.legend()


def regime_panels(groups: xarray.Dataset, network: xarray.Dataset) -> Figure:
    """The mean loss at the end against the effective learning rate, of groups and of a network."""
    from matplotlib import pyplot

    total = sum(load("three-regimes").problem_options["weights"])
    with sf.plots.style():
        figure, axes = pyplot.subplots(1, 2, figsize=(7.0, 2.6), layout="constrained")
        rates = np.geomspace(0.05, 80.0, 400)
        expected = [period_two_loss(total, rate) for rate in rates]
        axes[0].plot(
            rates,
            expected,
            color="0.5",
            label=r"period of two, $\frac{1}{4}(\sum\alpha - 2/\tilde\eta)$",
        )
        axes[0].axvline(
            2.0 / total, color="0.5", linestyle=":", label=r"$\tilde\eta = 2/\sum\alpha$"
        )
        axes[0].axhline(
            total / 4.0,
            color="0.5",
            linestyle="--",
            label=r"random directions, $\frac{1}{4}\sum\alpha$",
        )
        _draw_ends(axes[0], groups)
        axes[0].set_title("Scale-invariant groups")
        axes[0].set_ylabel("mean loss at the end")
        axes[0].legend()
        _draw_ends(axes[1], network)
        axes[1].set_yscale("log")
        axes[1].set_title("Batch-norm network on digits")
    return figure


def _draw_ends(ax: Axes, run: xarray.Dataset) -> None:
    loss = last_values(run, "loss_mean").squeeze()
    for seed in range(loss.sizes["seed"]):
        ax.plot(run.learning_rate, loss[seed], "o", color="C0", markersize=3, alpha=0.7)
    ax.set_xscale("log")
    ax.set_xlabel(r"effective learning rate $\tilde\eta$")


if __name__ == "__main__":
    main()

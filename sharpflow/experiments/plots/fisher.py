"""The largest eigenvalue of the Fisher information of wide random networks."""

from typing import TYPE_CHECKING, Any

import numpy as np

from sharpflow.experiments.plots import drawing
from sharpflow.experiments.plots.quantities import label as label_of
from sharpflow.experiments.plots.quantities import shown_quantity

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# of the palette of Okabe and Ito; the markers tell them apart in black and white
_LOOKS: list[tuple[str, str]] = [
    (drawing.MEASURED, "o"),
    (drawing.OTHER, "s"),
    ("#56b4e9", "^"),
    (drawing.PREDICTED, "D"),
    ("#e69f00", "v"),
]


def fisher_panels(numbers: "xarray.Dataset") -> "Figure":
    """Draw λ_max against M at T = M and at few samples, and against T/M, in every mode.

    Args:
      numbers: ``largest_equal`` and ``largest_few`` of dims (mode, width, seed),
        ``largest_ratio`` (mode, ratio, seed), the five modes with the two of the last
        layer at the end, the same without seeds as ``predicted_equal``
        and so on, and the attributes ``few_samples`` and ``ratio_width``.

    Returns:
      The figure, as wide as a page.
    """

    with drawing.in_force():
        from matplotlib import pyplot

        figure, axes = pyplot.subplots(
            1, 3, figsize=(drawing.PAGE[0], 3.1), layout="constrained", sharey=True
        )
        few, width = numbers.attrs["few_samples"], numbers.attrs["ratio_width"]
        panels = [
            ("equal", "width", "$T = M$"),
            ("few", "width", f"$T = {few}$"),
            ("ratio", "ratio", f"$M = {width}$"),
        ]
        for ax, (name, along, title) in zip(axes, panels, strict=True):
            largest_eigenvalues(numbers, name, along, ax)
            ax.set_xlabel(label_of(shown_quantity(numbers, along)))
            ax.set_title(title)
        axes[0].set_ylabel(r"largest eigenvalue $\lambda_{\max}$ of $F$")
        drawing.log_axis(axes[0], "y")
        for ax, (_, along, _) in zip(axes, panels, strict=True):
            _powers_of_two(ax, np.asarray(numbers[along]))
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3, columnspacing=1.4)
        for ax in axes:
            drawing.keep_tick_fonts(ax)
    return figure


def largest_eigenvalues(numbers: "xarray.Dataset", name: str, along: str, ax: "Axes") -> None:
    """Draw one series of sizes: every seed, the geometric mean of seeds, and the theory.

    Args:
      numbers: as in ``fisher_panels``.
      name: of the series, ``"equal"``, ``"few"`` or ``"ratio"``.
      along: its coordinate.
      ax: where to draw.
    """
    x = np.asarray(numbers[along])
    for (color, marker), mode in zip(_LOOKS, numbers["mode"].values, strict=True):
        values = np.asarray(numbers[f"largest_{name}"].sel(mode=mode))
        points: dict[str, Any] = {"linestyle": "none", "marker": marker, "color": color}
        ax.plot(x, values, **points, markersize=2.2, alpha=0.45, markeredgewidth=0.0)
        ax.plot(
            x,
            np.exp(np.log(values).mean(axis=1)),
            color=color,
            marker=marker,
            markersize=4.2,
            linewidth=1.1,
            markeredgecolor="white",
            markeredgewidth=0.5,
            label=str(mode),
        )
    theory: dict[str, Any] = {"color": drawing.THRESHOLD, "linewidth": 1.3, "zorder": 3.0}
    *sharp, bound, _ = np.asarray(numbers[f"predicted_{name}"])  # the two bounds coincide
    for index, values in enumerate(sharp):
        label = "_nolegend_" if index else "predicted"
        ax.plot(x, values, linestyle=(0, (4, 2)), **theory, label=label)
    ax.plot(x, bound, linestyle=(0, (1, 1.2)), **theory, label="lower bound, last layer")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")


def _powers_of_two(ax: "Axes", ticks: np.ndarray) -> None:
    """Label every tick of a width, every other one of a ratio, as people write them."""
    from matplotlib import ticker

    shown = ticks if ticks.min() >= 1.0 else ticks[::2]
    ax.xaxis.set_major_locator(ticker.FixedLocator(list(shown)))
    ax.xaxis.set_minor_locator(ticker.NullLocator())
    text = [f"{tick:g}" if tick >= 1.0 else f"1/{1.0 / tick:g}" for tick in shown]
    ax.xaxis.set_major_formatter(ticker.FixedFormatter(text))

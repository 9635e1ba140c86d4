"""The density of the eigenvalues at some steps of a trajectory."""

from typing import TYPE_CHECKING

import numpy as np

from sharpflow.experiments.plots import drawing
from sharpflow.experiments.plots.arguments import AX
from sharpflow.experiments.plots.quantities import label, shown_quantity
from sharpflow.models.arguments import POSITIVE, ArgumentError, checked, of_lazy_type

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes

_SPECTRA = of_lazy_type("xarray", "Dataset", "an xarray.Dataset, as measure_spectra returns it")


@checked(spectra=_SPECTRA, ax=AX, least=POSITIVE)
def spectral_densities(
    spectra: "xarray.Dataset", ax: "Axes | None" = None, *, least: float = 0.1
) -> "Axes":
    """Draw the density of the eigenvalues at each step, with its interval and the threshold.

    The number of eigenvalues per width is on a logarithmic axis, which a single outlier shares with
    the bulk. A dotted line in the colour of its step is the threshold λ*.

    Args:
      spectra: what ``sharpflow.simulator.measure_spectra`` returned; of many snapshots take a few,
        as by ``spectra.isel(step=[0, 5, -1])``.
      ax: where to draw; by default on a new figure.
      least: the lower end of the axis, in eigenvalues per width.

    Returns:
      The axes.

    Raises:
      ValueError: a dataset that ``measure_spectra`` did not make, or without a finite density.
    """
    if not {"density", "density_low", "density_high", "curvature"} <= set(spectra.variables):
        got = f"a dataset with {sorted(map(str, spectra))}"
        raise ArgumentError("spectra", _SPECTRA.allowed, got)
    if not np.any(np.isfinite(spectra["density_high"])):
        steps = spectra["step"].values.tolist()
        raise ArgumentError(
            "spectra", "of snapshots with a finite density", f"steps {steps} without one"
        )
    x = spectra["curvature"].values
    # eigenvalues within one width, which a reader can count, in place of a share of them all
    scale = spectra.attrs["dimension"] * spectra.attrs["width"]
    with drawing.styled(ax) as ax:
        for index in range(spectra.sizes["step"]):
            one = spectra.isel(step=index)
            color = drawing.SEVERAL[index % len(drawing.SEVERAL)]
            low, middle, high = (
                scale * one[name].values for name in ("density_low", "density", "density_high")
            )
            # an interval that begins at zero has no end on this axis
            low = np.maximum(low, 1e-3 * least)
            ax.fill_between(x, low, np.maximum(high, low), color=color, alpha=0.25, linewidth=0)
            ax.plot(x, middle, color=color, label=f"step {int(one.step)}")
            if "threshold" in spectra:
                ax.axvline(float(one.threshold), color=color, linestyle=(0, (1, 1.2)))
        if "threshold" in spectra:
            ax.plot([], [], color=drawing.THRESHOLD, linestyle=(0, (1, 1.2)), label="threshold λ*")
        ax.set_yscale("log")
        # by itself the axis would reach as far up as the tails of a Gaussian reach down
        ax.set_ylim(least, 3.0 * max(scale * float(spectra["density_high"].max()), least))
        ax.set_xlabel(label(shown_quantity(spectra, "curvature")))
        ax.set_ylabel("eigenvalues per width σ")
        drawing.legend_above(ax)
    return ax

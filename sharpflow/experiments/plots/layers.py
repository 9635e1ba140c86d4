"""The layers of a network against time: by how much a step turns each."""

from typing import TYPE_CHECKING

import numpy as np

from sharpflow.experiments.plots import drawing
from sharpflow.experiments.plots.arguments import AX
from sharpflow.experiments.plots.quantities import label, shown_quantity
from sharpflow.models.arguments import COUNT, ArgumentError, checked, of_lazy_type

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes

_LAYERS = of_lazy_type("xarray", "Dataset", "an xarray.Dataset, as measure_layers returns it")


@checked(layers=_LAYERS, ax=AX, window=COUNT)
def layer_angles(layers: "xarray.Dataset", ax: "Axes | None" = None, *, window: int = 1) -> "Axes":
    """Draw the angle of a step of each layer against flow time, beside what is predicted for it.

    The dotted line is √(2ηλ), the rotational equilibrium, which all layers reach where the drift
    has come to rest.

    Args:
      layers: what ``sharpflow.simulator.measure_layers`` returned.
      ax: where to draw; by default on a new figure.
      window: rows that make one point of a line, in root mean square. Several eigenvalues at the
        edge oscillate in bursts, and a mean over many of them is what theory predicts.

    Returns:
      The axes.

    Raises:
      ValueError: a dataset that ``measure_layers`` did not make.
    """
    if not {"step_angle", "tau", "layer"} <= set(layers.variables):
        raise ArgumentError("layers", _LAYERS.allowed, f"a dataset with {sorted(map(str, layers))}")
    tau = _mean(layers["tau"].values, window)
    quantity = shown_quantity(layers, "step_angle")
    with drawing.styled(ax) as ax:
        for index, name in enumerate(layers["layer"].values):
            one = layers.isel(layer=index)
            color = drawing.SEVERAL[index % len(drawing.SEVERAL)]
            # The part of a name before its last key tells most layers apart, and is short.
            said = str(name).removesuffix(".kernel")
            ax.plot(
                tau,
                np.sqrt(_mean(one["step_angle"].values ** 2, window)),
                color=color,
                linewidth=2.6,
                alpha=0.45,
                label=said,
            )
            if "predicted_step_angle" in one:
                # in the colour of what it predicts, on a line that is wide and pale enough for both
                ax.plot(
                    tau,
                    np.sqrt(_mean(one["predicted_step_angle"].values ** 2, window)),
                    **drawing.DASHED | {"color": color},
                    label="_nolegend_",
                )
        if "predicted_step_angle" in layers:
            ax.plot([], [], **drawing.DASHED | {"color": drawing.THRESHOLD}, label="predicted")
        if "equilibrium_angle" in layers.attrs:
            ax.axhline(
                layers.attrs["equilibrium_angle"],
                color=drawing.THRESHOLD,
                linestyle=(0, (1, 1.2)),
                label=r"$\sqrt{2\eta\lambda}$",
            )
        drawing.time_axis(ax)
        known = layers["step_angle"].values
        if np.any(known[np.isfinite(known)] > 0.0):
            drawing.log_axis(ax, "y")
        ax.set_ylabel(label(quantity))
        drawing.legend_above(ax)
    return ax


def _mean(values: np.ndarray, window: int) -> np.ndarray:
    """Of so many rows each; those that are left over at the end are left out."""
    count = len(values) // window
    return values[: count * window].reshape(count, window).mean(axis=1)

"""How far a trajectory is from what was predicted for it."""

from typing import TYPE_CHECKING

import numpy as np

from sharpflow.experiments.plots import drawing
from sharpflow.experiments.plots.arguments import AX, FIT, VECTOR
from sharpflow.experiments.plots.cells import axis_label
from sharpflow.experiments.plots.quantities import label
from sharpflow.experiments.power_law import PowerLaw
from sharpflow.models.arguments import FINITE, array, checked, optional, require_alike
from sharpflow.simulator.comparison_quantities import COMPARISON

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@checked(intrinsic_rates=array(1, above=0), errors=array(missing=True), fit=FIT, ax=AX)
def tracking_error(
    intrinsic_rates: np.ndarray,
    errors: np.ndarray,
    fit: PowerLaw | None = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw tracking errors against ηλ on log axes, with a fitted power law.

    Args:
      intrinsic_rates: ηλ, shape (n,).
      errors: ‖Φ(θ_t) − ζ(τ)‖ or relative to the distance moved, shape (n,) or (n, seeds).
      fit: has ``exponent``, ``interval`` (low, high) and ``prefactor``.
      ax: where to draw; by default on a new figure.

    Returns:
      The axes.

    Raises:
      ValueError: arrays of lengths that do not belong together.
    """
    rates, errors = np.asarray(intrinsic_rates), np.asarray(errors)
    if errors.ndim not in (1, 2) or len(errors) != len(rates):
        raise ValueError(
            f"errors must have shape ({len(rates)},) or ({len(rates)}, seeds) as intrinsic_rates, "
            f"got {errors.shape}"
        )
    with drawing.styled(ax) as ax:
        ax.plot(
            rates,
            errors,
            linestyle="none",
            marker="o",
            markersize=4.5,
            markerfacecolor=drawing.MEASURED,
            markeredgecolor="white",
            markeredgewidth=0.5,
            label=_once("measured", errors),
        )
        if fit is not None:
            low, high = fit.interval
            ends = np.array([rates.min(), rates.max()])
            ax.plot(
                ends,
                fit.prefactor * ends**fit.exponent,
                **drawing.DASHED,
                zorder=1.5,
                label=rf"$\propto(\eta\lambda)^{{{fit.exponent:.2f}}}$, "
                rf"exponent in $[{low:.2f},\,{high:.2f}]$",
            )
        ax.set_xlabel(axis_label("intrinsic_rate"))
        ax.set_ylabel("tracking error")
        drawing.log_axis(ax, "x")
        drawing.log_axis(ax, "y")
        drawing.legend_above(ax)
    return ax


def _once(label: str, columns: np.ndarray) -> str | list[str]:
    """A label for the first of several columns that are drawn as one."""
    return label if columns.ndim == 1 else [label] + ["_nolegend_"] * (columns.shape[1] - 1)


@checked(tau=VECTOR, flow_error=VECTOR, single_error=VECTOR, ax=AX, crossing=optional(FINITE))
def single_edge_failure(
    tau: np.ndarray,
    flow_error: np.ndarray,
    single_error: np.ndarray,
    ax: "Axes | None" = None,
    *,
    crossing: float | None = None,
) -> "Axes":
    """Draw the relative error of the flow and of the flow of a single eigenvalue against τ.

    The axis ends at 100 %, the error of a prediction that nothing moves.

    Args:
      tau: flow time, shape (T,).
      flow_error: ‖Φ(θ_t) − ζ(τ)‖ over the distance moved, shape (T,).
      single_error: the same for the formula that knows one eigenvalue, shape (T,).
      ax: where to draw; by default on a new figure.
      crossing: τ at which the second eigenvalue reaches the edge, marked.

    Returns:
      The axes.

    Raises:
      ValueError: arrays of lengths that do not belong together.
    """
    from matplotlib import ticker

    for name, values in {"flow_error": flow_error, "single_error": single_error}.items():
        require_alike(name, np.asarray(values), "tau", np.asarray(tau))
    with drawing.styled(ax) as ax:
        ax.plot(
            np.asarray(tau), np.asarray(single_error), **drawing.DOTTED, label="single-edge flow"
        )
        ax.plot(np.asarray(tau), np.asarray(flow_error), **drawing.DASHED, label="predicted flow")
        drawing.time_axis(ax)
        if crossing is not None:
            drawing.mark(ax, crossing, r"$\lambda_2=\lambda_1$")
        ax.set_ylabel(label(COMPARISON["relative_error"]))
        largest = np.nanmax([np.nanmax(flow_error), np.nanmax(single_error)])
        ax.set_ylim(0.0, min(1.05 * largest, 1.0))
        ax.yaxis.set_major_formatter(ticker.PercentFormatter(1.0))
        drawing.legend_above(ax)
    return ax

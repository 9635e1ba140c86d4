"""Sharpness at the Edge of Stability: measured, predicted and where they meet."""

from typing import TYPE_CHECKING

import numpy as np

from sharpflow.experiments.plots import style
from sharpflow.experiments.plots.arguments import AX, DATASET, RECORD, TWO_VECTORS, require_columns
from sharpflow.experiments.plots.quantities import label, shown_quantity, symbol
from sharpflow.models.arguments import FINITE, checked, optional
from sharpflow.simulator.comparison import COMPARISON
from sharpflow.simulator.quantities import RESULT
from sharpflow.simulator.trajectory import Trajectory
from sharpflow.theory.flow import FLOW, FlowSolution

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes


@checked(
    comparison=DATASET,
    flow=optional(FLOW),
    ax=AX,
    trajectory=optional(RECORD),
    single_edge=optional(TWO_VECTORS),
)
def sharpness_and_threshold(
    comparison: "xarray.Dataset",
    flow: FlowSolution | None = None,
    ax: "Axes | None" = None,
    *,
    trajectory: "Trajectory | xarray.Dataset | None" = None,
    single_edge: tuple[np.ndarray, np.ndarray] | None = None,
) -> "Axes":
    """Draw λ_1(Φ(θ_t)) and the threshold λ* against τ, with their prediction over them.

    Args:
      comparison: what ``sharpflow.compare`` returns.
      flow: the prediction, drawn at its own T times; by default the prediction inside
        ``comparison``, at the times of that.
      ax: where to draw; by default on a new figure.
      trajectory: draws the threshold at every record of it, from step 0.
      single_edge: τ and λ_1 of the flow of a single eigenvalue, shapes (S,) and (S,).

    Returns:
      The axes.

    Raises:
      ValueError: a trajectory or dataset without the columns that are drawn.
    """
    require_columns("comparison", comparison, "tau", "sharpness", "threshold")
    require_entry(comparison)
    if trajectory is not None:
        require_columns("trajectory", trajectory, "threshold")
    if flow is None:
        require_columns("comparison", comparison, "predicted_sharpness", "predicted_threshold")
        names = ("tau", "predicted_sharpness", "predicted_threshold")
        tau, sharpness, threshold = (np.asarray(comparison[name]) for name in names)
    else:
        drawn = (flow.tau, flow.eigenvalues[:, 0], flow.threshold)
        tau, sharpness, threshold = (np.asarray(values) for values in drawn)
    measured = comparison if trajectory is None else trajectory
    with style.styled(ax) as ax:
        ax.plot(
            np.asarray(measured.tau),
            np.asarray(measured["threshold"]),
            **style.LINE | {"linewidth": 2.4},
            label=f"{symbol(shown_quantity(comparison, 'threshold'))} measured",
        )
        ax.plot(
            np.asarray(comparison["tau"]),
            np.asarray(comparison["sharpness"]),
            **style.SOLID,
            label=f"{symbol(COMPARISON['sharpness'])} measured",
        )
        ax.plot(tau, threshold, **style.DASHED)
        ax.plot(tau, sharpness, **style.DASHED, label="predicted flow")
        if single_edge is not None:
            ax.plot(*map(np.asarray, single_edge), **style.DOTTED, label="single-edge flow")
        style.time_axis(ax)
        mark_predicted_entry(ax, comparison)
        ax.set_ylabel(r"sharpness $\lambda_1$, threshold $\lambda^{\ast}$")
        style.log_axis(ax, "y")
        ax.legend()
    return ax


def require_entry(comparison: "xarray.Dataset") -> None:
    """Refuse a dataset without what ``compare`` says of the entry.

    Args:
      comparison: what ``sharpflow.compare`` returns.

    Raises:
      ValueError: names the attributes that are missing.
    """
    missing = {"predicted_entry_step", "intrinsic_rate"} - comparison.attrs.keys()
    if missing:
        raise ValueError(
            f"comparison must be what sharpflow.compare returns, got no attribute {sorted(missing)}"
        )


def mark_predicted_entry(ax: "Axes", comparison: "xarray.Dataset") -> None:
    """A vertical line at the predicted entry into the Edge of Stability."""
    tau = comparison.attrs["predicted_entry_step"] * comparison.attrs["intrinsic_rate"]
    style.mark(ax, tau, "predicted entry", style.PREDICTED)


@checked(trajectory=RECORD, ax=AX, entry_step=optional(FINITE))
def edge_of_stability(
    trajectory: "Trajectory | xarray.Dataset",
    ax: "Axes | None" = None,
    *,
    entry_step: float | None = None,
) -> "Axes":
    """Draw λ_1(∇²L(w_t)) at the iterates against step, with the line 2/η.

    Args:
      trajectory: with the columns ``hessian_sharpness``, shape (T, k), of which the
        largest is drawn, and ``stability_line``, shape (T,).
      ax: where to draw; by default on a new figure.
      entry_step: marked, where it is given.

    Returns:
      The axes.

    Raises:
      ValueError: a trajectory or dataset without the columns that are drawn.
    """
    require_columns("trajectory", trajectory, "hessian_sharpness", "stability_line")
    step = np.asarray(trajectory.step)
    sharpness = shown_quantity(trajectory, "hessian_sharpness")
    with style.styled(ax) as ax:
        ax.plot(
            step,
            np.asarray(trajectory["hessian_sharpness"])[:, 0],
            **style.FINE,
            label=symbol(sharpness),
        )
        line = shown_quantity(trajectory, "stability_line")
        ax.plot(step, np.asarray(trajectory[line.name]), **style.LINE, label=symbol(line))
        style.time_axis(ax, label(RESULT["step"]))
        if entry_step is not None:
            style.mark(ax, entry_step, "entry")
        ax.set_ylabel(label(sharpness))
        style.log_axis(ax, "y")
        ax.legend()
    return ax


@checked(flow=FLOW, measured=optional(RECORD), ax=AX)
def edge_eigenvalues(
    flow: FlowSolution,
    measured: "Trajectory | xarray.Dataset | None" = None,
    ax: "Axes | None" = None,
) -> "Axes":
    """Draw the eigenvalues of the flow over the threshold, λ_i/λ*, as they reach the edge.

    Args:
      flow: the prediction, k eigenvalues at T times.
      measured: what ``sharpflow.compare`` returns, or a trajectory with the columns
        ``sharpness_manifold``, shape (S, j), and ``threshold``, shape (S,); its ratios
        are drawn under the predicted ones.
      ax: where to draw; by default on a new figure.

    Returns:
      The axes.

    Raises:
      ValueError: a trajectory or dataset without the columns that are drawn.
    """
    ratios = np.asarray(flow.eigenvalues) / np.asarray(flow.threshold)[:, None]
    with style.styled(ax) as ax:
        ax.axhline(1.0, **style.LINE)
        if measured is not None:
            name = "eigenvalues" if "eigenvalues" in measured else "sharpness_manifold"
            require_columns("measured", measured, name, "threshold")
            measured_eigenvalues = np.asarray(measured[name])
            measured_ratios = measured_eigenvalues / np.asarray(measured["threshold"])[:, None]
            for index, ratio in enumerate(measured_ratios.T):
                ax.plot(
                    np.asarray(measured.tau),
                    ratio,
                    **style.FINE
                    | {"color": style.shade(style.MEASURED, index, measured_ratios.shape[1])},
                    label="measured" if index == 0 else None,
                )
        for index, ratio in enumerate(ratios.T):
            ax.plot(
                np.asarray(flow.tau),
                ratio,
                **style.DASHED | {"color": style.shade(style.PREDICTED, index, ratios.shape[1])},
                label="predicted flow" if index == 0 else None,
            )
        style.time_axis(ax)
        ax.set_ylabel(r"edge ratios $\lambda_i/\lambda^{\ast}$")
        ax.legend(**style.ABOVE)
    return ax

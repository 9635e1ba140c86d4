"""Sharpness at the Edge of Stability: measured, predicted and where they meet."""

from typing import TYPE_CHECKING

import numpy as np

from sharpflow.experiments.grid_summary import SHARPNESSES
from sharpflow.experiments.plots import drawing
from sharpflow.experiments.plots.arguments import AX, RECORD, TWO_VECTORS, require_columns
from sharpflow.experiments.plots.quantities import joint_label, label, shown_quantity, symbol
from sharpflow.experiments.plots.record import Record, has_flow_time, record_of
from sharpflow.models.arguments import FINITE, checked, optional
from sharpflow.simulator.comparison_quantities import COMPARISON
from sharpflow.simulator.quantities import RESULT
from sharpflow.simulator.trajectory import Trajectory
from sharpflow.theory.flow import FLOW, FlowSolution

if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes


@checked(
    comparison=RECORD,
    flow=optional(FLOW),
    ax=AX,
    trajectory=optional(RECORD),
    single_edge=optional(TWO_VECTORS),
)
def sharpness_and_threshold(
    comparison: "Trajectory | xarray.Dataset",
    flow: FlowSolution | None = None,
    ax: "Axes | None" = None,
    *,
    trajectory: "Trajectory | xarray.Dataset | None" = None,
    single_edge: tuple[np.ndarray, np.ndarray] | None = None,
) -> "Axes":
    """Draw the sharpness λ_1 and the threshold λ* against τ, with their prediction over them.

    Args:
      comparison: what ``sharpflow.compare`` returns, of which λ_1(Φ(θ_t)) is drawn; or a
        trajectory alone, its dataset or a grid of one point, of which it is the recorded
        sharpness nearest to Γ, against steps where there is no flow time.
      flow: the prediction, drawn at its own T times; by default the prediction inside
        ``comparison``, at the times of that, and none of a trajectory alone.
      ax: where to draw; by default on a new figure.
      trajectory: draws the threshold at every record of it, from step 0.
      single_edge: τ and λ_1 of the flow of a single eigenvalue, shapes (S,) and (S,).

    Returns:
      The axes.

    Raises:
      ValueError: a trajectory or dataset without the columns that are drawn, or a flow beside a
        trajectory without flow time.
    """
    if isinstance(comparison, Trajectory) or "sharpness" not in comparison:
        measured, of_comparison = record_of("comparison", comparison), False
        sharpness = measured.quantity(_recorded_sharpness(measured))
    else:
        require_columns("comparison", comparison, "tau", "sharpness", "threshold")
        require_entry(comparison)
        measured, of_comparison = Record(comparison, "tau"), True
        sharpness = COMPARISON["sharpness"]
    threshold = str(sharpness.reference)
    require_columns("comparison", measured.dataset, threshold)
    holder = measured
    if trajectory is not None:
        require_columns("trajectory", trajectory, threshold)
        holder = record_of("trajectory", trajectory, measured.clock)
    predicted = _prediction(measured, flow, of_comparison)
    if (predicted or single_edge is not None) and not has_flow_time(measured.dataset):
        raise ValueError("comparison has no flow time tau, so that no flow has a place beside it")
    words = sharpness, holder.quantity(threshold)
    with drawing.styled(ax) as ax:
        # The line is what the rule tells at the present norm: nobody has measured it.
        ax.plot(*holder.curve(threshold), **drawing.BESIDE, label=symbol(words[1]))
        label = f"{symbol(words[0])} measured"
        ax.plot(*measured.curve(sharpness.name), **drawing.SOLID, label=label)
        for place, values in enumerate(predicted[1:]):
            shown = "_" if place == 0 else "predicted flow"
            ax.plot(predicted[0], values, **drawing.DASHED, label=shown)
        if single_edge is not None:
            ax.plot(*map(np.asarray, single_edge), **drawing.DOTTED, label="single-edge flow")
        drawing.time_axis(ax, measured.time_label)
        if of_comparison:
            mark_predicted_entry(ax, measured.dataset, measured.clock)
        drawing.label_height(ax, joint_label(words))
        drawing.log_axis(ax, "y")
        drawing.legend_above(ax)
    return ax


def _recorded_sharpness(record: Record) -> str:
    """The sharpness nearest to Γ that was recorded.

    Raises:
      ValueError: there is none.
    """
    recorded = [name for name in SHARPNESSES if name in record]
    if not recorded:
        raise ValueError(
            "comparison must be what sharpflow.compare returns, or a trajectory with a sharpness: "
            "record one, as with observables=['threshold', 'sharpness_iterate']"
        )
    return recorded[0]


def _prediction(
    measured: Record, flow: FlowSolution | None, of_comparison: bool
) -> tuple[np.ndarray, ...]:
    """τ, λ* and λ_1 of the flow, or of the prediction inside a comparison; else nothing."""
    if flow is not None:
        return np.asarray(flow.tau), np.asarray(flow.threshold), np.asarray(flow.eigenvalues)[:, 0]
    if not of_comparison:
        return ()
    names = ("tau", "predicted_threshold", "predicted_sharpness")
    require_columns("comparison", measured.dataset, *names)
    tau, threshold, sharpness = (np.asarray(measured.dataset[name]) for name in names)
    return tau, threshold, sharpness


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


def mark_predicted_entry(ax: "Axes", comparison: "xarray.Dataset", clock: str = "tau") -> None:
    """A vertical line at the predicted entry into the Edge of Stability.

    Args:
      ax: where to draw.
      comparison: what ``sharpflow.compare`` returns.
      clock: of the axes, ``"tau"`` or ``"step"``.
    """
    place = comparison.attrs["predicted_entry_step"]
    if clock == "tau":
        rate, begun = comparison.attrs["intrinsic_rate"], 0.0
        if "step" in comparison.coords:
            # a fork has made steps of another flow time before its own
            begun = float(comparison["tau"][0]) - rate * float(comparison["step"][0])
        place = begun + rate * place
    drawing.mark(ax, place, "predicted entry", drawing.PREDICTED)


@checked(trajectory=RECORD, ax=AX, entry_step=optional(FINITE))
def edge_of_stability(
    trajectory: "Trajectory | xarray.Dataset",
    ax: "Axes | None" = None,
    *,
    entry_step: float | None = None,
) -> "Axes":
    """Draw λ_1(∇²L(w_t)) at the iterates against step, with the stability line.

    The line is what the rule tells, for gradient descent 2/η.

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
    with drawing.styled(ax) as ax:
        ax.plot(
            step,
            np.asarray(trajectory["hessian_sharpness"])[:, 0],
            **drawing.FINE,
            label=symbol(sharpness),
        )
        line = shown_quantity(trajectory, "stability_line")
        ax.plot(step, np.asarray(trajectory[line.name]), **drawing.BESIDE, label=symbol(line))
        drawing.time_axis(ax, label(RESULT["step"]))
        if entry_step is not None:
            drawing.mark(ax, entry_step, "entry")
        ax.set_ylabel(label(sharpness))
        drawing.log_axis(ax, "y")
        drawing.legend_above(ax)
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
    with drawing.styled(ax) as ax:
        ax.axhline(1.0, **drawing.LINE)
        if measured is not None:
            name = "eigenvalues" if "eigenvalues" in measured else "sharpness_manifold"
            require_columns("measured", measured, name, "threshold")
            measured_eigenvalues = np.asarray(measured[name])
            measured_ratios = measured_eigenvalues / np.asarray(measured["threshold"])[:, None]
            for index, ratio in enumerate(measured_ratios.T):
                ax.plot(
                    np.asarray(measured.tau),
                    ratio,
                    **drawing.FINE
                    | {"color": drawing.shade(drawing.MEASURED, index, measured_ratios.shape[1])},
                    label="measured" if index == 0 else None,
                )
        for index, ratio in enumerate(ratios.T):
            ax.plot(
                np.asarray(flow.tau),
                ratio,
                **drawing.DASHED
                | {"color": drawing.shade(drawing.PREDICTED, index, ratios.shape[1])},
                label="predicted flow" if index == 0 else None,
            )
        drawing.time_axis(ax)
        ax.set_ylabel(r"edge ratios $\lambda_i/\lambda^{\ast}$")
        drawing.legend_above(ax)
    return ax

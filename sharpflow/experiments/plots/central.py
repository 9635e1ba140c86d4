"""The central flow beside the average of gradient descent."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from sharpflow.experiments.plots import drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sharpflow.theory.central_flow import CentralFlowSolution


class MeanPath(NamedTuple):
    """What gradient descent does on average, at the output times of a flow.

    Attributes:
      tau: flow time, shape (T,).
      loss: mean training loss over a window around each time, shape (T,).
      eigenvalues: the k largest of ∇²L at the mean of its iterates, shape (T, k).
      norm_squared: of that mean, shape (T,).
      metric: of that mean, shape (T,).
    """

    tau: np.ndarray
    loss: np.ndarray
    eigenvalues: np.ndarray
    norm_squared: np.ndarray
    metric: np.ndarray


def central_panel(
    measured: MeanPath,
    flow: "CentralFlowSolution",
    metric: np.ndarray,
    error: np.ndarray,
    *,
    name: str = "test error",
    log_loss: bool = True,
) -> "Figure":
    """Four panels: loss, eigenvalues at the edge, a metric, and the distance between both.

    Args:
      measured: of gradient descent.
      flow: the prediction, at the same times.
      metric: of the flow's params, shape (T,).
      error: distance of the two directions, relative to the distance moved, shape (T,).
      name: of the metric.
      log_loss: whether the loss has a logarithmic axis.

    Returns:
      The figure.
    """
    from matplotlib import pyplot

    tau, edge = np.asarray(flow.tau), float(flow.edge)
    with drawing.in_force():
        figure, axes = pyplot.subplots(2, 2, figsize=(7.0, 4.8), layout="constrained")
        loss, eigenvalues, metrics, errors = axes.ravel()
        loss.plot(measured.tau, measured.loss, **drawing.SOLID, label="GD, mean over a window")
        loss.plot(
            tau, np.asarray(flow.mean_loss), **drawing.DASHED, label="central flow, mean loss"
        )
        loss.plot(tau, np.asarray(flow.loss), **drawing.DOTTED, label="central flow, loss at $w$")
        loss.set_ylabel("training loss")
        drawing.legend_above(loss)

        count = flow.eigenvalues.shape[1]
        for index in range(count):
            shade = drawing.shade(drawing.MEASURED, index, count)
            values = measured.eigenvalues[:, index] / edge
            label = "GD, at its mean iterate" if index == 0 else None
            eigenvalues.plot(measured.tau, values, color=shade, linewidth=1.1, label=label)
        for index in range(count):
            look = drawing.DASHED | {"color": drawing.shade(drawing.PREDICTED, index, count)}
            label = "central flow" if index == 0 else None
            eigenvalues.plot(
                tau, np.asarray(flow.eigenvalues[:, index]) / edge, **look, label=label
            )
        eigenvalues.axhline(1.0, **drawing.LINE, zorder=0.5)
        eigenvalues.set_ylabel(r"eigenvalues of $\nabla^2 L$ / edge")
        drawing.legend_above(eigenvalues)

        metrics.plot(
            measured.tau, measured.metric, **drawing.SOLID, label="GD, at its mean iterate"
        )
        metrics.plot(tau, metric, **drawing.DASHED, label="central flow")
        metrics.set_ylabel(name)
        drawing.legend_above(metrics)

        errors.plot(tau, 100.0 * error, **drawing.FINE)
        errors.set_ylabel("distance / distance moved, %")
        errors.set_ylim(bottom=0.0)
        for ax in axes.ravel():
            drawing.time_axis(ax)
        if log_loss:
            drawing.log_axis(loss, "y")
        for ax in axes.ravel():
            drawing.keep_tick_fonts(ax)
    return figure


def above_edge_panel(
    measured: MeanPath, flow: "CentralFlowSolution", steps: np.ndarray, distance: np.ndarray
) -> "Figure":
    """Three panels on a start above the edge: top eigenvalue, squared norm, direction.

    Args:
      measured: of gradient descent, its iterates themselves.
      flow: the prediction at the same times.
      steps: of gradient descent at those times, shape (T,).
      distance: moved by the direction, of GD and of the flow, shape (2, T).

    Returns:
      The figure.
    """
    from matplotlib import pyplot

    edge = float(flow.edge)
    with drawing.in_force():
        figure, axes = pyplot.subplots(1, 3, figsize=(7.4, 2.6), layout="constrained")
        panels = (
            (r"$\lambda_1(\nabla^2 L)$ / edge", measured.eigenvalues[:, 0] / edge,
             np.asarray(flow.eigenvalues[:, 0]) / edge),
            (r"$\|w\|^2$", measured.norm_squared, np.asarray(flow.norm_squared)),
            ("direction moved", distance[0], distance[1]),
        )  # fmt: skip
        for ax, (label, gd, predicted) in zip(axes, panels, strict=True):
            ax.plot(steps, gd, **drawing.SOLID, label="GD")
            ax.plot(steps, predicted, **drawing.DASHED, label="central flow")
            ax.set_ylabel(label)
            drawing.time_axis(ax, "step of GD")
        axes[0].axhline(1.0, **drawing.LINE, zorder=0.5)
        drawing.legend_above(axes[0])
        for ax in axes:
            drawing.keep_tick_fonts(ax)
    return figure

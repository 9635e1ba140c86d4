"""The central flow as the prediction of a trajectory, and the two set against each other."""

import dataclasses
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from sharpflow.models import Problem
from sharpflow.models.parameter_names import parameter_rows
from sharpflow.simulator.comparison_words import WHY_AVERAGE, reasons_in_text
from sharpflow.simulator.gdwd_rates import is_gdwd, rates_at, rates_over_time
from sharpflow.simulator.quantities import RESULT, described
from sharpflow.simulator.quantity import Quantity, by_name
from sharpflow.simulator.rules.edge_rule import euclidean_step_size
from sharpflow.simulator.trajectory import Trajectory, recorded_snapshots
from sharpflow.theory import (
    CentralFlowSolution,
    central_flow,
    effective_learning_rate,
    threshold,
    top_eigenpairs,
)

if TYPE_CHECKING:
    import xarray

AVERAGE = by_name(
    RESULT["tau"],
    RESULT["step"],
    Quantity(
        "tracking_error",
        "tracking error ‖θₜ − θ(τ)‖",
        "The distance between the trajectory and the central flow at the same flow time, of the "
        "directions w/‖w‖ where the loss is scale-invariant. The oscillation of the iterate, of "
        "which the flow is the average, counts in it.",
        unit="1",
        dims=("tau",),
        scale="log",
    ),
    Quantity(
        "distance_moved",
        "distance moved ‖θ(τ) − θ(τ₀)‖",
        "The distance of the central flow from where it began, of the directions where the loss is "
        "scale-invariant.",
        unit="1",
        dims=("tau",),
        scale="linear",
    ),
    Quantity(
        "relative_error",
        "tracking error / distance moved",
        "The tracking error over the distance moved; NaN where the flow has not moved.",
        unit="1",
        dims=("tau",),
        scale="log",
    ),
    Quantity(
        "predicted_sharpness",
        "predicted sharpness λ₁",
        "The largest eigenvalue of the Hessian at the central flow, times ‖w‖² where the loss is "
        "scale-invariant, so that it is that of the direction.",
        unit="1",
        dims=("tau",),
        symbol="predicted λ₁",
        reference="predicted_threshold",
        scale="log",
    ),
    Quantity(
        "threshold",
        "threshold λ*",
        "The sharpness at which a step becomes unstable, 2/η̃, at the trajectory.",
        unit="1",
        dims=("tau",),
        symbol="λ*",
        scale="log",
    ),
    Quantity(
        "predicted_threshold",
        "predicted threshold λ*",
        "The threshold 2/η̃ of GD+WD with the ‖w‖² of the central flow.",
        unit="1",
        dims=("tau",),
        symbol="predicted λ*",
        scale="log",
    ),
    Quantity(
        "threshold_ratio",
        "threshold λ*, measured / predicted",
        "The measured threshold over the predicted one.",
        unit="1",
        dims=("tau",),
        reference=1.0,
        scale="linear",
    ),
    Quantity(
        "loss_mean",
        "mean loss L̄",
        "The mean of L − inf L over the steps from the output before to this one.",
        unit="1",
        dims=("tau",),
        symbol="L̄",
        reference="predicted_loss",
        scale="linear",
    ),
    Quantity(
        "predicted_loss",
        "predicted mean loss",
        "The mean over the same steps of what the central flow predicts, "
        "L(w) + ½⟨∇²L(w), C⟩ − inf L, by the trapezium rule; NaN where this changes more than "
        "threefold from the output before, so that the two tell no mean.",
        unit="1",
        dims=("tau",),
        symbol="predicted L̄",
        scale="linear",
    ),
    Quantity(
        "loss_ratio",
        "mean loss, measured / predicted",
        "The measured mean loss over the predicted one.",
        unit="1",
        dims=("tau",),
        reference=1.0,
        scale="linear",
    ),
    Quantity(
        "predicted_step_angle",
        "predicted angle of a step 2√(tr C)/‖w‖",
        "The root mean square of the angle between wₜ and wₜ₊₁ that the oscillation around the "
        "central flow makes, 2√(tr C)/‖w‖.",
        unit="rad",
        dims=("tau",),
        symbol="2√(tr C)/‖w‖",
        scale="log",
    ),
)

# A prediction that moved less, relative to its length, is at rest: an error relative to the
# distance moved would be rounding over rounding.
RESTING = 1e-6
# Of the edge. The oscillation lifts the sharpness of an iterate by some tens of percent, and far
# above the edge the flow would begin with the convention for a burst.
_HARDLY_ABOVE = 1.5
# Times that a predicted loss may change from an output to the next for the trapezium rule to tell
# the mean between them: the loss may fall exponentially, of which it makes 1.1 times the mean then,
# and 1.4 at ten times.
_LEAP = 3.0

# Numbers of a comparison that a central flow does not have.
_OF_THE_ENTRY = (
    "entry_step",
    "predicted_entry_step",
    "mean_edge_ratio",
    "loss_rises_before",
    "loss_rises_after",
)


def predict_average(
    problem: Problem,
    trajectory: Trajectory,
    reason: str = "",
    *,
    num_outputs: int,
    rtol: float,
    max_steps: int,
    max_seconds: float | None,
    throw: bool,
    progress: bool | None,
) -> CentralFlowSolution:
    """The central flow from the first snapshot of a trajectory that it can start from to the last.

    Args:
      problem, trajectory, num_outputs, rtol, max_steps, max_seconds, throw, progress: as of
        ``predict``.
      reason: why it is this flow, where it was not asked for.

    Raises:
      ValueError: no snapshot is near the edge or below it, or a rate is 0 later on.
    """
    snapshots, _ = recorded_snapshots(trajectory)
    first = _first_below_edge(problem, trajectory)
    learning_rate, weight_decay = rates_over_time(trajectory, int(trajectory.snapshot_step[first]))
    chosen = first + thinned(len(trajectory.snapshot_step) - first, num_outputs)
    flow = central_flow(
        problem,
        jax.tree.map(lambda leaf: jnp.asarray(leaf[first]), snapshots),
        learning_rate,
        weight_decay,
        trajectory.snapshot_tau[chosen],
        rtol=rtol,
        max_steps=max_steps,
        max_seconds=max_seconds,
        throw=throw,
        progress=progress,
    )
    return dataclasses.replace(flow, reason=reason)


def _first_below_edge(problem: Problem, trajectory: Trajectory) -> int:
    """The first snapshot whose λ_1(∇²L(w)) is hardly above the edge 2/η − λ.

    From a start far above the edge GD makes a burst, which no average describes.

    Raises:
      ValueError: there is none.
    """
    rates = rates_at(trajectory, trajectory.snapshot_tau)
    edges = 2.0 / rates.learning_rate - rates.weight_decay
    edges = np.broadcast_to(edges, trajectory.snapshot_row.shape)
    lowest, its_edge = np.inf, np.nan
    for index in range(len(trajectory.snapshot_row)):
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf[index]), trajectory.params)  # noqa: B023
        ratio = float(top_eigenpairs(problem, params, tolerance=1e-3).values[0])
        ratio /= edges[index]
        if ratio <= _HARDLY_ABOVE:
            return index
        if ratio < lowest:
            lowest, its_edge = ratio, edges[index]
    raise ValueError(
        f"no snapshot is near the edge 2/η − λ = {its_edge:.4g} or below it: the largest "
        f"eigenvalue of the Hessian is {lowest:.2g} times as large at the least. The central flow "
        "has no start: lower learning_rate, or simulate longer"
    )


def thinned(count: int, most: int) -> np.ndarray:
    """At most so many of ``count`` places, evenly, the first and the last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int))


def edge_of_average(
    flow: CentralFlowSolution, trajectory: Trajectory
) -> tuple[np.ndarray, np.ndarray]:
    """Sharpness and threshold along a central flow, as theory speaks of them, shapes (T,).

    Args:
      flow: of GD+WD.
      trajectory: that it predicts. Where its loss is scale-invariant they are those of the
        direction w/‖w‖.
    """
    rates = rates_at(trajectory, np.asarray(flow.tau))
    norm_squared, sharpness = np.asarray(flow.norm_squared), np.asarray(flow.eigenvalues)[:, 0]
    if not trajectory.on_sphere:
        step_size = euclidean_step_size(*map(jnp.asarray, rates))
        return sharpness, np.broadcast_to(np.asarray(threshold(step_size)), sharpness.shape)
    step_size = effective_learning_rate(norm_squared, *rates)
    return sharpness * norm_squared, np.asarray(threshold(step_size))


def compare_with_average(
    trajectory: Trajectory,
    flow: CentralFlowSolution,
    problem: Problem,
    rows: np.ndarray,
    times: np.ndarray,
) -> "xarray.Dataset":
    """Set the snapshots of a trajectory against the central flow at the same τ.

    Args:
      trajectory, flow, problem: as of ``compare``.
      rows, times: indices of snapshots and of the outputs of the flow at the same τ.

    Raises:
      ValueError: a rule that is not GD+WD.
    """
    import xarray

    if not is_gdwd(trajectory):
        raise ValueError(
            "flow is a central flow, which predicts gradient descent with weight decay, and "
            "trajectory was made by another rule"
        )
    snapshots, thresholds = recorded_snapshots(trajectory)
    measured = parameter_rows(jax.tree.map(lambda leaf: np.asarray(leaf)[rows], snapshots))
    predicted = parameter_rows(flow.params)[times]
    if trajectory.on_sphere:
        measured, predicted = (
            path / np.linalg.norm(path, axis=1, keepdims=True) for path in (measured, predicted)
        )
    sharpness, predicted_threshold = (values[times] for values in edge_of_average(flow, trajectory))
    error = np.linalg.norm(measured - predicted, axis=1)
    moved = np.linalg.norm(predicted - predicted[0], axis=1)
    length = np.linalg.norm(predicted[0])
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(moved > RESTING * length, error / moved, np.nan)
    loss, predicted_loss, ratio = _mean_losses(trajectory, flow, problem, rows, times)
    variance = np.trace(np.asarray(flow.covariance), axis1=1, axis2=2)
    angle = 2.0 * np.sqrt(variance / np.asarray(flow.norm_squared))
    halfway = trajectory.snapshot_step[rows][len(rows) // 2]
    columns = {
        "tracking_error": error,
        "distance_moved": moved,
        "relative_error": relative,
        "predicted_sharpness": sharpness,
        "threshold": thresholds[rows],
        "predicted_threshold": predicted_threshold,
        "threshold_ratio": thresholds[rows] / predicted_threshold,
        "loss_mean": loss,
        "predicted_loss": predicted_loss,
        "loss_ratio": loss / predicted_loss,
        "predicted_step_angle": angle[times],
    }
    of_average = "a central flow predicts the average, and not an entry into the edge"
    reasons = dict.fromkeys(_OF_THE_ENTRY, of_average) | {
        "final_relative_error": "the flow has not moved",
        "mean_loss_ratio": "the predicted loss changes too much between outputs"
        if "loss_mean" in trajectory
        else "the column loss_mean was not recorded",
        "mean_angle_ratio": "no step of the latter half is predicted to turn"
        if "step_angle" in trajectory
        else "the column step_angle was not recorded",
    }
    numbers = {
        "final_relative_error": float(relative[-1]),
        "mean_loss_ratio": ratio,
        "mean_angle_ratio": angle_ratio(trajectory, np.asarray(flow.tau), angle, halfway),
    } | dict.fromkeys(_OF_THE_ENTRY, np.nan)
    # The numbers first: of many attributes a print of the dataset shows the first and the last.
    attributes = numbers | trajectory.attributes | {"intrinsic_rate": trajectory.intrinsic_rate}
    attributes |= reasons_in_text(
        {name: reasons[name] for name, value in numbers.items() if np.isnan(value)}
    )
    if flow.reason:
        attributes[WHY_AVERAGE] = str(flow.reason)
    compared = xarray.Dataset(
        {name: (AVERAGE[name].dims, values) for name, values in columns.items()},
        {"tau": np.asarray(flow.tau)[times], "step": ("tau", trajectory.snapshot_step[rows])},
        attributes,
    )
    return described(compared, AVERAGE)


def angle_ratio(
    trajectory: Trajectory, tau: np.ndarray, predicted: np.ndarray, begin: float
) -> float:
    """The angle of a step over the predicted one, in root mean square over records.

    Args:
      trajectory: whose angles are taken where it recorded them.
      tau: of the outputs of a flow, shape (T,).
      predicted: its angles, shape (T,); NaN after a failure.
      begin: step from which on records count; NaN for none.

    Returns:
      The ratio; NaN where no record counts, or no angle was recorded.
    """
    if "step_angle" not in trajectory:
        return float("nan")
    known = np.isfinite(predicted)
    counts = (trajectory.step >= begin) & (trajectory.tau <= tau[known].max(initial=-np.inf))
    counts &= np.isfinite(trajectory["step_angle"])
    if not counts.any():
        return float("nan")
    expected = np.interp(trajectory.tau[counts], tau[known], np.square(predicted[known]))
    measured = np.square(trajectory["step_angle"][counts].astype(float))
    return float(np.sqrt(np.sum(measured) / np.sum(expected))) if expected.any() else float("nan")


def _mean_losses(
    trajectory: Trajectory,
    flow: CentralFlowSolution,
    problem: Problem,
    rows: np.ndarray,
    times: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean measured and predicted loss from each output to the next, and their ratio.

    Returns:
      Both above inf L, shape (T,), NaN at the first output, the measured one where ``loss_mean``
      was not recorded, and the predicted one where it changes so much from one output to the next
      that two values tell no mean; and the ratio over the others in the latter half of the outputs:
      before, the loss may fall by decades between two outputs.
    """
    infimum, steps = float(problem.loss_infimum), trajectory.snapshot_step[rows]
    predicted, measured = np.full(len(steps), np.nan), np.full(len(steps), np.nan)
    along = np.asarray(flow.mean_loss)[times] - infimum
    small, large = np.sort([along[1:], along[:-1]], axis=0)
    told = large <= _LEAP * small
    predicted[1:] = np.where(told, 0.5 * (along[1:] + along[:-1]), np.nan)
    if "loss_mean" not in trajectory:
        return measured, predicted, float("nan")
    ends = np.append(trajectory.step[1:], trajectory.final_step)
    sums = np.cumsum((trajectory["loss_mean"] - infimum) * (ends - trajectory.step))
    sums = np.concatenate([[0.0], sums])[trajectory.snapshot_row[rows]]
    gaps = np.diff(steps)
    measured[1:] = np.diff(sums) / gaps
    late = told & (np.arange(len(gaps)) >= len(gaps) // 2)
    whole = float(np.sum(predicted[1:][late] * gaps[late]))
    ratio = float(np.sum(np.diff(sums)[late])) / whole if whole > 0.0 else float("nan")
    return measured, predicted, ratio

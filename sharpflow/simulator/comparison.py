"""A trajectory set against the flow that predicts it, in numbers."""

from typing import TYPE_CHECKING

import jax
import numpy as np

from sharpflow.models import Problem
from sharpflow.models.arguments import FLAG, NOT_NEGATIVE, any_of, checked, instance, optional
from sharpflow.models.compiled_function import special_values_allowed
from sharpflow.models.parameter_names import parameter_rows
from sharpflow.models.problem import PROBLEM
from sharpflow.simulator.average import RESTING, angle_ratio, compare_with_average
from sharpflow.simulator.comparison_quantities import COMPARISON
from sharpflow.simulator.comparison_words import reasons_in_text
from sharpflow.simulator.crossing import (
    SETTLE_TAU,
    begins_at_edge,
    entry_step,
    first_crossing,
    known_mean,
    settled_step,
)
from sharpflow.simulator.prediction import Projection, project_snapshots
from sharpflow.simulator.quantities import described
from sharpflow.simulator.trajectory import TRAJECTORY, Trajectory, recorded_snapshots
from sharpflow.theory import CentralFlowSolution, FlowSolution, predicted_loss
from sharpflow.theory.flow import FLOW
from sharpflow.theory.stability import (
    edge_loss,
    edge_loss_integral,
    edge_trace_integral,
    steps_to_edge,
)

if TYPE_CHECKING:
    import xarray

# Steps over which a mean loss is taken at least: fifty periods of the oscillation. With ten, the
# phase in which a window ends would show in the mean.
_SMALLEST_WINDOW = 100


PREDICTION = any_of(
    FLOW, instance(CentralFlowSolution, "a CentralFlowSolution, as central_flow returns it")
)


@special_values_allowed()
@checked(
    trajectory=TRAJECTORY,
    flow=PREDICTION,
    problem=PROBLEM,
    settle_tau=NOT_NEGATIVE,
    progress=optional(FLAG),
)
def compare(
    trajectory: Trajectory,
    flow: FlowSolution | CentralFlowSolution,
    problem: Problem,
    *,
    settle_tau: float = SETTLE_TAU,
    progress: bool | None = None,
) -> "xarray.Dataset":
    """Set the snapshots of a trajectory against the flow at the same τ.

    Args:
      trajectory: with snapshots and the column ``threshold``; ``loss_mean`` and
        ``loss_rises`` are used where they are recorded.
      flow: its prediction, at times of snapshots, as ``predict`` returns it.
      problem: what was trained.
      settle_tau: flow time that averages after the entry leave out. It counts from the record
        at which the loss of the oscillation first reaches half of the predicted one.
      progress: a bar on a terminal, lines elsewhere; by default on a terminal only.

    Returns:
      A dataset over ``tau`` with

      * ``tracking_error``, ‖Φ(θ_t) − ζ(τ)‖, Φ the retraction to Γ;
      * ``distance_moved``, ‖ζ(τ) − ζ(τ_0)‖, and ``relative_error``, their ratio;
      * ``eigenvalues``, the k largest at Φ(θ_t), and ``predicted_eigenvalues``, both over
        (tau, eigenvalue); the first of each are ``sharpness`` and ``predicted_sharpness``;
      * ``threshold``, ``predicted_threshold`` and ``threshold_ratio``;
      * ``edge_ratio``, λ_1(Φ(θ_t))/λ*_t;
      * ``loss_mean``, the mean of L − inf L over a window of steps, ``predicted_loss``, the mean
        of ½ ηλ λ* tr M over the same window, times the trajectory's ``oscillation_share``, and
        ``loss_ratio``, the first over the second. The window ends at the output and begins at
        the last output that is 100 steps or more before it. All three are NaN where the
        oscillation had not settled when the window began;
      * ``predicted_step_angle``, 2√(ηλ tr M), with the same share;

      and the attributes

      * ``entry_step``, the step at which the edge ratio first rises through 1 from below; NaN where
        it does not, or did before the trajectory came near Γ. A start at the edge, or above it
        where it stays, enters at once;
      * ``predicted_entry_step``, the same predicted from the norm at tau[0];
      * ``final_relative_error``, at the last output;
      * ``mean_edge_ratio`` after the entry;
      * ``mean_loss_ratio``, the mean measured loss over the mean predicted one after the entry;
      * ``mean_angle_ratio``, the same of the angle of a step, in root mean square, where the column
        ``step_angle`` was recorded;
      * ``loss_rises_before`` and ``loss_rises_after``, the share of steps that raise the loss
        before and after the entry;
      * ``why_nan``, the reason for each of these that is NaN, where one is.

      Means after the entry begin once the oscillation has settled, which ``settle_tau`` says.

      A central flow is not on Γ and does not know of an entry. Beside it there are
      ``tracking_error``, of w/‖w‖ where the loss is scale-invariant, ``distance_moved``,
      ``relative_error``, ``predicted_sharpness``, ``threshold``, ``predicted_threshold``,
      ``threshold_ratio``, ``loss_mean`` from each output to the next, ``predicted_loss`` and
      ``loss_ratio``, and ``predicted_step_angle``; and the attributes ``final_relative_error``,
      ``mean_loss_ratio`` and ``mean_angle_ratio``, these over the latter half of the outputs. The
      other numbers are NaN. ``prediction_reason`` says why it
      was a central flow, where ``predict`` chose it.

      ``print(sharpflow.simulator.comparison_summary(compared))`` shows these numbers with what
      they are; docs/quantities.md defines each column.

    Raises:
      ValueError: ``settle_tau`` negative, no snapshots, no column ``threshold``, or no snapshot
        at a time of the flow.

    Source: docs/theory.md, sections 2 to 5; with momentum docs/other-dynamics.md, section 3.
    """
    import xarray

    params, thresholds = recorded_snapshots(trajectory)
    known = flow.loss if isinstance(flow, CentralFlowSolution) else flow.threshold
    rows, times = _matched(trajectory, np.asarray(flow.tau), np.isfinite(np.asarray(known)))
    if isinstance(flow, CentralFlowSolution):
        return compare_with_average(trajectory, flow, problem, rows, times)
    snapshots = jax.tree.map(lambda leaf: leaf[rows], params)
    projection = project_snapshots(
        problem,
        snapshots,
        k=flow.eigenvalues.shape[1],
        on_sphere=trajectory.on_sphere,
        progress=progress,
    )
    measured, predicted = parameter_rows(projection.theta), parameter_rows(flow.theta)[times]
    tau = np.asarray(flow.tau)[times]
    steps = trajectory.snapshot_step[rows]
    threshold = thresholds[rows]
    entry, seen = _entry_step(trajectory, steps, projection)
    predicted_entry = _predicted_entry_step(trajectory, flow) if seen else np.nan

    failed = ~np.isfinite(projection.distance)
    error = np.where(failed, np.nan, np.linalg.norm(measured - predicted, axis=1))
    moved = np.linalg.norm(predicted - predicted[0], axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(moved > RESTING, error / moved, np.nan)
    excess = None
    if "loss_mean" in trajectory:
        excess = trajectory["loss_mean"] - problem.loss_infimum
    begin = _settled(trajectory, flow, entry, excess, settle_tau)
    settled = steps >= begin
    first = int(np.argmax(settled)) if settled.any() else len(steps)
    loss, expected_loss, loss_ratio = _window_losses(trajectory, flow, excess, rows, times, first)
    edge_ratio = projection.sharpness / threshold
    predicted_threshold = np.asarray(flow.threshold)[times]
    step_angle = _step_angle(trajectory, flow)
    columns = {
        "tracking_error": error,
        "distance_moved": moved,
        "relative_error": relative,
        "distance_to_manifold": projection.distance,
        "sharpness": projection.sharpness,
        "predicted_sharpness": np.asarray(flow.eigenvalues)[times, 0],
        "threshold": threshold,
        "predicted_threshold": predicted_threshold,
        "threshold_ratio": threshold / predicted_threshold,
        "edge_ratio": edge_ratio,
        "loss_mean": loss,
        "predicted_loss": expected_loss,
        "loss_ratio": loss / expected_loss,
        "predicted_step_angle": step_angle[times],
        "eigenvalues": projection.eigenvalues,
        "predicted_eigenvalues": np.asarray(flow.eigenvalues)[times],
    }
    before, after = _rises(trajectory, entry, begin)
    before = before if seen else np.nan
    # The numbers first: of many attributes a print of the dataset shows the first and the last.
    numbers = {
        "entry_step": entry if seen else np.nan,
        "predicted_entry_step": predicted_entry,
        "final_relative_error": float(relative[-1]),
        "mean_edge_ratio": known_mean(edge_ratio[settled]),
        "mean_loss_ratio": loss_ratio,
        "mean_angle_ratio": angle_ratio(trajectory, np.asarray(flow.tau), step_angle, begin),
        "loss_rises_before": before,
        "loss_rises_after": after,
    }
    attributes = numbers | trajectory.attributes
    attributes |= {"intrinsic_rate": trajectory.intrinsic_rate, "settle_tau": settle_tau}
    attributes |= reasons_in_text(
        {
            name: reason
            for name, reason in _reasons(
                trajectory, edge_ratio, moved, seen=seen, entry=entry, num_settled=sum(settled)
            ).items()
            if np.isnan(numbers[name])
        }
    )
    compared = xarray.Dataset(
        {name: (COMPARISON[name].dims, values) for name, values in columns.items()},
        {"tau": tau, "step": ("tau", steps)},
        attributes,
    )
    return described(compared, COMPARISON)


def _reasons(
    trajectory: Trajectory,
    edge_ratio: np.ndarray,
    moved: np.ndarray,
    *,
    seen: bool,
    entry: float,
    num_settled: int,
) -> dict[str, str]:
    """Of each number of the comparison why it would be NaN.

    Args:
      trajectory: that is compared.
      edge_ratio, moved: columns of the comparison; of the former NaN where the retraction failed.
      seen: whether the entry is known to be the entry.
      entry: its step, NaN where there is none.
      num_settled: outputs after the oscillation has settled.
    """
    known = edge_ratio[np.isfinite(edge_ratio)]
    if not known.size:
        no_entry = "the retraction to Γ fails at every output"
    elif not seen:
        no_entry = "it entered the edge before it came near Γ: lower weight_decay"
    elif known.max() < 1.0:
        no_entry = f"the edge ratio does not reach 1, {known.max():.3g} at most"
    else:
        no_entry = "the edge ratio falls below 1 from above and does not rise through 1 again"
    if np.isnan(entry):
        no_mean = no_entry
    elif not num_settled:
        no_mean = "the oscillation has not settled by the end: train longer"
    else:
        no_mean = "the retraction to Γ fails where the oscillation has settled"
    short = f"fewer than {_SMALLEST_WINDOW} steps follow once it has settled: train longer"
    failed = "the retraction to Γ fails at the last output"
    rises, mean_loss, angle = (
        name in trajectory for name in ("loss_rises", "loss_mean", "step_angle")
    )
    not_recorded = "the column {} was not recorded".format
    return {
        "entry_step": no_entry,
        "predicted_entry_step": no_entry,
        "final_relative_error": failed if moved[-1] > RESTING else "the flow has not moved",
        "mean_edge_ratio": no_mean,
        "mean_loss_ratio": (
            not_recorded("loss_mean") if not mean_loss else short if num_settled else no_mean
        ),
        "mean_angle_ratio": no_mean if angle else not_recorded("step_angle"),
        "loss_rises_before": no_entry if rises else not_recorded("loss_rises"),
        "loss_rises_after": no_mean if rises else not_recorded("loss_rises"),
    }


def _matched(
    trajectory: Trajectory, times: np.ndarray, known: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of snapshots and of flow outputs at the same τ, to half a step.

    Args:
      trajectory: with snapshots.
      times: τ of the outputs, shape (T,).
      known: whether the flow reached them, shape (T,).
    """
    snapshot_tau = trajectory.snapshot_tau
    nearest = np.argmin(np.abs(snapshot_tau[None, :] - times[:, None]), axis=1)
    rates = trajectory.rate_at(trajectory.snapshot_step[nearest])
    slack = 0.51 * rates + 1e-6 * np.abs(times)
    close = np.abs(snapshot_tau[nearest] - times) <= slack
    close &= known
    if not close.any():
        raise ValueError(
            "flow has no output at the time of a snapshot; take its tau from the trajectory "
            "(trajectory.snapshot_tau), as predict does"
        )
    return nearest[close], np.flatnonzero(close)


def _entry_step(
    trajectory: Trajectory, steps: np.ndarray, projection: Projection
) -> tuple[float, bool]:
    """Where λ_1(Φ)/λ* first rises through 1, NaN where it does not; and whether it is seen.

    It is not seen where the trajectory comes near Γ after it has entered the edge. Its arrival is
    then the first step at which it is known to be there.
    """
    known = np.isfinite(projection.sharpness)
    if not known.any():
        return float("nan"), True
    rows = trajectory.step >= steps[known][0]
    step = trajectory.step[rows].astype(float)
    sharpness = np.interp(step, steps[known], projection.sharpness[known])
    log_ratio = -np.log(trajectory["threshold"][rows] / sharpness)
    rate = float(trajectory.rate_at(int(trajectory.step[rows][0])))
    if begins_at_edge(log_ratio, rate) and step[0] > trajectory.step[0]:
        return float(step[0]), False
    return entry_step(step, log_ratio, rate), True


def _predicted_entry_step(trajectory: Trajectory, flow: FlowSolution) -> float:
    """Where λ* falls to the λ_1 of tau[0], if nothing but the norm changes until then."""
    excess = np.log(float(flow.threshold[0]) / float(flow.eigenvalues[0, 0]))
    if trajectory.clock is not None:
        return _entry_by_schedule(trajectory, flow, max(float(excess), 0.0))
    rate, decay = trajectory.intrinsic_rate, trajectory.decay_at_rest
    decay = decay if np.isfinite(decay) else float(flow.b) * rate
    start = trajectory.clock_step + (float(flow.tau[0]) - trajectory.clock_tau) / rate
    return start + steps_to_edge(max(float(excess), 0.0), decay)


def _equilibrium(trajectory: Trajectory, flow: FlowSolution) -> np.ndarray:
    """The mean loss that the flow predicts at each record, shape (T,)."""
    if trajectory.clock is not None:
        per_rate = trajectory.oscillation_share * np.asarray(predicted_loss(flow, 1.0))
        at = np.interp(trajectory.tau, np.asarray(flow.tau), per_rate)
        return trajectory.rate_at(trajectory.step) * at
    predicted = np.asarray(predicted_loss(flow, trajectory.intrinsic_rate))
    predicted = trajectory.oscillation_share * predicted
    return np.interp(trajectory.tau, np.asarray(flow.tau), predicted)


def _step_angle(trajectory: Trajectory, flow: FlowSolution) -> np.ndarray:
    """The root mean square angle of a step at each output of the flow, shape (T,)."""
    step = np.interp(np.asarray(flow.tau), trajectory.tau, trajectory.step)
    rate = trajectory.oscillation_share * trajectory.rate_at(step)
    return 2.0 * np.sqrt(rate * np.asarray(flow.edge_trace))


def _settled(
    trajectory: Trajectory,
    flow: FlowSolution,
    entry: float,
    excess: np.ndarray | None,
    settle_tau: float,
) -> float:
    """The step from which on averages are taken; infinite where there is none."""
    equilibrium, clock = _equilibrium(trajectory, flow), trajectory.clock
    if clock is None:
        rate = trajectory.intrinsic_rate
        return settled_step(
            trajectory.step, entry, rate, excess, equilibrium, settle_tau=settle_tau
        )
    # a schedule has its own clock, by which the time to settle is counted
    begun = float(np.interp(entry, trajectory.step, trajectory.tau)) if entry == entry else entry
    tau = settled_step(trajectory.tau, begun, 1.0, excess, equilibrium, settle_tau=settle_tau)
    if not tau <= trajectory.tau_at(trajectory.final_step):
        return np.inf
    return float(clock.step_at(tau - trajectory.clock_tau))


def _log_rate(trajectory: Trajectory, step: np.ndarray) -> np.ndarray | None:
    """log η of a schedule at some steps, up to a constant; None without one."""
    clock = trajectory.clock
    return None if clock is None else np.interp(step, clock.step, clock.log_rate)


def _entry_by_schedule(trajectory: Trajectory, flow: FlowSolution, excess: float) -> float:
    """Where λ* has fallen by ``excess`` while b τ + log η grows; NaN where it does not."""
    clock = trajectory.clock
    assert clock is not None
    begun = float(clock.step_at(float(flow.tau[0]) - trajectory.clock_tau))
    step = np.append(begun, clock.step[clock.step > begun])
    log_rate = _log_rate(trajectory, step)
    assert log_rate is not None
    fallen = float(flow.b) * np.diff(clock.tau_at(step), prepend=clock.tau_at(begun)).cumsum()
    fallen = fallen + log_rate - log_rate[0]
    if excess <= 0.0:
        return begun
    return first_crossing(step, fallen - excess)


def _window_losses(
    trajectory: Trajectory,
    flow: FlowSolution,
    excess: np.ndarray | None,
    rows: np.ndarray,
    times: np.ndarray,
    first: int,
) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean measured and predicted loss in windows that end at each output.

    Returns:
      Both, shape (T,), NaN where no window of enough steps fits after output
      ``first``, and their ratio over all steps since then.
    """
    steps = trajectory.snapshot_step[rows]
    measured, predicted = np.full(len(steps), np.nan), np.full(len(steps), np.nan)
    if excess is None or first >= len(steps):
        return measured, predicted, float("nan")
    ends = np.append(trajectory.step[1:], trajectory.final_step)
    sums = np.cumsum(excess * (ends - trajectory.step))
    sums = np.concatenate([[0.0], sums])[trajectory.snapshot_row[rows]]
    thresholds, tau = np.asarray(flow.threshold)[times], np.asarray(flow.tau)[times]
    log_rate = _log_rate(trajectory, steps)
    if log_rate is None:
        rate = trajectory.intrinsic_rate
        pieces = edge_loss_integral(rate, tau, thresholds, float(flow.b))
    else:
        # A jump lifts λ* and not λ_1, at which M acts. A step takes η_s λ_s of τ: its share of the
        # integral has that rate already.
        sharpness, rate = np.asarray(flow.eigenvalues)[times, 0], 1.0
        trace = edge_trace_integral(tau, thresholds, float(flow.b), log_rate=log_rate)
        pieces = edge_loss(rate, 0.5 * (sharpness[1:] + sharpness[:-1]), trace)
    pieces = trajectory.oscillation_share * pieces
    predicted_sums = np.concatenate([[0.0], np.cumsum(pieces)]) / rate
    for index in range(first + 1, len(steps)):
        fitting = np.flatnonzero(steps <= steps[index] - _SMALLEST_WINDOW)
        if fitting.size and fitting[-1] >= first:
            start = fitting[-1]
            length = steps[index] - steps[start]
            measured[index] = (sums[index] - sums[start]) / length
            predicted[index] = (predicted_sums[index] - predicted_sums[start]) / length
    if steps[-1] - steps[first] < _SMALLEST_WINDOW:
        return measured, predicted, float("nan")
    ratio = (sums[-1] - sums[first]) / (predicted_sums[-1] - predicted_sums[first])
    return measured, predicted, float(ratio)


def _rises(trajectory: Trajectory, entry: float, settled: float) -> tuple[float, float]:
    """The share of rising losses before the entry, and once the oscillation has settled."""
    if "loss_rises" not in trajectory.columns:
        return float("nan"), float("nan")
    rises, step = trajectory["loss_rises"], trajectory.step
    return known_mean(rises[~(step >= entry)]), known_mean(rises[step >= settled])

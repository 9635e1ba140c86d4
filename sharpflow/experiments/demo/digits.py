"""Demo, part c: a batch-norm network on digits, several eigenvalues at the edge."""

import dataclasses
from typing import TYPE_CHECKING

import jax
import numpy as np

import sharpflow as sf
from sharpflow.experiments.checks import Check, exponent_check
from sharpflow.experiments.power_law import PowerLaw, fit_power_law
from sharpflow.experiments.starts import trained_to_manifold

if TYPE_CHECKING:
    import xarray

PART = "network on digits"
# Scale invariance leaves only ηλ to matter once the start is at the edge.
LEARNING_RATE = 0.1
# Of the outputs in τ. A burst of the oscillation lasts about √(ηλ) in τ, so that a mean between two
# outputs is one over several bursts.
SPACING = 0.1
# Two decades of ηλ, from 1.6e-3 to 1.6e-5, by factors of √10. At larger rates theory ends, and the
# next smaller one would take longer than all of these together.
STEPS_PER_OUTPUT = (64, 200, 640, 2000, 6400)


@dataclasses.dataclass(frozen=True)
class DigitsResult:
    """What part c measures.

    Attributes:
      flow: the predicted flow from a start at the edge.
      comparisons: of GD at each intrinsic rate, largest rate first.
      intrinsic_rates: ηλ, shape (n,).
      errors: tracking error over distance moved, root mean square over the outputs
        with τ ≥ ½, shape (n,).
      fit: power law through them.
      single_edge_error: distance of the flow of a single edge eigenvalue from GD at the
        smallest rate, over the distance moved, shape (T,).
      checks: the statements.
    """

    flow: sf.FlowSolution
    comparisons: list["xarray.Dataset"]
    intrinsic_rates: np.ndarray
    errors: np.ndarray
    fit: PowerLaw
    single_edge_error: np.ndarray
    checks: list[Check]


def run(quick: bool = False, progress: bool | None = None) -> DigitsResult:
    """Tracking error against ηλ over two decades, ten classes of real digits."""
    x, labels = sf.models.digits(12 if quick else 24)
    problem = sf.models.mlp(x, labels, widths=(16, 16) if quick else (32, 32))
    theta0 = trained_to_manifold(problem, progress=progress)
    ladder = STEPS_PER_OUTPUT[:3] if quick else STEPS_PER_OUTPUT
    tau = SPACING * np.arange(11 if quick else 21)
    flow = sf.sharpness_flow(problem, theta0, tau, max_edge=12, progress=progress)

    comparisons, last = [], None
    for steps in ladder:
        rate = SPACING / steps
        # At the edge and not from a random start: all rates then start from one point, and what
        # differs is the rate.
        start = sf.theory.start_at_edge(problem, theta0, LEARNING_RATE, rate / LEARNING_RATE)
        last = sf.simulate(
            problem,
            start,
            sf.gdwd(LEARNING_RATE, rate / LEARNING_RATE),
            steps * (len(tau) - 1) + 1,
            record_every=steps // 4,
            snapshot_every=4,
            progress=progress,
        )
        comparisons.append(sf.compare(last, flow, problem, progress=progress))
    assert last is not None
    rates = SPACING / np.array(ladder)
    # Before that the flow has moved little, and the error over the distance moved is large and
    # means nothing.
    late = tau >= 0.5
    errors = np.array(
        [np.sqrt(np.mean(np.square(c["relative_error"].values[late]))) for c in comparisons]
    )
    fit = fit_power_law(rates, errors)
    single = _single_edge_error(problem, theta0, flow, last)
    checks = _checks(flow, comparisons, rates, errors, fit, single)
    return DigitsResult(flow, comparisons, rates, errors, fit, single, checks)


def _single_edge_error(
    problem: sf.Problem, theta0: dict, flow: sf.FlowSolution, trajectory: sf.Trajectory
) -> np.ndarray:
    tau = np.asarray(flow.tau)
    # Twenty times the default step: from where a second eigenvalue reaches the edge the formula is
    # wrong by as much whatever the step is, which is what is to be shown.
    single = sf.theory.single_edge_flow(problem, theta0, tau, max_step=0.02)
    reached = sf.simulator.project_snapshots(problem, trajectory.params, progress=False).theta
    difference = jax.tree.map(lambda a, b: a - b, single, reached)
    moved = jax.tree.map(lambda leaf: leaf - leaf[:1], flow.theta)
    distance = _norms(moved)
    return _norms(difference) / np.where(distance > 0, distance, np.nan)


def _norms(tree: dict) -> np.ndarray:
    squares = [np.sum(np.square(leaf), axis=tuple(range(1, leaf.ndim)))
               for leaf in map(np.asarray, jax.tree.leaves(tree))]  # fmt: skip
    return np.sqrt(sum(squares))


def _checks(
    flow: sf.FlowSolution,
    comparisons: list["xarray.Dataset"],
    rates: np.ndarray,
    errors: np.ndarray,
    fit: PowerLaw,
    single: np.ndarray,
) -> list[Check]:
    oscillating = np.linalg.eigvalsh(np.asarray(flow.edge_covariance[-1]))
    # The rank of M up to its solver: eigenvalues that are not at the edge are zero to rounding, and
    # those that are hold some per cent at least.
    at_edge = float(np.sum(oscillating > 1e-3 * oscillating.sum()))
    smallest = comparisons[-1]
    checks = [Check(PART, "eigenvalues at the edge at the last τ, rank of M", at_edge, 2.0)]
    checks += [
        Check(PART, f"tracking error / distance moved at ηλ = {rate:.3g}", float(error))
        for rate, error in zip(rates, errors, strict=True)
    ]
    at = f"at ηλ = {rates[-1]:.3g}"
    return [
        *checks,
        exponent_check(PART, "exponent of the tracking error in ηλ", fit, 0.4),
        Check(
            PART,
            f"threshold, measured/predicted {at}",
            float(smallest["threshold_ratio"][-1]),
            0.99,
            1.01,
        ),
        Check(
            PART,
            f"mean loss, measured/predicted {at}",
            smallest.attrs["mean_loss_ratio"],
            0.97,
            1.03,
        ),
        Check(
            PART,
            f"mean edge ratio {at}, 1 + O(√ηλ)",
            smallest.attrs["mean_edge_ratio"],
            1.0 - 3.0 * float(np.sqrt(rates[-1])),
            1.0 + 3.0 * float(np.sqrt(rates[-1])),
        ),
        Check(PART, "single-edge formula: error / distance moved at the last τ", float(single[-1])),
    ]

"""GD+WD over a ladder of intrinsic rates, set against the flow from the same start."""

from typing import TYPE_CHECKING

import jax
import numpy as np

import sharpflow as sf
from sharpflow.experiments.validate.cases import Case, seed_of
from sharpflow.models.problem import Params
from sharpflow.simulator.comparison_quantities import COMPARISON
from sharpflow.simulator.quantities import RESULT, described
from sharpflow.simulator.quantity import Quantity, by_name

if TYPE_CHECKING:
    import xarray

# Two decades, five rungs: an interval of an exponent over fewer than four is too wide to say
# anything. Larger rates are those of `limits`; one rung further down would take as long as all of
# these, since the steps go as 1/ηλ.
RATES = (2e-3, 6e-4, 2e-4, 6e-5, 2e-5)
# Of a run, each of which is kept in memory and retracted. A tenth would leave a dozen for a window
# of the covariance, whose noise would be 30 %.
MOST_SNAPSHOTS = 500
# Along v_1: exactly on Γ the gradient is zero and nothing would start. Ten times as much is near
# the equilibrium amplitude of the smallest rung, 2e-3; from a tenth the oscillation takes longer to
# begin, and more of the run is transient.
PERTURBATION = 1e-4

_LATE = "over the second half of the flow time"
LADDER = by_name(
    RESULT["seed"],
    RESULT["intrinsic_rate"],
    *(COMPARISON[name] for name in ("tau", "relative_error", "edge_ratio", "threshold_ratio")),
    *(
        Quantity(name, label, definition, unit="1", dims=("seed", "intrinsic_rate"), scale="log")
        for name, label, definition in (
            (
                "tracking_error",
                "tracking error / distance moved",
                f"The root mean square {_LATE} of ‖Φ(θₜ) − ζ(τ)‖ over the distance moved.",
            ),
            (
                "threshold_error",
                "threshold, measured / predicted − 1",
                f"The root mean square {_LATE} of the measured threshold over the predicted one, "
                "minus 1.",
            ),
            (
                "edge_error",
                "|mean edge ratio − 1|",
                "The mean of λ₁(Φ(θₜ))/λ* after the oscillation has settled, its distance from 1.",
            ),
            (
                "loss_error",
                "|mean loss, measured / predicted − 1|",
                "The mean loss over the predicted one, ½ηλλ* tr M, after the oscillation has "
                "settled, its distance from 1.",
            ),
            (
                "covariance_error",
                "error of the oscillation's covariance",
                "Σ|eigenvalue − predicted|/Σ predicted of the covariance of the oscillation in the "
                f"edge space, {_LATE}.",
            ),
            (
                "period_two_error",
                "share without period two",
                "The share of the oscillation that does not change sign with every step, 1 minus "
                f"the share of period two, {_LATE}.",
            ),
        )
    ),
    Quantity(
        "loss_share",
        "share of the loss in the edge space",
        f"The share of the training loss that the oscillation in the edge space holds, {_LATE}.",
        unit="1",
        dims=("seed", "intrinsic_rate"),
        reference=1.0,
        scale="linear",
    ),
)


def climb(
    case: Case,
    flows: dict[int, sf.FlowSolution],
    rates: tuple[float, ...] = RATES,
    progress: bool | None = None,
) -> "xarray.Dataset":
    """Run every seed at every ηλ from the edge, and measure each against its flow.

    Args:
      case: the problem.
      flows: its predictions, by seed.
      rates: ηλ, decreasing.
      progress: whether to show it.

    Returns:
      A dataset over (seed, intrinsic_rate) with, over the second half of the flow time,

      * ``tracking_error``, the root mean square of ‖Φ(θ_t) − ζ(τ)‖/distance moved,
      * ``threshold_error``, that of λ*/predicted − 1,
      * ``edge_error``, |mean λ_1(Φ)/λ* − 1|, and ``loss_error`` of mean/predicted loss
        likewise, from where the oscillation has settled,
      * ``covariance_error``, Σ|eigenvalue − predicted|/Σ predicted of the oscillation's
        covariance in the edge space, ``period_two_error``, the share of it that does not
        change sign with every step, and ``loss_share``, that of the loss which it holds,

      and the courses ``relative_error``, ``edge_ratio``, ``threshold_ratio`` over tau.
    """
    import xarray

    grid = simulate_from_edge(case, rates, float(case.tau[-1]), progress)
    rows = []
    for seed, flow in flows.items():
        rungs = [_measured(case, grid, flow, seed, rate) for rate in rates]
        rows.append(xarray.concat(rungs, dim="intrinsic_rate"))
    coords = {"seed": list(flows), "intrinsic_rate": list(rates)}
    return described(xarray.concat(rows, dim="seed").assign_coords(coords), LADDER)


def simulate_from_edge(
    case: Case,
    rates: tuple[float, ...],
    tau: float,
    progress: bool | None = None,
    perturbations: tuple[float, ...] = (PERTURBATION,),
) -> "xarray.Dataset":
    """A grid of every seed, ηλ and first displacement along v_1, with snapshots."""

    def start(
        key: jax.Array, learning_rate: float, weight_decay: float, perturbation: float
    ) -> Params:
        theta0 = case.starts[seed_of(key)]
        return sf.theory.start_at_edge(
            case.problem, theta0, learning_rate, weight_decay, perturbation
        )

    return sf.simulate_grid(
        case.problem,
        seeds=list(case.starts),
        learning_rates=case.learning_rate,
        weight_decays=[rate / case.learning_rate for rate in rates],
        axes={"perturbation": perturbations},
        tau=tau,
        num_records=min(MOST_SNAPSHOTS, int(tau / max(rates))),
        snapshot_every=1,
        start=start,
        progress=progress,
    )


def _measured(
    case: Case, grid: "xarray.Dataset", flow: sf.FlowSolution, seed: int, rate: float
) -> "xarray.Dataset":
    """A point of the grid beside its flow."""
    import xarray

    run = sf.simulator.grid_point(
        grid, case.problem, seed=seed, weight_decay=rate / case.learning_rate
    )
    compared = sf.compare(run, flow, case.problem, progress=False)
    end = float(case.tau[-1])
    late = compared["tau"].values >= 0.5 * end
    # The second half, in which the start is forgotten, in two windows: one would average over a
    # basis that turns, and shorter ones hold too few bursts.
    windows = [(0.5 * end, 0.75 * end), (0.75 * end, end)]
    oscillation = sf.simulator.measure_oscillation(run, flow, case.problem, windows)
    errors = {
        "tracking_error": root_mean_square(compared["relative_error"].values[late]),
        "threshold_error": root_mean_square(compared["threshold_ratio"].values[late] - 1.0),
        "edge_error": abs(compared.attrs["mean_edge_ratio"] - 1.0),
        "loss_error": abs(compared.attrs["mean_loss_ratio"] - 1.0),
        "covariance_error": spectrum_error(oscillation),
        "period_two_error": 1.0 - float(oscillation["period_two_share"].mean()),
        "loss_share": float(oscillation["loss_share"].mean()),
    }
    courses = {
        name: ("tau", np.interp(case.tau, compared["tau"], compared[name]))
        for name in ("relative_error", "edge_ratio", "threshold_ratio")
    }
    return xarray.Dataset(courses | errors, {"tau": case.tau})


def spectrum_error(oscillation: "xarray.Dataset") -> float:
    """Σ|eigenvalue − predicted|/Σ predicted, the eigenvalues averaged over the windows."""
    measured = oscillation["covariance_eigenvalues"].mean("window")
    predicted = oscillation["predicted_covariance_eigenvalues"].mean("window")
    return float(abs(measured - predicted).sum() / predicted.sum())


def root_mean_square(values: np.ndarray) -> float:
    """Of the values that are known."""
    return float(np.sqrt(np.nanmean(np.square(values))))

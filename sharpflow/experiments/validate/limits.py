"""Where theory ends: the ladder at large ηλ, and a phase diagram over η and λ."""

import enum
from typing import TYPE_CHECKING

import numpy as np

import sharpflow as sf
from sharpflow.experiments.checks import Check
from sharpflow.experiments.plots.drawing import figure_of
from sharpflow.experiments.plots.ladder import ErrorPanel, error_ladder
from sharpflow.experiments.plots.phases import phase_diagram
from sharpflow.experiments.validate import cases
from sharpflow.experiments.validate.findings import Findings
from sharpflow.experiments.validate.ladder import climb
from sharpflow.experiments.validate.statements import limits_of
from sharpflow.experiments.validate.theorems import TITLES
from sharpflow.simulator.quantities import RESULT, described
from sharpflow.simulator.quantity import Quantity, by_name

if TYPE_CHECKING:
    import xarray

TITLE = "where theory ends: large ηλ, and a phase diagram over η and λ"
# rates with about as many steps share a grid, which records as often as its shortest run has
RATES = ((5e-2, 3e-2, 2e-2), (1e-2, 5e-3, 2e-3), (6e-4, 2e-4))
# Wider than the tolerances of the statements: here the question is not whether theory is right but
# until where a user may go by it.
USEFUL = {  # errors up to which a prediction is of use
    "tracking_error": 0.1,
    "threshold_error": 0.05,
    "edge_error": 0.05,
    "loss_error": 0.1,
    "covariance_error": 0.2,
    "period_two_error": 0.05,
}
# Together with the weight decays ηλ from 1e-6 to 0.9: at one end nothing reaches the edge within
# the run, at the other nothing trains. 13 by 13 trajectories show straight borders; ten times as
# many along each side would take hours.
LEARNING_RATES = np.geomspace(0.1, 30.0, 13)
WEIGHT_DECAYS = np.geomspace(1e-5, 3e-2, 13)
NUM_STEPS, NUM_RECORDS = 6000, 160
# Targets are standardised, so that predicting the mean has the loss ½. Before a burst throws it off
# Γ a trajectory is far below: in a trial the loss went from 0.004 to 0.088 within three steps.
TRAINED = 0.05  # loss: a tenth of that of predicting the mean
# Flow time after the entry, from where and until when a trajectory is watched. The oscillation's
# answer is not waited for, as in the means of ``compare``: where theory ends there may be none.
SETTLE, WATCHED = 0.2, 2.0
# The bound of the edge ratio in `USEFUL`.
NEAR = 0.05  # of the edge ratio to 1


PHASES = by_name(
    RESULT["learning_rate"],
    RESULT["weight_decay"],
    Quantity("problem", "problem", "The problem that a ladder was climbed on.", unit="1"),
    Quantity(
        "phase",
        "phase",
        "What a trajectory from a random start does, the number of a Phase: 0 not trained, 1 rests "
        "below the edge, 2 at the edge, 3 beyond it, 4 leaves Γ and returns, 5 leaves it.",
        unit="1",
        dims=("weight_decay", "learning_rate"),
    ),
    Quantity(
        "phase_edge_ratio",
        "mean edge ratio λ₁/λ*",
        "The mean of λ₁(Φ(θₜ))/λ* over the flow time after the entry in which a trajectory is "
        "watched.",
        unit="1",
        dims=("weight_decay", "learning_rate"),
        reference=1.0,
        scale="linear",
    ),
)


class Phase(enum.IntEnum):
    """What a trajectory from a random start does."""

    TRAINING = 0
    BELOW = 1
    AT_EDGE = 2
    ABOVE = 3
    RETURNS = 4
    LOST = 5

    @property
    def label(self) -> str:
        """What the legend of the map calls it."""
        return (
            "not trained",
            "rests on Γ below the edge",
            "at the edge, ratio within 5 %",
            "at the edge, ratio beyond 5 %",
            "leaves Γ and returns",
            "leaves Γ",
        )[self]


def run(progress: bool | None = None) -> Findings:
    """Push the ladder until every statement fails, and map what is seen over η and λ."""
    import xarray

    checks: list[Check] = []
    figures, numbers = {}, []
    completion = cases.matrix_completion()
    for case in (completion, cases.mlp_digits()):
        flows = case.flows()
        rungs = [climb(case, flows, rates, progress) for rates in RATES]
        ladder = xarray.concat(rungs, dim="intrinsic_rate")
        panels = [
            ErrorPanel(name, f"error: {TITLES[name]}", tolerance=tolerance)
            for name, tolerance in USEFUL.items()
        ]
        figures[f"limits-{case.slug}"] = error_ladder(ladder, panels)
        numbers.append(ladder.expand_dims(problem=[case.name]).drop_vars("tau", errors="ignore"))
        for name, tolerance in USEFUL.items():
            last, first = limits_of(ladder[name], tolerance)
            words = f"{TITLES[name]}: largest ηλ tried with an error of at most {tolerance:g}"
            note = f"not at {first:g}" if np.isfinite(first) else "the largest measured"
            checks.append(Check(case.name, words, last, note=note))
    phases = measure_phases(completion.problem, progress)
    figures["limits-phases"] = figure_of(phase_diagram(phases, Phase))
    checks += _phase_checks(phases)
    ladders = xarray.concat(numbers, dim="problem", join="exact")
    merged = ladders.merge(phases, compat="no_conflicts", join="exact")
    return Findings(checks, figures, described(merged, PHASES))


def measure_phases(problem: sf.Problem, progress: bool | None = None) -> "xarray.Dataset":
    """Train from a random start at each η and λ, and say what happens.

    Returns:
      A dataset over (weight_decay, learning_rate): ``phase``, a ``Phase``, and
      ``edge_ratio``, its mean while watched.
    """
    import xarray

    grid = sf.simulate_grid(
        problem,
        seeds=1,
        learning_rates=LEARNING_RATES.tolist(),
        weight_decays=WEIGHT_DECAYS.tolist(),
        num_steps=NUM_STEPS,
        record_at=sf.simulator.log_spaced(NUM_STEPS, NUM_RECORDS).tolist(),
        observables=("loss", "threshold", "sharpness_manifold"),
        progress=progress,
    ).isel(seed=0)
    shape = (len(WEIGHT_DECAYS), len(LEARNING_RATES))
    phase, ratios = np.zeros(shape, int), np.full(shape, np.nan)
    for row, column in np.ndindex(shape):
        cell = grid.isel(weight_decay=row, learning_rate=column)
        phase[row, column], ratios[row, column] = phase_of(
            cell["tau"].values, cell["loss"].values, cell["edge_ratio_manifold"].values
        )
    dims = ("weight_decay", "learning_rate")
    phases = xarray.Dataset(
        {"phase": (dims, phase), "phase_edge_ratio": (dims, ratios)},
        {"weight_decay": WEIGHT_DECAYS, "learning_rate": LEARNING_RATES},
    )
    return described(phases, PHASES)


def phase_of(tau: np.ndarray, loss: np.ndarray, edge_ratio: np.ndarray) -> tuple[Phase, float]:
    """The phase of a trajectory, and its mean edge ratio while it was watched.

    Args:
      tau, loss: of its records, shape (T,).
      edge_ratio: λ_1(Φ)/λ*, NaN where there is no Γ within reach of the retraction.
    """
    near = np.isfinite(edge_ratio) & (loss <= TRAINED)
    if not near.any():
        return Phase.TRAINING, float("nan")
    entered = np.flatnonzero(near & (edge_ratio >= 1.0 - NEAR))
    if not entered.size:
        return Phase.BELOW, float("nan")
    since = tau - tau[entered[0]]
    watched = (since >= SETTLE) & (since <= WATCHED)
    if not watched.any():
        return Phase.AT_EDGE, float("nan")
    mean = float(np.nanmean(edge_ratio[watched])) if near[watched].any() else float("nan")
    if near[watched].all():
        return (Phase.AT_EDGE if abs(mean - 1.0) <= NEAR else Phase.ABOVE), mean
    left = np.flatnonzero(watched & ~near)[0]
    return (Phase.RETURNS if near[left:].any() else Phase.LOST), mean


def _phase_checks(phases: "xarray.Dataset") -> list[Check]:
    """The ranges of ηλ in which each phase is seen."""
    rates = np.outer(phases["weight_decay"].values, phases["learning_rate"].values)
    checks = []
    for phase in Phase:
        seen = rates[phases["phase"].values == phase]
        if seen.size:
            note = f"up to {seen.max():.2g}, {seen.size} of {rates.size} trajectories"
            words = f"{phase.label}: seen from ηλ ="
            checks.append(Check("phases of matrix completion", words, float(seen.min()), note=note))
    return checks

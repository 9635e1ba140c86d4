"""IRE beside its flow: tracking, the time for the sharpness to halve, and its speed-up."""

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

import sharpflow as sf
from sharpflow.experiments.checks import Check
from sharpflow.experiments.plots import drawing
from sharpflow.experiments.plots import ire as figures
from sharpflow.experiments.validate.findings import Findings
from sharpflow.experiments.validate.ire_problems import (
    INTRINSIC_RATE,
    LEARNING_RATE,
    WEIGHT_DECAY,
    Case,
    cases,
)
from sharpflow.models.progress import progress_bar
from sharpflow.simulator import FlatProjection
from sharpflow.simulator.comparison_quantities import COMPARISON
from sharpflow.simulator.quantities import RESULT, described
from sharpflow.simulator.quantity import Quantity, by_name

if TYPE_CHECKING:
    import xarray
    from matplotlib.figure import Figure

TITLE = "IRE: more motion along flat directions"

# Without, and then by factors of two: the speed-up has a limit, 1 + 2b/G², which it nears at the
# largest.
KAPPAS = (0.0, 1.0, 2.0, 4.0)
TRACKING, HALVING = 0.03, 0.10  # largest relative errors
# Below the equilibrium amplitude √(ηλ tr M) of every problem, which is 8e-4 where G² is 300. At ten
# times as much the run would begin with a burst, and at a tenth with a delay.
_PERTURBATION = 3e-4
# Of each run: the halving time is read off between two, by a straight line in log λ_1.
_OUTPUTS = 41
# Theory says nothing of which share is flat; docs/flat-directions.md tells what this one does.
_COORDINATES = 0.8  # γ of the diagonal estimate
_LEVEL = 0.3  # of the sharpness at the start, below what a burst at the start reaches
_OVER_TIME = ("problem", "kappa", "output")
IRE = by_name(
    dataclasses.replace(RESULT["tau"], dims=("problem", "output")),
    Quantity("problem", "problem", "The problem that was trained.", unit="1"),
    Quantity("kappa", "κ", "How much faster the flat directions are followed, κ.", unit="1"),
    Quantity(
        "kappa_by_coordinates", "κ", "The κ of the runs with the diagonal estimate.", unit="1"
    ),
    Quantity(
        "radial",
        "weight decay is sped up too",
        "Whether the weight decay is multiplied by 1 + κ too, 1 or 0.",
        unit="1",
    ),
    dataclasses.replace(COMPARISON["sharpness"], dims=_OVER_TIME, reference="predicted_sharpness"),
    dataclasses.replace(COMPARISON["predicted_sharpness"], dims=_OVER_TIME, reference=None),
    dataclasses.replace(COMPARISON["relative_error"], dims=_OVER_TIME),
    Quantity(
        "halving_time",
        "halving time in τ",
        "The first flow time at which λ₁(Φ(θₜ)) is at most half of that at the start.",
        unit="1",
        dims=("problem", "kappa"),
        reference="predicted_halving_time",
        scale="log",
    ),
    Quantity(
        "predicted_halving_time",
        "predicted halving time in τ",
        "The first flow time at which λ₁(ζ(τ)) is at most half of that at the start.",
        unit="1",
        dims=("problem", "kappa"),
        scale="log",
    ),
    Quantity(
        "mean_descent_squared",
        "squared slope G²",
        "The harmonic mean of G² = ‖∇_Γ log λ₁‖² over log λ₁ while the sharpness halves.",
        unit="1",
        dims=("problem",),
        symbol="G²",
        scale="log",
    ),
    Quantity(
        "sharpness_by_coordinates",
        "sharpness λ₁ at Φ(θₜ)",
        "The largest eigenvalue of the Hessian at Φ(θₜ), with the diagonal estimate in place of "
        "the exact projection.",
        unit="1",
        dims=("kappa_by_coordinates", "radial", "output"),
        scale="log",
    ),
)
_SHARP = (3, 4)  # four eigenvalues of the regression exceed λ*/(1 + κ) at κ = 1


@dataclasses.dataclass(frozen=True)
class _Run:
    """One trajectory beside its flow, at the same flow times."""

    tau: np.ndarray
    sharpness: np.ndarray
    predicted: np.ndarray
    relative_error: np.ndarray
    inverse_squares: np.ndarray  # 1/G² of the flow

    @property
    def halving(self) -> float:
        return _time_to_fall(self.tau, self.sharpness)

    @property
    def predicted_halving(self) -> float:
        return _time_to_fall(self.tau, self.predicted)


def run(progress: bool | None = None) -> Findings:
    """Run κ = 0, 1, 2, 4 from the edge on five problems, and the diagonal estimate on one."""
    networks = cases()
    runs: dict[str, list[_Run]] = {}
    with progress_bar(len(networks) + 2, progress) as display:
        for name, case in networks.items():
            runs[name] = [_beside_flow(case, kappa) for kappa in KAPPAS]
            display.advance(1)
        network, near = networks["three"], networks["shallow"]
        diagonal = {
            (kappa, radial): _with_coordinates(network, kappa, radial)
            for kappa in KAPPAS[1:]
            for radial in (True, False)
        }
        display.advance(1)
        complement = {
            k: _beside_flow(near, 1.0, sf.simulator.outside_edge_space(near.problem, k))
            for k in _SHARP
        }
        display.advance(1)
    checks = [check for name in networks for check in _statements(networks[name].name, runs[name])]
    checks += _about_projections(runs["three"], diagonal, complement)
    return Findings(
        checks, {"flat-directions": _figure(networks, runs)}, _numbers(networks, runs, diagonal)
    )


def _beside_flow(case: Case, kappa: float, projection: FlatProjection | None = None) -> _Run:
    trajectory = _simulated(
        case, kappa, projection or sf.simulator.tangent_at_manifold(case.problem)
    )
    flow = sf.predict(
        case.problem,
        trajectory,
        kind="sharpness_flow",
        arrival_step=0,
        max_edge=case.max_edge,
        progress=False,
    )
    assert isinstance(flow, sf.FlowSolution)
    compared = sf.compare(trajectory, flow, case.problem, progress=False)
    return _Run(
        tau=compared["tau"].values,
        sharpness=compared["sharpness"].values,
        predicted=compared["predicted_sharpness"].values,
        relative_error=compared["relative_error"].values,
        inverse_squares=1.0 / np.asarray(flow.descent_squared),
    )


def _simulated(case: Case, kappa: float, projection: FlatProjection) -> sf.Trajectory:
    start = sf.theory.start_at_edge(
        case.problem, case.theta0, LEARNING_RATE, WEIGHT_DECAY, _PERTURBATION
    )
    base = sf.gdwd(LEARNING_RATE, WEIGHT_DECAY)
    every = round(case.end / INTRINSIC_RATE / (_OUTPUTS - 1))
    return sf.simulate(
        case.problem,
        start,
        sf.simulator.ire(base, kappa, projection) if kappa else base,
        every * (_OUTPUTS - 1) + 1,
        record_every=every,
        snapshot_every=1,
        observables=("loss", "threshold"),
        progress=False,
    )


def _with_coordinates(case: Case, kappa: float, radial: bool) -> np.ndarray:
    """λ_1 at Φ(θ_t) with the diagonal estimate in place of the exact projection."""
    projection = sf.simulator.flattest_coordinates(case.problem, _COORDINATES, radial=radial)
    trajectory = _simulated(case, kappa, projection)
    return sf.simulator.project_snapshots(case.problem, trajectory.params, progress=False).sharpness


def _time_to_fall(tau: np.ndarray, sharpness: np.ndarray, level: float = 0.5) -> float:
    """The first time at which it is at most ``level`` of the start; infinite where never."""
    fallen, enough = np.maximum.accumulate(np.log(sharpness[0] / sharpness)), -np.log(level)
    return float(np.interp(enough, fallen, tau)) if fallen[-1] >= enough else np.inf


def _mean_square(run: _Run) -> tuple[float, float]:
    """G² over the halving of λ_1: its harmonic mean over log λ_1, and its largest or least.

    The harmonic mean is what sets the time (docs/flat-directions.md).
    """
    fallen = np.maximum.accumulate(np.log(run.predicted[0] / run.predicted))
    within = np.linspace(0.0, np.log(2.0), 200)
    inverse = np.interp(within, fallen, run.inverse_squares)
    return float(1.0 / np.mean(inverse)), float(1.0 / np.max(inverse))


def _statements(name: str, runs: list[_Run]) -> list[Check]:
    square, least = _mean_square(runs[0])
    part = f"{name}: mean G² = {square:.3g}, least {least:.3g}"
    checks = []
    for kappa, run in zip(KAPPAS, runs, strict=True):
        late = run.tau >= 0.2 * run.tau[-1]
        checks += [
            Check(
                part,
                f"κ = {kappa:g}: tracking error over the distance moved",
                float(run.relative_error[-1]),
                high=TRACKING,
                note=f"largest after a fifth of the run {np.max(run.relative_error[late]):.2g}",
            ),
            Check(
                part,
                f"κ = {kappa:g}: halving time over the derived one",
                run.halving / run.predicted_halving,
                1.0 - HALVING,
                1.0 + HALVING,
                note=f"τ = {run.halving:.3g}, derived {run.predicted_halving:.3g}",
            ),
        ]
        if kappa:
            formula = (1.0 + kappa) * (4.0 + square) / (4.0 + (1.0 + kappa) * square)
            checks.append(
                Check(
                    part,
                    f"κ = {kappa:g}: speed-up of the halving",
                    runs[0].halving / run.halving,
                    note=f"from the mean G² {formula:.3g}",
                )
            )
    return checks


def _about_projections(
    exact: list[_Run], diagonal: dict[tuple[float, bool], np.ndarray], complement: dict[int, _Run]
) -> list[Check]:
    tau, base = exact[0].tau, exact[0]
    slowest = _time_to_fall(tau, base.sharpness, _LEVEL)
    part = f"MLP, 3 digits: flattest {_COORDINATES:.0%} of coordinates, time to λ₁ = 0.3 λ₁(0)"
    checks = []
    for (kappa, radial), sharpness in diagonal.items():
        along = exact[KAPPAS.index(kappa)].sharpness
        left = [values[-1] / values[0] for values in (sharpness, along, base.sharpness)]
        checks.append(
            Check(
                part,
                f"κ = {kappa:g}, weight decay {'too' if radial else 'left alone'}: speed-up",
                slowest / _time_to_fall(tau, sharpness, _LEVEL),
                note=f"exact {slowest / _time_to_fall(tau, along, _LEVEL):.3g}; λ₁/λ₁(0) at the "
                "end {:.3g}, exact {:.3g}, κ = 0 {:.3g}".format(*left),
            )
        )
    part = "regression, near: all but the k sharpest directions, four above λ*/2"
    for k, run in complement.items():
        high = TRACKING if k == max(_SHARP) else np.inf
        error = float(run.relative_error[-1])
        checks.append(Check(part, f"κ = 1, k = {k}: tracking error", error, high=high))
    return checks


def _figure(networks: dict[str, Case], runs: dict[str, list[_Run]]) -> "Figure":
    from matplotlib import pyplot

    with drawing.in_force():
        figure, axes = pyplot.subplots(1, 3, figsize=(8.6, 2.8), layout="constrained")
        for ax, name in zip(axes, ("circle", "two"), strict=False):
            tau = runs[name][0].tau
            figures.sharpness_fall(
                tau,
                {k: r.sharpness for k, r in zip(KAPPAS, runs[name], strict=True)},
                {k: r.predicted for k, r in zip(KAPPAS, runs[name], strict=True)},
                ax,
                explained=name == "circle",
            )
            ax.set_title(
                rf"{networks[name].name}, $G^2\approx{_mean_square(runs[name][0])[0]:.3g}$"
            )
        figures.speed_up(
            np.array([_mean_square(runs[name][0])[0] for name in networks]),
            np.array([[runs[n][0].halving / r.halving for r in runs[n][1:]] for n in networks]),
            KAPPAS[1:],
            [case.name for case in networks.values()],
            axes[2],
        )
        for ax in axes:
            drawing.keep_tick_fonts(ax)
    return figure


def _numbers(
    networks: dict[str, Case],
    runs: dict[str, list[_Run]],
    diagonal: dict[tuple[float, bool], np.ndarray],
) -> "xarray.Dataset":
    import xarray

    def over(get: str) -> np.ndarray:
        return np.array([[getattr(run, get) for run in runs[name]] for name in networks])

    estimated = np.array([[diagonal[k, radial] for radial in (True, False)] for k in KAPPAS[1:]])
    numbers = xarray.Dataset(
        {
            "tau": (("problem", "output"), over("tau")[:, 0]),
            "sharpness": (_OVER_TIME, over("sharpness")),
            "predicted_sharpness": (_OVER_TIME, over("predicted")),
            "relative_error": (_OVER_TIME, over("relative_error")),
            "halving_time": (("problem", "kappa"), over("halving")),
            "predicted_halving_time": (("problem", "kappa"), over("predicted_halving")),
            "mean_descent_squared": (
                ("problem",),
                [_mean_square(runs[name][0])[0] for name in networks],
            ),
            "sharpness_by_coordinates": (("kappa_by_coordinates", "radial", "output"), estimated),
        },
        {
            "problem": [case.name for case in networks.values()],
            "kappa": list(KAPPAS),
            "kappa_by_coordinates": list(KAPPAS[1:]),
            "radial": [1, 0],
        },
        {
            "intrinsic_rate": INTRINSIC_RATE,
            "learning_rate": LEARNING_RATE,
            "share_of_coordinates": _COORDINATES,
        },
    )
    return described(numbers, IRE)

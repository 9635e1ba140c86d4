"""The covariance of the oscillation with three eigenvalues at the edge."""

import numpy as np

import sharpflow as sf
from sharpflow.experiments.checks import Check
from sharpflow.experiments.plots.drawing import figure_of
from sharpflow.experiments.plots.ladder import covariance_eigenvalues
from sharpflow.experiments.validate import cases
from sharpflow.experiments.validate.findings import Findings
from sharpflow.experiments.validate.ladder import simulate_from_edge
from sharpflow.simulator.quantities import RESULT, described
from sharpflow.simulator.quantity import Quantity, by_name

PART = "three eigenvalues at the edge"
# Small enough that the covariance is within 3 % of ηλM, and large enough that a window of 0.2 in τ
# is 3,300 steps.
RATE = 6e-5
# The bursts of four runs come at different times, so that their mean has four times as many in a
# window. The window itself cannot be longer, because the eigenvectors turn.
PERTURBATIONS = (1e-4, 2e-4, 4e-4, 8e-4)  # the phases of the bursts depend on them
# Where the flow has exactly three eigenvalues at the edge, from each of the three starts.
WINDOWS = ((1.0, 1.2), (1.2, 1.4))
# Of this problem within these windows.
NUM_EDGE = 3

_DIMS = ("seed", "window", "eigenvalue")
EIGENVALUES = by_name(
    RESULT["seed"],
    Quantity(
        "tau", "flow time τ", "The middle of a window of flow time.", unit="1", dims=("window",)
    ),
    Quantity(
        "measured",
        "measured",
        "The eigenvalues of the covariance of the oscillation, the mean over runs that differ in "
        "phase, descending.",
        unit="1",
        dims=_DIMS,
        reference="predicted",
        scale="log",
    ),
    Quantity(
        "predicted",
        "predicted, of ηλM",
        "The eigenvalues of ηλM, the mean over the same windows, descending.",
        unit="1",
        dims=_DIMS,
        scale="log",
    ),
)


def run(progress: bool | None = None) -> Findings:
    """Average the oscillation over runs that differ in phase only, and set it beside ηλ M."""
    import xarray

    case = cases.mlp_four_digits()
    flows = case.flows()
    grid = simulate_from_edge(case, (RATE,), float(case.tau[-1]), progress, PERTURBATIONS)
    covariances, shares = {}, []
    for seed, flow in flows.items():
        runs = [
            sf.simulator.measure_oscillation(
                sf.simulator.grid_point(grid, case.problem, seed=seed, perturbation=perturbation),
                flow,
                case.problem,
                WINDOWS,
            )
            for perturbation in PERTURBATIONS
        ]
        shares += [float(run["period_two_share"].mean()) for run in runs]
        covariances[seed] = sum(run["covariance"].values for run in runs) / len(runs)
        covariances[seed] = np.stack([covariances[seed], runs[0]["predicted_covariance"].values])
    eigenvalues = np.linalg.eigvalsh(np.stack(list(covariances.values())))[..., ::-1]
    numbers = xarray.Dataset(
        {"measured": (_DIMS, eigenvalues[:, 0]), "predicted": (_DIMS, eigenvalues[:, 1])},
        {"seed": list(covariances), "tau": ("window", np.mean(WINDOWS, axis=1))},
        {"intrinsic_rate": RATE},
    )
    numbers = described(numbers, EIGENVALUES)
    predicted = numbers["predicted"].values
    # The rank of M up to its solver, as in the demo.
    at_edge = predicted > 1e-3 * predicted.sum(axis=-1, keepdims=True)
    ratio = (numbers["measured"].mean("window") / numbers["predicted"].mean("window")).values
    checks = [
        Check(PART, "rank of M, least over seeds and windows", float(at_edge.sum(-1).min()), 3, 3),
        Check(PART, "rank of M, largest", float(at_edge.sum(-1).max()), 3, 3),
        *(
            Check(
                PART,
                f"eigenvalue {index + 1} of the covariance over that of ηλM at ηλ = {RATE:g}",
                float(values[np.argmax(np.abs(values - 1.0))]),
                0.9,
                1.1,
                "farthest from 1 over seeds",
            )
            for index, values in enumerate(ratio[:, :NUM_EDGE].T)
        ),
        Check(PART, "period-two share of the oscillation, least", min(shares), 0.99),
    ]
    figure = figure_of(covariance_eigenvalues(numbers))
    return Findings(checks, {"oscillation-covariance": figure}, numbers)

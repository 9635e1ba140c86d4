"""The entry into the Edge of Stability, measured from a rest below it."""

from typing import TYPE_CHECKING

import jax
import numpy as np

import sharpflow as sf
from sharpflow.experiments.validate.cases import Case
from sharpflow.simulator.crossing import first_crossing
from sharpflow.simulator.quantities import RESULT, described
from sharpflow.simulator.quantity import Quantity, by_name

if TYPE_CHECKING:
    import xarray

# As in the demo: large beside rounding, and so small that the loss is that of a rest.
AMPLITUDE = 2e-8  # of the first displacement along v_1
# Some sixty of them within the delay, which is interpolated between two. A tenth would leave six;
# ten times as many would be more than a short run has steps.
NUM_RECORDS = 128  # at least, of a run

_FROM_ZERO = "from the crossing until the loss is that of an oscillation of the equilibrium size"
ENTRIES = by_name(
    RESULT["seed"],
    RESULT["intrinsic_rate"],
    *(
        Quantity(
            name,
            label,
            definition,
            unit=unit,
            dims=("seed", "intrinsic_rate"),
            reference=None if name.startswith("predicted") else f"predicted_{name}",
            scale="log",
        )
        for name, label, unit, definition in (
            (
                "entry_step",
                "entry step",
                "step",
                "The step at which λ₁ at the crossing meets the threshold, between two records.",
            ),
            (
                "predicted_entry_step",
                "predicted entry step",
                "step",
                "The step at which the norm, decaying as at rest, brings the threshold down to λ₁.",
            ),
            ("delay", "delay (steps)", "step", f"The number of steps {_FROM_ZERO}."),
            (
                "predicted_delay",
                "predicted delay (steps)",
                "step",
                "The delay to leading order, √(log(a*/a)/(2ηλ)) with the amplitude a at the "
                "crossing and a* at equilibrium.",
            ),
            (
                "overshoot",
                "overshoot of the edge ratio",
                "1",
                "The largest edge ratio on Γ after the entry, minus 1.",
            ),
            (
                "predicted_overshoot",
                "predicted overshoot",
                "1",
                "The overshoot to leading order, √(2ηλ log(a*/a)).",
            ),
        )
    ),
)


def measure_entries(
    case: Case,
    flows: dict[int, sf.FlowSolution],
    rates: tuple[float, ...],
    progress: bool | None = None,
) -> "xarray.Dataset":
    """Rest on Γ below the edge until the threshold has fallen to it, and what follows.

    Args:
      case: the problem.
      flows: its predictions, by seed, for the equilibrium of the oscillation.
      rates: ηλ.
      progress: whether to show it.

    Returns:
      A dataset over (seed, intrinsic_rate): ``entry_step`` and ``predicted_entry_step``;
      ``delay``, steps from there to the equilibrium amplitude, and ``overshoot`` of the edge
      ratio, each with its ``predicted_`` value.
    """
    import xarray

    entries = [
        [_at(case, flow, seed, rate, progress) for rate in rates] for seed, flow in flows.items()
    ]
    names = entries[0][0]
    columns = {name: [[entry[name] for entry in row] for row in entries] for name in names}
    dataset = xarray.Dataset(
        {name: (("seed", "intrinsic_rate"), values) for name, values in columns.items()},
        {"seed": list(flows), "intrinsic_rate": list(rates)},
    )
    return described(dataset, ENTRIES)


def _at(
    case: Case, flow: sf.FlowSolution, seed: int, rate: float, progress: bool | None
) -> dict[str, float]:
    """From a rest that leaves three tenths of the delay until the edge is crossed."""
    equilibrium = float(np.sqrt(rate * float(flow.edge_trace[0])))
    longest = sf.theory.entry_delay(rate, AMPLITUDE, equilibrium).steps
    weight_decay = rate / case.learning_rate
    at_edge = sf.theory.start_at_edge(
        case.problem, case.starts[seed], case.learning_rate, weight_decay, AMPLITUDE
    )
    # Three tenths of a delay before the crossing, one for the delay, and the rest for the
    # overshoot, which comes after it.
    num_steps = int(2.2 * longest)
    run = sf.simulate(
        case.problem,
        jax.tree.map(lambda leaf: np.exp(0.3 * rate * longest) * leaf, at_edge),
        sf.gdwd(case.learning_rate, weight_decay),
        num_steps,
        record_every=max(num_steps // NUM_RECORDS, 1),
        observables=("loss", "threshold", "norm_squared"),
        snapshot_every=1,
        progress=progress,
    )
    return _entry(case, run, rate, flow, equilibrium)


def _entry(
    case: Case, run: sf.Trajectory, rate: float, flow: sf.FlowSolution, equilibrium: float
) -> dict[str, float]:
    """What happened, with λ_1 measured at the crossing, beside what λ_1 at the start says."""
    start = float(flow.eigenvalues[0, 0])
    step, loss, threshold = run.step.astype(float), np.log(run["loss"]), run["threshold"]
    entered = int(np.argmax(threshold <= start))
    answered = np.where(step < step[entered], -1.0, loss - np.log(0.5 * start * equilibrium**2))
    grown = first_crossing(step, answered)
    # The records around the time at which the oscillation has grown, where the ratio is largest.
    # All of them would have to be retracted.
    peak = int(np.searchsorted(step, grown)) - 1 + np.arange(len(flow.tau) - 1)
    rows = np.clip([entered, *peak], 0, len(step) - 1)
    snapshots = jax.tree.map(lambda leaf: leaf[rows], run.params)
    # the shapes of ``compare``, whose compiled code this then shares
    projection = sf.simulator.project_snapshots(
        case.problem, snapshots, k=flow.eigenvalues.shape[1], progress=False
    )
    sharpness = float(projection.sharpness[0])
    crossing = first_crossing(step, np.log(sharpness / threshold))
    amplitude = float(np.sqrt(2.0 * np.exp(np.interp(crossing, step, loss)) / sharpness))
    predicted = sf.theory.entry_delay(rate, amplitude, equilibrium)
    return {
        "entry_step": crossing,
        "predicted_entry_step": sf.theory.edge_entry_step(
            float(run["norm_squared"][0]), start, case.learning_rate, rate / case.learning_rate
        ),
        "delay": grown - crossing,
        "predicted_delay": predicted.steps,
        "overshoot": float(np.nanmax(projection.sharpness / threshold[rows])) - 1.0,
        "predicted_overshoot": predicted.overshoot,
    }

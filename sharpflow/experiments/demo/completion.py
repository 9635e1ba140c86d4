"""Demo, part b: matrix completion, with and without weight decay."""

import dataclasses
from typing import TYPE_CHECKING

import jax
import numpy as np

import sharpflow as sf
from sharpflow.experiments.checks import Check

if TYPE_CHECKING:
    import xarray

PART = "matrix completion"
# ηλ = 2e-3. A tenth would need ten times the steps for the same path, and from 1e-2 on the mean
# edge ratio is more than 5 % off (docs/validation.md).
LEARNING_RATE, WEIGHT_DECAY = 2.0, 1e-3
# Of the loss. It is reached after 289 steps of 2000; 1e-8 and 1e-12 are reached after 223 and 345,
# and in between nothing but the norm changes.
ON_MANIFOLD = 1e-10


@dataclasses.dataclass(frozen=True)
class CompletionResult:
    """What part b measures.

    Attributes:
      trajectory, without_decay: the two runs.
      flow: the prediction for the first.
      comparison: of the two.
      predicted_error: test error along the flow, shape (T,).
      checks: the statements.
    """

    trajectory: sf.Trajectory
    without_decay: sf.Trajectory
    flow: sf.FlowSolution
    comparison: "xarray.Dataset"
    predicted_error: np.ndarray
    checks: list[Check]


def run(quick: bool = False, progress: bool | None = None) -> CompletionResult:
    """Sharpness and test error fall together after the predicted entry, or not at all."""
    if quick:
        problem = sf.models.matrix_completion(shape=(12, 12), init_scale=2.0, seed=1)
    else:
        problem = sf.models.matrix_completion(shape=(30, 30), seed=1)
    params = problem.init(jax.random.key(1))
    columns = ("loss", "norm_squared", "threshold", "metrics", "loss_mean", "loss_rises")
    trajectory, without_decay = (
        sf.simulate(
            problem,
            params,
            sf.gdwd(LEARNING_RATE, weight_decay),
            2000,
            record_every=5,
            snapshot_every=10,
            observables=(*columns, sf.simulator.hessian_sharpness()),
            progress=progress,
        )
        # The same start without weight decay, as a control: training reaches Γ there as well, and
        # then nothing moves.
        for weight_decay in (WEIGHT_DECAY, 0.0)
    )
    on_manifold = trajectory["loss"][trajectory.snapshot_row] < ON_MANIFOLD
    arrival = int(trajectory.snapshot_step[np.argmax(on_manifold)])
    # An error of the flow of 0.3 % is far below the 5 % that the tracking error may be.
    flow = sf.predict(
        problem,
        trajectory,
        kind="sharpness_flow",
        arrival_step=arrival,
        num_outputs=36,
        rtol=3e-3,
        progress=progress,
    )
    assert isinstance(flow, sf.FlowSolution)
    comparison = sf.compare(trajectory, flow, problem, progress=progress)
    predicted_error = np.asarray(jax.vmap(problem.metrics["test_error"])(flow.theta))
    attributes = comparison.attrs
    error, resting = trajectory["test_error"], without_decay["test_error"]
    entered = int(np.searchsorted(trajectory.step, attributes["entry_step"]))
    sharpness = comparison["sharpness"].values
    checks = [
        Check(
            PART,
            "entry step, measured/predicted",
            attributes["entry_step"] / attributes["predicted_entry_step"],
            0.99,
            1.01,
            f"step {attributes['entry_step']:.0f}",
        ),
        Check(PART, "test error at the entry", float(error[entered])),
        Check(PART, "test error at the end", float(error[-1]), high=0.5 * float(error[entered])),
        Check(PART, "predicted test error at the end", float(predicted_error[-1])),
        Check(
            PART,
            "test error at the end without weight decay, over that on arrival",
            float(resting[-1] / resting[np.argmax(without_decay["loss"] < ON_MANIFOLD)]),
            0.99,
            1.01,
            f"{resting[-1]:.3f}",
        ),
        Check(PART, "spherical sharpness at the entry", float(sharpness[0])),
        Check(PART, "spherical sharpness at the end", float(sharpness[-1])),
        Check(PART, "mean edge ratio after the entry", attributes["mean_edge_ratio"], 0.95, 1.05),
        Check(
            PART, "tracking error / distance moved", attributes["final_relative_error"], high=0.05
        ),
        Check(PART, "mean loss, measured/predicted", attributes["mean_loss_ratio"], 0.9, 1.1),
        Check(
            PART,
            "share of rising losses before the entry",
            attributes["loss_rises_before"],
            high=0.05,
        ),
        Check(
            PART, "share of rising losses after the entry", attributes["loss_rises_after"], 0.4, 0.6
        ),
    ]
    return CompletionResult(trajectory, without_decay, flow, comparison, predicted_error, checks)

"""What the columns and the numbers of a comparison are."""

import dataclasses

from sharpflow.simulator.observables import COLUMNS
from sharpflow.simulator.quantities import RESULT
from sharpflow.simulator.quantity import Quantity, by_name

_PER_EIGENVALUE = ("tau", "eigenvalue")
COMPARISON = by_name(
    RESULT["tau"],
    RESULT["step"],
    Quantity(
        "tracking_error",
        "tracking error ‖Φ(θₜ) − ζ(τ)‖",
        "The distance between the trajectory, retracted to Γ, and the flow at the same flow time, "
        "‖Φ(θₜ) − ζ(τ)‖.",
        unit="1",
        dims=("tau",),
        scale="log",
    ),
    Quantity(
        "distance_moved",
        "distance moved ‖ζ(τ) − ζ(τ₀)‖",
        "The distance of the flow from where it began, ‖ζ(τ) − ζ(τ₀)‖.",
        unit="1",
        dims=("tau",),
        scale="linear",
    ),
    Quantity(
        "relative_error",
        "tracking error / distance moved",
        "The tracking error over the distance moved, ‖Φ(θₜ) − ζ(τ)‖/‖ζ(τ) − ζ(τ₀)‖; NaN where the "
        "flow has not moved.",
        unit="1",
        dims=("tau",),
        scale="log",
    ),
    Quantity(
        "distance_to_manifold",
        "distance from Γ ‖θₜ − Φ(θₜ)‖",
        "The distance of the trajectory from the minimizer manifold, ‖θₜ − Φ(θₜ)‖; NaN where the "
        "retraction fails.",
        unit="1",
        dims=("tau",),
        scale="log",
    ),
    Quantity(
        "sharpness",
        "sharpness λ₁ at Φ(θₜ)",
        "The largest eigenvalue of the Hessian ∇²L at Φ(θₜ).",
        unit="1",
        dims=("tau",),
        symbol="λ₁",
        reference="threshold",
        scale="log",
    ),
    Quantity(
        "predicted_sharpness",
        "predicted sharpness λ₁ at ζ(τ)",
        "The largest eigenvalue of the Hessian ∇²L at the flow, ζ(τ).",
        unit="1",
        dims=("tau",),
        symbol="predicted λ₁",
        reference="predicted_threshold",
        scale="log",
    ),
    dataclasses.replace(COLUMNS["threshold"], dims=("tau",)),
    Quantity(
        "predicted_threshold",
        "predicted threshold λ*",
        "The threshold λ* of the flow, which starts at the measured one and follows the predicted "
        "oscillation, d log λ*/dτ = b(2 tr M − 1).",
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
        "edge_ratio",
        "edge ratio λ₁/λ* at Φ(θₜ)",
        "The largest eigenvalue of the Hessian at Φ(θₜ) over the threshold at the same step, "
        "λ₁(Φ(θₜ))/λ*ₜ, which is 1 at the Edge of Stability.",
        unit="1",
        dims=("tau",),
        symbol="λ₁/λ*",
        reference=1.0,
        scale="linear",
    ),
    Quantity(
        "loss_mean",
        "mean loss L̄",
        "The mean of L − inf L over a window of steps. The window ends at this output and begins "
        "at the last output that is 100 steps or more before it. NaN where the oscillation had not "
        "settled when the window began.",
        unit="1",
        dims=("tau",),
        symbol="L̄",
        reference="predicted_loss",
        scale="linear",
    ),
    Quantity(
        "predicted_loss",
        "predicted mean loss ½ηλλ* tr M",
        "The mean of ½ηλλ* tr M over the window of loss_mean, times the share oscillation_share of "
        "the rule: 1 for gradient descent with weight decay, (1 − β)/(1 + β) with momentum.",
        unit="1",
        dims=("tau",),
        symbol="½ηλλ* tr M",
        scale="linear",
    ),
    Quantity(
        "loss_ratio",
        "mean loss L̄, measured / predicted",
        "The measured mean loss over the predicted one.",
        unit="1",
        dims=("tau",),
        reference=1.0,
        scale="linear",
    ),
    Quantity(
        "predicted_step_angle",
        "predicted angle of a step 2√(ηλ tr M)",
        "The root mean square of the angle between wₜ and wₜ₊₁ that the oscillation of the flow "
        "makes, 2√(ηλ tr M), with the share oscillation_share of the rule times ηλ.",
        unit="rad",
        dims=("tau",),
        symbol="2√(ηλ tr M)",
        scale="log",
    ),
    Quantity(
        "eigenvalues",
        "eigenvalues λᵢ at Φ(θₜ)",
        "The k largest eigenvalues of the Hessian ∇²L at Φ(θₜ).",
        unit="1",
        dims=_PER_EIGENVALUE,
        reference="threshold",
        scale="log",
    ),
    Quantity(
        "predicted_eigenvalues",
        "predicted eigenvalues λᵢ at ζ(τ)",
        "The k largest eigenvalues of the Hessian ∇²L at the flow, ζ(τ).",
        unit="1",
        dims=_PER_EIGENVALUE,
        reference="predicted_threshold",
        scale="log",
    ),
)

# What the attributes of the whole dataset hold: one number for the trajectory.
COMPARISON_NUMBERS = by_name(
    Quantity(
        "entry_step",
        "entry step",
        "The step at which the edge ratio first rises through 1 from below, interpolated between "
        "records; NaN where it does not, or did before the trajectory came near Γ. A start at the "
        "edge, or above it where it stays there, enters at its first step.",
        unit="step",
        reference="predicted_entry_step",
    ),
    Quantity(
        "predicted_entry_step",
        "predicted entry step",
        "The step at which the threshold falls to the sharpness λ₁ of the first output of the "
        "flow, if nothing but the norm changes until then; NaN where the trajectory had entered "
        "the edge before it came near Γ.",
        unit="step",
    ),
    Quantity(
        "final_relative_error",
        "tracking error / distance moved",
        "The tracking error over the distance moved at the last output.",
        unit="1",
        reference=0.0,
    ),
    Quantity(
        "mean_edge_ratio",
        "mean edge ratio on Γ after the entry",
        "The mean of the edge ratio over the outputs after the oscillation has settled.",
        unit="1",
        reference=1.0,
    ),
    Quantity(
        "mean_loss_ratio",
        "mean loss after the entry, measured / predicted",
        "The mean of the measured loss over that of the predicted one, over all steps after the "
        "oscillation has settled.",
        unit="1",
        reference=1.0,
    ),
    Quantity(
        "mean_angle_ratio",
        "angle of a step, measured / predicted",
        "The root mean square of the recorded angles of steps over that of the predicted ones, "
        "after the oscillation has settled.",
        unit="1",
        reference=1.0,
    ),
    Quantity(
        "loss_rises_before",
        "share of rising losses before the entry",
        "The share of the steps before the entry that raise the loss.",
        unit="1",
        reference=0.0,
    ),
    Quantity(
        "loss_rises_after",
        "share of rising losses after the entry",
        "The share of the steps that raise the loss, after the oscillation has settled.",
        unit="1",
        reference=0.5,
    ),
    RESULT["intrinsic_rate"],
    Quantity(
        "settle_tau",
        "flow time left out",
        "The flow time that averages after the entry leave out. It counts from the record at which "
        "the loss of the oscillation first reaches half of the predicted one.",
        unit="1",
    ),
)

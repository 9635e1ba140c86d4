"""What the predictions of a grid hold beside what was measured."""

from sharpflow.simulator.quantity import Quantity, by_name

OUTPUT = "output"  # the dimension of the output times of a prediction
NONE = "none"  # the kind of prediction of a point that has none
# Of the numbers of ``compare``, those that a grid keeps of each point.
NUMBERS = (
    "entry_step",
    "predicted_entry_step",
    "final_relative_error",
    "mean_edge_ratio",
    "mean_loss_ratio",
    "mean_angle_ratio",
)
PREDICTION = by_name(
    Quantity(
        "prediction_kind",
        "kind of prediction",
        'What predicts a point: "sharpness_flow", the flow on Γ from its arrival there, '
        '"central_flow", that of the average from its first snapshot near the edge or below it, '
        'or "none".',
        unit="1",
    ),
    Quantity(
        "prediction_status",
        "status of the prediction",
        "How the integration ended, as the number of a Status: 0 is SUCCESS; −1 where there is no "
        "prediction.",
        unit="1",
    ),
    Quantity(
        "prediction_reason",
        "why there is no prediction, or no flow on Γ",
        "Why a point has no prediction, why its prediction ends early, or why it is a central flow "
        "that nobody asked for, and what would help; empty where there is nothing to say.",
        unit="1",
    ),
    Quantity(
        "prediction_steps",
        "steps that are predicted",
        "The updates that the point had made when it was predicted.",
        unit="step",
    ),
    Quantity(
        "prediction_tau",
        "flow time τ of a prediction",
        "Flow time of each output of a prediction; NaN after its last.",
        unit="1",
        dims=(OUTPUT,),
    ),
    Quantity(
        "prediction_step",
        "step of a prediction",
        "The step of the snapshot beside which each output of a prediction stands.",
        unit="step",
        dims=(OUTPUT,),
    ),
    Quantity(
        "predicted_norm_squared",
        "predicted ‖w‖²",
        "‖w‖² of the prediction; of a flow on Γ it follows from the threshold, "
        "and is known of GD+WD alone.",
        unit="1",
        dims=(OUTPUT,),
        scale="log",
    ),
    Quantity(
        "predicted_edge_trace",
        "predicted trace of the oscillation, tr M",
        "The trace of M, the covariance of the predicted oscillation over ηλ; of a central flow "
        "tr C/(ηλ), of the directions where the loss is scale-invariant.",
        unit="1",
        dims=(OUTPUT,),
    ),
    Quantity(
        "predicted_edge_dimension",
        "predicted number of eigenvalues at the edge",
        "How many eigenvalues the predicted oscillation holds at the edge.",
        unit="1",
        dims=(OUTPUT,),
    ),
)

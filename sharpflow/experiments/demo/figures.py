"""The figures of the demo."""

from pathlib import Path

import numpy as np
from matplotlib import pyplot

from sharpflow.experiments import plots
from sharpflow.experiments.demo.circle import CircleResult
from sharpflow.experiments.demo.completion import CompletionResult
from sharpflow.experiments.demo.digits import DigitsResult
from sharpflow.experiments.demo.linear import LinearResult


def draw(
    linear: LinearResult,
    completion: CompletionResult,
    digits: DigitsResult,
    circle: CircleResult,
    out: Path,
) -> list[Path]:
    """Draw everything into the folder ``out``, and return the paths."""
    finest = digits.comparisons[-1]
    axes = {
        "linear-angle": plots.angle(
            linear.tau, linear.exact_angle, linear.flow_angle, linear.gd_angle
        ),
        "completion-prediction": plots.prediction_panel(
            completion.comparison,
            completion.flow,
            completion.trajectory,
            completion.without_decay,
            (np.asarray(completion.flow.tau), completion.predicted_error),
        )[0],
        "completion-edge-of-stability": plots.edge_of_stability(
            completion.trajectory, entry_step=completion.comparison.attrs["entry_step"]
        ),
        "completion-mean-loss": plots.mean_loss(completion.comparison),
        "digits-edge-eigenvalues": plots.edge_eigenvalues(digits.flow, finest),
        "digits-sharpness": plots.sharpness_and_threshold(finest, digits.flow),
        "digits-mean-loss": plots.mean_loss(finest),
        "digits-tracking-error": plots.tracking_error(
            digits.intrinsic_rates, digits.errors, digits.fit
        ),
        "digits-single-edge": plots.single_edge_failure(
            finest["tau"].values,
            finest["relative_error"].values,
            digits.single_edge_error,
        ),
        "sphere": plots.sphere(circle.trajectory, circle.flow, circle.manifold),
    }
    paths = []
    for name, drawn in axes.items():
        paths.append(plots.save(drawn.figure, out / f"{name}.png"))
        pyplot.close(drawn.figure)
    return paths

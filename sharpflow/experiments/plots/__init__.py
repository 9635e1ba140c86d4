"""Figures that a paper could print; matplotlib is loaded when the first is drawn."""

from sharpflow.experiments.plots.angles import angle
from sharpflow.experiments.plots.edge import (
    edge_eigenvalues,
    edge_of_stability,
    sharpness_and_threshold,
)
from sharpflow.experiments.plots.errors import single_edge_failure, tracking_error
from sharpflow.experiments.plots.globe import basis_from, sphere, sphere_coordinates
from sharpflow.experiments.plots.loss import mean_loss
from sharpflow.experiments.plots.metrics import metric
from sharpflow.experiments.plots.panel import prediction_panel
from sharpflow.experiments.plots.style import save

__all__ = [
    "angle",
    "basis_from",
    "edge_eigenvalues",
    "edge_of_stability",
    "mean_loss",
    "metric",
    "prediction_panel",
    "save",
    "sharpness_and_threshold",
    "single_edge_failure",
    "sphere",
    "sphere_coordinates",
    "tracking_error",
]

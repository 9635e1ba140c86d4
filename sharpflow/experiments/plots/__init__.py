"""Figures that a paper could print; matplotlib is loaded when the first is drawn."""

from sharpflow.experiments.plots.angles import angle
from sharpflow.experiments.plots.bands import seed_band_panels, seed_bands
from sharpflow.experiments.plots.decay_panel import prediction_panel
from sharpflow.experiments.plots.drawing import COLUMN, PAGE, save, style
from sharpflow.experiments.plots.edge import (
    edge_eigenvalues,
    edge_of_stability,
    sharpness_and_threshold,
)
from sharpflow.experiments.plots.errors import single_edge_failure, tracking_error
from sharpflow.experiments.plots.folder import plot_grid
from sharpflow.experiments.plots.generalization import generalization_panel
from sharpflow.experiments.plots.globe import basis_from, sphere, sphere_coordinates
from sharpflow.experiments.plots.grid import heat_map, heat_maps
from sharpflow.experiments.plots.layers import layer_angles
from sharpflow.experiments.plots.loss import mean_loss
from sharpflow.experiments.plots.metrics import metric
from sharpflow.experiments.plots.outcomes import outcome_map, outcome_maps
from sharpflow.experiments.plots.sharpness_error import sharpness_against_error
from sharpflow.experiments.plots.spectra import spectral_densities
from sharpflow.experiments.plots.trajectory_panel import panel

__all__ = [
    "COLUMN",
    "PAGE",
    "angle",
    "basis_from",
    "edge_eigenvalues",
    "edge_of_stability",
    "generalization_panel",
    "heat_map",
    "heat_maps",
    "layer_angles",
    "mean_loss",
    "metric",
    "outcome_map",
    "outcome_maps",
    "panel",
    "plot_grid",
    "prediction_panel",
    "save",
    "seed_band_panels",
    "seed_bands",
    "sharpness_against_error",
    "sharpness_and_threshold",
    "single_edge_failure",
    "spectral_densities",
    "sphere",
    "sphere_coordinates",
    "style",
    "tracking_error",
]

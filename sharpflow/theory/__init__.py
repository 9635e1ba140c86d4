"""What is predicted, and the curvature that prediction needs."""

from sharpflow.theory import exact
from sharpflow.theory.blocks import block_eigenpairs
from sharpflow.theory.central_flow import CentralFlowSolution, central_flow
from sharpflow.theory.curvature import Eigenpairs, spherical_sharpness, top_eigenpairs
from sharpflow.theory.edge import EdgeSolution, solve_edge_program
from sharpflow.theory.fisher import FisherSpectrum, fisher_spectrum
from sharpflow.theory.flow import FlowSolution, sharpness_flow
from sharpflow.theory.linearization import Linearization, linearize
from sharpflow.theory.manifold import retract, retract_with_status, tangent_projection
from sharpflow.theory.mean_field import (
    FisherPrediction,
    OrderParameters,
    fisher_prediction,
    order_parameters,
)
from sharpflow.theory.period_two import PeriodTwo, period_two, settled_excess
from sharpflow.theory.single_edge import single_edge_flow, single_edge_velocity
from sharpflow.theory.spectral_density import SpectralDensity, spectral_density
from sharpflow.theory.stability import (
    EntryDelay,
    edge_entry_step,
    edge_ratio,
    effective_learning_rate,
    entry_delay,
    predicted_loss,
    predicted_step_angle,
    start_at_edge,
    threshold,
)
from sharpflow.theory.status import Status
from sharpflow.theory.trace import TraceEstimate, trace

__all__ = [
    "CentralFlowSolution",
    "EdgeSolution",
    "Eigenpairs",
    "EntryDelay",
    "FisherPrediction",
    "FisherSpectrum",
    "FlowSolution",
    "Linearization",
    "OrderParameters",
    "PeriodTwo",
    "SpectralDensity",
    "Status",
    "TraceEstimate",
    "block_eigenpairs",
    "central_flow",
    "edge_entry_step",
    "edge_ratio",
    "effective_learning_rate",
    "entry_delay",
    "exact",
    "fisher_prediction",
    "fisher_spectrum",
    "linearize",
    "order_parameters",
    "period_two",
    "predicted_loss",
    "predicted_step_angle",
    "retract",
    "retract_with_status",
    "settled_excess",
    "sharpness_flow",
    "single_edge_flow",
    "single_edge_velocity",
    "solve_edge_program",
    "spectral_density",
    "spherical_sharpness",
    "start_at_edge",
    "tangent_projection",
    "threshold",
    "top_eigenpairs",
    "trace",
]

"""What happens, and how it compares with what is predicted."""

from sharpflow.simulator.clock import Clock
from sharpflow.simulator.comparison import compare
from sharpflow.simulator.comparison_words import comparison_summary
from sharpflow.simulator.grid import (
    Fork,
    GridPlan,
    GridSpec,
    grid_point,
    plan_grid,
    predict_grid,
    simulate_grid,
)
from sharpflow.simulator.interrupt import Interrupted
from sharpflow.simulator.layers import measure_layers
from sharpflow.simulator.loading import load
from sharpflow.simulator.moment import Moment, Observable
from sharpflow.simulator.oscillation import measure_oscillation
from sharpflow.simulator.prediction import Projection, predict, project_snapshots
from sharpflow.simulator.processes import Processes, join_processes
from sharpflow.simulator.quantity import Quantity
from sharpflow.simulator.rules import (
    EdgeDynamics,
    EdgeRule,
    FlatProjection,
    cosine_decay,
    flattest_coordinates,
    gdwd,
    ire,
    linear_decay,
    momentum,
    outside_edge_space,
    projected_gd,
    quasi_rmsprop,
    rmsprop,
    sam,
    step_decay,
    tangent_at_manifold,
    warmup,
    warmup_stable_decay,
)
from sharpflow.simulator.sharpness import (
    hessian_sharpness,
    preconditioned_sharpness,
    sharpness,
)
from sharpflow.simulator.simulation import log_spaced, simulate
from sharpflow.simulator.spectra import measure_spectra
from sharpflow.simulator.store import RunError, RunLockedError, StorageError, open_run
from sharpflow.simulator.trajectory import Snapshot, Trajectory, concatenate

__all__ = [
    "Clock",
    "EdgeDynamics",
    "EdgeRule",
    "FlatProjection",
    "Fork",
    "GridPlan",
    "GridSpec",
    "Interrupted",
    "Moment",
    "Observable",
    "Processes",
    "Projection",
    "Quantity",
    "RunError",
    "RunLockedError",
    "Snapshot",
    "StorageError",
    "Trajectory",
    "compare",
    "comparison_summary",
    "concatenate",
    "cosine_decay",
    "flattest_coordinates",
    "gdwd",
    "grid_point",
    "hessian_sharpness",
    "ire",
    "join_processes",
    "linear_decay",
    "load",
    "log_spaced",
    "measure_layers",
    "measure_oscillation",
    "measure_spectra",
    "momentum",
    "open_run",
    "outside_edge_space",
    "plan_grid",
    "preconditioned_sharpness",
    "predict",
    "predict_grid",
    "project_snapshots",
    "projected_gd",
    "quasi_rmsprop",
    "rmsprop",
    "sam",
    "sharpness",
    "simulate",
    "simulate_grid",
    "step_decay",
    "tangent_at_manifold",
    "warmup",
    "warmup_stable_decay",
]

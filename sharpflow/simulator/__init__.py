"""What happens, and how it compares with what is predicted."""

from sharpflow.simulator.comparison import compare
from sharpflow.simulator.moment import Moment, Observable
from sharpflow.simulator.prediction import Projection, predict, project_snapshots
from sharpflow.simulator.sharpness import hessian_sharpness, sharpness
from sharpflow.simulator.trajectory import Trajectory, concatenate, log_spaced, simulate
from sharpflow.simulator.updates import gdwd, quasi_rmsprop

__all__ = [
    "Moment",
    "Observable",
    "Projection",
    "Trajectory",
    "compare",
    "concatenate",
    "gdwd",
    "hessian_sharpness",
    "log_spaced",
    "predict",
    "project_snapshots",
    "quasi_rmsprop",
    "sharpness",
    "simulate",
]

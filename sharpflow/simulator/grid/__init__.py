"""Grids of trajectories: seeds, learning rates, weight decays and other axes."""

from sharpflow.simulator.grid.fork import Fork
from sharpflow.simulator.grid.point import grid_point
from sharpflow.simulator.grid.predictions import predict_grid
from sharpflow.simulator.grid.run import GridPlan, plan_grid, simulate_grid
from sharpflow.simulator.grid.spec import GridSpec

__all__ = [
    "Fork",
    "GridPlan",
    "GridSpec",
    "grid_point",
    "plan_grid",
    "predict_grid",
    "simulate_grid",
]

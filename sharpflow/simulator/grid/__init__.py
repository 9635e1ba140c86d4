"""Grids of trajectories: seeds, learning rates, weight decays and other axes."""

from sharpflow.simulator.grid.run import GridPlan, grid_point, plan_grid, simulate_grid
from sharpflow.simulator.grid.spec import GridSpec

__all__ = ["GridPlan", "GridSpec", "grid_point", "plan_grid", "simulate_grid"]

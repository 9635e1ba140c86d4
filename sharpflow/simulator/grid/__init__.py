"""Grids of trajectories: seeds, learning rates, weight decays and other axes."""

from sharpflow.simulator.grid.plan import GridPlan, plan_grid
from sharpflow.simulator.grid.simulate import simulate_grid

__all__ = ["GridPlan", "plan_grid", "simulate_grid"]

"""Update rules as optax transformations that keep their hyperparameters in their state."""

from sharpflow.simulator.rules.edge_rule import EdgeDynamics, EdgeRule, edge_dynamics
from sharpflow.simulator.rules.flat_directions import (
    FlatProjection,
    flattest_coordinates,
    outside_edge_space,
    tangent_at_manifold,
)
from sharpflow.simulator.rules.gdwd import gdwd
from sharpflow.simulator.rules.ire import ire
from sharpflow.simulator.rules.momentum import momentum
from sharpflow.simulator.rules.projected_gd import projected_gd
from sharpflow.simulator.rules.quasi_rmsprop import quasi_rmsprop
from sharpflow.simulator.rules.rmsprop import rmsprop
from sharpflow.simulator.rules.sam import sam
from sharpflow.simulator.rules.schedules import (
    cosine_decay,
    linear_decay,
    step_decay,
    warmup,
    warmup_stable_decay,
)

__all__ = [
    "EdgeDynamics",
    "EdgeRule",
    "FlatProjection",
    "cosine_decay",
    "edge_dynamics",
    "flattest_coordinates",
    "gdwd",
    "ire",
    "linear_decay",
    "momentum",
    "outside_edge_space",
    "projected_gd",
    "quasi_rmsprop",
    "rmsprop",
    "sam",
    "step_decay",
    "tangent_at_manifold",
    "warmup",
    "warmup_stable_decay",
]

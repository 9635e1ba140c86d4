"""Demo: a trajectory on the sphere in three dimensions, where everything can be drawn."""

import dataclasses

import numpy as np

import sharpflow as sf
from sharpflow.experiments.starts import point_at_angle

# Radians from the flattest point, the end of the path: far enough to be seen, and not yet where the
# slope 2 tan α grows without bound.
ANGLE = 1.2
# The zigzag across Γ, of the order of the root of the rate, is to be seen: late in the run the
# iterates are 0.046 off Γ. At ten times the rate they are 0.42 off and follow nothing, and at a
# tenth they are 0.014 off, the width of a line.
LEARNING_RATE, INTRINSIC_RATE = 0.5, 4e-3


@dataclasses.dataclass(frozen=True)
class CircleResult:
    """Points on the unit sphere of ℝ³.

    Attributes:
      trajectory: directions θ_t of the iterates, every step, shape (T, 3).
      tau: output times of the flow, shape (S,).
      flow: ζ(τ), shape (S, 3).
      manifold: Γ, the half great circle of solutions, shape (R, 3).
    """

    trajectory: np.ndarray
    tau: np.ndarray
    flow: np.ndarray
    manifold: np.ndarray


def run() -> CircleResult:
    """Batch-norm linear regression with three features and a one-dimensional Γ."""
    # Inputs within a plane of ℝ³: one direction is left over, and Γ is a curve that can be drawn.
    plane = np.random.default_rng(2).normal(size=(2, 3))
    x = np.random.default_rng(3).normal(size=(8, 2)) @ plane
    y = x @ plane[0]
    problem = sf.models.linear_regression(x, y)
    theta0 = point_at_angle(problem, x, y, ANGLE)
    weight_decay = INTRINSIC_RATE / LEARNING_RATE
    trajectory = sf.simulate(
        problem,
        sf.theory.start_at_edge(problem, theta0, LEARNING_RATE, weight_decay, perturbation=1e-2),
        sf.gdwd(LEARNING_RATE, weight_decay),
        round(3.0 / INTRINSIC_RATE),
        snapshot_every=1,
        progress=False,
    )
    assert trajectory.params is not None
    points = trajectory.params / np.linalg.norm(trajectory.params, axis=1, keepdims=True)
    tau = np.linspace(0.0, 3.0, 61)
    flow = sf.sharpness_flow(problem, theta0, tau, progress=False)
    solution = sf.theory.exact.minimum_norm_direction(x, y)
    # The normal of the plane, by its two directions.
    outside = np.cross(*np.linalg.svd(x - x.mean(axis=0))[2][:2])
    angle = np.linspace(-0.5 * np.pi, 0.5 * np.pi, 181)[:, None]
    manifold = np.cos(angle) * solution + np.sin(angle) * outside
    return CircleResult(points, tau, np.asarray(flow.theta), manifold)

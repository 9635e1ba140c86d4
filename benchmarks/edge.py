"""A batch-norm network on digits at the Edge of Stability: where λ₁ is measured."""

from functools import cache

import jax
import numpy as np
import optax

import sharpflow as sf
from sharpflow.models import Problem
from sharpflow.theory import spherical_sharpness

NETWORK = "64-128-128-10, 512 digits"
INTRINSIC_RATE = 2e-4  # ηλ
START_RATIO = 0.5  # η̃λ₁/2 at the first params; sharpness rises to the edge by itself
WARM_UP = 3000  # steps; it gets there within the first few hundred


@cache
def network(dtype: type = np.float32) -> Problem:
    """Batch-norm network with hidden widths (128, 128) on 512 digits."""
    images, labels = sf.models.digits(512)
    return sf.models.mlp(images.astype(dtype), labels, widths=(128, 128))


@cache
def at_edge(seed: int) -> tuple[sf.Trajectory, optax.GradientTransformation, float]:
    """Full-batch GD+WD in float32 from a seed to the edge: trajectory, rule and η."""
    problem = network()
    params = problem.init(jax.random.key(seed))
    values, _ = spherical_sharpness(problem, params)
    learning_rate = START_RATIO * 2.0 * float(optax.tree.norm(params)) ** 2 / float(values[0])
    rule = sf.gdwd(learning_rate, INTRINSIC_RATE / learning_rate)
    run = sf.simulate(problem, params, rule, WARM_UP, record_every=WARM_UP // 16, progress=False)
    return run, rule, learning_rate

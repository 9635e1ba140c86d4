"""What the statements about IRE are measured on: G² from 2 to several hundred."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

import sharpflow as sf
from sharpflow.experiments.problems.digits import linear_regression_digits, start_at_angle
from sharpflow.experiments.starts import trained_to_manifold
from sharpflow.experiments.validate.small_networks import three_digits

# In the middle of the ladder, where tracking errors are below two per cent.
LEARNING_RATE, INTRINSIC_RATE = 0.1, 1e-4
WEIGHT_DECAY = INTRINSIC_RATE / LEARNING_RATE
_SLOPE = 1.5  # of log λ_1 along the circle, at most
_SOFTENING = 4.0  # off the circle, which damps the ringing after the entry


@dataclasses.dataclass(frozen=True)
class Case:
    """A problem and a point of its Γ, where the runs start at the edge.

    Attributes:
      name: of the case, for tables.
      problem: with a residual form.
      theta0: a point of Γ of unit norm.
      end: flow time of the runs.
      max_edge: eigenvalues that may share the edge.
    """

    name: str
    problem: sf.Problem
    theta0: sf.models.Params
    end: float
    max_edge: int = 1


def cases() -> dict[str, Case]:
    """The cases by a short name, from small slopes to large."""
    circle = gentle_circle()
    regression = linear_regression_digits(20)
    shallow, steep = np.arctan(np.sqrt(1.5)), np.arctan(np.sqrt(22.0))
    three, two = three_digits(), two_digits()
    return {
        "circle": Case("circle", circle, _on_circle(np.arccos(0.5)), 1.2),
        "shallow": Case("regression, near", regression, _at_angle(regression, shallow), 1.1),
        "three": Case("MLP, 3 digits", three, _trained(three), 1.0, max_edge=3),
        "steep": Case("regression, far", regression, _at_angle(regression, steep), 0.5),
        "two": Case("MLP, 2 digits", two, _trained(two), 0.5, max_edge=2),
    }


def gentle_circle() -> sf.Problem:
    """A loss on the sphere of ℝ³ whose sharpness changes slowly along its Γ, a circle.

    L = ½ e^{aX} tanh²(cZ)/c², X = x/√(x² + y²), Z = z/‖w‖. Γ is the equator z = 0; at an
    angle φ there λ_1 = e^{a cos φ} and ‖∇_Γ log λ_1‖ = a |sin φ| ≤ a = 1.5. Without the
    softening, c = 4, bursts go on and the tracking error stays at some per cent.
    """

    def residual(w: jax.Array) -> jax.Array:
        cosine = w[0] / jnp.linalg.norm(w[:2])
        height = jnp.tanh(_SOFTENING * w[2] / jnp.linalg.norm(w)) / _SOFTENING
        return (jnp.exp(0.5 * _SLOPE * cosine) * height)[None]

    return sf.Problem(
        init=lambda key: jax.random.normal(key, (3,)), residual=residual, scale_invariant=True
    )


def two_digits() -> sf.Problem:
    """An 8-8-1 network that tells zeros from ones on eight images; d = 584."""
    images, labels = sf.models.digits(8, classes=(0, 1))
    return sf.models.mlp(images, labels.astype(float)[:, None], widths=(8, 8))


def _on_circle(angle: float) -> jax.Array:
    return jnp.array([np.cos(angle), np.sin(angle), 0.0])


def _at_angle(problem: sf.Problem, angle: float) -> sf.models.Params:
    start = start_at_angle(
        jax.random.key(0), LEARNING_RATE, WEIGHT_DECAY, angle=float(angle), perturbation=0.0
    )
    return sf.theory.retract(problem, start, progress=False)


def _trained(problem: sf.Problem) -> sf.models.Params:
    return trained_to_manifold(problem, rule=sf.simulator.projected_gd(0.02), num_steps=1500)

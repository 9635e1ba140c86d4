"""Points of Γ to start from: reached by training, or at an angle that is given."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, ArrayLike

import sharpflow as sf
from sharpflow.models.problem import Params
from sharpflow.theory import exact


def trained_to_manifold(
    problem: sf.Problem,
    seed: int = 0,
    rule: optax.GradientTransformation | None = None,
    num_steps: int = 3000,
    progress: bool | None = False,
) -> Params:
    """Train until the retraction to Γ succeeds, and retract.

    Args:
      problem: with a residual form.
      seed: of the first params.
      rule: one that stays below the edge; by default gradient descent with η = 0.3 and no
        weight decay.
      num_steps: how long.
      progress: as in ``simulate``.

    Returns:
      A point of Γ, of unit norm where the loss is scale-invariant.

    Raises:
      ValueError: the training ends too far from Γ.
    """
    trajectory = sf.simulate(
        problem,
        problem.init(jax.random.key(seed)),
        sf.gdwd(0.3, 0.0) if rule is None else rule,
        num_steps,
        # Few, because nothing looks at these records.
        record_every=num_steps // 3,
        progress=progress,
    )
    return sf.theory.retract(
        problem,
        trajectory.final_params,
        on_sphere=problem.scale_invariant,
        progress=progress,
    )


def point_at_angle(
    problem: sf.Problem, x: np.ndarray, y: np.ndarray, angle: float, seed: int = 0
) -> Array:
    """A point of Γ of linear regression at an angle to the minimum-norm solution.

    Args:
      problem: ``sf.models.linear_regression(x, y)``.
      x, y: shapes (n, d) and (n,).
      angle: α in radians, in [0, π/2).
      seed: of the direction outside the span of the centred x.

    Returns:
      Unit vector, shape (d,).

    Raises:
      ValueError: y is not in the column space of the centred x.
    """
    drawn = jnp.asarray(np.random.default_rng(seed).normal(size=x.shape[1]))
    return sf.theory.retract(problem, direction_at_angle(x, y, angle, drawn), progress=False)


def direction_at_angle(x: np.ndarray, y: np.ndarray, angle: ArrayLike, drawn: Array) -> Array:
    """cos α · (minimum-norm solution) + sin α · (unit vector outside the span of centred x).

    Args:
      x, y: shapes (n, d) and (n,); known when compiling.
      angle: α in radians, shape (), perhaps traced.
      drawn: any vector, whose part outside the span is taken, shape (d,); sets the dtype.

    Returns:
      Unit vector, shape (d,), of Γ up to rounding.

    Source: docs/theory.md, section 6.
    """
    solution = jnp.asarray(exact.minimum_norm_direction(x, y), drawn.dtype)
    span = jnp.asarray(row_space(x), drawn.dtype)
    # By the orthonormal rows and not by a least-squares solve: this runs inside of compiled code,
    # in whatever dtype the run has.
    outside = drawn - (span @ drawn) @ span
    outside = outside / jnp.linalg.norm(outside)
    alpha = jnp.asarray(angle, drawn.dtype)
    return jnp.cos(alpha) * solution + jnp.sin(alpha) * outside


def row_space(x: np.ndarray) -> np.ndarray:
    """Orthonormal rows that span those of the centred x, shape (rank, d).

    Args:
      x: shape (n, d).
    """
    centred = x - x.mean(axis=0)
    _, sizes, rows = np.linalg.svd(centred, full_matrices=False)
    # The cut of numpy.linalg.matrix_rank. The centred rows sum to 0, so that one singular value is
    # 0 up to rounding whenever there are at most as many examples as features.
    return rows[sizes > sizes[0] * max(centred.shape) * np.finfo(np.float64).eps]

"""Linear regression with batch norm on its output: the case with a closed-form flow."""

import math

import jax
import numpy as np

from sharpflow.models.arguments import DATA, checked
from sharpflow.models.inputs import (
    resolve_dtype,
    standardized_targets,
    validated_inputs,
)
from sharpflow.models.normalization import batch_normalize
from sharpflow.models.problem import Problem


@checked(x=DATA, y=DATA)
def linear_regression(x: np.ndarray, y: np.ndarray, *, dtype: object = None) -> Problem:
    """Batch-norm linear regression, L = ½ mean (f − y)², f = (⟨w, x⟩ − mean)/std.

    Its flow is known exactly (``sharpflow.theory.exact``): the angle to the
    minimum-norm solution shrinks as tan α = tan α(0) e^{−τ}.

    Args:
      x: inputs, shape (n, d).
      y: real targets, shape (n,), standardised here. They must lie in the column
        space of the centred inputs, or no parameters fit them.
      dtype: float32 or float64; by default that of jax.

    Returns:
      A Problem with params of shape (d,) and a residual of shape (n,).

    Raises:
      ValueError: data that is not finite, a constant target, or targets that the
        centred inputs cannot fit.

    Source: docs/theory.md, section 6; Lyu, Li and Arora 2022, section 5.
    """
    resolved = resolve_dtype(dtype, x)
    x = validated_inputs(x, resolved)
    if x.ndim != 2:
        raise ValueError(f"x must have shape (n, d), got {x.shape}")
    y = np.asarray(y)
    if y.shape != (x.shape[0],):
        raise ValueError(f"y must have shape ({x.shape[0]},) to match x, got {y.shape}")
    targets = standardized_targets(y[:, None], resolved)[:, 0]  # numbers, never classes
    _require_attainable(x, targets)
    return Problem(
        init=_init,
        residual=_residual,
        data={"inputs": x, "targets": targets},
        scale_invariant=True,
    )


def _residual(w: jax.Array, data: dict[str, jax.Array]) -> jax.Array:
    inputs, targets = data["inputs"], data["targets"]
    root_count = math.sqrt(targets.shape[0])
    return (batch_normalize(inputs @ w) - targets) / root_count


def _init(key: jax.Array, data: dict[str, jax.Array]) -> jax.Array:
    inputs = data["inputs"]
    return jax.random.normal(key, (inputs.shape[1],), inputs.dtype)


def _require_attainable(x: np.ndarray, y: np.ndarray) -> None:
    # In float64 whatever the problem computes in: the question is whether the given numbers can be
    # fitted, and float32 would answer it with its own rounding.
    centred = x.astype(np.float64) - x.astype(np.float64).mean(axis=0)
    fitted = centred @ np.linalg.lstsq(centred, y.astype(np.float64), rcond=None)[0]
    missed = float(np.sqrt(np.mean((fitted - y) ** 2)))
    # On 5 to 40 digits the miss is at most 1.6 eps √n, and on 55, which cannot be fitted, 6e4 eps
    # √n in float32. Ten times this bound would still separate them; a tenth would refuse data that
    # are conditioned a little worse than the digits.
    if missed > 100 * np.finfo(x.dtype).eps * np.sqrt(x.shape[0]):
        raise ValueError(
            "y must lie in the column space of the centred x, so that zero loss is "
            f"attained; its share outside has root mean square {missed:.2g}. Give at "
            "least as many independent features as examples, or fitted targets"
        )

"""Which way of handling the Jacobian a point gets."""

from typing import Any

import jax
from jaxtyping import Array, Float

from sharpflow.models.arguments import FUNCTION, PARAMS, Kind, checked, choice
from sharpflow.models.precision import full_precision
from sharpflow.theory.linearization.dense import FEWEST_RESIDUALS, DenseLinearization
from sharpflow.theory.linearization.gram import GramLinearization
from sharpflow.theory.linearization.iterative import IterativeLinearization
from sharpflow.theory.linearization.protocol import METHODS, Linearization, Method, Residual

# Entries of a Jacobian that is formed: 256 MiB in float64, of which a step of the flow holds two or
# three. Ten times as many would fill the memory of a laptop.
_DENSE_ENTRIES = 2**25
# Of its smaller side, whose Gram matrix is decomposed at every point: 1.5 seconds at 2000, and a
# thousand times as long at ten times as many.
_DENSE_SIZE = 2000
# Residuals of a Gram matrix, which with its eigenvectors takes 2 m² numbers, 1 GiB at 8000. It is
# decomposed once for a retraction, where "dense" would do so in every iteration, and so may be
# larger.
_GRAM_SIZE = 8000

_KINDS: dict[str, Any] = {
    "dense": DenseLinearization,
    "gram": GramLinearization,
    "iterative": IterativeLinearization,
}


FLAT = Kind(
    "a vector of floating-point numbers, at least one",
    lambda value: getattr(value, "ndim", None) == 1 and PARAMS.fits(value),
)


@checked(residual=FUNCTION, theta=FLAT, method=choice(METHODS))
@full_precision
def linearize(
    residual: Residual, theta: Float[Array, " d"], method: Method = "auto"
) -> Linearization:
    """Linearize a residual on flat parameters.

    Args:
      residual: r.
      theta: where, shape (d,).
      method: ``"dense"`` forms the Jacobian; ``"gram"`` forms JJᵀ alone, block by
        block; ``"iterative"`` needs products with J and Jᵀ only; ``"auto"`` takes the
        first of them that fits.

    Returns:
      The linearization; usable under jit.

    Raises:
      ValueError: an unknown method.

    Source: docs/theory.md, section 8.
    """
    shape = jax.eval_shape(residual, theta).shape
    kind = _KINDS[resolve_method(method, shape[0], theta.shape[0])]
    return kind.of(residual, theta)


def resolve_method(method: Method, m: int, d: int) -> Method:
    """What ``"auto"`` means for m residuals of d parameters.

    Args:
      method: one of ``METHODS``.
      m, d: numbers of residuals and of parameters.

    Returns:
      ``method``, or what ``"auto"`` stands for.

    Raises:
      ValueError: an unknown method.
    """
    choice(METHODS).require("method", method)
    if method != "auto":
        return method
    if m * d <= _DENSE_ENTRIES and min(m, d) <= _DENSE_SIZE:
        return "dense"
    return "gram" if m <= min(d, _GRAM_SIZE) else "iterative"


def is_costly(method: Method, m: int, d: int) -> bool:
    """Whether a linearization costs more than a few solutions with it, and so is used again nearby.

    Args:
      method: one of ``METHODS``.
      m, d: numbers of residuals and of parameters.
    """
    return resolve_method(method, m, d) != "dense" or min(m, d) >= FEWEST_RESIDUALS

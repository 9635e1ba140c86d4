"""A random vector as the witness of eigenvalues that an iteration has not met.

A residual bounds the distance to *an* eigenvalue. That none is larger no residual can tell: an
iteration that starts from eigenvectors, as of a nearby operator, never leaves their space. A
random vector t has a part along every eigenvector u. Were λ the eigenvalue of u, then for
every x

    ⟨u, t − (λ − A) x⟩ = ⟨u, t⟩ ,

so an x that makes the remainder w = t − (λ − A) x shorter than |⟨u, t⟩| shows that λ is no
eigenvalue. How small ⟨u, t⟩ may be is known: with normally distributed entries of variance 1/d
it is below ‖w‖ with a probability of at most √(2d/π) ‖w‖, whatever else t is made of.

Source: Kuczyński and Woźniakowski 1992; van Dorsselaer, Hochstenbach and van der Vorst 2000;
docs/theory.md, section 8.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

# Of overlooking a larger eigenvalue, that a result may have. A run makes thousands of records, and
# to come from 1e-3 to this takes two or three products in float64; rounding forbids it in float32.
PROBABILITY = 1e-6
# How much larger, relative to the largest eigenvalue. At the Edge of Stability
# the spectrum is dense below the edge, and to exclude one percent takes twice the products.
MARGIN = 0.1
# Where the spectrum is sparse a tighter margin costs little. So as long as no more products than
# these were made, ten times the tolerance is excluded. At the edge the tenth is excluded after 16
# or 17 products and the tight margin not after 28, so more would only make every record longer.
TIGHT_UNTIL = 16
_TIGHT_IN_TOLERANCES = 10.0
# Products in working precision leave a remainder of some units of rounding. With a tenth of it,
# sound results in float32 would be called NOT_CONVERGED; with ten times as much the bound on the
# probability would be above 1 at a million parameters, and exclude nothing.
_ROUNDING = 10.0
# The start of a tracked eigenvector v is cos φ v + sin φ times a random vector. The witness must
# be loud enough to be heard, and v is found again within a product or two from an angle of 69°.
_COSINE, _SINE = 0.36, 0.93
# Share of the second eigenvector, which is the likeliest to overtake. With an equal share the start
# would lie between the two and take longer to find the first again; without any the second is found
# too late.
_RUNNER_UP = 0.1


def random_vector(
    seed: Int[Array, ""], number: Int[Array, ""] | int, dimension: int, dtype: jnp.dtype
) -> Float[Array, " d"]:
    """Normally distributed entries of variance 1/d, so that the length is about 1.

    Args:
      seed: of an iteration.
      number: of the vector within it.
      dimension: d.
      dtype: of the vector.
    """
    key = jax.random.fold_in(jax.random.key(seed), number)
    return jax.random.normal(key, (dimension,), dtype) / np.sqrt(dimension).astype(dtype)


def tracking_start(
    rows: Float[Array, "q d"], seed: Int[Array, ""]
) -> tuple[Float[Array, "1 d"], Float[Array, ""]]:
    """One vector from which to find an eigenvector again, and whatever has overtaken it.

    Args:
      rows: the eigenvector v nearby, and perhaps a second; zero where nothing is known.
      seed: of the random part.

    Returns:
      The vector as a row, and by what it is to be multiplied for its random part to have
      entries of variance 1/d.
    """
    dimension, dtype = rows.shape[1], rows.dtype
    weights = jnp.asarray([1.0, _RUNNER_UP], dtype)[: rows.shape[0]]
    known = weights @ unit_or_zero_rows(rows)
    noise = random_vector(seed, 0, dimension, dtype)
    return (_COSINE * known + _SINE * noise)[None], jnp.asarray(1.0 / _SINE, dtype)


def prepared_start(
    start: Float[Array, "q d"], k: int, seed: Int[Array, ""]
) -> tuple[Float[Array, "p d"], Float[Array, ""]]:
    """The first vectors of an iteration.

    Where one eigenvector is tracked, it is mixed with a random vector: a single Krylov space
    finds it again and excludes others, at the price of one. Several stay apart, since only
    their own residuals lead each of them on.

    Args:
      start, k, seed: as of ``lanczos``.

    Returns:
      The rows, and by what the first is to be multiplied to be a witness; 0 where it is none.
    """
    if k == 1 and start.shape[0] <= 2:
        return tracking_start(start, seed)
    return unit_or_zero_rows(start), jnp.zeros((), start.dtype)


def miss_probability(remainder: Float[Array, ""], dimension: int) -> Float[Array, ""]:
    """A bound on the probability that a larger eigenvalue was overlooked.

    Args:
      remainder: ‖w‖ of a witness whose random part has entries of variance 1/d.
      dimension: d.

    Returns:
      √(2d/π) ‖w‖, at most 1, shape ().
    """
    return jnp.minimum(float(np.sqrt(2.0 * dimension / np.pi)) * remainder, 1.0)


def excluded_margin(
    tolerance: float | Array,
    is_tight: Bool[Array, ""],
    top: Float[Array, ""],
    largest: Float[Array, ""],
) -> Float[Array, ""]:
    """How much larger an eigenvalue must be to be excluded, relative to the largest modulus.

    Args:
      tolerance: relative to the largest modulus.
      is_tight: whether ten tolerances are to be excluded, or else a tenth.
      top: the largest Ritz value. The margin is a tenth of it, and not of the largest modulus,
        which may belong to a negative eigenvalue and be far larger.
      largest: modulus of an eigenvalue.
    """
    tight = jnp.minimum(_TIGHT_IN_TOLERANCES * jnp.asarray(tolerance, top.dtype), MARGIN)
    share = jnp.abs(top) / jnp.where(largest > 0, largest, 1.0)
    return jnp.where(is_tight, tight, jnp.maximum(tight, MARGIN * share))


def allowed_probability(
    margin: Float[Array, ""], dimension: int, dtype: jnp.dtype
) -> Float[Array, ""]:
    """``PROBABILITY``, or what the rounding of products lets one tell where that is more.

    In float32 the second is the larger from a million parameters on: 1 % of a million.
    """
    rounding = _ROUNDING * float(jnp.finfo(dtype).eps) * dimension**0.5 / margin
    return jnp.maximum(jnp.asarray(PROBABILITY, dtype), rounding)


def unit_or_zero_rows(rows: Float[Array, "q d"]) -> Float[Array, "q d"]:
    """Rows of length 1; those that are zero stay it."""
    largest = jnp.max(jnp.abs(rows), axis=1, keepdims=True)
    scaled = rows / jnp.where(largest > 0, largest, 1.0)  # squares would underflow
    length = jnp.linalg.norm(scaled, axis=1, keepdims=True)
    return scaled / jnp.where(length > 0, length, 1.0)

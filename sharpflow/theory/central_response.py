"""How the end of a step of the central flow answers constant forces."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sharpflow.theory.central_dynamics import Dynamics, EdgePoint
from sharpflow.theory.relaxation import num_stages, relax

# Decay of the fastest direction in a step of gradient flow, up to which two products a force tell
# its answer: to 0.5 % along the edge of a digits network where the decay is 18, to 7 % where it is
# 44. The corrector squares this error. Longer steps take a product for each stage instead.
_SHORT = 25.0
# Of the largest eigenvalue of a Gram matrix of unit vectors, in units of rounding: what is smaller
# is linear dependence. A direction that is left out with it has a ten-thousandth of a force in
# float64 and a hundredth in float32.
_DEPENDENT = 1e4


def answers(
    dynamics: Dynamics, here: EdgePoint, step: Array, stages: Array, slopes: Float[Array, "p d"]
) -> tuple[Float[Array, " d"], Float[Array, "p d"], Int[Array, ""]]:
    """What constant forces take from the end of a step, to first order.

    The loss is taken as quadratic around the start. The answer is then φ(∇²L) g with one
    function φ for all forces g. It is symmetric, so that what F does to the edge block over the
    step is −⟨φ(∇²L) g, F⟩, without a step of its own.

    Args:
      dynamics: what is averaged.
      here: the start of the step.
      step: Δt, in steps of GD.
      stages: of the step.
      slopes: the forces g.

    Returns:
      F = ∇L(w) + λw; φ(∇²L) g, shape (p, d); and how many products with ∇²L were made.

    Source: docs/theory.md, section 10.6.
    """
    gradient, product = jax.linearize(dynamics.gradient, here.params)
    force = gradient + dynamics.weight_decay * here.params
    products = jax.vmap(product)
    decay = step * dynamics.fastest(here, corrected=False)

    def by_stages() -> tuple[Array, Array]:
        """By a step without correction, but of corrected forces: right for short and long steps."""
        forces = dynamics.corrected(slopes, products) if dynamics.step_correction else slopes

        def rate(moved: Array) -> Array:
            pulled = products(moved) + dynamics.weight_decay * moved + forces
            return -dynamics.learning_rate * pulled

        num = num_stages(decay)
        moved = relax(rate, jnp.zeros_like(slopes), step, num)
        return -moved, slopes.shape[0] * (num + int(dynamics.step_correction))

    def by_space() -> tuple[Array, Array]:
        """In the space of the edge, the forces and their images, where ∇²L is diagonal."""
        values, vectors = _ritz_pairs(here, jnp.concatenate([slopes, force[None]]), products)
        rate = dynamics.learning_rate * (values + dynamics.weight_decay)
        share = dynamics.learning_rate * jnp.ones_like(values)
        if dynamics.step_correction:
            share = share * (1.0 + 0.5 * rate)
            rate = rate * (1.0 + 0.5 * rate)
        moved = relax(lambda x: -rate * x - share, jnp.zeros_like(values), step, stages)
        count = jnp.asarray(2 * (slopes.shape[0] + 1), jnp.int32)
        return -((slopes @ vectors.T) * moved[None]) @ vectors, count

    size = here.eigenvalues.shape[0] + 2 * (slopes.shape[0] + 1)
    if size >= here.params.shape[0]:  # the space would be the whole one, and dearer than stages
        found, count = by_stages()
    else:
        found, count = jax.lax.cond(decay <= _SHORT, by_space, by_stages)
    return force, found, count


def _ritz_pairs(
    here: EdgePoint, forces: Float[Array, "q d"], products: Callable[[Array], Array]
) -> tuple[Float[Array, " n"], Float[Array, "n d"]]:
    """Eigenpairs of ∇²L within the span of the edge frame, the forces and their images.

    Rows of zeros stand for what the span has less than vectors.
    """
    frame = here.edge_frame
    first = _orthonormal(forces, frame)
    images = products(first)
    second = _orthonormal(images, jnp.concatenate([frame, first]))
    basis = jnp.concatenate([frame, first, second])
    image = jnp.concatenate([here.eigenvalues[:, None] * frame, images, products(second)])
    projected = basis @ image.T
    values, turn = jnp.linalg.eigh(0.5 * (projected + projected.T))
    return values, turn.T @ basis


def _orthonormal(vectors: Float[Array, "q d"], basis: Float[Array, "n d"]) -> Float[Array, "q d"]:
    """An orthonormal basis of what vectors add to a span, filled up with zeros.

    A factorisation by reflections would fill up with vectors that are not orthogonal to the basis,
    where the slopes are dependent or vanish, as they do on a quadratic loss.
    """
    cut = _DEPENDENT * jnp.finfo(vectors.dtype).eps
    lengths = jnp.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = vectors / jnp.where(lengths > 0, lengths, 1.0)
    for _ in range(2):  # twice is enough (Parlett 1998, section 6.9)
        vectors = vectors - (vectors @ basis.T) @ basis
        squares, turn = jnp.linalg.eigh(vectors @ vectors.T)
        kept = squares > cut
        scale = jnp.where(kept, jax.lax.rsqrt(jnp.where(kept, squares, 1.0)), 0.0)
        vectors = scale[:, None] * (turn.T @ vectors)
    return vectors

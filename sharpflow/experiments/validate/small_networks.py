"""Small problems that several parts start from, each at a point of its Γ."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import sharpflow as sf
from sharpflow.experiments.starts import trained_to_manifold
from sharpflow.models.problem import Params


class OnManifold(NamedTuple):
    """A problem and where on its Γ it starts.

    Attributes:
      problem: the problem.
      theta: a point of Γ.
      sharpness: λ_1 there.
      top: v_1 there, as ``theta``.
    """

    problem: sf.Problem
    theta: Params
    sharpness: float
    top: Params

    def perturbed(self, amplitude: float) -> Params:
        """θ + amplitude · v_1."""
        return jax.tree.map(lambda w, v: w + amplitude * v, self.theta, self.top)


def on_manifold(problem: sf.Problem, seed: int, step: float, num_steps: int) -> OnManifold:
    """Train with a small step, on the sphere where the loss is scale-invariant, and retract.

    Args:
      problem: with a residual form.
      seed: of the first params.
      step: η̃ on the sphere, else η.
      num_steps: how long.

    Raises:
      ValueError: the training ends too far from Γ.
    """
    on_sphere = problem.scale_invariant
    rule = sf.simulator.projected_gd(step) if on_sphere else sf.gdwd(step, 0.0)
    # The steps are so small that training stays below the edge: a point that was at the edge has
    # been flattened already.
    theta = trained_to_manifold(problem, seed, rule, num_steps)
    pairs = sf.theory.top_eigenpairs(problem, theta)
    top = jax.tree.map(lambda rows: rows[0], pairs.vectors)
    return OnManifold(problem, theta, float(pairs.values[0]), top)


@functools.cache
def batch_normed() -> OnManifold:
    """A point of Γ of ``three_digits``."""
    return on_manifold(three_digits(), 0, 0.02, 3000)


@functools.cache
def three_digits() -> sf.Problem:
    """A 6-6-3 network on eight images of digits; d = 438. Up to three eigenvalues at the edge."""
    return sf.models.mlp(*sf.models.digits(8, classes=(0, 1, 2)), widths=(6, 6))


@functools.cache
def plain_tanh(seed: int) -> OnManifold:
    """An 8-8-3 tanh network without normalization on eight digits; d = 600."""
    return on_manifold(_tanh(), seed, 0.02, 4000)


@functools.cache
def _tanh() -> sf.Problem:
    digits = sf.models.digits(8, classes=(0, 1, 2))
    return sf.models.mlp(*digits, widths=(8, 8), normalization="none", activation="tanh")


@functools.cache
def factorised(seed: int) -> OnManifold:
    """A B = T with A 3 × 4, B 4 × 3 and a random T; d = 24."""
    return on_manifold(_factorisation(), seed, 0.02, 4000)


@functools.cache
def _factorisation() -> sf.Problem:
    target = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3)))

    def init(key: jax.Array) -> Params:
        key_a, key_b = jax.random.split(key)
        return {"a": jax.random.normal(key_a, (3, 4)), "b": jax.random.normal(key_b, (4, 3))}

    return sf.Problem(
        init=init,
        residual=lambda params: (params["a"] @ params["b"] - target).ravel(),
        scale_invariant=False,
    )


@functools.cache
def unnormed(num_examples: int) -> sf.Problem:
    """A 16-16-10 tanh network without normalization on digits; not scale-invariant."""
    return sf.models.mlp(
        *sf.models.digits(num_examples), widths=(16, 16), normalization="none", activation="tanh"
    )

"""Batch-norm linear regression, of which everything is known in closed form."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sharpflow as sf


class Regression(NamedTuple):
    """A regression problem, the direction û that fits it and the null space of its inputs."""

    x: np.ndarray
    y: np.ndarray
    problem: sf.Problem
    solution: np.ndarray
    null: np.ndarray

    def at(self, angle: float) -> jax.Array:
        """The point of Γ at this angle from û, always on the same great circle."""
        away = self.null.sum(axis=0) / np.linalg.norm(self.null.sum(axis=0))
        return jnp.asarray(np.cos(angle) * self.solution + np.sin(angle) * away)


def _regression(x: np.ndarray, y: np.ndarray) -> Regression:
    centred = x - x.mean(axis=0)
    solution = np.linalg.pinv(centred, rcond=1e-10) @ (y - y.mean())
    _, sizes, rows = np.linalg.svd(centred, full_matrices=True)
    rank = int(np.sum(sizes > 1e-10 * sizes[0]))
    return Regression(
        x=x,
        y=y,
        problem=sf.models.linear_regression(x, y),
        solution=solution / np.linalg.norm(solution),
        null=rows[rank:],
    )


@pytest.fixture(scope="session")
def regression() -> Regression:
    """Six examples, ten features: fewer residuals than parameters."""
    random = np.random.default_rng(0)
    return _regression(random.normal(size=(6, 10)), random.normal(size=6))


@pytest.fixture(scope="session")
def tall_regression() -> Regression:
    """Twelve examples, six features of rank three: more residuals than parameters."""
    random = np.random.default_rng(1)
    x = random.normal(size=(12, 3)) @ random.normal(size=(3, 6))
    return _regression(x, x @ random.normal(size=6))

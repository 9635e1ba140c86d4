"""The problems on which the statements of theory are measured."""

import dataclasses

import jax
import numpy as np

import sharpflow as sf
from sharpflow.experiments.starts import point_at_angle, trained_to_manifold
from sharpflow.models.problem import Params

# Three starts show whether an error depends on where it starts. An interval of an exponent is over
# the rungs; more seeds would make it no narrower, and ten times as many take ten times as long.
SEEDS = (0, 1, 2)


@dataclasses.dataclass(frozen=True)
class Case:
    """A problem with its starts on Γ.

    Attributes:
      name: of the problem, in words.
      problem: it.
      starts: points of Γ by seed.
      learning_rate: η of all runs; scale invariance leaves only ηλ to matter at the edge.
      tau: output times, shape (T,), from the edge on.
      max_edge, rtol: of the flow.
    """

    name: str
    problem: sf.Problem
    starts: dict[int, Params]
    learning_rate: float
    tau: np.ndarray
    max_edge: int = 8
    rtol: float = 1e-3

    @property
    def slug(self) -> str:
        """The name as part of that of a file."""
        return self.name.lower().replace(" ", "-")

    def flows(self) -> dict[int, sf.FlowSolution]:
        """The prediction from each start, at the edge at τ = 0."""
        return {
            seed: sf.sharpness_flow(
                self.problem,
                theta0,
                self.tau,
                max_edge=self.max_edge,
                rtol=self.rtol,
                progress=False,
            )
            for seed, theta0 in self.starts.items()
        }


def linear_regression() -> Case:
    """Batch-norm linear regression on digits, at three angles to its flattest solution."""
    x, labels = sf.models.digits(20)
    problem = sf.models.linear_regression(x, labels.astype(float))
    starts = {
        seed: point_at_angle(problem, x, labels, angle, seed=seed)
        for seed, angle in zip(SEEDS, (1.2, 1.1, 1.0), strict=True)
    }
    # Up to τ = 1 a ladder of five rates takes minutes; twice as far takes twice as long and tests
    # the same terms.
    tau = np.linspace(0.0, 1.0, 21)
    # As in the demo: with 1e-3 the tracking error at ηλ = 2e-5, which is 2e-4, would be that of the
    # flow.
    return Case("linear regression", problem, starts, 0.1, tau, max_edge=4, rtol=2e-4)


def matrix_completion() -> Case:
    """Low-rank matrix completion with batch norm over the observed entries."""
    problem = sf.models.matrix_completion(shape=(12, 12), init_scale=2.0, seed=1)
    starts = {seed: trained_to_manifold(problem, seed, sf.gdwd(2.0, 0.0), 4000) for seed in SEEDS}
    return Case("matrix completion", problem, starts, 2.0, np.linspace(0.0, 1.0, 21), max_edge=4)


def mlp_digits() -> Case:
    """A batch-norm network on 24 digits of ten classes: up to seven eigenvalues at the edge."""
    problem = sf.models.mlp(*sf.models.digits(24), widths=(32, 32))
    starts = {seed: trained_to_manifold(problem, seed) for seed in SEEDS}
    return Case("MLP on digits", problem, starts, 0.1, np.linspace(0.0, 1.0, 21), max_edge=12)


def mlp_four_digits() -> Case:
    """A smaller one on four classes: three eigenvalues at the edge from τ = 1 to 1.4."""
    x, labels = sf.models.digits(24, classes=(0, 1, 2, 3))
    problem = sf.models.mlp(x, labels, widths=(16, 16))
    starts = {seed: trained_to_manifold(problem, seed) for seed in SEEDS}
    return Case("MLP on four digits", problem, starts, 0.1, np.linspace(0.0, 1.4, 29))


def seed_of(key: jax.Array) -> int:
    """The integer that ``jax.random.key`` made a key from."""
    # A start of a grid gets a key and not its seed. The last word of a key of jax's default
    # generator is the seed, for seeds of 32 bits.
    return int(jax.random.key_data(key)[-1])

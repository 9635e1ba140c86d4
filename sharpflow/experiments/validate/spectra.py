"""Spectra from products: whether their intervals hold what dense matrices have."""

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.stats import binom, norm

import sharpflow as sf
from sharpflow.experiments.checks import Check
from sharpflow.experiments.plots import drawing
from sharpflow.experiments.plots.spectra import spectral_densities
from sharpflow.experiments.validate.findings import Findings
from sharpflow.models.parameter_groups import parameter_groups
from sharpflow.simulator.layers import unit_point
from sharpflow.theory import Status, block_eigenpairs, spectral_density, trace
from sharpflow.theory.matrices import Matrix, problem_of_matrix

if TYPE_CHECKING:
    import xarray

TITLE = "densities, traces and counts from products, against dense matrices"

_WORDS: dict[Matrix, str] = {"hessian": "Hessian", "gauss_newton": "Gauss–Newton"}
_CLAIMED = 0.95  # share of the seeds whose interval holds what is exact
_REFUSED_BY_CHANCE = 0.02  # at most, of a claim that is true
_NUM_POINTS = 6
_IMAGES = 10
_LEARNING_RATE, _WEIGHT_DECAY, _NUM_STEPS = 0.3, 5e-3, 1500


def run(progress: bool | None = None) -> Findings:
    """Count how many seeds hold the exact density, count and trace."""
    from matplotlib import pyplot

    problem, trajectory = _small_run(progress)
    spectra = sf.simulator.measure_spectra(trajectory, problem)
    last = jax.tree.map(lambda leaf: jnp.asarray(leaf[-1]), trajectory.params)
    theta = unit_point(problem, last)
    checks = []
    for matrix in _WORDS:
        checks += _of_digits(problem, theta, matrix)
    checks += _of_vgg()
    with drawing.in_force():
        figure, ax = pyplot.subplots(figsize=drawing.COLUMN, layout="constrained")
        spectral_densities(_three_steps(spectra), ax)
    return Findings(checks, {"spectra": figure}, spectra)


def _small_run(progress: bool | None) -> tuple[sf.Problem, sf.simulator.Trajectory]:
    """A 6-6-3 batch-norm network on 24 images of digits, d = 438, from its start past the entry."""
    problem = sf.models.mlp(*sf.models.digits(24, classes=(0, 1, 2)), widths=(6, 6))
    return problem, sf.simulate(
        problem,
        problem.init(jax.random.key(0)),
        sf.gdwd(_LEARNING_RATE, _WEIGHT_DECAY),
        _NUM_STEPS,
        record_every=_NUM_STEPS // 15,
        snapshot_every=1,
        observables=["loss", "threshold"],
        progress=progress,
    )


def _three_steps(spectra: "xarray.Dataset") -> "xarray.Dataset":
    """The start, the first snapshot after it that is at or above the threshold, and the last."""
    above = spectra["largest_eigenvalue"].isel(eigenvalue=0) >= spectra["threshold"]
    # a network may start above the threshold, and leaves that within a few steps
    entry = 1 + int(np.argmax(above.values[1:]))
    return spectra.isel(step=sorted({0, entry, spectra.sizes["step"] - 1}))


class _Exact(NamedTuple):
    """A matrix by dense linear algebra and no random vector.

    Attributes:
      values: its eigenvalues but for zeros, ascending.
      num_zeros: how many more there are, all 0.
    """

    values: np.ndarray
    num_zeros: int = 0

    @property
    def dimension(self) -> int:
        """Of the matrix."""
        return len(self.values) + self.num_zeros

    def density_and_count(self, points: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
        """The density and the number of eigenvalues above each point, both smoothed."""
        values, number = np.append(self.values, 0.0), np.append(np.ones(len(self.values)), 0.0)
        number[-1] = self.num_zeros
        scaled = (values - points[:, None]) / width
        return norm.pdf(scaled) @ number / (width * self.dimension), norm.cdf(scaled) @ number


class _Effort(NamedTuple):
    """What one estimate may take.

    Attributes:
      num_vectors, degree: of a density.
      widths: of the smoothing, how many are in the range of the eigenvalues.
      num_products: of a trace.
      num_seeds: of estimates.
    """

    num_vectors: int = 10
    degree: int = 60
    widths: int = 60
    num_products: int = 60
    num_seeds: int = 100


def _dense(problem: sf.Problem, params: sf.models.Params, matrix: Matrix) -> np.ndarray:
    flat, unravel = ravel_pytree(params)
    if matrix == "hessian":
        dense = jax.jit(jax.hessian(lambda w: problem.loss_value(unravel(w))))(flat)
    else:
        residual = problem.residual
        assert residual is not None
        jacobian = jax.jit(jax.jacobian(lambda w: residual(unravel(w))))(flat)
        dense = jacobian.T @ jacobian
    return np.asarray(dense, float)


def _of_digits(problem: sf.Problem, theta: sf.models.Params, matrix: Matrix) -> list[Check]:
    dense = _dense(problem, theta, matrix)
    part = f"network on digits, d = {len(dense)}, {_WORDS[matrix]}"
    exact = _Exact(np.linalg.eigvalsh(dense))
    checks = _held(part, problem, theta, matrix, exact, _Effort())
    return [*checks, _blocks(problem, theta, matrix, dense, part)]


def _of_vgg() -> list[Check]:
    """Gauss–Newton of VGG-11: its eigenvalues but for zeros are those of the small matrix J Jᵀ."""
    random = np.random.default_rng(0)
    images = random.normal(size=(_IMAGES, 32, 32, 3)).astype(np.float32)
    problem = sf.models.vgg11(images, np.arange(_IMAGES) % 10, 0.125, dtype=np.float32)
    theta = unit_point(problem, problem.init(jax.random.key(0)))
    flat, unravel = ravel_pytree(theta)
    residual = problem.residual
    assert residual is not None
    outputs, pull = jax.vjp(lambda w: residual(unravel(w)), flat)
    rows = np.eye(len(outputs), dtype=np.float32)
    jacobian = np.stack([np.asarray(pull(row)[0], float) for row in rows])
    values = np.linalg.eigvalsh(jacobian @ jacobian.T)
    exact = _Exact(values, flat.size - len(values))
    part = f"VGG-11 on {_IMAGES} images of noise, float32, d = {flat.size}, Gauss–Newton"
    # The products take most of the time, and with a coarser density fewer of them are needed.
    effort = _Effort(degree=16, widths=8, num_seeds=400)
    return _held(part, problem, theta, "gauss_newton", exact, effort)


def _held(
    part: str,
    problem: sf.Problem,
    theta: sf.models.Params,
    matrix: Matrix,
    exact: _Exact,
    effort: _Effort,
) -> list[Check]:
    """Of how many seeds the intervals hold what is exact."""
    values = exact.values
    range_of = max(values[-1], 0.0) - min(values[0], 0.0) if exact.num_zeros else np.ptp(values)
    width = float(range_of) / effort.widths
    points = np.quantile(values, np.linspace(0.5, 1.0, _NUM_POINTS))
    density, count = exact.density_and_count(points, width)
    own, at = problem_of_matrix(problem, theta, matrix, None)
    of_density, of_count, of_trace, succeeded = [], [], [], []
    for seed in range(effort.num_seeds):
        one = spectral_density(
            own,
            at,
            num_vectors=effort.num_vectors,
            degree=effort.degree,
            points=points,
            width=width,
            seed=seed,
        )
        one = jax.device_get(one)
        sum_of = jax.device_get(trace(own, at, num_products=effort.num_products, seed=seed))
        of_density.append((one.density_low <= density) & (density <= one.density_high))
        of_count.append((one.count_above_low <= count) & (count <= one.count_above_high))
        of_trace.append(sum_of.low <= np.sum(values) <= sum_of.high)
        succeeded.append(one.status == sum_of.status == Status.SUCCESS)
    seeds = effort.num_seeds
    said = f"of {seeds} seeds, intervals that hold the exact"
    checks = [
        Check(
            part,
            f"{said} {name}, point with the fewest of {_NUM_POINTS}",
            float(np.min(np.sum(held, axis=0))),
            low=_fewest(seeds, _NUM_POINTS),
        )
        for name, held in (("density", of_density), ("number of eigenvalues above", of_count))
    ]
    checks.append(Check(part, f"{said} trace", float(np.sum(of_trace)), low=_fewest(seeds, 1)))
    return [*checks, Check(part, "seeds with status SUCCESS", float(np.sum(succeeded)), low=seeds)]


def _fewest(num_seeds: int, num_points: int) -> float:
    """How many seeds must hold what is exact, at the point that is held by the fewest.

    The points stand beside each other and err together. As many that err alone have a lower
    fewest, so that a true claim is refused even less often.

    Args:
      num_seeds, num_points: at least 1.
    """
    return float(binom.ppf(_REFUSED_BY_CHANCE / num_points, num_seeds, _CLAIMED))


def _blocks(
    problem: sf.Problem, theta: sf.models.Params, matrix: Matrix, dense: np.ndarray, part: str
) -> Check:
    """The largest error of three eigenvalues of every block, over its largest eigenvalue."""
    sizes = [leaf.size for leaf in jax.tree.leaves(theta)]
    ends = np.cumsum(sizes)
    blocks = block_eigenpairs(problem, theta, 3, matrix=matrix)
    errors = []
    for name, places in parameter_groups(theta).items():
        rows = np.concatenate([np.arange(ends[i] - sizes[i], ends[i]) for i in places])
        values = np.linalg.eigvalsh(dense[np.ix_(rows, rows)])[::-1][:3]
        errors.append(np.max(np.abs(np.asarray(blocks[name].values) - values)) / values[0])
    return Check(
        part,
        "three largest eigenvalues of each layer's block, largest relative error",
        float(np.max(errors)),
        high=1e-7,
    )

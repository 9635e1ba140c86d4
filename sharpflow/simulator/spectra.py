"""The spectrum of a trajectory: densities, traces and the largest eigenvalues at its snapshots."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from sharpflow.models import Problem
from sharpflow.models.arguments import (
    COUNT,
    INTEGER,
    POSITIVE,
    array,
    checked,
    count,
    optional,
    require_within,
)
from sharpflow.models.compiled_function import special_values_allowed
from sharpflow.models.parameter_groups import GROUPS, Patterns, parameter_groups
from sharpflow.models.problem import PROBLEM
from sharpflow.simulator.layers import LAYERS, blocks_of_snapshots, unit_point
from sharpflow.simulator.observables import COLUMNS
from sharpflow.simulator.quantities import RESULT, described
from sharpflow.simulator.quantity import Quantity, by_name
from sharpflow.simulator.trajectory import TRAJECTORY, Trajectory
from sharpflow.theory import Eigenpairs, Status, top_eigenpairs, trace
from sharpflow.theory.matrices import MATRIX, Matrix, problem_of_matrix
from sharpflow.theory.spectral_density import (
    DEGREE,
    NUM_POINTS,
    density_of,
    spectral_range,
    tridiagonals,
)

if TYPE_CHECKING:
    import xarray

_AT_POINTS = ("step", "curvature")
_HOLDS = "An interval holds the exact value with a probability of about 95 %: its {} end."


def _with_interval(name: str, label: str, definition: str, dims: tuple) -> tuple[Quantity, ...]:
    """A quantity and both ends of its interval."""
    own = Quantity(name, label, definition, unit="1", dims=dims, scale="log")
    ends = (
        Quantity(f"{name}_{end}", f"{end} end of {label}", _HOLDS.format(word), unit="1", dims=dims)
        for end, word in (("low", "lower"), ("high", "upper"))
    )
    return own, *ends


SPECTRA = by_name(
    RESULT["step"],
    RESULT["tau"],
    LAYERS["layer"],
    COLUMNS["threshold"],
    Quantity(
        "curvature",
        "curvature x",
        "Where the density of the eigenvalues is taken.",
        unit="1",
        symbol="x",
        scale="linear",
    ),
    *_with_interval(
        "density",
        "density of eigenvalues",
        "The density of the eigenvalues of the Hessian at θₜ, or of the Gauss–Newton matrix, "
        "smoothed by a Gaussian of the width in the attribute; its integral is 1.",
        _AT_POINTS,
    ),
    *_with_interval(
        "count_above",
        "number of eigenvalues above x",
        "The number of eigenvalues above the curvature x, smoothed likewise.",
        _AT_POINTS,
    ),
    *_with_interval(
        "trace", "trace", "The trace of the same matrix, the sum of its eigenvalues.", ("step",)
    ),
    Quantity(
        "largest_eigenvalue",
        "largest eigenvalues",
        "The k largest eigenvalues of the same matrix, descending; NaN where one did not converge.",
        unit="1",
        dims=("step", "eigenvalue"),
        reference="threshold",
        scale="log",
    ),
    Quantity(
        "block_eigenvalue",
        "largest eigenvalues of a layer",
        "The k largest eigenvalues of the block of the same matrix that belongs to a layer.",
        unit="1",
        dims=("step", "layer", "eigenvalue"),
        reference="threshold",
        scale="log",
    ),
    Quantity(
        "block_status",
        "status of a layer",
        "The status of the largest eigenvalues of a layer's block, as an integer of "
        "sharpflow.theory.Status; 0 is SUCCESS.",
        unit="1",
        dims=("step", "layer"),
    ),
    Quantity(
        "spectrum_status",
        "status of the spectrum",
        "The first status of density, trace, largest eigenvalues and blocks that is not SUCCESS, "
        "as an integer of sharpflow.theory.Status; 0 is SUCCESS.",
        unit="1",
        dims=("step",),
    ),
)


@special_values_allowed()
@checked(
    trajectory=TRAJECTORY,
    problem=PROBLEM,
    k=count(least=0),
    groups=optional(GROUPS),
    matrix=MATRIX,
    num_vectors=COUNT,
    degree=DEGREE,
    width=optional(POSITIVE),
    points=optional(array(1)),
    num_products=count(least=12),
    seed=INTEGER,
)
def measure_spectra(
    trajectory: Trajectory,
    problem: Problem,
    *,
    k: int = 1,
    groups: Mapping[str, Patterns] | None = None,
    matrix: Matrix = "hessian",
    num_vectors: int = 10,
    degree: int = 60,
    width: float | None = None,
    points: ArrayLike | None = None,
    num_products: int = 60,
    seed: int = 0,
) -> "xarray.Dataset":
    """Measure the spectrum of the Hessian at the snapshots of a trajectory.

    The Hessian is that at θ = w/‖w‖, whose edge is the threshold λ*; of a problem that is not
    scale-invariant that at w. All densities have the same points and width, so that they compare.
    The largest eigenvalues of each snapshot are sought from those of the last one.

    Args:
      trajectory: with snapshots (``snapshot_every``).
      problem: what was trained.
      k: how many of the largest eigenvalues, of the whole and of each block; 0 for none.
      groups: of the blocks, as of ``measure_layers``.
      matrix, num_vectors, degree: as of ``sharpflow.theory.spectral_density``.
      width, points: likewise; by default from the range of all snapshots.
      num_products: for each trace, as of ``sharpflow.theory.trace``.
      seed: of the random vectors, which are the same at all snapshots.

    Returns:
      A dataset over ``step``, of the snapshots, with ``density`` and ``count_above`` over
      ``curvature``, ``trace``, each with its interval in ``_low`` and ``_high``,
      ``largest_eigenvalue``, ``block_eigenvalue`` and ``block_status`` over ``layer``, and, where
      it was recorded, ``threshold``. ``spectrum_status`` is not ``SUCCESS`` where any of them is
      not. docs/quantities.md defines each.

    Raises:
      ValueError: no snapshots, a pattern that fits no path, k above the size of a block, or a
        Gauss–Newton matrix of a loss alone.

    Source: docs/spectra.md.
    """
    import xarray

    if trajectory.params is None:
        raise ValueError("trajectory has no snapshots: simulate with snapshot_every=...")
    snapshots = trajectory.params
    leaves = jax.tree.leaves(snapshots)
    dtype, dimension = leaves[0].dtype, sum(leaf[0].size for leaf in leaves)
    require_within(dtype, width=width)
    require_within(dtype, zero=True, points=points)
    layers = parameter_groups(jax.tree.map(lambda leaf: leaf[0], snapshots), groups)
    matrices, traces, statuses, largest = [], [], [], []
    pairs: Eigenpairs | None = None
    for row in range(len(leaves[0])):
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf[row]), snapshots)  # noqa: B023
        theta = unit_point(problem, params)
        own, at = problem_of_matrix(problem, theta, matrix, None)
        matrices.append(tridiagonals(own, at, seed, num_vectors=num_vectors, degree=degree))
        traces.append(trace(own, at, num_products=num_products, seed=seed))
        statuses.append([traces[-1].status])
        if k:
            start = None if pairs is None else pairs.next_start
            pairs = top_eigenpairs(own, at, k, start=start, seed=seed + row)
            largest.append(pairs.values)
            statuses[-1].append(pairs.status)
    sigma, grid = _common(matrices, width, points, dtype)
    densities = [density_of(one, sigma, grid, dimension=dimension) for one in matrices]
    columns: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
        name: (_AT_POINTS, np.stack([np.asarray(one[name], float) for one in densities]))
        for name in SPECTRA
        if name.startswith(("density", "count_above"))
    }
    for name, values in (
        ("trace", [one.trace for one in traces]),
        ("trace_low", [one.low for one in traces]),
        ("trace_high", [one.high for one in traces]),
    ):
        columns[name] = (("step",), np.array(values, float))
    if k:
        columns["largest_eigenvalue"] = (
            ("step", "eigenvalue"),
            np.stack([np.asarray(one, float) for one in largest]),
        )
        blocks, of_blocks = blocks_of_snapshots(problem, snapshots, k, groups, matrix)
        columns["block_eigenvalue"] = (("step", "layer", "eigenvalue"), blocks)
        columns["block_status"] = (("step", "layer"), of_blocks)
        statuses = [[*row, *more] for row, more in zip(statuses, of_blocks, strict=True)]
    if "threshold" in trajectory:
        threshold = trajectory["threshold"][trajectory.snapshot_row]
        columns["threshold"] = (("step",), np.asarray(threshold, float))
    columns["spectrum_status"] = (
        ("step",),
        np.array(
            [
                next((int(one) for one in (density.status, *of_row) if int(one)), Status.SUCCESS)
                for density, of_row in zip(densities, statuses, strict=True)
            ],
            np.int32,
        ),
    )
    measured = xarray.Dataset(
        columns,
        {
            "step": trajectory.snapshot_step,
            "tau": ("step", trajectory.snapshot_tau),
            "curvature": np.asarray(grid, float),
            "layer": list(layers),
        },
        {"width": float(sigma), "matrix": matrix, "dimension": dimension},
    )
    return described(measured, SPECTRA)


def _common(
    matrices: list, width: float | None, points: ArrayLike | None, dtype: np.dtype
) -> tuple[jax.Array, jax.Array]:
    """Width and points for all snapshots, as ``spectral_density`` chooses them for one."""
    ranges = np.array([[float(end) for end in spectral_range(one)] for one in matrices])
    known = ranges[np.all(np.isfinite(ranges), axis=1)]  # all but snapshots that are not finite
    smallest, largest = (known[:, 0].min(), known[:, 1].max()) if len(known) else (0.0, 0.0)
    size = max(abs(smallest), abs(largest))
    if width is None:
        degree = matrices[0].diagonal.shape[-1]
        width = max((largest - smallest) / degree, 1e-3 * size) if size > 0 else 1.0
    if points is None:
        points = np.linspace(smallest - 3.0 * width, largest + 3.0 * width, NUM_POINTS)
    return jnp.asarray(width, dtype), jnp.asarray(points, dtype)

"""The largest eigenvalues of the diagonal blocks of a matrix of curvature, layer by layer."""

from collections.abc import Mapping

from jaxtyping import Array, Int

from sharpflow.models import Params, Problem
from sharpflow.models.arguments import (
    INTEGER,
    PARAMS,
    POSITIVE,
    ArgumentError,
    Kind,
    checked,
    optional,
    shown,
)
from sharpflow.models.fitting import require_fitting
from sharpflow.models.parameter_groups import GROUPS, Patterns, parameter_groups
from sharpflow.models.problem import PROBLEM
from sharpflow.theory.curvature import Eigenpairs, top_eigenpairs
from sharpflow.theory.matrices import (
    MATRIX,
    PRECONDITIONER,
    Matrix,
    block_of,
    problem_of_matrix,
)

_BLOCKS = Kind(
    "what block_eigenpairs returned for nearby params",
    lambda value: (
        isinstance(value, Mapping) and all(isinstance(one, Eigenpairs) for one in value.values())
    ),
)


@checked(
    problem=PROBLEM,
    params=PARAMS,
    k=INTEGER,
    groups=optional(GROUPS),
    matrix=MATRIX,
    preconditioner=PRECONDITIONER,
    tolerance=optional(POSITIVE),
    start=optional(_BLOCKS),
    seed=INTEGER,
)
def block_eigenpairs(
    problem: Problem,
    params: Params,
    k: int = 1,
    *,
    groups: Mapping[str, Patterns] | None = None,
    matrix: Matrix = "hessian",
    preconditioner: Params | None = None,
    tolerance: float | None = None,
    start: Mapping[str, Eigenpairs] | None = None,
    seed: Int[Array, ""] | int = 0,
) -> dict[str, Eigenpairs]:
    """The k largest eigenvalues of the block of each group, with residuals.

    The block of a group is the Hessian of the loss as a function of its arrays alone. None of its
    eigenvalues exceeds the largest of the whole.

    Args:
      problem: any problem.
      params: where.
      k: how many of each block.
      groups: by name a pattern of paths, or several, as ``{"first": "Dense_0.*"}``; by default
        each array of two or more dimensions is a group.
      matrix, preconditioner: as in ``spectral_density``.
      tolerance: as in ``top_eigenpairs``.
      start: what this function returned for nearby params, from which Lanczos' method starts.
      seed: of the random vectors.

    Returns:
      The eigenpairs by the names of the groups; vectors are lists of the arrays of a group with a
      leading axis k. Usable under jit and vmap.

    Raises:
      ValueError: k is above the size of a block, a pattern that fits no path, a start of other
        groups, or what ``top_eigenpairs`` refuses.

    Source: docs/spectra.md.
    """
    require_fitting(problem, params)
    places_of = parameter_groups(params, groups)
    if start is not None and set(start) != set(places_of):
        raise ArgumentError("start", f"of the groups {', '.join(places_of)}", shown(list(start)))
    problem, params = problem_of_matrix(problem, params, matrix, preconditioner)
    pairs = {}
    for name, places in places_of.items():
        block, own = block_of(problem, params, places)
        pairs[name] = top_eigenpairs(
            block,
            own,
            k,
            tolerance=tolerance,
            start=None if start is None else start[name].next_start,
            seed=seed,
        )
    return pairs

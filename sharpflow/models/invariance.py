"""Whether a loss is invariant to the scale of its parameters, and what breaks it if not."""

from collections.abc import Callable, Collection
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from sharpflow.models.arguments import (
    FINITE,
    INTEGER,
    POSITIVE,
    SEED,
    checked,
    of_lazy_type,
    optional,
)
from sharpflow.models.fitting import validate_params
from sharpflow.models.parameter_names import parameter_paths
from sharpflow.models.precision import FULL, compiled, imprecise_products
from sharpflow.models.problem import PROBLEM, Params, Problem

_NUM_SCALES, _MAX_SCALE = 4, 4.0
_SLIGHT = 1e-2  # what the epsilon of a normalization layer changes, and a real dependence exceeds


@checked(
    problem=PROBLEM, num_scales=INTEGER, max_scale=FINITE, tolerance=optional(POSITIVE), seed=SEED
)
def check_scale_invariance(
    problem: Problem,
    params: Params,
    *,
    num_scales: int = _NUM_SCALES,
    max_scale: float = _MAX_SCALE,
    tolerance: float | None = None,
    seed: int = 0,
) -> float:
    """Measure how far L(cw) departs from L(w), and refuse a loss that breaks invariance.

    The loss is taken at random points around ``params``, as far from it as the
    origin is, so that the check means the same on Γ, where L is zero.

    Args:
      problem: the problem to check.
      params: where to check it.
      num_scales: number of random points and scales c.
      max_scale: c is log-uniform in [1/max_scale, max_scale].
      tolerance: largest relative change of L accepted; by default the square root
        of the rounding unit, which lets an epsilon of 1e-5 in a float32 batch norm
        of well-scaled activations pass and fails it in float64.
      seed: of the random points and scales.

    Returns:
      The largest relative change of the loss.

    Raises:
      ValueError: the change exceeds ``tolerance``; the message names the parameters
        that break invariance and, where holding them constant mends it, says so; or it says
        that the precision of products is the cause. Or unusable params, or numbers out of range.
    """
    if num_scales < 1:
        raise ValueError(f"num_scales must be at least 1, got {num_scales}")
    if not 1.0 < max_scale < np.inf:
        raise ValueError(f"max_scale must be finite and above 1, got {max_scale}")
    params = validate_params(problem, params)
    paths, leaves = parameter_paths(params), jax.tree.leaves(params)
    flat = np.concatenate([np.ravel(leaf) for leaf in leaves])
    if tolerance is None:
        tolerance = _usual_tolerance(flat.dtype)
    points, scales = _points_around(flat, num_scales, max_scale, seed)
    leaf_of = np.repeat(np.arange(len(paths)), [leaf.size for leaf in leaves])

    largest_change = partial(_largest_change, problem, params, points, scales)
    total = largest_change(np.ones(flat.size, bool))
    if total <= tolerance:
        return total
    imprecise = imprecise_products(problem.loss_value, params)
    if imprecise and total <= _SLIGHT:
        raise ValueError(_told_of_precision(problem, total, tolerance, imprecise))
    one_leaf = [leaf_of == leaf for leaf in range(len(paths))]
    changes = np.array([largest_change(leaf) for leaf in one_leaf])
    slight = [
        leaf
        for leaf in np.flatnonzero((changes > tolerance) & (changes <= _SLIGHT))
        if largest_change(one_leaf[leaf], enlarged=True) <= _SLIGHT
    ]
    breaking = [leaf for leaf in np.flatnonzero(~(changes <= tolerance)) if leaf not in slight]
    # What a layer puts out is scaled by its kernel and its bias together: before a normalization
    # neither may be scaled alone, and both may.
    module_of = {leaf: paths[leaf].rpartition("/")[0] for leaf in breaking}
    for module in dict.fromkeys(module_of.values()):
        own = [leaf for leaf in breaking if module_of[leaf] == module]
        change = largest_change(np.isin(leaf_of, own))
        if len(own) > 1 and change <= _SLIGHT:
            breaking = [leaf for leaf in breaking if leaf not in own]
            slight += own if change > tolerance else []
    rest = ~np.isin(leaf_of, breaking)
    names = [paths[leaf] or "the only array" for leaf in breaking]  # params that are one array
    message = (
        f"the loss is not invariant to the scale of its parameters: it changes by {total:.2g} "
        f"relative when they are scaled, {tolerance:.2g} is allowed."
    )
    if breaking and rest.any() and largest_change(rest) <= max(_SLIGHT, tolerance):
        message += (
            f" It depends on the scale of {', '.join(names)}. "
            f"Hold them constant: {_held_constant(problem)}from_flax(..., fixed={names!r})."
        )
    elif breaking:
        message += (
            f" It depends on the scale of {', '.join(names)}. "
            "Normalize what every layer puts out, or mark an ablation with "
            f"{maker(problem)}(..., scale_invariant=False)."
        )
    if slight:
        message += (
            f" It depends slightly on the scale of {', '.join(paths[leaf] for leaf in slight)}, "
            "as an epsilon in a normalization layer makes it: set that epsilon to 0."
        )
    raise ValueError(message)


def maker(problem: Problem) -> str:
    """What users call to make such a problem, whose argument ``scale_invariant`` they have.

    Args:
      problem: any.
    """
    return "from_flax" if _NETWORK.fits(problem.data) else "Problem"


# by its name, since whoever has none should not wait for Flax to load
_NETWORK = of_lazy_type("sharpflow", "NetworkData", "the data of a network")


def _held_constant(problem: Problem) -> str:
    """How parameters are held constant that no Flax module has."""
    if maker(problem) == "from_flax":
        return ""
    return "take them as data of the problem in place of params, or those of a Flax module by "


def points_around(
    params: Params, count: int
) -> tuple[np.ndarray, np.ndarray, Callable[[Array], Params], float]:
    """Points and scales at which invariance shows, as ``check_scale_invariance`` takes them.

    Args:
      params: around which; d entries.
      count: n, of points.

    Returns:
      Points, shape (n, d); scales, shape (n,); what makes a pytree of a point; and the largest
      relative change of the loss that is usually accepted.
    """
    flat, unravel = ravel_pytree(params)
    points, scales = _points_around(np.asarray(flat), count, 4.0, 0)
    return points, scales, unravel, _usual_tolerance(flat.dtype)


def depends_on_scale(problem: Problem, params: Params, arrays: Collection[int]) -> bool:
    """Whether the loss changes where some arrays alone are scaled, as a layer.

    Args:
      problem: any.
      params: about which random points are taken, as in ``check_scale_invariance``.
      arrays: numbers of the arrays among the leaves.

    Returns:
      Whether it changes by more than rounding.
    """
    leaves = jax.tree.leaves(params)
    flat = np.concatenate([np.ravel(leaf) for leaf in leaves])
    points, scales = _points_around(flat, _NUM_SCALES, _MAX_SCALE, 0)
    scaled = np.repeat([index in arrays for index in range(len(leaves))], [x.size for x in leaves])
    change = _largest_change(problem, params, points, scales, scaled)
    return not change <= _usual_tolerance(flat.dtype)


def _largest_change(
    problem: Problem,
    params: Params,
    points: np.ndarray,
    scales: np.ndarray,
    scaled: np.ndarray,
    *,
    enlarged: bool = False,
) -> float:
    """Of the loss when some coordinates are scaled, which may be made as long as all first.

    A part of a parameter that is small, such as a bias, changes the loss little though it
    breaks invariance; enlarged it changes it much. An epsilon does the opposite.

    Args:
      problem, params: as of ``check_scale_invariance``.
      points, scales: as of ``_points_around``.
      scaled: which coordinates, shape (d,).
      enlarged: whether they are made as long as all first.
    """
    flat, _ = ravel_pytree(params)
    factors = np.where(scaled, scales[:, None], np.ones((), points.dtype))
    length = np.linalg.norm(flat) / np.linalg.norm(points[:, scaled], axis=1, keepdims=True)
    larger = np.where(scaled, points * length, points) if enlarged else points
    pairs = zip(larger.astype(points.dtype), factors, strict=True)
    # of the loss alone, because a compiled function takes a problem at full precision
    return float(np.max([_relative_change(problem.loss, params, *pair) for pair in pairs]))


def _points_around(
    flat: np.ndarray, count: int, max_scale: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Random points as far from a point as the origin is, and scales up to the largest."""
    random = np.random.default_rng(seed)
    directions = random.normal(size=(count, flat.size))
    directions *= np.linalg.norm(flat) / np.linalg.norm(directions, axis=1, keepdims=True)
    points = flat[None] + directions.astype(flat.dtype)
    scales = (max_scale ** random.uniform(-1.0, 1.0, count)).astype(flat.dtype)
    return points, scales


def _usual_tolerance(dtype: np.dtype) -> float:
    return float(np.sqrt(jnp.finfo(dtype).eps))


def _told_of_precision(problem: Problem, total: float, tolerance: float, imprecise: int) -> str:
    """What to say where rounding of products alone would change the loss as much."""
    if problem.matmul_precision == FULL:
        remedy = (
            "the module asks for less itself, by a precision or a dtype of its layers: leave "
            "them out, and this package asks for the highest"
        )
    else:
        remedy = f"this problem is at_precision({problem.matmul_precision!r}): check the original"
    return (
        f"precision is the cause: the loss changes by {total:.2g} relative when its parameters "
        f"are scaled, {tolerance:.2g} is allowed, and {imprecise} of its products are made in "
        f"less than true float32, which rounds them by up to 4e-3 (bfloat16) or 5e-4 (TF32); "
        f"{remedy}"
    )


@compiled
def _relative_change(
    loss: Callable[[Params], Array],
    like: Params,
    point: Float[Array, " d"],
    factors: Float[Array, " d"],
) -> Float[Array, ""]:
    """Of the loss at a flat point when its coordinates are multiplied by factors."""
    _, unravel = ravel_pytree(like)
    before = loss(unravel(point))
    after = loss(unravel(point * factors))
    return jnp.abs(after - before) / jnp.abs(before)

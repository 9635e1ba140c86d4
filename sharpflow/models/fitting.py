"""Whether params fit a problem, told before anything is computed with them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sharpflow.models.arguments import PARAMS, ArgumentError, shown
from sharpflow.models.leaves import is_concrete, require_x64_for
from sharpflow.models.parameter_names import parameter_paths
from sharpflow.models.problem import PROBLEM, Params, Problem


def validate_params(problem: Problem, params: Any, name: str = "params") -> Params:
    """Check what Python can see of ``params`` before anything is computed with them.

    Args:
      problem: the problem whose loss will be evaluated.
      params: pytree of arrays.
      name: what to call them in errors.

    Returns:
      The same pytree, its leaves as jax arrays.

    Raises:
      ValueError: an empty tree, leaves that are not floating point, of half precision, or that
        differ in dtype, a NaN or infinite entry, the zero vector, arrays of other shapes than
        ``init`` draws, a residual that is not a vector, or a loss that is not a scalar of the dtype
        of the params.
    """
    return validate_start(problem, params, name, as_drawn=True)


def validate_start(problem: Problem, params: Any, name: str, *, as_drawn: bool) -> Params:
    """``validate_params`` for params that a function of the user's draws in place of ``init``.

    Args:
      problem, params, name: as of ``validate_params``.
      as_drawn: whether they must have the arrays that ``init`` draws; not where the function
        chooses their shapes itself.

    Returns:
      As ``validate_params``.

    Raises:
      ValueError: as ``validate_params``.
    """
    PROBLEM.require("problem", problem)
    if remedy := PARAMS.remedy(params):
        raise ArgumentError(name, PARAMS.allowed, shown(params), remedy)
    leaves, treedef = jax.tree.flatten(params)
    if not leaves:
        raise ValueError(f"{name} holds no arrays; it must be a pytree of floating-point arrays")
    for leaf in leaves:
        # Before jax sees the leaf: without x64 it would make float32 of float64 with no more than a
        # warning.
        require_x64_for(getattr(leaf, "dtype", None), name)
    leaves = [_as_array(leaf, name) for leaf in leaves]
    dtypes = {leaf.dtype for leaf in leaves}
    if len(dtypes) != 1 or not all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes):
        raise ValueError(
            f"{name} must be floating-point arrays of one dtype, got "
            f"{sorted(str(dtype) for dtype in dtypes)}"
        )
    if not dtypes <= {jnp.dtype(jnp.float32), jnp.dtype(jnp.float64)}:
        (half,) = dtypes
        raise ValueError(
            f"{name} must be float32 or float64, got {half}: sums over steps and eigenvalues need "
            "more digits. Keep the params in float32, and cast them to half precision within the "
            "functions of the problem"
        )
    if is_concrete(*leaves):
        values = [np.asarray(leaf) for leaf in leaves]  # numpy, which compiles nothing
        if not all(np.all(np.isfinite(value)) for value in values):
            raise ValueError(f"{name} has NaN or infinite entries; all must be finite")
        if not any(np.any(value) for value in values):
            raise ValueError(f"{name} is the zero vector, which has no direction")
    params = jax.tree.unflatten(treedef, leaves)
    require_fitting(problem, params, name, as_drawn=as_drawn)
    return params


def require_fitting(
    problem: Problem, params: Params, name: str = "params", *, as_drawn: bool = True
) -> None:
    """Refuse params that the functions of a problem cannot take, or of which they make no loss.

    Args:
      problem: whose params they must be.
      params: a pytree of arrays, which may be traced.
      name: what to call them in errors.
      as_drawn: whether they must have the arrays that ``init`` draws, also where the functions of
        the problem would take others: what reads them by index does not notice.

    Raises:
      ValueError: naming them, with the arrays that differ from those of ``init``, or with what the
        functions say.
    """
    differences = _differences(problem, params)
    if as_drawn and differences:
        raise ValueError(f"{name} {_OTHER_ARRAYS.format('; '.join(differences))}")
    try:
        _check_shapes(problem, params)
    except Exception as error:  # a function that is given other arrays may raise anything
        if not differences and not isinstance(error, ValueError):  # those here tell the dtype
            differences = _other_dtypes(problem, params)
        if differences:
            raise ValueError(f"{name} {_OTHER_ARRAYS.format('; '.join(differences))}") from error
        if not isinstance(error, TypeError | LookupError | AttributeError):
            raise
        shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(params)]
        raise ValueError(
            f"{name} do not fit the problem: with arrays of shapes {shown(shapes)} its loss raises "
            f"{type(error).__name__}: {error}"
        ) from error


_OTHER_ARRAYS = (
    "do not fit the problem, whose init gives other arrays: {}. Take "
    "problem.init(jax.random.key(seed)), or the problem that they belong to"
)


def _differences(problem: Problem, params: Params) -> list[str]:
    """How arrays differ from those that ``init`` gives, in words; empty where nobody can tell."""
    known, given = _drawn(problem), _by_path(params)
    if known is None:
        return []
    lines = [f"{path or 'the array'} is missing" for path in known if path not in given]
    lines += [f"{path or 'the array'} is unknown" for path in given if path not in known]
    lines += [
        f"{path or 'the array'} has shape {given[path].shape} instead of {like.shape}"
        for path, like in known.items()
        if path in given and given[path].shape != like.shape
    ]
    most = 6  # lines, of which a reader sees what is wrong; a large network has a hundred arrays
    return lines[:most] + ([f"and {len(lines) - most} more"] if len(lines) > most else [])


def _other_dtypes(problem: Problem, params: Params) -> list[str]:
    """Of what dtype arrays are instead of that which ``init`` draws."""
    given, known = (
        " and ".join(sorted({str(leaf.dtype) for leaf in (tree or {}).values()}))
        for tree in (_by_path(params), _drawn(problem))
    )
    return [f"they are {given} instead of {known}"] if known and given != known else []


def _drawn(problem: Problem) -> dict[str, Any] | None:
    """What ``init`` gives, by path; None where jax cannot trace it.

    An init that draws no arrays says nothing of their shapes either: its problem takes whatever its
    loss takes.
    """
    try:
        # the key by its shape too, so that inside compiled code nothing is added to the program
        drawn = jax.eval_shape(problem.init, jax.eval_shape(jax.random.key, 0))
        return _by_path(drawn) or None
    except Exception:  # an init is anybody's code, and may need a key that has a value
        return None


def _by_path(tree: Params) -> dict[str, Any]:
    return dict(zip(parameter_paths(tree), jax.tree.leaves(tree), strict=True))


def _as_array(leaf: Any, name: str) -> jax.Array:
    try:
        return jnp.asarray(leaf)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(
            f"{name} must be a pytree of floating-point arrays, got {shown(leaf)} in it"
        ) from error


def _check_shapes(problem: Problem, params: Params) -> None:
    # Everything here is traced for shapes alone. A call of simulate or predict comes through here,
    # and to evaluate the loss of a large network would take as long as a step.
    residual, outputs, known = problem.residual, problem.outputs, problem.criterion_residual
    if outputs is not None and known is not None:
        residual = lambda params: known(outputs(params))  # noqa: E731
    if residual is not None:
        shape = jax.eval_shape(residual, params)
        if not hasattr(shape, "shape") or len(shape.shape) != 1:
            got = getattr(shape, "shape", type(shape).__name__)
            raise ValueError(f"residual must return a vector of shape (m,), got {got}")
    value = jax.eval_shape(problem.loss_value, params)
    if getattr(value, "shape", None) != ():
        got = getattr(value, "shape", type(value).__name__)
        raise ValueError(f"the loss must be a scalar of shape (), got {got}")
    dtype = jax.tree.leaves(params)[0].dtype
    if value.dtype != dtype:
        raise ValueError(
            f"the loss is {value.dtype} where the params are {dtype}; it must be of their dtype. "
            "Take params of the problem, problem.init(jax.random.key(seed)), or cast these: "
            f"jax.tree.map(lambda w: w.astype('{value.dtype}'), params). If x64 was switched on "
            "after the problem was made, make the problem again. In a loss of your own, cast its "
            "data or its value"
        )

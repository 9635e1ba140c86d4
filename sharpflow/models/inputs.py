"""What a problem is made of: its dtype, its inputs, and targets that normalized outputs fit."""

from typing import Any

import jax
import numpy as np

from sharpflow.models.arguments import DATA, TEXT, checked, require_within, shown
from sharpflow.models.leaves import require_x64_for, x64_enabled


@checked(y=DATA, name=TEXT)
def standardized_targets(y: np.ndarray, dtype: np.dtype, name: str = "y") -> np.ndarray:
    """Targets that batch-normed outputs can fit exactly: mean 0, mean square 1 per column.

    Args:
      y: shape (n,) of integer classes, turned into one-hot columns, or (n,) or
        (n, c) of real targets.
      dtype: of the result.
      name: what to call ``y`` in errors.

    Returns:
      Shape (n, c); (n, 1) for real targets of shape (n,).

    Raises:
      ValueError: NaN or infinite entries, a constant column, fewer than two rows,
        or a shape that is neither (n,) nor (n, c).

    Source: docs/theory.md, section 6; otherwise no parameters reach zero residual.
    """
    dtype = floating_dtype(dtype)
    y = np.asarray(y)
    if y.ndim not in (1, 2) or y.shape[0] < 2:
        raise ValueError(f"{name} must have shape (n,) or (n, c) with n >= 2, got {y.shape}")
    if (not np.issubdtype(y.dtype, np.number) and y.dtype != bool) or np.iscomplexobj(y):
        raise ValueError(f"{name} must be real numbers, got dtype {y.dtype}")
    # In float64 until the end: mean and deviation of float32 targets would be off by their
    # rounding, and the residual could not become 0.
    columns = target_columns(y, y)
    if not np.all(np.isfinite(columns)):
        raise ValueError(f"{name} has NaN or infinite entries; all must be finite")
    centred = columns - columns.mean(axis=0)
    # The refusal below says more than the warning of numpy would.
    with np.errstate(over="ignore"):
        deviation = np.sqrt(np.mean(centred**2, axis=0))
    if not np.all(np.isfinite(deviation)):
        raise ValueError(
            f"{name} must have entries whose squares are finite, got some of size "
            f"{np.max(np.abs(columns)):.2g}: use another unit"
        )
    # As in matrix_completion: the mean of equal numbers is right to 2e-16 of their size.
    flat = np.flatnonzero(deviation <= 1e-12 * np.abs(columns).max(axis=0))
    if flat.size:
        raise ValueError(
            f"{name} is constant in column {flat[0]}; every column must vary over the "
            "examples, because normalized outputs do"
        )
    return (centred / deviation).astype(dtype)


def holds_classes(y: np.ndarray) -> bool:
    """Whether targets are integer classes, shape (n,), and not numbers to be fitted."""
    return y.ndim == 1 and np.issubdtype(y.dtype, np.integer)


def one_hot(y: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """A column for each class, 1 in the rows that are of it.

    Args:
      y: integer classes, shape (n,).
      classes: in the order of the columns, shape (C,).

    Returns:
      Shape (n, C), float64; zero in the row of a class that is not among ``classes``.
    """
    return (y[:, None] == classes[None, :]).astype(np.float64)


def target_columns(y: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Targets as columns, before they are standardised.

    Args:
      y: shape (n,) or (n, c).
      labels: the training targets, whose classes make the columns.

    Returns:
      Shape (n, c), float64.
    """
    if holds_classes(labels):
        return one_hot(y, np.unique(labels))
    return (y if y.ndim == 2 else y[:, None]).astype(np.float64)


def validated_inputs(
    x: np.ndarray, dtype: np.dtype, name: str = "x", *, keep_integers: bool = False
) -> np.ndarray:
    """Inputs as an array of ``dtype``, refused where they are not finite numbers.

    Args:
      x: shape (n, ...).
      dtype: of the result; an integer one takes integers only.
      name: what to call ``x`` in errors.
      keep_integers: leave integers what they are, in the size that jax has for them.

    Returns:
      Shape (n, ...); ``x`` itself where that is of this dtype, so that a large data set is not
      held twice; ``on_device`` copies it.

    Raises:
      ValueError: fewer than two axes or two rows, NaN or infinite entries, or integers that the
        dtype does not hold.
    """
    x = np.asarray(x)
    if x.ndim < 2 or x.shape[0] < 2:
        raise ValueError(f"{name} must have shape (n, ...) with n >= 2, got {x.shape}")
    if not np.issubdtype(x.dtype, np.number) or np.iscomplexobj(x):
        raise ValueError(f"{name} must be real numbers, got dtype {x.dtype}")
    # the extremes are not finite where any entry is not, and take no array as large as x
    if x.size and not (np.isfinite(np.min(x)) and np.isfinite(np.max(x))):
        raise ValueError(f"{name} has NaN or infinite entries; all must be finite")
    if keep_integers and np.issubdtype(x.dtype, np.integer):
        dtype = np.dtype(jax.dtypes.canonicalize_dtype(x.dtype))  # int32 without x64
    if np.issubdtype(dtype, np.integer):
        _require_within(x, dtype, name)
    elif x.size:
        require_within(dtype, **{name: [np.max(x), np.min(x)]}, zero=True)
    return x.astype(dtype, copy=False)


def _require_within(x: np.ndarray, dtype: np.dtype, name: str) -> None:
    if not np.issubdtype(x.dtype, np.integer):
        raise ValueError(f"{name} must be integers, as the training inputs are, got {x.dtype}")
    limits = np.iinfo(dtype)
    if x.size and not limits.min <= int(np.min(x)) <= int(np.max(x)) <= limits.max:
        raise ValueError(
            f"{name} must hold integers from {limits.min} to {limits.max}, as {dtype} does, got "
            f"{np.min(x)} to {np.max(x)}"
        )


def resolve_dtype(dtype: object, *arrays: np.ndarray) -> np.dtype:
    """The floating-point dtype of a problem.

    Args:
      dtype: what the caller asked for; None takes float64 where x64 is enabled and
        float32 otherwise, but float32 arrays keep a problem in float32.
      arrays: the data.

    Returns:
      float32 or float64.

    Raises:
      ValueError: a dtype that is not float32 or float64, or float64 without x64.
    """
    if dtype is None:
        # Who gives float32 has chosen it; to compute in float64 would take twice the memory and, on
        # an accelerator, many times as long. Integers and float64 say nothing of the sort.
        single = any(np.asarray(array).dtype == np.float32 for array in arrays)
        return np.dtype(np.float64 if x64_enabled() and not single else np.float32)
    resolved = floating_dtype(dtype)
    require_x64_for(resolved, "dtype")
    return resolved


def floating_dtype(dtype: object) -> np.dtype:
    """What numpy makes of a dtype, if that is one to compute in.

    Args:
      dtype: whatever ``numpy.dtype`` takes.

    Returns:
      float32 or float64.

    Raises:
      ValueError: another dtype, or none.
    """
    if isinstance(dtype, (str, type, np.dtype)) or dtype is None:
        known: Any = dtype
    else:
        known = object()  # numpy would take the dtype of whatever has one, as of a column
    try:
        resolved = np.dtype(known)
    except (TypeError, ValueError) as error:
        raise ValueError(f"dtype must be float32 or float64, got {shown(dtype)}") from error
    if resolved not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ValueError(f"dtype must be float32 or float64, got {resolved}")
    return resolved

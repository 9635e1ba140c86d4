"""What a problem is made of: its dtype, its inputs, and targets that normalized outputs fit."""

import numpy as np

from sharpflow.models.problem import x64_enabled


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
    y = np.asarray(y)
    if y.ndim not in (1, 2) or y.shape[0] < 2:
        raise ValueError(f"{name} must have shape (n,) or (n, c) with n >= 2, got {y.shape}")
    if (not np.issubdtype(y.dtype, np.number) and y.dtype != bool) or np.iscomplexobj(y):
        raise ValueError(f"{name} must be real numbers, got dtype {y.dtype}")
    columns = y if y.ndim == 2 else y[:, None]
    if y.ndim == 1 and np.issubdtype(y.dtype, np.integer):
        columns = (y[:, None] == np.unique(y)[None, :]).astype(np.float64)
    columns = columns.astype(np.float64)
    if not np.all(np.isfinite(columns)):
        raise ValueError(f"{name} has NaN or infinite entries; all must be finite")
    centred = columns - columns.mean(axis=0)
    deviation = np.sqrt(np.mean(centred**2, axis=0))
    flat = np.flatnonzero(deviation <= 1e-12 * np.abs(columns).max(axis=0))
    if flat.size:
        raise ValueError(
            f"{name} is constant in column {flat[0]}; every column must vary over the "
            "examples, because normalized outputs do"
        )
    return (centred / deviation).astype(dtype)


def validated_inputs(x: np.ndarray, dtype: np.dtype, name: str = "x") -> np.ndarray:
    """Inputs as an array of ``dtype``, refused where they are not finite numbers.

    Args:
      x: shape (n, ...).
      dtype: of the result.
      name: what to call ``x`` in errors.

    Raises:
      ValueError: fewer than two axes or two rows, or NaN or infinite entries.
    """
    x = np.asarray(x)
    if x.ndim < 2 or x.shape[0] < 2:
        raise ValueError(f"{name} must have shape (n, ...) with n >= 2, got {x.shape}")
    if not np.issubdtype(x.dtype, np.number) or np.iscomplexobj(x):
        raise ValueError(f"{name} must be real numbers, got dtype {x.dtype}")
    if not np.all(np.isfinite(x)):
        raise ValueError(f"{name} has NaN or infinite entries; all must be finite")
    return x.astype(dtype)


def resolve_dtype(dtype: object, *arrays: np.ndarray) -> np.dtype:
    """The floating-point dtype of a problem.

    Args:
      dtype: what the caller asked for; None takes float64 where x64 is enabled and
        float32 otherwise, but float32 arrays keep a problem in float32.
      arrays: the data.

    Raises:
      ValueError: a dtype that is not float32 or float64, or float64 without x64.
    """
    if dtype is None:
        single = any(np.asarray(array).dtype == np.float32 for array in arrays)
        return np.dtype(np.float64 if x64_enabled() and not single else np.float32)
    resolved = np.dtype(dtype)  # type: ignore[call-overload]
    if resolved not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ValueError(f"dtype must be float32 or float64, got {resolved}")
    if resolved == np.dtype(np.float64) and not x64_enabled():
        raise ValueError(
            "dtype is float64 but jax runs without x64: "
            "call jax.config.update('jax_enable_x64', True) first, or use float32"
        )
    return resolved

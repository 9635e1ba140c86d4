"""Paths of params as matrices."""

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from sharpflow.models import Params


def flattened(path: Params) -> np.ndarray:
    """Params with leading axis (T, ...) as rows, shape (T, d)."""
    return np.asarray(jax.vmap(lambda tree: ravel_pytree(tree)[0])(path))

"""Flows as labelled arrays, with the words for each."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from sharpflow.models import Params
from sharpflow.models.parameter_names import parameter_dimensions, parameter_names

if TYPE_CHECKING:
    import xarray

_TAU = ("flow time τ", "The flow time τ of an output.")

# Of every column its label and its definition. None has a unit: time is counted in flow time, and
# a loss has that of the problem, which nobody tells.
_WORDS = {
    "threshold": ("threshold λ*", "The threshold λ*(τ) that the flow predicts."),
    "loss": ("loss L", "The loss L(w) on the central flow."),
    "mean_loss": (
        "mean loss",
        "The loss averaged over the oscillation, L(w) + ½⟨∇²L(w), C⟩.",
    ),
    "eigenvalues": (
        "eigenvalues of the Hessian",
        "The largest eigenvalues of the Hessian at the predicted point, descending.",
    ),
    "edge_covariance": (
        "edge covariance M",
        "M(τ), the covariance of the oscillation over the intrinsic rate, in the basis of the "
        "eigenvectors.",
    ),
    "covariance": (
        "covariance C",
        "C, the covariance of the oscillation in the basis of the eigenvectors.",
    ),
    "edge": (
        "edge 2/η − λ",
        "The largest stable eigenvalue of the Hessian, 2/η − λ, of the rates at that time.",
    ),
    "norm_squared": ("squared norm ‖w‖²", "The squared norm ‖w‖² of the predicted params."),
}


def flow_dataset(
    tau: Any,
    columns: Mapping[str, Any],
    params: tuple[str, Params],
    attributes: Mapping[str, Any],
) -> "xarray.Dataset":
    """A flow as a dataset with dimension ``tau``.

    Args:
      tau: output times, shape (T,).
      columns: arrays of shape (T, ...) by name.
      params: what the points are called, and a pytree with a leading axis (T, ...).
      attributes: numbers of the flow.

    Returns:
      The dataset. An array of the points is a variable ``<name>.<path>``.
    """
    import xarray

    variables = {
        name: (("tau", *_axes(name, np.ndim(values) - 1)), np.asarray(values), _described(name))
        for name, values in columns.items()
    }
    prefix, tree = params
    names = parameter_names(tree, prefix)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    dimensions = parameter_dimensions(tree, [leaf.ndim - 1 for leaf in leaves], names)
    for name, own, leaf in zip(names, dimensions, leaves, strict=True):
        words = f"The predicted point at the output times, its array {name}."
        variables[name] = (("tau", *own), leaf, _attributes(name, words))
    coords = {"tau": ("tau", np.asarray(tau), _attributes(*_TAU))}
    return xarray.Dataset(variables, coords, dict(attributes))


def _axes(name: str, rank: int) -> Sequence[str]:
    return [f"{name}_{axis}" for axis in range(rank)]


def _described(name: str) -> dict[str, str]:
    return _attributes(*_WORDS[name])


def _attributes(label: str, definition: str) -> dict[str, str]:
    return {"long_name": label, "units": "1", "definition": definition}

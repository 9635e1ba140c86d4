"""How the columns of a dataset are called in figures, and on what scale they are drawn."""

from typing import TYPE_CHECKING

import numpy as np

from sharpflow.experiments.grid_summary import EDGE_RATIOS
from sharpflow.simulator.observables import BUILT_IN, RUNNING

if TYPE_CHECKING:
    import xarray

_LABELS = {
    "loss": r"training loss $L$",
    "loss_mean": r"mean training loss $\bar L$",
    "loss_rises": "share of steps that raise the loss",
    "norm_squared": r"squared norm $\|w\|^2$",
    "gradient_norm": r"gradient norm $\|\nabla L(w)\|$",
    "effective_learning_rate": r"effective learning rate $\tilde\eta$",
    "threshold": r"threshold $\lambda^{\ast}$",
    "sharpness_iterate": r"sharpness $\lambda_1$ at $\theta_t$",
    "sharpness_midpoint": r"sharpness $\lambda_1$ at the midpoint",
    "sharpness_manifold": r"sharpness $\lambda_1$ at $\Phi(\theta_t)$",
    "edge_ratio_iterate": r"edge ratio $\lambda_1/\lambda^{\ast}$ at $\theta_t$",
    "edge_ratio_midpoint": r"edge ratio $\lambda_1/\lambda^{\ast}$ at the midpoint",
    "edge_ratio_manifold": r"edge ratio $\lambda_1/\lambda^{\ast}$ at $\Phi(\theta_t)$",
    "hessian_sharpness": r"sharpness $\lambda_1(\nabla^2 L(w_t))$",
    "preconditioned_sharpness": r"sharpness $\lambda_1(P^{-1/2}\,\nabla^2 L(w_t)\,P^{-1/2})$",
    "stability_line": r"$2/\eta$",
}

# Where gradient descent is marginally stable: drawn beside the sharpness.
_EDGES = {
    "sharpness_iterate": "threshold",
    "sharpness_midpoint": "threshold",
    "sharpness_manifold": "threshold",
    "hessian_sharpness": "stability_line",
    "preconditioned_sharpness": "stability_line",
}
_SYMBOLS = {"threshold": r"$\lambda^{\ast}$", "stability_line": r"$2/\eta$"}

_LONGEST = 60  # characters of a label

_WIDE = 30.0  # largest over smallest value, from which on a scale is logarithmic


def label(name: str) -> str:
    """A column in words and symbols; a name of the user's own as text, however long it is."""
    if name in _LABELS:
        return _LABELS[name]
    words = name if len(name) <= _LONGEST else f"{name[:_LONGEST]}…"
    words = "".join(c if c.isprintable() else " " for c in words)
    return words.replace("_", " ").replace("$", r"\$")  # which would begin a formula


def edge_of(dataset: "xarray.Dataset", name: str) -> str | None:
    """The column with the edge of a sharpness, where it was recorded."""
    edge = _EDGES.get(name)
    return edge if edge in dataset else None


def symbol(edge: str) -> str:
    """The symbol of the edge of a sharpness."""
    return _SYMBOLS[edge]


def is_edge_ratio(name: str) -> bool:
    """Whether 1 is the middle of the scale."""
    return name in (*EDGE_RATIOS, "edge_ratio")


def is_logarithmic(name: str, values: np.ndarray) -> bool:
    """Whether the finite values are positive and span so much that they need a log scale."""
    finite = np.asarray(values)[np.isfinite(values)]
    if is_edge_ratio(name) or not finite.size or finite.min() <= 0:
        return False
    return bool(finite.max() > _WIDE * finite.min())


def metric_names(dataset: "xarray.Dataset", time: str) -> list[str]:
    """Columns that the problem, not the package, has named: one number per record."""
    known = {*_LABELS, *BUILT_IN, *RUNNING}
    return [
        str(name)
        for name, values in dataset.data_vars.items()
        if name not in known and values.dims[-1:] == (time,) and values.dtype.kind == "f"
    ]

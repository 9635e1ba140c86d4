"""How figures show a quantity: its label and symbols as matplotlib sets them, and its scale."""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sharpflow.simulator.columns import RESERVED
from sharpflow.simulator.grid.prediction_quantities import OUTPUT
from sharpflow.simulator.observables import STANDARD
from sharpflow.simulator.quantities import quantity_of
from sharpflow.simulator.quantity import Quantity
from sharpflow.simulator.trajectory import Trajectory

if TYPE_CHECKING:
    import xarray

_LONGEST = 60  # characters of a label: more do not fit along an axis of a page

# Largest over smallest value from which on a scale is logarithmic. At 3, values within a factor of
# each other would be bent; at 300 the small ones among them would lie on the axis.
_WIDE = 30.0

# What predictions say of columns, where this is not called "predicted_" and the name: on the sphere
# there is one predicted sharpness, and that of the loss is of its mean above its infimum, which no
# column is.
_PREDICTED = {
    "sharpness_manifold": "predicted_sharpness",
    "sharpness_midpoint": "predicted_sharpness",
    "sharpness_iterate": "predicted_sharpness",
    "loss": None,
}

# Symbols as formulas have them. A word of a label with one of these in it is set as a formula.
_FORMULAS = {
    **{"η": r"\eta", "θ": r"\theta", "κ": r"\kappa", "λ": r"\lambda", "ρ": r"\rho"},
    **{"τ": r"\tau", "ζ": r"\zeta", "β": r"\beta", "α": r"\alpha", "σ": r"\sigma"},
    **{"Γ": r"\Gamma", "Φ": r"\Phi", "∇": r"\nabla", "‖": r"\|", "½": r"\frac{1}{2}"},
    **{"Σ": r"\Sigma", "∞": r"\infty", "·": r"\cdot", "−": "-", "√": r"\surd"},
}
_BELOW = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋ᵢₐₛₜ", "0123456789+-iast", strict=True))
_ABOVE = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ᵀ", "0123456789+-T", strict=True)) | {"*": r"\ast"}
_ACCENTS = {"\u0303": r"\tilde", "\u0304": r"\bar", "\u0302": r"\hat"}
_LETTERS = frozenset("LMtw")  # which are symbols where they stand alone
_SYMBOLS = frozenset({*_FORMULAS, *_BELOW, *_ABOVE, *_ACCENTS}) - {"*"}  # as in 2*x
_ALLOWED = re.compile(f"[A-Za-z0-9()|/=+.,{re.escape(''.join(_SYMBOLS))}*-]+")


def shown_quantity(record: "Trajectory | xarray.Dataset", name: str) -> Quantity:
    """What a column is, as the record says that holds it, or else by its name.

    Args:
      record: a trajectory or a dataset.
      name: of the column.
    """
    if isinstance(record, Trajectory):
        return record.quantity(name)
    return quantity_of(name, record[name].attrs if name in record.variables else None)


def label(quantity: Quantity) -> str:
    """The label of an axis, as matplotlib sets it, however long and whosever it is."""
    return mathtext(quantity.label)


def symbol(quantity: Quantity) -> str:
    """What a legend calls the quantity, as matplotlib sets it."""
    return mathtext(quantity.symbol or quantity.label)


def joint_label(drawn: Sequence[Quantity]) -> str:
    """The label of axes that several quantities share: up to their symbols, each said once.

    Of one quantity it is the whole label. Where all labels end in the same words, as those of a
    training and a test accuracy do, it is these words, and the legend says the rest.

    Args:
      drawn: at least one.
    """
    if len(drawn) == 1:
        return label(drawn[0])
    endings = zip(*(reversed(quantity.label.split()) for quantity in drawn), strict=False)
    common = [words[0] for words in itertools.takewhile(lambda ws: len({*ws}) == 1, endings)]
    if common:
        return mathtext(" ".join(reversed(common)))
    return mathtext(", ".join(dict.fromkeys(map(_up_to_symbol, drawn))))


def _up_to_symbol(quantity: Quantity) -> str:
    """``"sharpness λ₁"`` of the label ``"sharpness λ₁ at Φ(θₜ)"`` with the symbol λ₁ at Φ(θₜ)."""
    sign = quantity.symbol.split(" ")[0]
    if not sign:
        return quantity.label
    before, found, _ = quantity.label.partition(sign)
    return before + found


def mathtext(text: str) -> str:
    """Plain text with its symbols as formulas: ``"threshold λ*"`` as ``r"threshold $\\lambda^…$"``.

    Args:
      text: any; what would begin a formula of its own is shown as it stands.
    """
    text = "".join(c if c.isprintable() else " " for c in text)
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    return " ".join(_formula(word) or word.replace("$", r"\$") for word in text.split(" "))


def _formula(word: str) -> str | None:
    """A word as a formula; None where it holds no symbol, or something that no formula can."""
    from matplotlib.mathtext import MathTextParser

    if word not in _LETTERS and (_SYMBOLS.isdisjoint(word) or not _ALLOWED.fullmatch(word)):
        return None
    formula = f"${_tex(word)}$"
    try:  # two indices in a row, or one of nothing, are no formula
        MathTextParser("path").parse(formula)
    except ValueError:
        return None
    return formula


def _tex(word: str) -> str:
    """A word of symbols in the language of TeX."""

    def accented(match: re.Match[str]) -> str:
        return _before(_ACCENTS[match[2]], match[1])

    def below(match: re.Match[str]) -> str:
        return _index("_", _BELOW, match[0])

    def above(match: re.Match[str]) -> str:
        return _index("^", _ABOVE, match[0])

    def named(match: re.Match[str]) -> str:
        return _before(_FORMULAS[match[1]], match[2])

    word = re.sub(f"(.)([{''.join(_ACCENTS)}])", accented, word)
    word = re.sub(f"[{''.join(_BELOW)}]+", below, word)
    word = re.sub(f"[{re.escape(''.join(_ABOVE))}]+", above, word)
    return re.sub(f"([{''.join(_FORMULAS)}])([A-Za-z]?)", named, word)


def _before(command: str, letter: str) -> str:
    """A command of TeX and a letter, which would be taken for a part of its name."""
    ends_in_letter = command[-1].isalpha() and letter.isascii() and letter.isalpha()
    return f"{command} {letter}" if ends_in_letter else f"{command}{letter}"


def _index(mark: str, table: Mapping[str, str], run: str) -> str:
    """A run of small letters, which is one index: two in a row would be none."""
    inside = "".join(table[character] for character in run)
    return f"{mark}{inside}" if len(inside) == 1 else f"{mark}{{{inside}}}"


def edge_of(dataset: "xarray.Dataset", name: str) -> str | None:
    """The column that another is to be compared with, as a sharpness with the threshold.

    Args:
      dataset: that may hold both.
      name: of the other.
    """
    beside = shown_quantity(dataset, name).reference
    # The line is that of the preconditioned Hessian where a rule has a preconditioner.
    if name == "hessian_sharpness" and "preconditioned_sharpness" in dataset:
        return None
    return beside if isinstance(beside, str) and beside in dataset else None


def prediction_of(dataset: "xarray.Dataset", name: str) -> str | None:
    """The column that holds what the predictions of a grid say of another; None where none does.

    Args:
      dataset: of a grid, with predictions or without.
      name: of the other.
    """
    predicted = _PREDICTED.get(name, f"predicted_{name}")
    if predicted is None or predicted not in dataset or OUTPUT not in dataset[predicted].dims:
        return None
    return predicted


def line_of(quantity: Quantity) -> float | None:
    """The value at which figures have a line, as 1 for an edge ratio."""
    reference = quantity.reference
    return None if reference is None or isinstance(reference, str) else float(reference)


def is_logarithmic(quantity: Quantity, values: np.ndarray) -> bool:
    """Whether values are drawn on a log scale: they may be, and span so much that they need it.

    A zero of a quantity that says ``"log"``, as of a loss that a float no longer holds, lies below
    every such axis, and does not make it linear. Other quantities, as a share of wrong answers, may
    mean their zeros.
    """
    finite = np.asarray(values)[np.isfinite(values)]
    finite = finite[finite != 0] if quantity.scale == "log" else finite
    if quantity.scale == "linear" or not finite.size or finite.min() <= 0:
        return False
    return bool(finite.max() > _WIDE * finite.min())


def metric_names(dataset: "xarray.Dataset", time: str) -> list[str]:
    """Columns that the problem or the user, not the package, has named: one number per record."""
    return [
        str(name)
        for name, values in dataset.data_vars.items()
        if name not in (*STANDARD, *RESERVED)
        and values.dims[-1:] == (time,)
        and values.dtype.kind == "f"
    ]

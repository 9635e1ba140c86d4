"""What a quantity is: the words, the unit and the look of a column of numbers."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

from sharpflow.models.arguments import ArgumentError, Kind, choice, optional, real, shown
from sharpflow.models.representation import summarized

Scale = Literal["linear", "log"]
SCALES: tuple[Scale, ...] = ("linear", "log")

# The unit of what nobody has said the unit of. "1" would say that it has none.
UNKNOWN = "unknown"


def _is_storable(value: Any) -> bool:
    """Whether this is text that every file format holds: no half of a character, and no NUL."""
    return isinstance(value, str) and not any(c == "\0" or "\ud800" <= c <= "\udfff" for c in value)


_WORDS = Kind("a text of words", lambda value: _is_storable(value) and bool(value.strip()))
_REFERENCE = Kind(
    "the name of a column, a finite number or None",
    lambda value: (
        value is None
        or (_is_storable(value) and bool(value))
        or ((number := real(value)) is not None and math.isfinite(number))
    ),
)
_KINDS = {
    "name": Kind("a text of at least one character", lambda v: isinstance(v, str) and v != ""),
    "label": _WORDS,
    "definition": _WORDS,
    "unit": _WORDS,
    "symbol": Kind("a text", _is_storable),
    "reference": _REFERENCE,
    "scale": optional(choice(SCALES)),
}


@summarized
@dataclasses.dataclass(frozen=True)
class Quantity:
    """What a column of a dataset holds, as its attributes, figures and reports say it.

    All of it is plain text. Figures set the symbols in it, such as λ₁ or ‖w‖², as formulas.

    Attributes:
      name: of the column.
      label: a few words with the symbol, for an axis: ``"threshold λ*"``.
      definition: one sentence with the formula.
      unit: ``"1"`` where it has none, else as ``"step"``; by default it is unknown.
      dims: dimensions of one record, or of the whole array where it has no records; they are
        described by it and not made: a column of the user's own has ``<name>_0`` and so on.
      symbol: for a legend: ``"λ*"``; by default the label.
      reference: what it is to be compared with: the name of a column that is drawn beside it, as
        the threshold beside a sharpness, or a number at which figures have a line.
      scale: of its axis: ``"linear"``, or ``"log"`` where the values are positive and of
        different size; by default the values decide.

    Raises:
      ValueError: a field that is something else.
    """

    name: str
    label: str
    definition: str
    unit: str = UNKNOWN
    dims: tuple[str, ...] = ()
    symbol: str = ""
    reference: str | float | None = None
    scale: Scale | None = None

    def __post_init__(self) -> None:
        for field, kind in _KINDS.items():
            kind.require(field, getattr(self, field))
        dims = self.dims
        if not isinstance(dims, (tuple, list)) or not all(isinstance(dim, str) for dim in dims):
            raise ArgumentError("dims", "the names of dimensions", shown(dims))
        # observables are compared and hashed with their quantities, which a list could not be
        object.__setattr__(self, "dims", tuple(dims))
        if not isinstance(self.reference, (str, type(None))):  # files give numbers of numpy back
            object.__setattr__(self, "reference", float(self.reference))

    @property
    def attributes(self) -> dict[str, str | float]:
        """Those of an array: ``long_name`` and ``units`` as in CF, ``definition``, and more.

        ``symbol``, ``reference`` and ``scale`` are left out where they are not given.
        """
        words = {"long_name": self.label, "units": self.unit, "definition": self.definition}
        look = {"symbol": self.symbol or None, "reference": self.reference, "scale": self.scale}
        return words | {name: value for name, value in look.items() if value is not None}

    def described_by(self, attributes: Mapping[Any, Any]) -> "Quantity":
        """The quantity that the attributes of an array tell of; this one where they tell nothing.

        Attributes may come from a file that somebody else wrote: what is not of the right kind is
        passed over.

        Args:
          attributes: of an array, whoever wrote them.
        """
        told = {field: attributes.get(name) for field, name in _ATTRIBUTES.items()}
        fits = {f: v for f, v in told.items() if v is not None and _KINDS[f].fits(v)}
        return dataclasses.replace(self, **fits)


_ATTRIBUTES = {
    "label": "long_name",
    "unit": "units",
    "definition": "definition",
    "symbol": "symbol",
    "reference": "reference",
    "scale": "scale",
}


def by_name(*quantities: Quantity) -> dict[str, Quantity]:
    """Quantities by their names, no two of which are the same.

    Args:
      *quantities: in the order in which a table shows them.
    """
    table = {quantity.name: quantity for quantity in quantities}
    assert len(table) == len(quantities), "two quantities of one table have the same name"
    return table


def in_words(name: str) -> str:
    """The name of a column as a label, where nobody gave one.

    Args:
      name: any text.
    """
    words = "".join(c if c.isprintable() else " " for c in name).replace("_", " ").strip()
    return words or repr(name)

"""Published numbers of a config, which stand beside those of its run."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from sharpflow.experiments.config.mistakes import mistake, shortened, shown_key
from sharpflow.models.arguments import FINITE, Kind, any_of, choice, count, nearest
from sharpflow.models.representation import summarized

PLACES = ("end", "start", "largest", "smallest")
_LABEL = Kind("a number or a text", lambda value: FINITE.fits(value) or isinstance(value, str))


def _is_interval(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and all(map(FINITE.fits, value))
        and value[0] <= value[1]
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and value.isprintable()


# In the words of a list that may stand after "got VALUE; allowed", as all kinds of a config.
_COLUMN = Kind("the name of a column", _is_text)
_KINDS = {
    "quantity": _COLUMN,
    "value": Kind(
        "a finite number, or the two ends of an interval as a list",
        lambda value: FINITE.fits(value) or _is_interval(value),
    ),
    "source": Kind("a text that says where it was published", _is_text),
    "over": _COLUMN,
    "at": Kind(
        ", ".join(f'"{place}"' for place in PLACES) + " or a step",
        any_of(choice(PLACES), count(0)).fits,
    ),
    "where": Kind(
        "a table of axes, each with a value",
        lambda value: isinstance(value, dict) and all(map(_LABEL.fits, value.values())),
    ),
}
_REQUIRED = ("quantity", "value", "source")


@summarized
@dataclasses.dataclass(frozen=True)
class Published:
    """A number that a paper prints, and what to set beside it.

    Attributes:
      quantity: the column that is measured.
      value: the number, or the two ends of an interval.
      source: where it was published.
      over: a column by which the quantity is divided, record by record, or None.
      at: ``"end"``, the mean over the last tenth of the records; ``"start"``, the first record;
        ``"largest"`` or ``"smallest"``, over all of them; or a step, at the record nearest to it.
      where: axis -> value, of the points that it holds for; all where it is empty.
    """

    quantity: str
    value: float | tuple[float, float]
    source: str
    over: str | None = None
    at: str | int = "end"
    where: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def table(self) -> dict[str, Any]:
        """As a config writes it."""
        given = {name: getattr(self, name) for name in _KINDS}
        return {name: value for name, value in given.items() if value not in (None, {})}


def read_published(value: Any) -> tuple[tuple[Published, ...] | None, list[str]]:
    """What stands in the tables ``[[published]]``, and what is wrong with it."""
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        return None, [mistake("published", value, "tables, each headed by [[published]]")]
    entries, mistakes = [], []
    for place, table in enumerate(value):
        wrong = _mistakes(f"published[{place}]", table)
        mistakes += wrong
        if not wrong:
            number = table["value"]
            known = table | {"value": tuple(number) if isinstance(number, list) else number}
            entries.append(Published(**known))
    return tuple(entries), shortened(mistakes, len(mistakes), "published")


def _mistakes(path: str, table: dict[str, Any]) -> list[str]:
    lines = [
        f"{path}.{shown_key(name)}: got an unknown key; allowed {', '.join(_KINDS)}"
        + nearest(name, tuple(_KINDS))
        for name in table
        if name not in _KINDS
    ]
    lines += [
        mistake(f"{path}.{name}", table[name], kind.allowed)
        for name, kind in _KINDS.items()
        if name in table and not kind.fits(table[name])
    ]
    missing = [name for name in _REQUIRED if name not in table]
    return lines + [
        f"{path}.{name}: got nothing; allowed {_KINDS[name].allowed}" for name in missing
    ]

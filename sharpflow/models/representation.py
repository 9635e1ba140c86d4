"""How objects print: a heading and a few aligned lines, never their arrays."""

import dataclasses
import html
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

_Instance = TypeVar("_Instance")

# Of a representation, its heading among them: half a screen, so that two fit on one.
MOST_LINES = 12
# Characters of a line, as a terminal of 100 columns shows them without a break.
_WIDEST = 96
# Entries of a vector that are shown one by one; of a longer one the first and the last are.
_FEW = 4


class Summary(NamedTuple):
    """What an object says of itself.

    Attributes:
      heading: what it is, in a few words.
      lines: pairs of a name and what is said of it.
    """

    heading: str
    lines: Sequence[tuple[str, str]] = ()

    def __repr__(self) -> str:
        """What it says: also of a summary itself, which some functions return, words are shown."""
        return self.as_text()

    def _repr_html_(self) -> str:
        return self.as_html()

    @property
    def shortened(self) -> "Summary":
        """At most ``MOST_LINES`` with the heading; the names of what is left out fill the last."""
        lines = [(_one_line(name), _one_line(text)) for name, text in self.lines]
        if len(lines) >= MOST_LINES:
            shown, rest = lines[: MOST_LINES - 2], lines[MOST_LINES - 2 :]
            lines = [*shown, ("and", ", ".join(name for name, _ in rest))]
        return Summary(_one_line(self.heading), lines)

    def as_text(self) -> str:
        """The heading, and below it the names in one column and what is said in another."""
        heading, lines = self.shortened
        width = max((len(name) for name, _ in lines), default=0)
        rows = [f"  {name:{width}}  {text}" for name, text in lines]
        return "\n".join(_cut(row.rstrip()) for row in (heading, *rows))

    def as_html(self) -> str:
        """The same as a table for notebooks; whatever was named by a user is escaped."""
        heading, lines = self.shortened
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(text)}</td></tr>"
            for name, text in lines
        )
        return f"<div><strong>{html.escape(heading)}</strong><table>{rows}</table></div>"


def summarized(cls: type[_Instance]) -> type[_Instance]:
    """A class decorator: ``repr`` and ``print`` show a summary.

    That is what a method ``_summary`` of the class returns, and else a line for each field. A
    representation is often asked for where something has failed already, and of objects that jax
    fills with tracers, shapes or nothing at all. It therefore raises nothing: what cannot be said
    is left out.

    Args:
      cls: a data class or a named tuple. As the outermost decorator.

    Returns:
      The same class. One that defines ``_summary`` shows a table in notebooks too.
    """
    cls.__repr__ = lambda self: _summary(self).as_text()  # type: ignore[method-assign]
    if hasattr(cls, "_summary"):
        cls._repr_html_ = lambda self: _summary(self).as_html()  # type: ignore[attr-defined]
    return cls


def _summary(value: Any) -> Summary:
    own = getattr(type(value), "_summary", None)
    if own is not None:
        try:
            return own(value)
        except Exception:  # placeholders of jax in place of arrays, of which nothing can be said
            return of_fields(value)
    return of_fields(value)


# Of a Flax module: what holds it, and what it is called there.
_OF_MODULES = ("parent", "name")


def of_fields(value: Any) -> Summary:
    """The name of the class, and a line for each field that is not None and no empty mapping.

    Args:
      value: of a data class, a named tuple, or a Flax module.
    """
    leave_out = _OF_MODULES if hasattr(type(value), "apply") else ()
    names = [*getattr(value, "_fields", ()), *getattr(value, "__dataclass_fields__", ())]
    fields = ((name, getattr(value, name, None)) for name in names if name not in leave_out)
    said = ((name, field) for name, field in fields if field is not None)
    lines = [(name, words(field)) for name, field in said if not _is_empty(field)]
    return Summary(type(value).__name__, lines)


def _is_empty(field: Any) -> bool:
    return isinstance(field, Mapping) and not field


def words(value: Any) -> str:
    """A few words for any value: its number, its range, or what it is made of.

    Args:
      value: a number, an array, a pytree or any other object.

    Returns:
      One line.
    """
    try:
        return _words(value)
    except Exception:  # a repr of somebody else, or an array that is gone
        return f"a {type(value).__name__}"


def _words(value: Any) -> str:
    if _is_array(value):
        return _of_array(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, (str, bytes, int, np.generic)):
        return repr(value)
    if dataclasses.is_dataclass(value) or hasattr(value, "_summary"):
        return _one_line(repr(value).partition("\n")[0])
    leaves = jax.tree.leaves(value)
    if leaves and all(map(_is_array, leaves)):
        return of_params(value)
    if isinstance(value, Mapping) and len(value) <= _FEW:
        return ", ".join(f"{name} = {words(each)}" for name, each in value.items())
    if isinstance(value, (Mapping, list, tuple)) and len(value) > _FEW:
        return f"{len(value)} entries: {', '.join(map(str, list(value)[:_FEW]))}, ..."
    if callable(value):
        return str(getattr(value, "__qualname__", None) or repr(value))
    return repr(value)


def of_params(params: Any, leading: str = "") -> str:
    """What a pytree of arrays is made of.

    Args:
      params: the pytree.
      leading: what its leading axis counts, as ``"snapshots"``; by default it has none.
    """
    leaves = jax.tree.leaves(params)
    shapes = [tuple(leaf.shape) for leaf in leaves]
    number = sum(int(np.prod(shape[1 if leading else 0 :])) for shape in shapes)
    counted = f"{shapes[0][0]} {leading} of " if leading else ""
    dtypes = ", ".join(sorted({str(leaf.dtype) for leaf in leaves}))
    arrays = "1 array" if len(leaves) == 1 else f"{len(leaves)} arrays"
    return f"{counted}{number:,} numbers in {arrays}, {dtypes}"


def wrapped(name: str, text: str, most: int, *, beside: int) -> list[tuple[str, str]]:
    """A long text as lines of a summary, of which the first has the name.

    Args:
      name: of the first line; the others have none.
      text: what is said.
      most: lines; of a text that needs more the end is left out, which "…" shows.
      beside: characters of the longest name of the summary.
    """
    width = _WIDEST - beside - 4
    lines = textwrap.wrap(text, width, max_lines=most, placeholder=" …", break_on_hyphens=False)
    return list(zip([name, *[""] * len(lines)], lines, strict=False))


def span(values: Any, unit: str = "") -> str:
    """``0 to 2, 65 values``: where an increasing vector begins and ends.

    Args:
      values: shape (T,).
      unit: of the values, after them.
    """
    values = np.asarray(values)
    if not values.size:
        return "none"
    ends = f"{number(values[0])} to {number(values[-1])}" if values.size > 1 else number(values[0])
    return f"{ends}{unit}" + (f", {values.size:,} values" if values.size > 1 else "")


def course(values: Any) -> str:
    """``0.5 → 1.2e-08``: the first and the last number that is known of a column.

    Args:
      values: shape (T,), or (T, ...), of which the largest entry of a row is told. Complex numbers
        have no order, and are told by their absolute values.
    """
    values = np.asarray(values)
    if np.iscomplexobj(values):
        return f"{course(np.abs(values))} in absolute value"
    values = values.astype(float)
    rows = values.reshape(len(values), -1).max(axis=1) if values.size else values.ravel()
    known = rows[np.isfinite(rows)]
    if not known.size:
        return "NaN" if rows.size else "none"
    lost = f", {rows.size - known.size} of {rows.size} not finite" if known.size < rows.size else ""
    ends = number(known[0]) if rows.size == 1 else f"{number(known[0])} → {number(known[-1])}"
    return ends + lost


def number(value: Any) -> str:
    """A number to six digits, and integers whole."""
    value = np.asarray(value).item()
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def size_in_words(count: float) -> str:
    """A number of bytes in the unit that suits it.

    Args:
      count: of bytes.
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"


def duration_in_words(seconds: float) -> str:
    """A number of seconds in the unit that suits it.

    Args:
      seconds: of them.
    """
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.2g} seconds" if seconds < 10 else f"{seconds:.0f} seconds"


def _is_array(value: Any) -> bool:
    return isinstance(getattr(value, "shape", None), tuple) and hasattr(value, "dtype")


def _of_array(value: Any) -> str:
    shape, dtype = tuple(value.shape), value.dtype
    described = f"{dtype} of shape {shape}" if shape else str(dtype)
    concrete = isinstance(value, (np.ndarray, np.generic, jax.Array))
    if not concrete or isinstance(value, jax.core.Tracer):
        return f"{described}, {type(value).__name__}"
    if jax.numpy.issubdtype(dtype, jax.dtypes.extended):  # keys of random numbers
        return described
    if not jax.numpy.issubdtype(dtype, np.number) or 0 in shape or len(shape) > 1:
        return described if shape else repr(np.asarray(value).item())
    values = np.asarray(value)
    if not shape:
        return number(values)
    if len(values) <= _FEW:
        return ", ".join(map(number, values))
    return f"{number(values[0])} ... {number(values[-1])}, shape {shape}"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _cut(line: str) -> str:
    return line if len(line) <= _WIDEST else f"{line[: _WIDEST - 1]}…"

"""A hook of mkdocs: formulas become MathML, which browsers render by themselves.

A script that renders it in the browser would have to be fetched from a network, or
copied into this project.
"""

import html
import re
from typing import Any

from latex2mathml.converter import convert

# as pymdownx.arithmatex marks a formula: \(in a line\) and \[by itself\]
_INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
_BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)

# Fences that name their side. latex2mathml takes those after \left and \right for a
# pair: a power after the second belongs to both, and both grow with what they hold.
_SIZED = re.compile(r"\\[bB]ig([lr])(?![a-zA-Z])")
_FENCE = re.compile(r"(?<!\\left)(?<!\\right)\\(l|r)(Vert|vert|angle)(?![a-zA-Z])")
_SIDES = {"l": r"\left", "r": r"\right"}


def on_page_content(content: str, **_: Any) -> str:
    """A page with every formula as MathML.

    Args:
      content: HTML, as made from Markdown.

    Raises:
      ValueError: a formula has a command that latex2mathml does not know.
    """
    content = _INLINE.sub(lambda formula: _mathml(formula[1], "inline"), content)
    return _BLOCK.sub(lambda formula: _mathml(formula[1], "block"), content)


def _mathml(formula: str, display: str) -> str:
    # a backslash at the end of a line is the space that it is before a space
    formula = html.unescape(formula).strip().replace("\n", " ")
    formula = _SIZED.sub(lambda size: _SIDES[size[1]], formula)
    formula = _FENCE.sub(lambda fence: _SIDES[fence[1]] + fence[0], formula)
    made = convert(formula, display=display)
    if "\\" in made:  # it keeps what it does not know as text
        raise ValueError(f"a command of {formula} is not known: {made}")
    return made

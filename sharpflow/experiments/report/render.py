"""A page as the text of one HTML file that asks nothing of any network."""

import base64
import functools
import hashlib
import importlib.resources
import math
from typing import Any

import sharpflow
from sharpflow.experiments.report import spheres
from sharpflow.experiments.report.page import Page

_SCRIPTS = ("chart.js", "table.js", "trajectory.js", "sphere.js")


def render(page: Page) -> str:
    """Write a page as HTML.

    Everything that comes from a config or a file is escaped by the template. The page states a
    content security policy: the browser then runs no script but those listed here by their
    digests, and makes no request.

    Args:
      page: what it says.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    plotly = spheres.plotly_script() if page.spheres else None
    scripts = [_part(name) for name in _SCRIPTS]
    trusted = scripts if plotly is None else [*scripts, plotly.text]
    # every picture where nothing turns, else the one that is seen before and on paper
    still = page.spheres[: len(page.spheres) if plotly is None else 1]
    return environment.from_string(_part("page.html")).render(
        page=page,
        style=_part("style.css"),
        scripts=scripts,
        policy=_policy(trusted),
        plotly=plotly,
        pictures=[spheres.picture(sphere) for sphere in still],
        coordinates=[spheres.coordinates(sphere) for sphere in page.spheres],
        sort_key=_sort_key,
        version=sharpflow.__version__,
    )


def _policy(scripts: list[str]) -> str:
    """No request at all; pictures within the page; these scripts, and styles in the page."""
    digests = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {digests}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _sort_key(value: Any) -> str:
    """What the page's script sorts a cell by; nothing where it has no value."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return repr(float(value)) if isinstance(value, (int, float)) else str(value)


@functools.cache
def _part(name: str) -> str:
    """A file of the package."""
    return (importlib.resources.files(__package__) / name).read_text(encoding="utf-8")

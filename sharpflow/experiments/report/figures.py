"""Pictures inside the page, each with a sentence on what is seen in it."""

import base64
import re
import struct
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote
from xml.etree import ElementTree

from sharpflow.experiments.kept_figures import kept
from sharpflow.experiments.report.page import Figure
from sharpflow.simulator.quantities import quantity_of
from sharpflow.simulator.quantity import in_words

if TYPE_CHECKING:
    import xarray

_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}

# By the name of the file: what the demo and the validation draw, then what a grid does.
_CAPTIONS = {
    "linear-angle": "Angle between θ and the minimum-norm solution: exact, along the flow, and "
    "of gradient descent.",
    "completion-prediction": "Matrix completion: sharpness and threshold on the left, test error "
    "on the right, measured and predicted, with and without weight decay.",
    "completion-edge-of-stability": "The top eigenvalue of the Hessian at the iterates rises to "
    "2/η at the entry and oscillates about it.",
    "completion-mean-loss": "Mean training loss of matrix completion, measured and predicted "
    "by ½ ηλ λ* tr M.",
    "digits-edge-eigenvalues": "Eigenvalues of the Hessian over the threshold, as one after the "
    "other reaches the edge, measured and predicted.",
    "digits-sharpness": "Sharpness and threshold of the network on digits at the smallest ηλ, "
    "and the flow over them.",
    "digits-mean-loss": "Mean training loss of the network on digits, measured and predicted.",
    "digits-tracking-error": "Distance between gradient descent and the flow, over the distance "
    "moved, against ηλ, with the power law through it.",
    "digits-single-edge": "The flow of one edge eigenvalue departs from gradient descent where a "
    "second one reaches the edge; the flow of several does not.",
    "sphere": "A trajectory on the unit sphere in three dimensions, its predicted flow and the "
    "minimizers.",
    "oscillation-covariance": "Eigenvalues of the covariance of the oscillation beside those of "
    "ηλ M.",
    "limits-phases": "What becomes of a trajectory at each learning rate and weight decay.",
    "adaptive-flow": "Quasi-RMSprop beside the flow with its own b.",
    "adaptive-preconditioned": "RMSprop by coordinate: the preconditioned sharpness at its edge.",
    "momentum": "Gradient descent with momentum beside its flow.",
    "flat-directions": "Gradient descent with more motion along flat directions, beside its flow.",
    "other-dynamics": "Sharpness along other update rules, started at the same point.",
    "fisher-largest-eigenvalue": "The largest eigenvalue of the Fisher matrix of wide random "
    "networks, measured and from mean-field theory.",
    "sharpness-against-error": "Does flatter mean better: the test error at the end of each "
    "trajectory against its sharpness there, with the rank correlation.",
    "outcomes": "How the trajectories ended, over learning rate and weight decay.",
    "prediction-final-relative-error": "Where the prediction holds: tracking error over distance "
    "moved at the end, the median over seeds, over learning rate and weight decay.",
    "prediction-threshold-ratio": "Where the prediction holds: measured over predicted threshold "
    "at the end, the median over seeds, over learning rate and weight decay.",
}
_PATTERNS = (
    (
        r"generalization(-(?P<index>\d+)-(?P<axes>.+))?",
        "Test accuracy, test error and sharpness after training accuracy 1, with and without "
        "normalization and weight decay: means and 95 % intervals over seeds.",
    ),
    (r"limits-(?P<what>.+)", "Errors of the theory up to large ηλ: {what}."),
    (r"(?P<what>.+)-errors", "Errors of the theory against ηλ, dots are seeds: {what}."),
    (r"(?P<what>.+)-entry", "Entry into the edge against ηλ, over its prediction: {what}."),
    (
        r"final-(?P<what>.+)",
        "Last values of {what} over learning rate and weight decay: the median over seeds of the "
        "mean over the last tenth of each trajectory.",
    ),
    (
        r"bands-(?P<what>.+?)(-(?P<index>\d+)-(?P<axes>.+))?",
        "Against time, the median of {what} and the range over the seeds, for each learning rate "
        "and weight decay.",
    ),
)


def embedded(paths: Iterable[Path]) -> list[Figure]:
    """Picture files as data URIs; of one name the smaller file.

    Args:
      paths: of ``.png`` and ``.svg`` files.
    """
    smallest: dict[str, Path] = {}
    for path in sorted(paths, key=lambda path: path.stat().st_size, reverse=True):
        smallest[path.stem] = path
    return [
        Figure(name, caption(name), data_uri(smallest[name]), size(smallest[name]))
        for name in sorted(smallest, key=_order)
    ]


def _order(name: str) -> tuple:
    """What is told first, then of each quantity its map and its bands.

    First comes what happens after the fit, then test error against sharpness, the outcomes, and
    where predictions hold.
    """
    kind, _, quantity = name.partition("-")
    of_grid = kind in ("final", "bands")
    first = (
        not is_of_generalization(name),
        name != "sharpness-against-error",
        name != "outcomes",
        kind != "prediction",
    )
    return *first, quantity if of_grid else name, kind == "bands"


def is_of_generalization(name: str) -> bool:
    """Whether a figure shows what happens after the training data are fitted.

    Args:
      name: of its file, without suffix.
    """
    return name.partition("-")[0] == "generalization"


def drawn(
    dataset: "xarray.Dataset", folder: Path, data: str, before: "xarray.Dataset | None" = None
) -> list[Figure]:
    """Every figure that a grid supports: those in ``folder`` where they show these arrays.

    Args:
      dataset: of the run.
      folder: where ``sharpflow plot`` puts them.
      data: what ``drawn_from`` gives; figures of other data are drawn anew, and not kept.
      before: of a fork, as of ``plot_grid``.

    Raises:
      ValueError: there is nothing to draw.
    """
    from sharpflow.experiments.plots import plot_grid

    there = [path for path in kept(folder, data) if path.suffix in _TYPES]
    if there:
        return embedded(there)
    with tempfile.TemporaryDirectory() as place:
        return embedded(plot_grid(dataset, place, before=before))


def is_whole(path: Path) -> bool:
    """Whether a picture file can be read to its end."""
    from PIL import Image

    try:
        if path.suffix == ".svg":
            ElementTree.parse(path)
        else:
            with Image.open(path, formats=["PNG"]) as picture:
                picture.verify()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False
    return True


def caption(name: str) -> str:
    """What is seen in the figure of this name; the name in words where nobody knows."""
    if name in _CAPTIONS:
        return _CAPTIONS[name]
    for pattern, text in _PATTERNS:
        match = re.fullmatch(pattern, name)
        if match:
            parts = match.groupdict()
            what = parts.get("what")
            said = text if what is None else text.format(what=_words(unquote(what)))
            return f"{said[:-1]}, at {parts['axes']}." if parts.get("axes") else said
    return name.replace("-", " ")


def _words(stem: str) -> str:
    """What a figure calls the column after which its file is called: its label, if it has one."""
    column = stem.replace("-", "_")
    known = quantity_of(column)
    return stem.replace("-", " ") if known.label == in_words(column) else known.label


def data_uri(path: Path) -> str:
    """A file as a data URI."""
    return f"data:{_TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"


def size(path: Path) -> tuple[int, int]:
    """Width and height of a picture, in pixels or, of an SVG, in points."""
    if path.suffix == ".png":
        width, height = struct.unpack(">II", path.read_bytes()[16:24])
        return width, height
    opening = path.read_text(encoding="utf-8")[:4000]
    match = re.search(r'viewBox="[\d.]+ [\d.]+ ([\d.]+) ([\d.]+)"', opening)
    return (round(float(match[1])), round(float(match[2]))) if match else (400, 300)

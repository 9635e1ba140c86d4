"""Trajectories on the sphere: points for the page to turn, and a picture that stands still."""

import base64
import dataclasses
import gzip
import importlib.util
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from sharpflow.experiments.plots.globe import facing
from sharpflow.experiments.report.figures import data_uri
from sharpflow.experiments.report.page import Sphere
from sharpflow.models.parameter_names import parameter_rows
from sharpflow.models.problem import Params

if TYPE_CHECKING:
    import xarray

    from sharpflow.experiments.report.predicted import Prediction

_DIGITS = 4
_MOST_POINTS = 2000  # of a trajectory


def predicted_sphere(title: str, prediction: "Prediction") -> Sphere | None:
    """A point of a run and its flow, in the coordinates of the flow; None below three entries,
    or without its points."""
    if prediction.trajectory is None:
        return None
    return _sphere(title, prediction.trajectory.params, prediction.points)


def recorded_sphere(
    title: str, dataset: "xarray.Dataset", place: Mapping[str, int]
) -> Sphere | None:
    """A point of a run alone, from the snapshots of its params.

    Args:
      title: of the sphere.
      dataset: of the run.
      place: of the point along each axis.
    """
    at = dataset.isel(place)
    leaves = [at[name].values for name in at.data_vars if str(name).startswith("params")]
    return _sphere(title, leaves, None)


def _sphere(title: str, params: Params, flow: Params | None) -> Sphere | None:
    from sharpflow.experiments.plots import basis_from, sphere_coordinates

    if not jax.tree.leaves(params):
        return None
    rows = parameter_rows(params).astype(float)
    rows = rows[np.isfinite(rows).all(axis=1)]
    dimension = rows.shape[1]
    if len(rows) < 2 or dimension < 3:
        return None
    directions = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    try:
        # exact for d = 3, in the coordinates of the params themselves
        basis = np.eye(3) if dimension == 3 else basis_from(directions if flow is None else flow)
    except ValueError:  # points without a mean direction
        return None
    points = sphere_coordinates([directions], basis)
    line = None if flow is None else sphere_coordinates(flow, basis)
    return Sphere(title, points, line, dimension=dimension)


def picture(sphere: Sphere) -> str:
    """The sphere as a still picture, a data URI."""
    from matplotlib import pyplot

    from sharpflow.experiments import plots

    ax = plots.sphere(sphere.points, sphere.flow, sphere.manifold)
    with tempfile.TemporaryDirectory() as place:
        path = plots.save(ax.figure, Path(place) / "sphere.png", title=sphere.title)
        pyplot.close(ax.figure)
        return data_uri(path)


def coordinates(sphere: Sphere) -> dict[str, Any]:
    """The sphere for the page's script."""
    every = -(-len(sphere.points) // _MOST_POINTS)
    seen = sphere.points if sphere.flow is None else sphere.flow
    curves = {
        "view": facing(seen, sphere.manifold),
        "points": sphere.points[::every],
        "flow": sphere.flow,
        "manifold": sphere.manifold,
    }
    return {"title": sphere.title, "dimension": sphere.dimension} | {
        name: None if values is None else np.round(np.asarray(values, float), _DIGITS).T.tolist()
        for name, values in curves.items()
    }


@dataclasses.dataclass(frozen=True)
class PlotlyScript:
    """plotly.js as plotly.py ships it: the text, the same compressed in base64, its version."""

    text: str
    packed: str
    version: str


def plotly_script() -> PlotlyScript | None:
    """The script that turns a sphere; None where plotly.py is not installed."""
    if importlib.util.find_spec("plotly") is None:
        return None
    from importlib.metadata import version

    from plotly.offline import get_plotlyjs

    text = get_plotlyjs()
    packed = gzip.compress(text.encode(), mtime=0)
    return PlotlyScript(text, base64.b64encode(packed).decode(), version("plotly"))

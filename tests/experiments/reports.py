"""Folders as run, demo and validate write them, and pages as a browser would read them."""

import html.parser
import json
import warnings
from pathlib import Path

import numpy as np
import xarray

from sharpflow.experiments.checks import Check
from sharpflow.experiments.checks import report as write_checks

GDWD = "sharpflow.simulator.rules.gdwd:gdwd"
HOSTILE = '</script><img src=x onerror="alert(1)"><!-- & \' {{ 7 * 7 }}'
MADE = {"created": "2026-11-21T12:00:00+00:00", "device": "cpu", "jax_version": "0", "seconds": 3.0}


def write_run(folder, dataset, *, config=None, optimizer=GDWD):
    """A run whose arrays are those of a dataset."""
    folder.mkdir()
    axes = {name: dataset[name].values.tolist() for name in dataset["status"].dims}
    described = {"axes": axes, "optimizer": optimizer, "dtype": "float64", "num_parameters": 3}
    (folder / "run.json").write_text(json.dumps({"format": 1, "grid": described}))
    with warnings.catch_warnings():  # Zarr warns that texts came after its specification
        warnings.simplefilter("ignore")
        dataset.to_zarr(folder / "data.zarr", zarr_format=3)
    launch = MADE | {"git_revision": "abc123", "host": HOSTILE}
    (folder / "provenance.json").write_text(json.dumps({"launches": [launch]}))
    if config is not None:
        (folder / "config.toml").write_text(config)
    return folder


def write_demo(folder):
    """A demo of four statements, one of which fails, with a circle of points."""
    folder.mkdir()
    checks = [
        Check("one", "a ratio that holds", 0.995, 0.99, 1.01, "step 7"),
        Check("one", "a figure without bounds", 12.0),
        Check("two", "an error that does not hold", 0.5, high=0.1),
        Check("two", f"what {HOSTILE} measured", 2e-7, high=1e-6),
    ]
    write_checks(checks, folder, MADE | {"quick": "True"}, "sharpflow demo", " --quick")
    angle = np.linspace(0.2, 1.4, 40)
    points = np.stack([np.cos(angle), np.sin(angle), 0.05 * (-1.0) ** np.arange(40)], axis=1)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    flow = np.stack([np.cos(angle), np.sin(angle), 0.0 * angle], axis=1)[::4]
    circle = {"trajectory": ("step", points), "flow": ("tau", flow), "manifold": ("point", flow)}
    xarray.Dataset(
        {
            f"circle_{name}": ((f"circle_{dim}", "circle_axis"), values)
            for name, (dim, values) in circle.items()
        }
    ).to_netcdf(folder / "demo.nc", engine="h5netcdf")
    return folder


class Page(html.parser.HTMLParser):
    """The elements of a page: rows of its tables, scripts, attributes and text."""

    def __init__(self, path):
        super().__init__()
        self.tables, self.scripts, self.attributes, self.words = {}, {}, [], []
        self.tags = []
        self._rows = self._script = None
        self.feed(Path(path).read_text(encoding="utf-8"))
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.append((tag, given))
        self.attributes += given.items()
        if tag == "table":
            self._rows = self.tables.setdefault(given["id"], [])
        elif tag == "tr" and self._rows is not None:
            self._rows.append([])
        elif tag in ("td", "th") and self._rows:
            self._rows[-1].append({"value": given.get("data-value"), "text": "", **given})
        elif tag == "a" and self._rows and self._rows[-1]:
            self._rows[-1][-1]["href"] = given["href"]
        elif tag == "script":
            self._script = given.get("id", f"script-{len(self.scripts)}")
            self.scripts[self._script] = ""

    def handle_endtag(self, tag):
        if tag == "table":
            self._rows = None
        if tag == "script":
            self._script = None

    def handle_data(self, data):
        if self._script is not None:
            self.scripts[self._script] += data
            return
        self.words.append(data)
        if self._rows and self._rows[-1]:
            self._rows[-1][-1]["text"] += data.strip()

    def column(self, table, head):
        """The values of a column, NaN where a cell has none."""
        heads = [cell["text"] for cell in self.tables[table][0]]
        place = heads.index(head)
        values = [row[place]["value"] for row in self.tables[table][1:]]
        return [float("nan") if value == "" else _number(value) for value in values]

    def json(self, name):
        """The data in a script of this id."""
        return json.loads(self.scripts[name])


def _number(value):
    try:
        return float(value)
    except ValueError:
        return value

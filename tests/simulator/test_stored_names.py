"""Names of metrics and of parameters survive memory, folders, points of a grid and reports."""

import collections
import dataclasses
import json
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray

import sharpflow as sf
from sharpflow.experiments.plots import folder as plots_folder
from sharpflow.experiments.plots import quantities
from sharpflow.experiments.report import write_report
from sharpflow.models.parameter_names import parameter_dimensions, parameter_names
from sharpflow.models.stored_names import stored_names
from sharpflow.simulator.axes import grid_axes
from sharpflow.simulator.host import Lane
from sharpflow.simulator.program import initial_state
from sharpflow.simulator.quantities import quantity_of
from sharpflow.simulator.store.sink import Sink

TEXTS = [
    *(
        "test/error",
        "/",
        "a//b",
        "..",
        ".",
        "...",
        ".hidden",
        "trailing.",
        "zarr.json",
        "Zarr.JSON",
    ),
    *(
        "__reserved",
        "_",
        "T",
        "t",
        "x" * 300,
        "x" * 299 + "y",
        "ü é",
        "a\nb",
        "a\\b",
        "a:b*?",
        "%2E",
    ),
    *("c", "CON", " ", "null\0", "a%b", "$", "<b>", "constructor"),
]


class _Pair(NamedTuple):
    first: object
    second: object


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class _Fields:
    first: object
    first_0: object


@jax.tree_util.register_pytree_node_class
class _WithoutKeys:
    def __init__(self, *children):
        self.children = children

    def tree_flatten(self):
        return self.children, None

    @classmethod
    def tree_unflatten(cls, _, children):
        return cls(*children)


class _Alike:
    """A key of its own, which is written as another one."""

    def __init__(self, number):
        self.number = number

    def __lt__(self, other):
        return self.number < other.number

    def __repr__(self):
        return "alike"


ALIKE = (_Alike(1), _Alike(2))
TREES = {
    "one array": 0.0,
    "any text": dict.fromkeys(TEXTS, 0.0),
    "no text": {"": {"": 0.0, "a": 0.0}, "a": {"": 0.0}},
    "no characters": dict.fromkeys(map(chr, (0xD800, 0xDFFF)), 0.0),
    "dots": {"a": {"b": 0.0, ".": 0.0}, "a.b": 0.0, "a.": {"b": 0.0}, "a%2Eb": 0.0, "..": 0.0},
    "numbers": {1: [0.0, (0.0, {10: 0.0})], 2: {}},
    "keys of another kind": {(1, 2): 0.0, (1, 3): 0.0},
    "keys that are written alike": dict.fromkeys(ALIKE, 0.0),
    "named tuple": _Pair([0.0], _Pair(0.0, None)),
    "ordered": collections.OrderedDict(b=0.0, a=0.0),
    "dataclass, with a field like a dimension": _Fields(0.0, 0.0),
    "without keys": _WithoutKeys(0.0, [0.0]),
    "an array without entries": {"w": 0.0, "empty": jnp.zeros((0, 2))},
    "dimensions": {"w": 0.0, "w_0": 0.0, "w__0": 0.0, "w_1_0": 0.0},
}


def _filled(tree):
    """A number of its own in each leaf, a vector of two; arrays stay what they are."""
    leaves, structure = jax.tree.flatten(tree)
    return jax.tree.unflatten(
        structure,
        [
            leaf if isinstance(leaf, jax.Array) else jnp.arange(2.0) + 10.0 * i + 1
            for i, leaf in enumerate(leaves)
        ],
    )


def _problem(tree, metrics=()):
    def loss(params):
        return 0.5 * sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(params))

    def first(params):
        return next(leaf[0] for leaf in jax.tree.leaves(params) if leaf.size)

    return sf.Problem(
        init=lambda key: _filled(tree),
        loss=loss,
        scale_invariant=False,
        metrics={name: _Times(number, first) for number, name in enumerate(metrics)},
    )


@dataclasses.dataclass(frozen=True)
class _Times:
    number: int
    function: object

    def __call__(self, params):
        return self.number * self.function(params)


GRID = {"seeds": [0, 1], "learning_rates": 0.5, "weight_decays": 0.0, "num_steps": 3}


@pytest.mark.parametrize("kind", TREES)
def test_paths_of_every_pytree_are_told_apart_in_names_dimensions_and_folders(kind):
    tree = _filled(TREES[kind])
    names = parameter_names(tree, "params")
    assert len(set(names)) == len(jax.tree.leaves(tree))
    dims = parameter_dimensions(tree, [1] * len(names), names)
    assert len({*names, *(name for some in dims for name in some)}) == 2 * len(names)
    _assert_fit_for_files(names)


def test_plain_paths_are_called_as_ever():
    tree = {"Dense_0": {"kernel": 0.0}, "x/y": [0.0, 0.0]}
    names = ["params.Dense_0.kernel", "params.x/y.0", "params.x/y.1"]
    assert parameter_names(tree, "params") == names
    assert parameter_names(jnp.ones(2), "final_params") == ["final_params"]
    plain = ["loss", "final_params.Dense_0.kernel", "edge_ratio_iterate", "_mine", "a-b~"]
    assert stored_names(plain) == dict(zip(plain, plain, strict=True))


def _assert_fit_for_files(names):
    stored = stored_names(names)
    assert list(stored) == list(names)
    assert len({name.lower() for name in stored.values()} - {"zarr.json"}) == len(names)
    for name in stored.values():
        assert name.isascii() and name.isprintable() and 0 < len(name) <= 120
        assert not set(name) & set('/\\:*?"<>| ') and name[0] != "." != name[-1]
        assert not name.startswith("__")


def test_any_text_becomes_the_name_of_a_file():
    _assert_fit_for_files([*TEXTS, "", "\ud800", "params.W", "params.w"])


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """A grid with all texts as metrics and as keys of params, in memory and in a folder."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    problem = _problem(TREES["any text"] | TREES["dots"] | {"": 0.0, "w": 0.0, "w_0": 0.0}, TEXTS)
    arguments = GRID | {"observables": ["loss", "metrics"], "snapshot_every": 2}
    arguments |= {"final_params": True}
    memory = sf.simulate_grid(problem, **arguments)
    stored = sf.simulate_grid(problem, **arguments, out=folder)
    return problem, arguments, memory, stored, folder


def test_a_folder_holds_the_variables_that_memory_holds(named):
    problem, arguments, memory, stored, folder = named
    xarray.testing.assert_identical(stored.drop_attrs().load(), memory.drop_attrs())
    first = memory["loss"].isel(step=0)  # metrics are multiples of the first entry, here 1
    for number, name in enumerate(TEXTS):
        np.testing.assert_array_equal(stored[name].isel(step=0), number * np.ones(first.shape))
        assert stored[name].attrs == memory[name].attrs  # its name on the disk is not among them
        assert "sharpflow_name" not in stored[name].attrs
    again = sf.simulate_grid(problem, **arguments, out=folder, resume=True)
    xarray.testing.assert_identical(again.drop_attrs().load(), memory.drop_attrs())


def test_params_come_back_from_a_point_of_a_grid_as_what_they_were(named):
    problem, _, memory, stored, _ = named
    start = problem.init(jax.random.key(0))
    for grid in (memory, stored):
        point = sf.simulator.grid_point(grid, problem, seed=1)
        alone = sf.simulate(problem, start, sf.gdwd(0.5, 0.0), 3, snapshot_every=2)
        jax.tree.map(np.testing.assert_array_equal, point.params, alone.params)
        jax.tree.map(np.testing.assert_array_equal, point.final_params, alone.final_params)
        expected = alone.to_dataset()
        for name in parameter_names(start, "params"):
            np.testing.assert_array_equal(point.to_dataset()[name], expected[name])


@pytest.mark.parametrize("kind", TREES)
def test_params_of_every_pytree_survive_a_grid(kind):
    problem = _problem(TREES[kind])
    grid = sf.simulate_grid(problem, **GRID, snapshot_every=1, final_params=True)
    point = sf.simulator.grid_point(grid, problem, seed=0)
    jax.tree.map(
        lambda kept, start: np.testing.assert_array_equal(kept[0], start),
        point.params,
        _filled(TREES[kind]),
    )
    # a step of 0.5 downhill halves a square; powers of two are exact
    jax.tree.map(
        lambda last, start: np.testing.assert_array_equal(last, start / 8),
        point.final_params,
        _filled(TREES[kind]),
    )


def test_a_report_shows_metrics_by_their_names(named, monkeypatch):
    *_, folder = named
    monkeypatch.setattr("sharpflow.experiments.plots.plot_grid", lambda *_, **__: [])
    page = write_report(folder).read_text(encoding="utf-8")
    for name in ("test/error", "trailing.", "ü é"):
        assert json.dumps(name, ensure_ascii=False)[1:-1] in page or json.dumps(name)[1:-1] in page


def test_every_column_has_figures_of_its_own(named, tmp_path, monkeypatch):
    *_, stored, _ = named
    monkeypatch.setattr(plots_folder, "heat_maps", lambda dataset, column: ("heat", column))
    monkeypatch.setattr(
        plots_folder, "seed_band_panels", lambda part, column, title, **_: ("bands", column)
    )
    monkeypatch.setattr(plots_folder, "outcome_maps", lambda dataset: ("outcomes", ""))
    saved = {}
    monkeypatch.setattr(
        plots_folder.drawing, "save", lambda what, path: saved.setdefault(path, what)
    )
    monkeypatch.setattr("matplotlib.pyplot.close", lambda figure: None)
    more = stored.assign({"a_b": stored["T"], "a-b": stored["T"]})
    plots_folder.plot_grid(more, tmp_path)
    assert all(path.parent == tmp_path and len(path.name) < 200 for path in saved)
    drawn = {(kind, column) for kind, column in saved.values() if column}
    assert drawn == {(k, c) for k in ("heat", "bands") for c in ("loss", "a_b", "a-b", *TEXTS)}


def test_a_name_is_drawn_as_text():
    assert quantities.label(quantity_of("test_$error")) == r"test \$error"
    assert len(quantities.label(quantity_of("x" * 300))) < 70
    assert quantities.line_of(quantity_of("edge_ratio_of_mine")) is None
    assert quantities.line_of(quantity_of("edge_ratio_iterate")) == 1.0


def test_a_sink_never_skips_what_it_does_not_know():
    arrays = {"loss": np.zeros((1, 1, 1, 3))}
    axes = grid_axes(0, 0.1, 0.0, None)
    sink = Sink(axes, arrays, final_params=True)
    state = initial_state({"a": np.ones(2)}, (), keep_previous=False)
    lane = Lane(0, np.ones(3, int), np.arange(3), position=3, step=3)
    sink.write("loss", 0, 1, np.ones(2))
    assert arrays["loss"].ravel().tolist() == [0.0, 1.0, 1.0]
    for put in (
        lambda: sink.write("other", 0, 0, np.ones(1)),
        lambda: sink.finish(lane, lambda: state),
        lambda: Sink(axes, arrays).finish(lane, lambda: state),
    ):
        with pytest.raises(ValueError, match=r"there is no array for '(other|final_.*)'; there"):
            put()

"""Every column of every dataset says what it holds, whoever recorded it."""

import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from described import undescribed

import sharpflow as sf
from sharpflow.simulator import Observable, Quantity
from sharpflow.simulator.observables import BUILT_IN, COLUMNS, METRICS, RUNNING, STANDARD
from sharpflow.simulator.quantities import RESULT, quantity_of, recorded_quantities
from sharpflow.simulator.quantity import in_words

SPREAD = Quantity(
    "spread",
    "spread max|w|/min|w|",
    "The largest absolute entry of the parameters over the smallest, max|wₜ|/min|wₜ|.",
    unit="1",
    symbol="max|w|/min|w|",
    reference=1.0,
    scale="log",
)


def _spread(moment):
    sizes = jnp.abs(moment.params)
    return jnp.max(sizes) / jnp.min(sizes)


def _both(moment):
    return {"sum": jnp.sum(moment.params), "first": moment.params[0]}


OBSERVABLES = (
    *(name for name in BUILT_IN if "preconditioned" not in name),
    *RUNNING,
    Observable("spread", _spread, quantities=[SPREAD]),
    Observable("both", _both),
    Observable("plain", lambda moment: moment.loss),
)


@pytest.fixture(scope="module")
def problem():
    """A residual of three parameters, with a metric of its own and one that has a usual name."""

    def residual(w):
        return w / jnp.linalg.norm(w) - jnp.array([0.6, 0.8, 0.0])

    metrics = {"test_error": lambda w: jnp.sum(w**2), "height": lambda w: w[2]}
    return sf.Problem(init=lambda key: jnp.ones(3), residual=residual, metrics=metrics)


@pytest.fixture(scope="module")
def alone(problem):
    rule = sf.gdwd(0.3, 0.1)
    return sf.simulate(
        problem, jnp.array([1.0, 2.0, 3.0]), rule, 6, observables=OBSERVABLES, snapshot_every=2
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def grids(problem, folder):
    """A grid with a further axis, in memory, in a folder, and as plain xarray reads the folder."""

    def start(key, learning_rate, weight_decay, tallness):
        return jnp.array([1.0, 2.0, tallness])

    arguments = {
        "seeds": [0, 1],
        "learning_rates": [0.3],
        "weight_decays": [0.1],
        "axes": {"tallness": [3.0]},
        "start": start,
        "tau": 0.2,
        "num_records": 3,
        "observables": OBSERVABLES,
        "snapshot_every": 2,
        "final_params": True,
    }
    return {
        "memory": sf.simulate_grid(problem, **arguments),
        "folder": sf.simulate_grid(problem, **arguments, out=folder / "run"),
        "plain xarray": xarray.open_zarr(folder / "run" / "data.zarr", chunks=None),
    }


def test_no_column_of_a_trajectory_or_a_grid_is_without_label_unit_and_definition(
    problem, alone, grids
):
    point = sf.simulator.grid_point(grids["folder"], problem, seed=1)
    datasets = {"alone": alone.to_dataset(), "point": point.to_dataset(), **grids}
    for kind, dataset in datasets.items():
        assert undescribed(dataset) == [], kind
        assert dataset["spread"].attrs == SPREAD.attributes, kind
        assert dataset["threshold"].attrs == COLUMNS["threshold"].attributes, kind
        assert dataset["test_error"].attrs == METRICS["test_error"].attributes, kind
        told = {name: dataset[name].attrs["definition"] for name in ("height", "plain", "first")}
        assert "metrics" in told["height"] and "'both'" in told["first"], kind
        assert told["plain"] == "Recorded by the observable 'plain'.", kind
        assert dataset["plain"].attrs["units"] == "unknown", kind
    assert "axis" in grids["memory"]["tallness"].attrs["definition"]


def test_what_was_recorded_by_metrics_alone_is_a_metric(problem):
    run = sf.simulate(problem, jnp.ones(3), sf.gdwd(0.3, 0.1), 2, observables="metrics")
    assert run.quantity("height").definition == (
        "The metric 'height' of the problem, at the parameters wₜ."
    )


def test_every_name_that_is_taken_is_in_the_table():
    for name in (STANDARD - {"edge_ratio"}) | RESULT.keys() | {"params.w", "final_params"}:
        assert quantity_of(name).unit != "unknown", name
        assert quantity_of(name).label, name
    for quantity in COLUMNS.values():
        beside = quantity.reference
        assert not isinstance(beside, str) or beside in COLUMNS, quantity


def test_every_observable_says_what_its_columns_are(alone):
    for name, observable in BUILT_IN.items():
        told = {quantity.name for quantity in observable.quantities}
        assert (name in told) is (name != "metrics")
        assert told <= COLUMNS.keys()
    for name, values in alone.columns.items():
        assert len(alone.quantity(name).dims) == values.ndim - 1, name


def test_attributes_of_somebody_else_change_what_fits_and_nothing_else():
    known = COLUMNS["threshold"]
    assert known.described_by(SPREAD.attributes) == Quantity(
        "threshold", SPREAD.label, SPREAD.definition, "1", (), SPREAD.symbol, 1.0, "log"
    )
    wrong = {"long_name": ["a"], "units": 3, "definition": " ", "reference": {}, "scale": "cubic"}
    assert known.described_by(wrong) == known
    assert known.described_by({"reference": float("nan"), "symbol": 1}) == known


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "name must be a text of at least one character, got ''"),
        ({"label": " "}, "label must be a text of words, got ' '"),
        ({"definition": None}, "definition must be a text of words, got None"),
        ({"unit": 1}, "unit must be a text of words, got 1"),
        ({"dims": "eigenvalue"}, "dims must be the names of dimensions, got 'eigenvalue'"),
        ({"symbol": None}, "symbol must be a text, got None"),
        ({"reference": float("inf")}, "reference must be the name of a column, a finite number or"),
        ({"scale": "logarithmic"}, "scale must be .*'linear'.*got 'logarithmic'"),
    ],
)
def test_a_quantity_refuses_what_is_none(change, message):
    with pytest.raises(ValueError, match=message):
        Quantity(**({"name": "a", "label": "b", "definition": "c"} | change))


@pytest.mark.parametrize("wrong", [SPREAD, "spread", [SPREAD, "spread"], 3])
def test_an_observable_refuses_quantities_that_are_none(wrong):
    with pytest.raises(ValueError, match="quantities must be a tuple of sharpflow.simulator.Quan"):
        Observable("spread", _spread, quantities=wrong)


def test_a_name_becomes_words():
    assert in_words("test_error") == "test error" and in_words("_") == "'_'"
    assert in_words("a\nb\tc") == "a b c"


def test_an_observable_describes_what_it_makes_and_nothing_else():
    def observable(name, *quantities):
        return sf.simulator.Observable(name, lambda moment: moment.loss, quantities=quantities)

    def quantity(name, label):
        return sf.simulator.Quantity(name, label, "A made-up quantity.")

    first = observable("x", quantity("x", "own x"), quantity("loss", "not the loss"))
    second = observable("y", quantity("x", "not x"))
    found = recorded_quantities(["loss", "x", "y"], [second, first])
    assert found["loss"] == COLUMNS["loss"] and found["x"].label == "own x"
    alone = recorded_quantities(["y"], [observable("y", quantity("elsewhere", "z"))])
    assert alone["y"].definition == "Recorded by the observable 'y'."
    with pytest.raises(ValueError, match="quantities must be one for each column"):
        observable("x", quantity("x", "one"), quantity("x", "another"))


@pytest.mark.parametrize(
    ("field", "value"),
    [("label", "\ud800"), ("label", "a\0b"), ("symbol", "\udfff"), ("unit", " "),
     ("reference", "\ud800"), ("reference", 10**400), ("reference", float("nan")),
     ("dims", 5), ("dims", None), ("scale", "logarithmic")],
)  # fmt: skip
def test_what_a_file_cannot_hold_is_refused(field, value):
    words = {"name": "x", "label": "x", "definition": "x"}
    with pytest.raises(ValueError, match=f"{field} must be"):
        sf.simulator.Quantity(**(words | {field: value}))


def test_a_line_at_a_number_survives_a_file():
    with_line = sf.simulator.Quantity("x", "x", "x", reference=np.float64(0.5))
    read = sf.simulator.Quantity("x", "y", "y").described_by(
        with_line.attributes | {"reference": np.float64(0.5)}
    )
    assert read.reference == with_line.reference == 0.5 and type(read.reference) is float

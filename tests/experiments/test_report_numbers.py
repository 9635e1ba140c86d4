"""What a report makes of records: entry and means, thinned curves, and the points to predict."""

import types

import jax
import numpy as np
import pytest
import xarray

import sharpflow as sf
from sharpflow.experiments.report import curves, predicted
from sharpflow.experiments.report.measured import measure
from sharpflow.experiments.report.predicted import chosen
from sharpflow.simulator.crossing import entry_step
from sharpflow.simulator.grid.point_prediction import PointPrediction

RATE = 1e-3


def test_the_entry_and_the_means_after_it_are_those_of_a_made_up_trajectory():
    """At rest λ* falls as (1−ηλ)^{2t}; at the edge 2 tr M = 1 + d log λ*/(2 dτ)."""
    eta, decay, sharpness = 0.1, RATE / 0.1, 50.0
    step = np.arange(0, 4000, 10)
    resting = 100.0 * (1.0 - RATE) ** (2.0 * step)
    crossing = np.log(2.0) / (-2.0 * np.log1p(-RATE))
    slope = -0.8
    at_edge = sharpness * np.exp(slope * RATE * (step - crossing))
    threshold = np.where(step < crossing, resting, at_edge)
    level = 0.5 * RATE * at_edge * 0.5 * (1.0 + 0.5 * slope)
    columns = {
        "threshold": threshold,
        "norm_squared": 0.5 * eta * threshold / (1.0 - RATE),
        "edge_ratio": np.where(step < crossing, sharpness / resting, 1.0),
        "loss": np.where(step == 0, 1.0, 1e-9),
        "loss_mean": np.where(step < crossing, 1e-9, level),
        "loss_rises": np.where(step < crossing, 0.0, 0.5),
    }
    found = measure(columns, step, (eta, decay), RATE, 4000)
    # one record, ten steps, bounds where the crossing lies between two of them
    assert found["entry_step"] == pytest.approx(crossing, abs=10)
    assert found["predicted_entry_step"] == pytest.approx(crossing, rel=1e-6)
    assert found["edge_ratio"] == 1.0 and found["rises"] == 0.5
    assert found["norm_error"] < 1e-12
    # the mean over records of a loss that falls by e^{-0.008} from one to the next
    assert found["loss"] == pytest.approx(found["predicted_loss"], rel=0.01)
    bare = measure({"loss": columns["loss"]}, step, None, RATE, 4000)
    assert all(np.isnan(value) for value in bare.values())
    below = measure({"edge_ratio": np.full(len(step), 0.5)}, step, None, RATE, 4000)
    assert np.isnan(below["entry_step"])


@pytest.mark.parametrize(
    ("ratios", "entry"),
    [
        ([0.5, 0.8, 1.25, 0.9, 1.1], 15.0),  # in the middle of two logarithms
        ([3.0, 0.5, 0.8, 1.25, 1.0], 25.0),  # a burst throws a start above the edge below it first
        ([3.0, 0.5, 0.7, 0.9, 0.93], np.nan),  # and it never comes back
        ([1.2, 0.95, 1.05, 0.97, 1.0], 0.0),  # it swings about the edge from the start
        ([1.2, 1.1, 1.05, 1.02, 1.01], 0.0),  # and comes down to it
        ([1.0 - 5e-3, 0.4, 0.4, 0.4, 0.4], 0.0),  # as near as rounding may put a start at the edge
    ],
)
def test_the_entry_is_a_rise_through_one_and_no_start_above_it(ratios, entry):
    ratios, step = np.array(ratios), 10.0 * np.arange(5)
    assert entry_step(step, np.log(ratios), RATE) == pytest.approx(entry, nan_ok=True)
    rows = {
        "edge_ratio": ratios,
        "threshold": 50.0 / ratios,
        "loss_rises": np.full(5, 0.25),
    }
    found = measure(rows, step, None, RATE, 1000)
    assert found["entry_step"] == pytest.approx(entry, nan_ok=True)
    # what comes after an entry needs one
    later = {name: np.concatenate([each, each]) for name, each in rows.items()}
    later["edge_ratio"] = np.concatenate([ratios, np.full(5, ratios[-1])])
    found = measure(later, np.append(step, 500.0 + step), None, RATE, 1000)
    assert np.isfinite(found["edge_ratio"]) == np.isfinite(found["rises"]) == np.isfinite(entry)


def test_the_report_and_compare_have_one_mean_after_the_entry():
    """The means of the report without the flow, beside those of ``compare`` with it."""
    problem = sf.models.matrix_completion(shape=(10, 10), rank=1, seed=1)
    eta, rate = 2.0, 1e-3
    observables = ("loss", "loss_mean", "loss_rises", "norm_squared", "threshold",
                   "sharpness_manifold")  # fmt: skip
    run = sf.simulate(
        problem,
        problem.init(jax.random.key(1)),
        sf.gdwd(eta, rate / eta),
        900,
        record_every=5,
        snapshot_every=2,
        observables=observables,
    )
    flow = sf.predict(problem, run, num_outputs=100)
    compared = sf.compare(run, flow, problem).attrs
    columns = run.columns | {"edge_ratio": run["edge_ratio_manifold"]}
    found = measure(columns, run.step, (eta, rate / eta), rate, 900)
    for name in ("entry_step", "predicted_entry_step"):
        # between two records; the arrival is another snapshot
        assert found[name] == pytest.approx(compared[name], abs=1.0)
    assert found["edge_ratio"] == pytest.approx(compared["mean_edge_ratio"], rel=1e-3)
    assert found["rises"] == pytest.approx(compared["loss_rises_after"], abs=1e-12)
    # with the M of the flow and with that which the threshold implies
    ratio = found["loss"] / found["predicted_loss"]
    assert ratio == pytest.approx(compared["mean_loss_ratio"], rel=0.02)


@pytest.mark.parametrize("rows", [1, 2, 9, 40, 41, 137, 1000])
def test_every_bucket_has_its_smallest_and_largest_value_in_their_order(rows):
    values = np.random.default_rng(rows).normal(size=rows)
    values[::7] = np.nan
    width = curves.bucket_width(rows, 20)
    found = curves.envelope(values, width)
    if width == 1:
        np.testing.assert_array_equal(found, values)
        return
    assert len(found) <= 40 and len(curves.times(values, width)) == len(found)
    for index, start in enumerate(range(0, rows, width)):
        part = values[start : start + width]
        pair = found[2 * index : 2 * index + 2]
        if np.isnan(part).all():
            assert np.isnan(pair).all()
        else:
            wanted = [np.nanargmin(part), np.nanargmax(part)]
            np.testing.assert_array_equal(pair, part[sorted(wanted)])


def test_the_first_seed_that_ended_well_is_predicted_first():
    usable = np.array([[True, False], [True, True], [False, True]])  # (seed, combination)
    assert chosen(usable, None) == [0, 3]
    assert chosen(usable, 3) == [0, 2, 3] and chosen(usable, 9) == [0, 2, 3, 5]
    assert chosen(usable, 0) == [] and chosen(np.zeros((2, 2), bool), None) == []


def test_each_point_is_told_before_its_flow_is_integrated(monkeypatch, capsys):
    """A flow takes minutes; the flow itself shows its progress if it is asked to."""
    shown = []

    def point(*arguments, progress):
        shown.append((progress, len(capsys.readouterr().err.splitlines())))
        return PointPrediction("none", -1, "no arrival", 0)

    monkeypatch.setattr(predicted, "predict_point", point)
    axes = types.SimpleNamespace(names=["seed"], at=lambda i: i, index=lambda i: (i,))
    remade = types.SimpleNamespace(axes=axes, make=lambda at: at, optimizer=None)
    dataset = xarray.Dataset(coords={"seed": [4, 5]})
    points = {0: "seed 4", 1: "seed 5"}
    for progress, lines in ((True, 1), (False, 0)):
        shown.clear()
        made, reasons = predicted.predict_points(remade, dataset, points, progress)
        assert shown == [(progress, lines)] * 2
        assert made == {} and reasons == dict.fromkeys(points, "no arrival")

"""Every point of a grid beside its prediction."""

import os
import shutil
import signal

import jax
import numpy as np
import optax
import pytest

import sharpflow as sf
from sharpflow.simulator import Interrupted, RunError
from sharpflow.simulator.gdwd_rates import may_be_gdwd
from sharpflow.simulator.grid import predictions
from sharpflow.simulator.grid.kept_predictions import KeptPredictions
from sharpflow.simulator.grid.point_prediction import PointPrediction
from sharpflow.simulator.grid.prediction_quantities import PREDICTION
from sharpflow.simulator.store.folder import RunFolder

GRID = {
    "seeds": [0, 1],
    "learning_rates": [2.0],
    "weight_decays": [0.0, 4e-3],
    "num_steps": 600,
    "record_every": 20,
    "observables": ["loss", "loss_mean", "norm_squared", "threshold", "metrics"],
}
OPTIONS = {"num_outputs": 8, "rtol": 1e-2, "max_edge": 2}


@pytest.fixture(scope="module")
def problem():
    """One factor of rank 1: few eigenvalues reach the edge, so that few programs are compiled."""
    return sf.models.matrix_completion(shape=(6, 6), rank=1, init_scale=2.0, seed=1)


@pytest.fixture(scope="module")
def run(problem, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    grid = sf.simulate_grid(problem, **GRID, out=folder, predict=OPTIONS, progress=False)
    return folder, grid


def test_each_point_has_the_bits_of_its_prediction_alone(problem, run):
    _, grid = run
    decays = grid.sel(weight_decay=4e-3, learning_rate=2.0)
    assert decays["prediction_kind"].values.tolist() == ["sharpness_flow"] * 2
    assert not decays["prediction_status"].any()
    point = sf.simulator.grid_point(grid, problem, seed=1, weight_decay=4e-3)
    flow = sf.predict(problem, point, **OPTIONS)
    compared = sf.compare(point, flow, problem)
    found = decays.sel(seed=1)
    count = compared.sizes["tau"]
    names = [name for name in compared.data_vars if compared[name].dims == ("tau",)]
    for name in sorted({*names} - {"threshold", "loss_mean"}):  # which the grid has itself
        np.testing.assert_array_equal(found[name][:count], compared[name], name)
        assert np.isnan(found[name][count:]).all()
    assert float(found["final_relative_error"]) == compared.attrs["final_relative_error"]
    assert float(found["predicted_entry_step"]) == pytest.approx(
        compared.attrs["predicted_entry_step"], nan_ok=True
    )


def test_a_grid_that_could_not_be_predicted_is_refused_before_it_runs(problem, tmp_path):
    arguments = {"out": tmp_path / "run", "predict": OPTIONS, "progress": False}
    with pytest.raises(ValueError, match=r"observables must have 'threshold' among.*\['loss'\]"):
        sf.simulate_grid(problem, **GRID | {"observables": ["loss"]}, **arguments)
    no_rate = GRID | {"optimizer": lambda rate, _: optax.sgd(rate, momentum=0.9)}
    with (
        pytest.warns(UserWarning, match="no such column"),
        pytest.raises(ValueError, match="give effective_learning_rate"),
    ):
        sf.simulate_grid(problem, **no_rate, **arguments)
    with pytest.raises(ValueError, match="'central_flow' predicts gradient descent with weight"):
        sf.simulate_grid(
            problem,
            **GRID | {"optimizer": sf.simulator.momentum},
            **arguments | {"predict": {"kind": "central_flow"}},
        )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("rule", "may"),
    [
        (sf.gdwd(0.1, 0.01), True),
        (sf.gdwd(lambda step: 0.1 + 0.0 * step, 0.01), True),
        (sf.gdwd(0.1, 0.0), False),
        (sf.simulator.momentum(0.1, 0.01, beta=0.0), True),  # which is the same rule
        (sf.simulator.momentum(0.1, 0.01), False),
        (sf.simulator.momentum(lambda step: 0.1 + 0.0 * step, 0.01), False),
        (sf.simulator.quasi_rmsprop(0.1), False),
        (optax.sgd(0.1), False),
    ],
)
def test_the_rule_of_the_central_flow_is_known_before_it_runs(rule, may):
    assert may_be_gdwd(rule.init({"w": np.ones(3)})) is may


def test_an_axis_of_texts_in_a_folder_has_the_predictions_of_its_problem(problem, run, tmp_path):
    asked = GRID | {"seeds": [0], "weight_decays": [4e-3], "axes": {"kind": ["whole"]}}

    def make(kind):
        return {"whole": problem}[kind]

    named = sf.simulate_grid(make, **asked, out=tmp_path / "run", predict=OPTIONS, progress=False)
    alone = run[1].sel(seed=[0], weight_decay=[4e-3])
    found = named["predicted_threshold"].sel(kind="whole").values
    np.testing.assert_array_equal(found, alone["predicted_threshold"][..., : found.shape[-1]])
    assert np.isfinite(found).any()


def test_what_is_predicted_is_near_what_was_measured(problem, run):
    _, grid = run
    for seed in grid["seed"].values:
        at = grid.sel(seed=seed, weight_decay=4e-3, learning_rate=2.0)
        rows = np.searchsorted(at["step"], at["prediction_step"].dropna("output"))
        for name in ("norm_squared", "test_error"):
            predicted = at[f"predicted_{name}"].dropna("output").values
            np.testing.assert_allclose(
                predicted, at[name].values[rows], rtol=0.15, atol=0.02
            )  # it is ahead of the growth at the entry
        held = at["predicted_edge_dimension"].dropna("output")
        traced = at["predicted_edge_trace"].dropna("output")
        assert set(held.values.tolist()) <= {0.0, 1.0, 2.0}
        np.testing.assert_array_equal(held > 0, traced > 1e-3)


def test_a_point_without_a_prediction_says_why_and_costs_the_others_nothing(run):
    _, grid = run
    without = grid.sel(weight_decay=0.0, learning_rate=2.0)
    assert without["prediction_kind"].values.tolist() == ["none"] * 2
    assert all("intrinsic rate" in str(why) for why in without["prediction_reason"].values)
    assert np.isnan(without["tracking_error"]).all()


def test_a_folder_keeps_the_predictions_and_none_is_made_again(problem, run, monkeypatch):
    folder, grid = run
    opened = sf.open_run(folder)
    for name in PREDICTION:
        np.testing.assert_array_equal(opened[name].values, grid[name].values, name)
    assert opened["tracking_error"].attrs["definition"]
    tried = []
    monkeypatch.setattr(
        predictions, "predict_point", lambda *given: tried.append(given[3]["weight_decay"])
    )
    with pytest.raises(ValueError, match=r"options differ.*\"rtol\": 0.5"):
        sf.predict_grid(problem, opened, out=folder, rtol=0.5)
    assert tried == []


def test_a_run_that_has_gone_on_is_predicted_again(run):
    folder, grid = run
    store = KeptPredictions(RunFolder.at(folder), grid, dict(_asked()))
    assert len(store.known) == 4
    further = grid.assign(final_step=grid["final_step"] + (grid["seed"] == 1))
    store = KeptPredictions(RunFolder.at(folder), further, dict(_asked()))
    assert sorted(store.known) == [0, 1]


def _asked():
    defaults = {"kind": None, "arrival_distance": 1e-3, "max_steps": 10_000, "max_seconds": None}
    return defaults | {"method": "auto"} | OPTIONS


def test_a_damaged_file_is_told(run, tmp_path):
    folder, _ = run
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    path = copy / "predictions.nc"
    content = bytearray(path.read_bytes())
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(RunError, match=r"predictions.nc cannot be read.*remove it"):
        sf.open_run(copy)
    path.unlink()
    assert "prediction_kind" not in sf.open_run(copy)


def test_a_signal_keeps_what_was_predicted_and_the_next_call_goes_on(
    problem, run, tmp_path, monkeypatch
):
    copy = tmp_path / "copy"
    shutil.copytree(run[0], copy)
    (copy / "predictions.nc").unlink()
    made = []

    def point(problem, grid, optimizer, labels, options):
        made.append((labels["seed"], labels["weight_decay"]))
        if len(made) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        return PointPrediction("none", -1, "told", 600)

    monkeypatch.setattr(predictions, "predict_point", point)
    measured = sf.open_run(copy)
    with pytest.raises(Interrupted):
        sf.predict_grid(problem, measured, out=copy, **OPTIONS)
    assert made == [(0, 0.0)]
    found = sf.predict_grid(problem, measured, out=copy, workers=2, **OPTIONS)
    assert sorted(made) == [(0, 0.0), (0, 4e-3), (1, 0.0), (1, 4e-3)]
    assert (found["prediction_reason"] == "told").all()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_edges": 3}, r"predict has no option 'max_edges'.*did you mean .max_edge"),
        ({"rtol": -1.0}, "predict: rtol must be"),
        ({"kind": "flow"}, "predict: kind must be"),
    ],
)
def test_options_are_looked_at_before_anything_is_simulated(problem, options, told):
    with pytest.raises(ValueError, match=told):
        sf.simulate_grid(problem, **GRID | {"num_steps": 10**9}, predict=options)


def test_what_cannot_be_predicted_at_all_is_refused(problem):
    bare = sf.simulate_grid(problem, **GRID | {"num_steps": 20}, progress=False)
    with pytest.raises(ValueError, match="no snapshots.*predict=True"):
        sf.predict_grid(problem, bare)
    with pytest.raises(ValueError, match="problem must be a Problem or the function"):
        sf.predict_grid(3, bare.expand_dims(snapshot=1))


def test_a_point_that_never_arrives_has_the_central_flow():
    """The network meets the edge before its loss is zero; its widths are an axis of tuples."""
    x, y = sf.models.digits(12, classes=(0, 1))

    def problem(widths):
        return sf.models.mlp(x, y, widths, dtype=np.float64)

    grid = sf.simulate_grid(
        problem,
        seeds=0,
        axes={"widths": [(3,)]},
        learning_rates=0.3,
        weight_decays=0.05,
        num_steps=60,
        record_every=2,
        observables=["loss_mean", "threshold", "metrics"],
        progress=False,
        predict={"num_outputs": 6},
    )
    at = grid.squeeze()
    assert str(at["prediction_kind"].item()) == "central_flow"
    assert int(at["prediction_status"]) == sf.Status.SUCCESS
    ratio = at["threshold_ratio"].dropna("output").values
    np.testing.assert_allclose(ratio, 1.0, atol=0.05)
    error, moved = at["tracking_error"].values[-1], at["distance_moved"].values[-1]
    assert error < 0.3 * moved
    assert np.isfinite(at["predicted_train_accuracy"].dropna("output")).all()
    assert jax.numpy.isnan(float(at["entry_step"]))

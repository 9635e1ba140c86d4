"""Grids against the same points run alone, and against other layouts of themselves."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sharpflow as sf
from sharpflow.simulator.grid import engine

OBSERVED = ("loss", "norm_squared", "threshold", "loss_mean", "loss_rises", "metrics")
SEEDS, RATES, DECAYS = (0, 3), (0.3, 0.6), (0.0, 0.01, 0.02)


@pytest.fixture(scope="module")
def problem():
    return sf.models.matrix_completion(shape=(6, 5), rank=1, width=3)


@pytest.fixture(scope="module")
def network():
    return sf.models.mlp(*sf.models.digits(16, classes=(0, 1)), widths=(6,), dtype=jnp.float32)


def _points(dataset):
    for seed in dataset.seed.values:
        for rate in dataset.learning_rate.values:
            for decay in dataset.weight_decay.values:
                at = {"seed": seed, "learning_rate": rate, "weight_decay": decay}
                yield at, dataset.sel(at)


def _assert_is(point, trajectory):
    """A point of a grid holds what the trajectory holds, bit for bit."""
    for name, column in trajectory.columns.items():
        np.testing.assert_array_equal(point[name].values[: len(column)], column, err_msg=name)
        assert np.all(np.isnan(point[name].values[len(column) :]))


@pytest.mark.usefixtures("optimized")
def test_every_point_is_bit_identical_to_the_same_point_run_alone(network):
    observables = (*OBSERVED, "sharpness_iterate", "sharpness_midpoint")
    keywords = {"record_every": 7, "observables": observables, "snapshot_every": 3}
    grid = sf.simulate_grid(
        network,
        seeds=SEEDS,
        learning_rates=RATES,
        weight_decays=DECAYS,
        num_steps=60,
        final_params=True,
        **keywords,
    )
    assert grid.loss.dims == ("seed", "learning_rate", "weight_decay", "step")
    np.testing.assert_array_equal(grid.step, np.arange(0, 60, 7))
    for at, point in _points(grid):
        rule = sf.gdwd(at["learning_rate"], at["weight_decay"])
        start = network.init(jax.random.key(at["seed"]))
        alone = sf.simulate(network, start, rule, 60, **keywords)
        _assert_is(point, alone)
        np.testing.assert_array_equal(point.tau, np.float32(alone.intrinsic_rate) * alone.step)
        for layer in ("Dense_0", "Dense_1"):
            last = alone.final_params[layer]["kernel"]
            np.testing.assert_array_equal(point[f"final_params.{layer}.kernel"], last)
            kept = alone.params[layer]["kernel"]
            np.testing.assert_array_equal(point[f"params.{layer}.kernel"], kept)
    assert np.all(grid.status == sf.Status.SUCCESS) and np.all(grid.final_step == 60)


@pytest.mark.usefixtures("optimized")
def test_points_side_by_side_are_bit_identical_to_one_with_empty_lanes(network):
    keywords = {"num_steps": 60, "record_every": 7, "group_width": 4}
    keywords["observables"] = (*OBSERVED, "sharpness_iterate")
    axes = {"seeds": SEEDS, "learning_rates": RATES, "weight_decays": DECAYS}
    grid = sf.simulate_grid(network, **axes, **keywords)
    for at in ((0, 0.3, 0.0), (3, 0.6, 0.01)):
        place = dict(zip(("seed", "learning_rate", "weight_decay"), at, strict=True))
        alone = sf.simulate_grid(
            network, seeds=at[0], learning_rates=at[1], weight_decays=at[2], **keywords
        )
        ours = grid.sel(place).drop_attrs()
        assert ours.identical(alone.sel(place).drop_attrs())
    # and to another program within rounding, which grows at the edge
    start = network.init(jax.random.key(3))
    other = sf.simulate(network, start, sf.gdwd(0.6, 0.01), 60, record_every=7)
    np.testing.assert_allclose(ours.loss.values, other["loss"], rtol=1e-4)


@pytest.mark.usefixtures("optimized")
def test_with_tau_every_point_runs_its_own_number_of_steps(problem):
    grid = sf.simulate_grid(
        problem, seeds=0, learning_rates=RATES, weight_decays=(0.01, 0.04), tau=0.3, record_every=20
    )
    for at, point in _points(grid):
        steps = round(0.3 / (at["learning_rate"] * at["weight_decay"]))
        assert int(point.num_steps) == int(point.final_step) == steps
        rule = sf.gdwd(at["learning_rate"], at["weight_decay"])
        start = problem.init(jax.random.key(0))
        _assert_is(point, sf.simulate(problem, start, rule, steps, record_every=20))


@pytest.mark.usefixtures("optimized")
def test_records_may_be_at_equal_flow_times(problem):
    grid = sf.simulate_grid(
        problem, seeds=0, learning_rates=RATES, weight_decays=0.01, tau=0.3, num_records=6
    )
    assert grid.loss.dims[-1] == "record" and grid.step.dims[-1] == "record"
    np.testing.assert_allclose(
        grid.tau, np.broadcast_to(0.05 * np.arange(6), grid.tau.shape), atol=0.006
    )
    for at, point in _points(grid):
        rule = sf.gdwd(at["learning_rate"], at["weight_decay"])
        at_steps = point.step.values
        alone = sf.simulate(
            problem,
            problem.init(jax.random.key(0)),
            rule,
            int(point.num_steps),
            record_at=at_steps,
        )
        _assert_is(point, alone)


def test_a_diverging_point_is_frozen_and_changes_no_bit_of_the_others():
    diverging = sf.Problem(init=lambda key: jax.random.normal(key, (3,)), loss=_quartic)

    def grid(rates):
        return sf.simulate_grid(
            diverging,
            seeds=(0, 1),
            learning_rates=rates,
            weight_decays=(0.0, 0.1),
            num_steps=50,
            record_every=5,
            group_width=4,
        )

    mixed, benign = grid((0.01, 3.0)), grid((0.01, 0.02))
    for name in ("loss", "loss_mean", "norm_squared"):
        ours, others = mixed[name].sel(learning_rate=0.01), benign[name].sel(learning_rate=0.01)
        np.testing.assert_array_equal(ours.values, others.values)
    lost = mixed.sel(learning_rate=3.0)
    assert np.all(lost.status == sf.Status.DIVERGED)
    assert np.all(mixed.sel(learning_rate=0.01).status == sf.Status.SUCCESS)
    for _, point in _points(mixed.sel(learning_rate=[3.0])):
        failed = int(point.final_step)
        assert 0 < failed < 50
        before, after = point.step.values < failed, point.step.values > failed
        assert np.all(np.isfinite(point.norm_squared.values[before]))
        assert np.all(np.isnan(point.norm_squared.values[after]))


def _quartic(params):
    return jnp.sum(jnp.square(jnp.square(params)))


@pytest.mark.usefixtures("optimized")
def test_updates_spread_over_several_rows_give_the_same_records(problem, monkeypatch):
    keywords = {
        "seeds": SEEDS,
        "learning_rates": RATES,
        "weight_decays": 0.01,
        "num_steps": 300,
        "record_every": 90,
        "snapshot_every": 2,
    }
    whole = sf.simulate_grid(problem, **keywords)
    seen = []
    spread = engine.num_pieces

    def several(*arguments):
        seen.append(spread(*arguments))
        return 7

    monkeypatch.setattr(engine, "num_pieces", several)
    pieces = sf.simulate_grid(problem, **keywords)
    assert seen == [1]
    assert whole.drop_attrs().identical(pieces.drop_attrs())


def test_hyperparameters_do_not_compile_again():
    traced = []

    def residual(params):
        traced.append(params)
        return params / jnp.linalg.norm(params) - jnp.ones(4) / 2

    problem = sf.Problem(init=lambda key: jax.random.normal(key, (4,)), residual=residual)

    def count(rates):
        before = len(traced)
        sf.simulate_grid(
            problem, seeds=0, learning_rates=rates, weight_decays=(0.1, 0.2), num_steps=4
        )
        return len(traced) - before

    count((0.3,))  # and the loss at the start, whose compiled function is kept
    assert count((0.1,)) == count(tuple(np.linspace(0.1, 0.2, 6)))


@pytest.mark.usefixtures("optimized")
def test_further_axes_reach_whoever_takes_them():
    def problem(width):
        return sf.models.matrix_completion(shape=(6, 5), rank=1, width=width)

    def start(key, learning_rate, weight_decay, *, init_scale):
        del learning_rate, weight_decay
        return {
            name: init_scale * jax.random.normal(key, shape)
            for name, shape in (("u", (6, 3)), ("v", (5, 3)))
        }

    def optimizer(learning_rate, weight_decay, b):
        del weight_decay
        return sf.quasi_rmsprop(learning_rate, b)

    scaled = sf.simulate_grid(
        problem(3),
        seeds=0,
        learning_rates=0.01,
        weight_decays=0.0,
        axes={"init_scale": (0.5, 2.0), "b": (0.5, 2.0)},
        start=start,
        optimizer=optimizer,
        num_steps=10,
        observables=("loss", "norm_squared", "threshold"),
    )
    assert scaled.loss.sizes["init_scale"] == 2 and scaled.loss.sizes["b"] == 2
    norms = scaled.norm_squared.isel(step=0).sel(b=2.0).squeeze()
    np.testing.assert_allclose(norms.sel(init_scale=2.0) / norms.sel(init_scale=0.5), 16.0)
    slower, faster = (scaled.threshold.sel(b=b).squeeze() for b in (0.5, 2.0))
    assert float(np.abs(faster - slower).max()) > 0
    np.testing.assert_allclose(scaled.intrinsic_rate, 0.5e-4, rtol=1e-12)

    widths = sf.simulate_grid(
        problem,
        seeds=0,
        learning_rates=0.1,
        weight_decays=0.01,
        axes={"width": (2, 3)},
        num_steps=10,
        observables=("loss",),
    )
    for width in (2, 3):
        alone = problem(width)
        start_alone = alone.init(jax.random.key(0))
        trajectory = sf.simulate(alone, start_alone, sf.gdwd(0.1, 0.01), 10, observables=("loss",))
        _assert_is(widths.sel(width=width).squeeze(), trajectory)


_FAKE_DEVICES = """
import sys
import jax
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
jax.config.update("jax_enable_x64", True)
import sharpflow as sf
problem = sf.models.matrix_completion(shape=(6, 5), rank=1, width=3)
grid = sf.simulate_grid(
    problem, seeds=(0, 1, 2), learning_rates=(0.3, 0.6, 0.9), weight_decays=(0.01, 0.02, 0.04),
    tau=0.2, record_every=10, snapshot_every=2, final_params=True,
    observables=("loss", "loss_mean", "sharpness_iterate", "threshold"),
)
assert len(jax.devices()) == int(sys.argv[1])
grid.drop_attrs().to_netcdf(sys.argv[2], engine="h5netcdf")
"""


def test_eight_fake_devices_give_the_numbers_of_one(tmp_path):
    import xarray

    found = []
    for count in (1, 8):  # 27 points: 8 devices are not filled evenly
        path = tmp_path / f"{count}.nc"
        command = [sys.executable, "-c", _FAKE_DEVICES, str(count), str(path)]
        subprocess.run(command, check=True, capture_output=True, timeout=300)
        with xarray.open_dataset(path) as read:
            found.append(read.load())
    assert found[0].identical(found[1])


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"seeds": ()}, "seed is empty"),
        ({"seeds": (0, 0)}, "holds a value twice"),
        ({"seeds": -1}, "seeds must be integers"),
        ({"seeds": 0.5}, "seeds must be integers"),
        ({"learning_rates": (0.1, 0.0)}, "learning_rates must be positive"),
        ({"learning_rates": float("nan")}, "learning_rates must be finite"),
        ({"weight_decays": -0.1}, "weight_decays must not be negative"),
        ({"weight_decays": 20.0}, "learning_rate=0.1, weight_decay=20"),
        ({"num_steps": None}, "give num_steps or tau"),
        ({"tau": 1.0}, "give num_steps or tau"),
        ({"num_steps": None, "tau": 1.0, "weight_decays": 0.0}, "flow time per step is 0"),
        ({"num_steps": 0}, "num_steps must be an integer from 1"),
        ({"num_records": 5, "record_every": 2}, "give one of record_every"),
        ({"num_records": 11}, "num_records must be at most"),
        (
            {"record_at": (0, 50)},
            r"record_at\[1\] must be above 0, the step before, and at most 9, got 50",
        ),
        ({"snapshot_every": 0}, "snapshot_every"),
        ({"axes": {"step": (1, 2)}}, "axes has 'step'"),
        ({"axes": {"depth": (1, 2)}}, "neither problem, start nor optimizer"),
        ({"observables": ("nothing",)}, "'nothing'"),
        ({"problem": 3}, "problem must be a Problem"),
        ({"resume": True}, "need a folder"),
    ],
)
def test_unusable_arguments_are_named(problem, keywords, message):
    usable = {
        "problem": problem,
        "seeds": 0,
        "learning_rates": 0.1,
        "weight_decays": 0.1,
        "num_steps": 10,
    }
    arguments = usable | keywords
    with pytest.raises(ValueError, match=message):
        sf.simulate_grid(arguments.pop("problem"), **arguments)


def test_a_plan_tells_points_updates_and_bytes(problem):
    plan = sf.simulator.plan_grid(
        problem, seeds=SEEDS, learning_rates=RATES, weight_decays=(0.01, 0.02), tau=0.1
    )
    assert plan.shape == {"seed": 2, "learning_rate": 2, "weight_decay": 2}
    expected = sum(2 * round(0.1 / (rate * decay)) for rate in RATES for decay in (0.01, 0.02))
    assert plan.updates == expected
    assert plan.memory_bytes > 0 and plan.stored_bytes > 0 and plan.seconds > 0


def test_values_may_be_arrays_of_any_library(problem):
    import pandas
    import xarray

    given = {"num_steps": 4, "observables": ("loss",), "weight_decays": 0.1}
    expected = sf.simulate_grid(problem, seeds=[0, 1], learning_rates=[0.25, 0.5], **given)
    rates = np.array([0.25, 0.5])
    for seeds, several in (
        (jnp.arange(2), jnp.asarray(rates)),
        (pandas.Series([0, 1]), pandas.Series(rates)),
        (range(2), xarray.DataArray(rates)),
        ((seed for seed in (0, 1)), iter(rates)),
    ):
        found = sf.simulate_grid(problem, seeds=seeds, learning_rates=several, **given)
        xarray.testing.assert_equal(found.drop_attrs(), expected.drop_attrs())
    one = sf.simulate_grid(
        problem, seeds=np.array(0), learning_rates=jnp.asarray(0.25), weight_decays=np.float32(0.5),
        tau=np.float32(0.5), num_records=np.int64(2), observables="loss",
    )  # fmt: skip
    assert dict(one.sizes) == {"seed": 1, "learning_rate": 1, "weight_decay": 1, "record": 2}
    assert one.num_steps.item() == 4


def test_further_axes_may_be_arrays_of_any_library():
    def made(width):
        return sf.models.matrix_completion(shape=(6, 5), rank=1, width=width)

    grid = sf.simulate_grid(
        made, seeds=0, learning_rates=0.3, weight_decays=0.0, num_steps=jnp.asarray(2),
        observables="loss", axes={"width": jnp.array([2, 3])},
    )  # fmt: skip
    assert grid.width.values.tolist() == [2, 3]
    for wrong in (jnp.asarray(2), "ab", {2: 3}, 2):
        with pytest.raises(ValueError, match=r"axes\['width'\] must be a sequence"):
            sf.simulate_grid(
                made,
                seeds=0,
                learning_rates=0.3,
                weight_decays=0.0,
                num_steps=2,
                axes={"width": wrong},
            )

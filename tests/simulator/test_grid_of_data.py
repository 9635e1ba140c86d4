"""Points of a grid whose problems differ in their data share one compiled program."""

import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from environments import cpu_devices
from jax.experimental import sparse
from stopped import stop_after

import sharpflow as sf
from sharpflow.models.precision import products_at
from sharpflow.simulator.grid import engine, execute
from sharpflow.simulator.interrupt import Interrupted
from sharpflow.simulator.store.folder import RunFolder

AXES = {"seeds": (0, 1), "learning_rates": 0.05, "weight_decays": (0.01, 0.1)}
SUBSETS = (0, 1, 2)
OBSERVED = ("loss", "norm_squared", "metrics", "sharpness_iterate")


def _network(subset):
    """Another part of the data, with other classes."""
    random = np.random.default_rng(subset)
    x, y = random.normal(size=(12, 5)), random.permutation(np.arange(12) % 3)
    return sf.models.mlp(x, y, (6,), test=(x[:4], y[:4]), dtype=np.float64)


def _grid(problem=_network, **changes):
    keywords = {"num_steps": 40, "record_every": 4, "observables": OBSERVED, **AXES}
    return sf.simulate_grid(problem, **{**keywords, **changes})


@pytest.fixture
def compiled(monkeypatch):
    """Every chunk that was compiled."""
    chunk, found = engine.CompiledChunk, []

    def counted(*arguments):
        found.append(chunk(*arguments))
        return found[-1]

    monkeypatch.setattr(engine, "CompiledChunk", counted)
    return found


@pytest.mark.usefixtures("optimized")
def test_one_program_serves_all_data_and_every_point_is_as_it_is_alone(compiled):
    together = _grid(axes={"subset": SUBSETS}, group_width=1)
    assert len(compiled) == 1
    assert together.loss.dims == ("seed", "learning_rate", "weight_decay", "subset", "step")
    for subset in SUBSETS:
        alone = _grid(_network(subset), group_width=1)
        for name, column in alone.data_vars.items():
            found = together[name].sel(subset=subset, drop=True)
            np.testing.assert_array_equal(found, column, err_msg=name)
    assert len(np.unique(together.loss[..., 0])) == len(SUBSETS) * len(AXES["seeds"])


def test_side_by_side_each_lane_has_its_own_data(compiled):
    in_turn = _grid(axes={"subset": SUBSETS}, group_width=1)
    for width in (12, 5):  # all at once; and lanes that take points of other data in turn
        found = _grid(axes={"subset": SUBSETS}, group_width=width, lanes="side_by_side")
        for name in ("loss", "norm_squared", "train_accuracy", "test_error"):
            np.testing.assert_allclose(found[name], in_turn[name], rtol=1e-9, err_msg=name)
        np.testing.assert_allclose(found.sharpness_iterate, in_turn.sharpness_iterate, rtol=1e-7)
    assert len(compiled) == 3


def test_problems_of_another_shape_have_a_program_of_their_own(compiled):
    def network(width, subset):
        random = np.random.default_rng(subset)
        return sf.models.mlp(random.normal(size=(12, 5)), np.arange(12) % 3, (width,))

    axes = {"width": (4, 6), "subset": (0, 1)}
    found = _grid(network, axes=axes, observables=("loss",), group_width=1)
    assert len(compiled) == 2
    assert np.all(np.isfinite(found.loss))


def _as_an_earlier_version(patch):
    """A batch for every problem, and layouts that do not say the lanes."""
    prepare, settle = execute.run_in_folder, RunFolder.settle_layout

    def by_problem(grid, *others, **keywords):
        prepare(dataclasses.replace(grid, batches=grid.by_problem), *others, **keywords)

    def without_lanes(run, batch, layout, *before):
        kept = {name: layout[name] for name in layout if name != "lanes"}
        return settle(run, batch, kept, *before)

    patch.setattr("sharpflow.simulator.grid.run.run_in_folder", by_problem)
    patch.setattr(RunFolder, "settle_layout", without_lanes)


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize(
    ("begun_by", "width", "chunks", "begun"),
    [("this version", 1, 45, 1), ("an earlier one", 1, 45, 2), ("an earlier one", 4, 2, 1)],
)
def test_a_run_goes_on_where_it_was(begun_by, width, chunks, begun, tmp_path, monkeypatch):
    """Earlier versions kept a batch for every problem, and may not have come to the second."""
    keywords = {"axes": {"subset": SUBSETS[:2]}, "group_width": width, "num_steps": 120}
    with monkeypatch.context() as patch:
        if begun_by == "an earlier one":
            _as_an_earlier_version(patch)
        whole = _grid(**keywords, out=tmp_path / "whole").load()
    monkeypatch.setattr(engine, "chunk_rows", lambda *_: 3)  # many chunks
    with monkeypatch.context() as patch, pytest.raises(Interrupted), stop_after(chunks):
        if begun_by == "an earlier one":
            _as_an_earlier_version(patch)
        _grid(**keywords, out=tmp_path / "run")
    assert len(list((tmp_path / "run" / "layouts").iterdir())) == begun
    resumed = _grid(**keywords, out=tmp_path / "run", resume=True)
    for name in whole.data_vars:
        np.testing.assert_array_equal(resumed[name], whole[name], err_msg=name)


def test_the_precision_of_training_steps_is_kept_with_a_result(tmp_path):
    found = _grid(_network(0), matmul_precision="default", out=tmp_path / "run")
    with pytest.raises(ValueError, match='matmul_precision: the run has "default", now it is'):
        _grid(_network(0), out=tmp_path / "run", resume=True)
    trajectory = sf.simulate(
        _network(0), _network(0).init(jax.random.key(0)), sf.gdwd(0.05, 0.01), 2,
        matmul_precision="high",
    )  # fmt: skip
    assert trajectory.to_dataset().attrs["matmul_precision"] == "high"
    assert found.attrs["matmul_precision"] == "default"
    assert _grid(_network(0)).attrs["matmul_precision"] == "highest"


@pytest.mark.parametrize("precision", ["double", None, 3])
def test_a_precision_that_is_none_is_refused(precision):
    match = r"matmul_precision must be one of \('highest', 'high', 'default'\), got "
    with pytest.raises(ValueError, match=match):
        _grid(_network(0), matmul_precision=precision)


def test_the_settings_of_the_process_do_not_reach_the_steps():
    expected = _grid(_network(0))
    with products_at("default"):
        found = _grid(_network(0))
    np.testing.assert_array_equal(found.loss, expected.loss)


def test_starts_of_several_shapes_need_no_other_problem():
    """A problem of any number of columns, which the start chooses by an axis."""
    x, y = np.random.default_rng(0).normal(size=(6, 3)), np.arange(6.0)

    def problem(columns):
        del columns  # only for the axis
        return sf.Problem(_init, residual=_sum_of_columns, data=(x, y), scale_invariant=False)

    def start(key, learning_rate, weight_decay, columns):
        del learning_rate, weight_decay
        return jax.random.normal(key, (3, columns))

    axes = {"columns": (1, 2), "seeds": (0, 1)}
    keywords = {"learning_rates": 0.01, "weight_decays": 0.01, "observables": ("loss",)}
    grid = _grid(problem, start=start, axes={"columns": axes["columns"]}, **keywords)
    for columns in axes["columns"]:
        for seed in axes["seeds"]:
            w = np.asarray(jax.random.normal(jax.random.key(seed), (3, columns)))
            expected = 0.5 * np.sum((np.sum(x @ w, axis=1) - y) ** 2)
            found = grid.loss.sel(columns=columns, seed=seed, step=0).item()
            np.testing.assert_allclose(found, expected, rtol=1e-12)


def _init(key):
    return jax.random.normal(key, (3, 1))


def _sum_of_columns(w, data):
    x, y = data
    return (x @ w).sum(axis=1) - y


@pytest.mark.parametrize("width", [1, 2])
def test_a_number_among_the_data_leaves_a_float32_problem_in_float32(width):
    def problem(scale):
        return sf.Problem(_single, residual=_scaled, data={"scale": scale}, scale_invariant=False)

    with jax.numpy_dtype_promotion("standard"):
        scales = (2.0, 3.0)
        found = _grid(
            problem, axes={"scale": scales}, observables=("loss",), seeds=0, group_width=width,
            lanes="side_by_side",
        )  # fmt: skip
    assert found.loss.dtype == np.float32
    for scale in scales:
        w = np.asarray(_single(jax.random.key(0)))
        first = found.loss.sel(scale=scale, step=0)
        np.testing.assert_allclose(first, 0.5 * np.sum((scale * w) ** 2), rtol=1e-6)


@pytest.mark.parametrize("lanes", ["side_by_side", "in_turn"])
def test_sparse_data_of_each_lane_give_what_dense_data_give(lanes, compiled):
    x = np.random.default_rng(0).normal(size=(6, 3)) * np.array([[1.0, 0.0, 1.0]])

    def problem(scale, convert=sparse.BCOO.fromdense):
        data = {"x": convert(scale * x), "scale": jnp.ones(6)}
        return sf.Problem(_double, residual=_product, data=data, scale_invariant=False)

    keywords = {"axes": {"scale": (1.0, 2.0)}, "observables": ("loss", "gradient_norm")}
    found = _grid(problem, **keywords, group_width=2, lanes=lanes)
    dense = _grid(lambda scale: problem(scale, jnp.asarray), **keywords, group_width=1)
    assert compiled[0].width == 2 and np.all(np.isfinite(dense.loss))
    np.testing.assert_allclose(found.loss, dense.loss, rtol=1e-10)
    np.testing.assert_allclose(found.gradient_norm, dense.gradient_norm, rtol=1e-10)


def _double(key):
    return jax.random.normal(key, (3,))


def _product(w, data):
    return data["x"] @ w - data["scale"]


@pytest.mark.parametrize("value", [0, -1, 2.5, "a", True, [2], np.nan])
@pytest.mark.parametrize("call", [sf.simulate_grid, sf.simulator.plan_grid])
def test_a_width_that_is_no_number_of_points_is_refused_before_anything_is_made(call, value):
    def unmade():
        raise AssertionError("the problem was made")

    with pytest.raises(ValueError, match="group_width must be an integer from 1 to .*, got "):
        call(unmade, **AXES, num_steps=4, record_every=2, group_width=value)


def test_the_width_may_be_an_integer_of_numpy(compiled):
    grid = _grid(lambda: sf.Problem(_single, loss=_square, scale_invariant=False),
                 observables=("loss",), group_width=np.int64(2))  # fmt: skip
    assert compiled[0].width == 2 and np.all(grid.status == sf.Status.SUCCESS)


def _square(w):
    return (w**2).sum()


@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: (1, value)])
@pytest.mark.parametrize("kind", ["problem", "function", "complex", "bytes"])
def test_values_of_an_axis_that_cannot_be_written_down_are_refused_by_name(kind, wrap):
    problem = sf.Problem(_single, loss=_square, scale_invariant=False)
    value = {"problem": problem, "function": _square, "complex": 1j, "bytes": b"a"}[kind]

    def unmade(p):
        raise AssertionError("the problem was made")

    match = (
        r"axes\['p'\] must hold numbers, texts or tuples of them, got .*: give a number or a name"
    )
    with pytest.raises(ValueError, match=match):
        _grid(unmade, axes={"p": [wrap(value)]})


def _single(key):
    return jax.random.normal(key, (3,), np.float32)


def _scaled(w, data):
    return data["scale"] * w


SPREAD = """
import sys

import jax
import numpy as np

jax.config.update("jax_enable_x64", True)
import sharpflow as sf

RULE = {"learning_rates": 0.05, "weight_decays": 0.01, "num_steps": 20, "record_every": 5}


def network(subset, devices=None):
    random = np.random.default_rng(subset)
    x, y = random.normal(size=(13, 5)), random.permutation(np.arange(13) % 3)
    return sf.models.mlp(x, y, (6,), test=(x[:4], y[:4]), dtype=np.float64, devices=devices)


def spread(subset):
    return network(subset, jax.devices())


assert len(jax.tree.leaves(spread(0).data.inputs)[0].sharding.device_set) == 2
loss = {}
for name, problem in (("one", network), ("spread", spread)):
    single = problem(0)
    run = sf.simulate(
        single, single.init(jax.random.key(0)), sf.gdwd(0.05, 0.01), 20, record_every=5
    )
    grid = sf.simulate_grid(problem, seeds=(0, 1), axes={"subset": (0, 1)}, **RULE)
    loss[name] = np.stack([run["loss"], grid.loss.sel(seed=0, subset=0).squeeze()]), grid.loss
for kind in (0, 1):
    difference = np.max(np.abs(loss["spread"][kind] / loss["one"][kind] - 1.0))
    assert difference < 1e-10, difference
assert np.max(np.abs(loss["one"][0][0] / loss["one"][0][1] - 1.0)) < 1e-10

# what was placed on two devices is refused by name; what nobody placed goes along
first, second = jax.devices()
x, y = np.ones((6, 3)), np.ones(6)


def problem(data):
    return sf.Problem(
        lambda key: jax.random.normal(key, (3,)),
        residual=lambda w, data: data["x"] @ w - data["y"],
        data=data,
        scale_invariant=False,
    )


apart = {"x": jax.device_put(x, first), "y": jax.device_put(y, second)}
for make in (lambda: problem(apart), lambda: problem({"x": x, "y": y}).with_data(apart)):
    try:
        make()
    except ValueError as error:
        assert str(error) == (
            f"data must lie on the same devices, got data['x'] on {first} and data['y'] on "
            f"{second}: place them together with jax.device_put(data, device)"
        ), error
    else:
        raise AssertionError("it was accepted")
grid = sf.simulate_grid(
    problem({"x": x, "y": apart["y"]}), seeds=(0, 1), group_width=2, observables=("loss",), **RULE
)
assert np.all(np.isfinite(grid.loss))
"""


def test_problems_spread_over_two_devices_have_the_losses_of_one(tmp_path):
    script = tmp_path / "spread.py"
    script.write_text(SPREAD)
    run = subprocess.run(
        [sys.executable, script], env=cpu_devices(2), capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr

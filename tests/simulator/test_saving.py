"""What is saved comes back bit for bit, and a trajectory goes on from there or from a snapshot."""

import dataclasses
import json
import os
import warnings
from collections import OrderedDict
from typing import NamedTuple

import h5py
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray
from described import undescribed
from flax.core import FrozenDict

import sharpflow as sf
from sharpflow.models import files, saving
from sharpflow.models.stored_tree import StoredLeaves, Writer
from sharpflow.simulator import Quantity
from sharpflow.simulator.program import LoopState
from sharpflow.simulator.rules.wrapped import buffers

FORMATS = (".nc", ".zarr")


def differences(one, other, place=""):
    """Where two objects differ in a class, a dtype, a shape or a bit."""
    if isinstance(one, StoredLeaves) or isinstance(other, StoredLeaves):
        one, other = StoredLeaves.of(one), StoredLeaves.of(other)
        yield from differences(list(one.leaves), list(other.leaves), f"{place}.leaves")
        return
    arrays = jax.Array, np.ndarray, np.generic
    if isinstance(one, jax.Array) and isinstance(other, jax.Array):
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key) and one.dtype == other.dtype:
            one, other = jax.random.key_data(one), jax.random.key_data(other)
    elif type(one) is not type(other):
        yield f"{place}: {type(one)} is not {type(other)}"
        return
    if isinstance(one, arrays):
        ours, theirs = np.asarray(one), np.asarray(other)
        if (ours.dtype, ours.shape, ours.tobytes()) != (
            theirs.dtype,
            theirs.shape,
            theirs.tobytes(),
        ):
            yield f"{place}: {one!r} is not {other!r}"
    elif dataclasses.is_dataclass(one):
        for field in dataclasses.fields(one):
            parts = getattr(one, field.name), getattr(other, field.name)
            yield from differences(*parts, f"{place}.{field.name}")
    elif isinstance(one, (dict, FrozenDict)):
        assert list(one) == list(other), place
        for key in one:
            yield from differences(one[key], other[key], f"{place}[{key!r}]")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), place
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{place}[{index}]")
    elif repr(one) != repr(other):  # which tells NaN for NaN
        yield f"{place}: {one!r} is not {other!r}"


def assert_same(one, other):
    found = list(differences(one, other))
    assert not found, "\n".join(found)


@pytest.fixture(scope="module")
def problem():
    return sf.models.matrix_completion(shape=(6, 5), rank=1, width=3)


@pytest.fixture(scope="module")
def params(problem):
    return problem.init(jax.random.key(3))


@pytest.fixture(scope="module")
def run(problem, params):
    rule = sf.gdwd(0.5, 0.01)
    return sf.simulate(problem, params, rule, 40, record_every=4, snapshot_every=2)


def _awkward(run):
    """A trajectory with a bit of everything that a field may hold."""
    odd = np.array([np.nan, -np.nan, -0.0, 0.0, np.inf, 5e-324], np.float64)
    odd.view(np.uint64)[0] ^= 1  # another NaN than numpy's
    leaf = jnp.asarray(np.arange(6, dtype=np.float64).reshape(2, 3))
    tree = {
        "b": [leaf, (leaf + 1, None)],
        "a": OrderedDict([("z", leaf), ("y", FrozenDict({"x.y": leaf, "p/q": -leaf}))]),
    }
    state = LoopState(
        params=tree,
        previous=None,
        optimizer_state=(optax.EmptyState(), {"key": jax.random.key(7), "n": 3, "m": leaf}),
        previous_loss=jnp.float32(3e38),
        step=jnp.int32(6),
        status=jnp.int32(5),
        since_record=jnp.int32(0),
        loss_total=jnp.float64(0.1),
        loss_rises=jnp.int32(2),
        memories=(None, leaf),
    )
    return run.replace(
        step=np.arange(6),
        columns={
            "loss": odd,
            "test/error": odd.astype(np.float32),
            "Test/error": np.arange(6) % 2 == 0,
            "half": np.asarray(jnp.arange(6, dtype=jnp.bfloat16)),
            "sharpflow": odd + 1.0,  # as the group beside the dataset
            "small": np.arange(6, dtype=np.float16),
            "several": np.stack([odd, -odd], axis=1),
        },
        params=jax.tree.map(lambda x: np.stack([x, -x]), tree),
        snapshot_row=np.array([0, 3]),
        final_params=tree,
        final_state=state,
        final_step=6,
        status=sf.Status.DIVERGED,
        intrinsic_rate=np.float32(0.1).item(),
        response=float("nan"),
        attributes={"note": "é\n\ud800"[:2], "seed": 2**70, "flag": True, "list": [1, None, 0.1]},
        quantities={"half": Quantity("half", "half h", "One half of it.", reference=0.5)},
    )


@pytest.mark.parametrize("ending", FORMATS)
def test_every_field_of_a_trajectory_comes_back_bit_for_bit(run, tmp_path, ending):
    for number, kept in enumerate((run, _awkward(run), run.replace(params=None, final_state=None))):
        path = tmp_path / f"{number}{ending}"
        kept.save(path)
        back = sf.load(path)
        assert_same(kept, back)
        back.save(path)  # over itself
        assert_same(kept, sf.load(path))
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [ending] * 3


def test_the_test_of_sameness_finds_a_bit():
    assert not list(differences({"a": np.array([np.nan])}, {"a": np.array([np.nan])}))
    assert list(differences(np.array([0.0]), np.array([-0.0])))
    assert list(differences([1], [1.0])) and list(differences(np.ones(1), np.ones(1, np.float32)))


@pytest.mark.parametrize("ending", FORMATS)
def test_a_saved_trajectory_is_read_by_xarray_alone(run, tmp_path, ending):
    path = tmp_path / f"run{ending}"
    run.save(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opened = xarray.open_dataset(path) if ending == ".nc" else xarray.open_zarr(path)
        with opened as plain:
            xarray.testing.assert_identical(plain.load(), run.to_dataset())
            assert not undescribed(plain)


def _flows():
    rows = jnp.array([1.0, -0.0, np.nan])
    count = jnp.int32(3)
    yield sf.FlowSolution(
        tau=jnp.array([0.0, 0.5, 1.0]), theta={"w": [jnp.ones((3, 4))], "b": jnp.zeros((3,))},
        threshold=rows, eigenvalues=jnp.stack([rows, rows], 1), edge_covariance=jnp.ones((3, 2, 2)),
        status=jnp.int32(4), num_steps=count, num_rejected=count, b=2.0, on_sphere=True,
    )  # fmt: skip
    yield sf.CentralFlowSolution(
        tau=jnp.array([0.0, 0.5, 1.0]), params=jnp.ones((3, 5)), loss=rows, mean_loss=rows,
        eigenvalues=rows[:, None], covariance=rows[:, None, None], norm_squared=rows,
        edge=jnp.float64(4.0), status=jnp.int32(0), num_steps=count, num_rejected=count,
        num_gradients=count, num_products=count, num_third=count, reason="the edge comes first",
    )  # fmt: skip


@pytest.mark.parametrize("ending", FORMATS)
def test_flows_come_back_bit_for_bit_and_xarray_reads_them(tmp_path, ending):
    for flow in _flows():
        path = tmp_path / f"{type(flow).__name__}{ending}"
        flow.save(path)
        back = sf.load(path)
        assert type(back) is type(flow)
        assert_same(flow, back)
        assert getattr(back, "reason", "") == getattr(flow, "reason", "")
        with xarray.open_dataset(path, engine="zarr" if ending == ".zarr" else None) as plain:
            xarray.testing.assert_identical(plain.load(), flow.to_dataset())
            assert not undescribed(plain) and plain.sizes["tau"] == 3


@pytest.fixture
def promotion_of_users():
    """Schedules of optax compare integers with numbers of Python, which the strict one forbids."""
    with jax.numpy_dtype_promotion("standard"):
        yield


RULES = {
    "gdwd": lambda: sf.gdwd(0.5, 0.01),
    "momentum with a cosine schedule": lambda: optax.sgd(
        optax.cosine_decay_schedule(0.2, 60), momentum=0.9
    ),
    "adam": lambda: optax.adam(0.01),
}


@pytest.mark.parametrize("name", RULES)
@pytest.mark.usefixtures("promotion_of_users")
def test_going_on_from_a_loaded_trajectory_is_bit_identical(problem, params, tmp_path, name):
    # one rule with an observable that remembers; the others with what compiles quickly
    options = {
        "record_every": 4,
        "observables": ["loss", "sharpness_iterate"][: 1 + (name == "gdwd")],
    }
    first = sf.simulate(problem, params, RULES[name](), 16, **options)
    first.save(tmp_path / "first.nc")
    loaded = sf.load(tmp_path / "first.nc")
    # a new rule of the same numbers, as another process would make it
    there, here = (sf.simulate(problem, f, RULES[name](), 16, **options) for f in (loaded, first))
    assert here.step[0] == 16
    assert_same(here.columns, there.columns)
    assert_same(here.final_state, there.final_state)
    np.testing.assert_array_equal(here.tau, there.tau)
    for other in (optax.adamw(0.01), sf.gdwd(0.4, 0.01)):
        with pytest.raises(ValueError, match="optimizer must be the rule that made"):
            sf.simulate(problem, loaded, other, 4)


class Pair(NamedTuple):
    u: jax.Array
    v: jax.Array


@pytest.mark.parametrize("ending", FORMATS)
def test_a_symbolic_link_stays_and_what_it_points_to_is_written(run, tmp_path, ending):
    (tmp_path / "elsewhere").mkdir()
    target, link = tmp_path / "elsewhere" / f"target{ending}", tmp_path / f"link{ending}"
    link.symlink_to(target)
    for saved in (run.replace(final_step=39), run):  # a new file, and one that is replaced
        saved.save(link)
        assert link.is_symlink() and not target.is_symlink()
        assert_same(sf.load(target), saved)
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_params_of_a_class_of_ones_own_need_an_example(tmp_path):
    problem = sf.Problem(
        init=lambda key: Pair(jnp.ones(3), jnp.full(2, 0.5)),
        loss=lambda w: jnp.sum(w.u**2) * jnp.sum(w.v**2),
        scale_invariant=False,
    )
    start = problem.init(None)
    first = sf.simulate(problem, start, sf.gdwd(0.05, 0.01), 4, snapshot_every=2)
    first.save(tmp_path / "first.nc")
    with pytest.raises(ValueError, match=r"like must be given.*Pair\(\*, \*\)"):
        sf.load(tmp_path / "first.nc")
    with pytest.raises(ValueError, match="like must be params as the file has them"):
        sf.load(tmp_path / "first.nc", like=Pair(jnp.ones(2), jnp.ones(2)))
    loaded = sf.load(tmp_path / "first.nc", like=start)
    assert_same(first, loaded)
    rule = sf.gdwd(0.05, 0.01)
    on, expected = (sf.simulate(problem, each, rule, 4) for each in (loaded, first))
    assert_same(expected.columns, on.columns)


def test_what_is_no_saved_file_is_refused_in_words(run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    run.to_dataset().to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    (tmp_path / "text.nc").write_text("no netCDF")
    for name, words in {
        "absent.nc": "which is not there",
        "run": "is a run: use sharpflow.open_run",
        "other.nc": "holds no object of sharpflow; xarray may read it",
        "text.nc": r"text.nc' cannot be read",
    }.items():
        with pytest.raises(ValueError, match=rf"^path .*{words}"):
            sf.load(tmp_path / name)
    (tmp_path / "mine.zarr").mkdir()
    for name, words in {
        "run.csv": "must be a name that ends in .nc or .zarr",
        "run": "must be a name that ends in .nc or .zarr",
        "mine.zarr": "must be a new name, or what save wrote before, got the folder",
    }.items():
        with pytest.raises(ValueError, match=rf"^path {words}"):
            run.save(tmp_path / name)
    with pytest.raises(ValueError, match=r"attributes\['odd'\] is <object object"):
        run.replace(attributes={"odd": object()}).save(tmp_path / "a.nc")
    assert not (tmp_path / "a.nc").exists()


def test_a_newer_or_a_damaged_file_is_refused(run, tmp_path, monkeypatch):
    path = tmp_path / "run.nc"
    run.save(path)
    for place in ("loss", "sharpflow/arrays", "sharpflow/object"):
        with h5py.File(path, "r+") as file:
            kept = file[place][0]
            file[place][0] = kept + 1 if place != "loss" else np.nextafter(kept, 2.0)
        with pytest.raises(ValueError, match=r"^path = .*run.nc' cannot be read.*not what was sav"):
            sf.load(path)
        with h5py.File(path, "r+") as file:
            file[place][0] = kept
    assert_same(run, sf.load(path))
    monkeypatch.setattr(saving, "_VERSION", 2)
    run.save(path)
    monkeypatch.setattr(saving, "_VERSION", 1)
    with pytest.raises(ValueError, match=r"path must be a file of format 1 or before.*update"):
        sf.load(path)


def test_a_zarr_folder_that_lacks_a_file_is_refused(run, tmp_path):
    run.save(tmp_path / "run.zarr")
    os.remove(next((tmp_path / "run.zarr" / "loss" / "c").iterdir()))
    with pytest.raises(ValueError, match="the array loss is not what was saved"):
        sf.load(tmp_path / "run.zarr")


def test_float64_is_not_rounded_where_x64_is_off(run, tmp_path):
    run.save(tmp_path / "run.nc")
    with jax.enable_x64(False), pytest.raises(ValueError, match=r"float64.*jax_enable_x64"):
        sf.load(tmp_path / "run.nc")


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("call", ["_write", "_flush", "replace"])
def test_a_save_that_is_stopped_leaves_what_was_there(run, tmp_path, monkeypatch, ending, call):
    path = tmp_path / f"run{ending}"
    run.save(path)
    home = saving if call == "_write" else type(path) if call == "replace" else files
    going_on, stopped = getattr(home, call), []

    def interrupted(*arguments, **keywords):
        # between two writes, before the disk has all of it, or before it is moved to its place
        second_write = call == "_write" and keywords["group"] is not None
        if (
            second_write
            or call == "_flush"
            or (call == "replace" and arguments[1] == path and not stopped)
        ):
            stopped.append(arguments)
            raise OSError("stopped")
        return going_on(*arguments, **keywords)

    monkeypatch.setattr(home, call, interrupted)
    with pytest.raises(OSError, match="stopped"):
        run.replace(final_step=7).save(path)
    monkeypatch.undo()
    assert len(stopped) == 1
    assert sorted(tmp_path.iterdir()) == [path]
    assert_same(run, sf.load(path))


def test_no_name_of_a_file_is_called():
    writer = Writer({}, {})
    node = json.dumps(writer.node((optax.EmptyState(), np.ones(2)), "x"))
    assert "EmptyState" in node and "optax" not in node and "__" not in node


# snapshots and forks


# As of ``run``: with 9 to 16 records and snapshots at every second one, all have one program.
KEPT = {"snapshot_every": 2}


def test_going_on_with_a_problem_of_other_shapes_is_refused(run):
    narrow = sf.models.matrix_completion(shape=(6, 5), rank=1, width=2)
    for start in (run, run.snapshot()):
        with pytest.raises(ValueError, match=r"u has shape \(6, 3\) instead of \(6, 2\)"):
            sf.simulate(narrow, start, sf.gdwd(0.5, 0.01), 4)


def test_going_on_from_a_snapshot_has_the_bits_of_not_having_stopped(problem, run):
    rest = sf.simulate(problem, run.snapshot(16), sf.gdwd(0.5, 0.01), 24, record_every=2, **KEPT)
    np.testing.assert_array_equal(rest.step[::2], run.step[4:])
    for name in ("loss", "norm_squared", "threshold"):
        np.testing.assert_array_equal(rest[name][::2], run[name][4:])
    np.testing.assert_array_equal(rest.tau[::2], run.tau[4:])
    assert_same(rest.final_params, run.final_params)
    assert rest.final_step == 40 and run.snapshot().step == 40


def test_an_unchanged_fork_knows_whether_its_first_step_raises_the_loss(problem, run):
    rule = sf.gdwd(40.0, 0.01)  # beyond the edge, where the loss jumps
    whole = sf.simulate(problem, run.snapshot(16), rule, 16, **KEPT)
    rises = whole["loss_rises"]
    risen = [s for s in whole.snapshot_step if s > 16 and rises[s - 16] == 1.0]
    assert risen and 0.0 in rises
    for step in (risen[0], 18 if rises[2] == 0.0 else 20):
        again = sf.simulate(problem, whole.snapshot(step), rule, 16, **KEPT)
        same = rises[step - 16 :]
        np.testing.assert_array_equal(again["loss_rises"][: len(same)], same)
    # the loss before was not recorded, and a rise that nobody knows of is none
    assert np.isnan(run.snapshot(16).previous_loss)
    blind = dataclasses.replace(whole.snapshot(risen[0]), previous_loss=np.nan)
    assert sf.simulate(problem, blind, rule, 16, **KEPT)["loss_rises"][0] == 0.0


def test_a_fork_keeps_step_and_flow_time_and_counts_on_at_its_own_rate(problem, run, tmp_path):
    steps = np.arange(16)
    half = sf.gdwd(0.25, 0.01)
    fork = sf.simulate(problem, run.snapshot(16), half, 16, **KEPT)
    np.testing.assert_array_equal(fork.step, 16 + steps)
    np.testing.assert_allclose(fork.tau, 0.08 + 0.0025 * steps, rtol=1e-12)
    np.testing.assert_allclose(fork.snapshot_tau, fork.tau[::2], rtol=0)
    np.testing.assert_allclose(fork["norm_squared"][0], run["norm_squared"][4], rtol=1e-12)
    # 2(1 − ηλ)/η ‖w‖²: twice as high, but for ηλ
    np.testing.assert_allclose(fork["threshold"][0], 2 * run["threshold"][4], rtol=0.005)
    assert "at step 16, τ = 0.08" in repr(fork)
    np.testing.assert_array_equal(fork.to_dataset().tau, fork.tau)
    # and so on, from its end, from a file, and by a further fork
    fork.save(tmp_path / "fork.nc")
    for start in (fork, sf.load(tmp_path / "fork.nc")):
        on = sf.simulate(problem, start, half, 16, **KEPT)
        np.testing.assert_allclose(on.tau, 0.12 + 0.0025 * steps, rtol=1e-12)
    assert sf.simulator.concatenate(fork, on).tau[-1] == on.tau[-1]
    back = sf.simulate(problem, fork.snapshot(), sf.gdwd(0.5, 0.01), 16, **KEPT)
    np.testing.assert_allclose(back.tau, 0.12 + 0.005 * steps, rtol=1e-12)
    with pytest.raises(ValueError, match="second was forked from first with another rule"):
        sf.simulator.concatenate(fork, back)
    same_clock = sf.simulate(problem, run.snapshot(), sf.gdwd(1.0, 0.005), 16, **KEPT)
    assert same_clock.intrinsic_rate == run.intrinsic_rate
    with pytest.raises(ValueError, match="second was forked from first with another rule"):
        sf.simulator.concatenate(run, same_clock)


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        (optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau(factor=0.5)), "scale"),
        (optax.chain(optax.sgd(0.1), optax.add_noise(1e-3, 0.5, jax.random.key(0))), "rng_key"),
    ],
)
def test_state_of_single_numbers_that_a_snapshot_has_not_is_told(problem, run, rule, told):
    promoted = jax.numpy_dtype_promotion("standard")  # in optax
    with promoted, pytest.warns(UserWarning, match=f"{told}.* begin at step 16"):
        sf.simulate(problem, run.snapshot(16), rule, 2, observables=["loss"])


def test_accumulated_gradients_cannot_begin_in_the_middle(problem, run):
    rule = optax.MultiSteps(optax.sgd(0.1), 2)
    with pytest.raises(ValueError, match=r"optax\.MultiSteps cannot go on"):
        sf.simulate(problem, run.snapshot(16), rule, 2)


def test_a_snapshot_that_is_not_there_is_refused_with_those_that_are(run):
    with pytest.raises(ValueError, match=r"step must be that of a snapshot, of 0, 8, 16.* got 9"):
        run.snapshot(9)
    bare = run.replace(params=None, snapshot_row=np.zeros(0, int))
    with pytest.raises(ValueError, match=r"step must be the last one, 40.*snapshot_every"):
        bare.snapshot(8)
    assert bare.snapshot(40).step == 40
    with pytest.raises(ValueError, match="final_params=True"):
        run.replace(final_params=None).snapshot()
    with pytest.raises(ValueError, match=r"^step must be an integer"):
        run.snapshot(0.5)


@pytest.mark.usefixtures("promotion_of_users")
def test_schedules_begin_at_the_step_of_a_snapshot(problem, params, run):
    rate = optax.piecewise_constant_schedule(0.5, {16: 0.1})  # 0.05 from step 16 on
    slow, fast = (
        sf.simulate(problem, run.snapshot(16), optax.sgd(r), 4, observables="loss")
        for r in (rate, 0.05)
    )
    np.testing.assert_allclose(slow["loss"], fast["loss"], rtol=1e-12)
    injected = optax.inject_hyperparams(optax.sgd)(rate)
    found = sf.simulate(problem, run.snapshot(16), injected, 4, observables="loss")
    np.testing.assert_allclose(found["loss"], fast["loss"], rtol=1e-12)
    assert int(found.final_state.optimizer_state.count) == 20


def test_buffers_that_begin_anew_from_a_snapshot_are_told(problem, run):
    schedule = optax.constant_schedule(0.1)
    for rule, told in (
        (sf.simulator.momentum(0.1), ["average"]),
        (optax.sgd(0.1, momentum=0.9), ["trace"]),
        (optax.chain(optax.adam(0.01), optax.scale(1.0)), ["mu", "nu"]),
        (sf.quasi_rmsprop(0.1), ["v"]),
        (sf.simulator.rmsprop(0.1), ["nu"]),
        (sf.gdwd(0.1, 0.0), []),
        (optax.inject_hyperparams(optax.sgd)(schedule), []),
    ):
        assert buffers(rule.init(run.final_params)) == told
    with pytest.warns(UserWarning, match=r"\['average'\] of the rule begin at step 16") as caught:
        sf.simulate(problem, run.snapshot(16), sf.simulator.momentum(0.1), 2, observables="loss")
    assert [warning.filename for warning in caught] == [__file__]

"""A file of the arrays that is damaged, cut short or missing is told by name, whoever reads."""

import collections
import json
import random
import shutil
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import xarray
import zarr
from scenarios import differences
from typer.testing import CliRunner

import sharpflow as sf
from sharpflow.experiments.cli import app
from sharpflow.simulator.store import reading
from sharpflow.simulator.store.folder import RunFolder

CONFIG = """
problem = "sharpflow.models:matrix_completion"
seed = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
learning_rate = [0.3, 0.6]
weight_decay = 0.01
num_steps = 40
record_every = 5
snapshot_every = 3
group_width = 1
dtype = "float64"
observables = ["loss", "norm_squared", "loss_mean", "metrics"]

[problem_options]
shape = [6, 5]
rank = 1
"""


def _flip(path: Path, moments: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[moments.randrange(len(content))] ^= 1 << moments.randrange(8)
    path.write_bytes(content)


def _cut(path: Path, moments: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: moments.randrange(path.stat().st_size)])


def _delete(path: Path, moments: random.Random) -> None:
    del moments
    path.unlink()


DAMAGES = {"flipped": _flip, "cut short": _cut, "deleted": _delete}


def _called(*arguments: object) -> str:
    """What the command says of a run that it refuses; nothing where it does not."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exit_code == 0:
        return ""
    assert result.exit_code == 2 and "Traceback" not in result.stderr, result.stderr
    (line,) = result.stderr.strip().splitlines()
    return line


def _opened(run: Path) -> str:
    try:
        sf.open_run(run).load()
    except sf.simulator.RunError as error:
        return str(error)
    return ""


ROUTES = {
    "open_run": _opened,
    "--resume": lambda run: _called("run", "--out", run, "--resume", "--no-progress"),
    "plot": lambda run: _called("plot", run),
    "report": lambda run: _called("report", run, "--no-predictions"),
}


@pytest.fixture
def runs(many_chunks, compiled_once, updates_made, tmp_path):
    """A run of the command line that ended, and one with points ended, in flight and waiting."""
    path = tmp_path / "small.toml"
    path.write_text(CONFIG)
    assert _called("run", path, "--out", tmp_path / "finished", "--no-progress") == ""
    updates_made.clear()
    updates_made.stop_after = 5
    arguments = ["run", str(path), "--out", str(tmp_path / "unfinished"), "--no-progress"]
    assert CliRunner().invoke(app, arguments).exit_code == 130
    updates_made.stop_after = None
    status = sf.open_run(tmp_path / "unfinished")["status"].values
    assert {-1, 0} == set(status.ravel())
    assert RunFolder(tmp_path / "unfinished").read_checkpoints(0)[0].positions
    return {name: tmp_path / name for name in ("finished", "unfinished")}


def _chunks(run: Path) -> list[Path]:
    files = (run / "data.zarr").rglob("*")
    return sorted(path for path in files if path.is_file() and path.name != "zarr.json")


def test_a_damaged_file_of_the_arrays_is_told_by_name_on_every_way(runs, soaking, say):
    moments, told = random.Random(0), collections.Counter()
    for state, run in runs.items():
        chunks = _chunks(run)
        assert len(chunks) > 60
        for what, damage in DAMAGES.items():
            for way, read in ROUTES.items():
                count = 300 if soaking else 6 if way == "open_run" else 1
                for path in moments.choices(chunks, k=count):
                    whole = path.read_bytes()
                    damage(path, moments)
                    said = read(run)
                    assert str(path) in said and "put it back from a copy" in said, (
                        f"{way} of the {state} run, {path} {what}: {said!r}"
                    )
                    told[state, what, way] += 1
                    path.write_bytes(whole)
        assert all(read(run) == "" for read in (_opened, ROUTES["--resume"]))
    if soaking:
        for (state, what, way), count in told.items():
            say(f"{way} of a run that is {state}: {count} of {count} files {what} are told")


def test_every_file_of_the_arrays_is_missed(every_kind, updates_made, tmp_path, soaking):
    # snapshots, last params, several batches, and a point that diverges
    every_kind.run(tmp_path / "whole")
    updates_made.clear()
    updates_made.stop_after = 9  # within the second batch; a stop leaves nothing uncounted
    with pytest.raises(sf.simulator.Interrupted):
        every_kind.run(tmp_path / "stopped")
    for name in ("whole", "stopped"):
        run = tmp_path / name
        for path in _chunks(run)[:: 1 if soaking else 13]:
            content = path.read_bytes()
            path.unlink()
            with pytest.raises(sf.simulator.RunError, match="is missing") as missed:
                reading.promised_chunks(RunFolder(run))
            assert str(path) in str(missed.value)
            path.write_bytes(content)
    assert differences(sf.open_run(tmp_path / "whole"), every_kind.result) == []


def _lost_after(steps):
    """An update rule with which params are finite and their norm is not, after some steps."""

    def update(updates, count, params):
        del params
        far = jnp.where(count + 1 == steps, 1e200, 0.0)
        return jax.tree.map(lambda leaf: jnp.full_like(leaf, far), updates), count + 1

    rule = optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)
    return lambda learning_rate, weight_decay: rule


def test_a_point_that_is_found_lost_between_two_chunks_has_the_record_of_that_step(short, tmp_path):
    # chunks of four rows: the fifth record is due where the params are lost, and never observed
    changes = {"num_steps": 10, "record_every": 1, "snapshot_every": 2, "optimizer": _lost_after(4)}
    found = short.run(tmp_path / "run", **changes)
    assert np.all(found["final_step"] == 4) and np.all(found["status"] == sf.Status.DIVERGED)
    assert differences(found, sf.simulate_grid(**(short.arguments | changes))) == []
    lost = tmp_path / "run" / "data.zarr" / "params" / "c" / "0" / "0" / "0" / "2" / "0"
    assert np.all(np.isfinite(found["params"][0, 0, 0, :2]))
    lost.unlink()
    with pytest.raises(sf.simulator.RunError, match=f"{lost} is missing"):
        sf.open_run(tmp_path / "run")


def test_a_file_that_is_lost_once_the_run_is_open_is_missed_when_it_is_used(short, tmp_path):
    found = short.run(tmp_path / "run")
    lost = next(path for path in _chunks(tmp_path / "run") if "loss" in path.parts)
    lost.unlink()
    with pytest.raises(sf.simulator.RunError, match=f"{lost} is missing"):
        found["loss"].load()


def test_a_missing_file_of_points_in_flight_can_be_made_again(short, tmp_path):
    run = tmp_path / "run"
    short.midway(run)
    lost = next(path for path in _chunks(run) if "loss" in path.parts)
    lost.unlink()
    with pytest.raises(sf.simulator.RunError, match="or remove .*checkpoints and resume"):
        short.run(run)
    shutil.rmtree(run / "checkpoints")
    assert differences(short.run(run), short.result) == []


def test_no_state_that_a_kill_leaves_looks_as_if_something_were_missing(
    every_kind, tmp_path, soaking
):
    from filesystem import write_tree

    states = [state for state in every_kind.states if "run.json" in state]
    for number, state in enumerate(states[:: 1 if soaking else len(states) // 16]):
        write_tree(tmp_path / str(number), state)
        reading.verified_digest(RunFolder(tmp_path / str(number)))


def test_a_copy_elsewhere_opens_and_goes_on(short, tmp_path):
    short.midway(tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "there" / "copy", copy_function=shutil.copyfile)
    shutil.rmtree(tmp_path / "run")
    assert differences(short.run(tmp_path / "there" / "copy"), short.result) == []


def test_metadata_of_the_arrays_with_a_flipped_bit_are_refused(short, tmp_path):
    run = tmp_path / "run"
    short.midway(run)
    path = run / "data.zarr" / "zarr.json"
    whole = path.read_bytes()
    for place in range(0, len(whole), 97):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(sf.simulator.RunError, match="data.zarr"):
            sf.open_run(run)
    path.write_bytes(whole)
    assert differences(short.run(run), short.result) == []


# Runs of earlier versions: chunks without checksums, none of nothing but fill values, a
# description without a seal, and arrays that do not say what they hold.

OF_EARLIER = ("flag_values", "flag_meanings", "sharpflow_name")  # attributes of arrays


def _made_earlier(run: Path) -> None:
    """Write a run again as earlier versions did."""
    described = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({"format": 1, "grid": described["grid"]}))
    shutil.rmtree(run / "ended", ignore_errors=True)
    (run / "data.zarr").rename(run / "new.zarr")
    with warnings.catch_warnings():  # Zarr warns that texts came after its specification
        warnings.simplefilter("ignore")
        source = zarr.open_group(run / "new.zarr", mode="r")
        target = zarr.create_group(
            run / "data.zarr", zarr_format=3, attributes=source.attrs.asdict()
        )
        for name, array in source.arrays():
            copied = target.create_array(
                name,
                shape=array.shape,
                chunks=array.chunks,
                dtype=array.dtype if array.dtype.kind in "biuf" else "str",
                fill_value=array.fill_value,
                dimension_names=array.metadata.dimension_names,
                attributes={k: v for k, v in array.attrs.asdict().items() if k in OF_EARLIER},
            )
            copied[...] = array[...]
        zarr.consolidate_metadata(run / "data.zarr")
    shutil.rmtree(run / "new.zarr")


def test_a_run_of_an_earlier_version_opens_and_goes_on(every_kind, tmp_path):
    for name, make in (("midway", every_kind.midway), ("whole", every_kind.run)):
        make(tmp_path / name)
        _made_earlier(tmp_path / name)
        sf.open_run(tmp_path / name, verify=True).load()
        assert differences(every_kind.run(tmp_path / name), every_kind.result) == []
        assert differences(sf.open_run(tmp_path / name), every_kind.result) == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("loss", "loss/c/0/0/0/0 is missing"),
        ("status", None),  # as if the point had not ended: a resume makes it again
        ("final_step", "final_step/c/0/0/0 is missing"),
        ("learning_rate", "the axis learning_rate in .*run.json do not agree"),
    ],
)
def test_of_an_earlier_version_what_can_be_checked_is(short, tmp_path, name, message):
    run = tmp_path / "run"
    short.run(run)
    _made_earlier(run)
    lost = next(path for path in _chunks(run) if name in path.parts)
    whole = lost.read_bytes()
    lost.write_bytes(whole[:-1])
    with pytest.raises(sf.simulator.RunError, match=f"{lost} is damaged"):
        sf.open_run(run).load()
    lost.unlink()
    if message is None:
        assert differences(short.run(run), short.result) == []
        return
    with pytest.raises(sf.simulator.RunError, match=message):
        sf.open_run(run)


def test_known_values_of_an_earlier_version_are_compared_on_resume(short, tmp_path):
    run = tmp_path / "run"
    short.midway(run)
    _made_earlier(run)
    array = zarr.open_group(run / "data.zarr", mode="r+")["step"]
    array[1] = 6
    with pytest.raises(sf.simulator.RunError, match="step is damaged: it does not hold what was"):
        short.run(run)


def test_plain_xarray_finds_a_flipped_bit_too(short, tmp_path):
    short.run(tmp_path / "run")
    path = next(path for path in _chunks(tmp_path / "run") if "loss" in path.parts)
    _flip(path, random.Random(0))
    found = xarray.open_zarr(tmp_path / "run" / "data.zarr", chunks=None)
    with pytest.raises(ValueError, match="checksum"):
        np.asarray(found["loss"])

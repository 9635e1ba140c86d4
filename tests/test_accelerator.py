"""The measurements on accelerators: their rehearsal on a CPU, and what the runner survives."""

import itertools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sharpflow as sf
from benchmarks.accelerator import __main__ as accelerator
from benchmarks.accelerator import record, table
from benchmarks.accelerator.operations import product_operations
from benchmarks.accelerator.runner import run_sections
from benchmarks.accelerator.sections import NAMES, SECTIONS, Section
from benchmarks.tables import END
from sharpflow.experiments.checks import Check

ROOT = Path(__file__).parents[1]
KEYS = {"section", "size", "state", "seconds", "made", "notes", "measurements", "failures",
        "left_out"}  # fmt: skip
MEASUREMENTS = {
    "numbers": {"regression", "mlp, float32", "λ₁ of mlp, float32"},
    "grid": {"8 points, without λ₁, highest", "8 points, λ₁ to 0.001 every 100, highest"},
    "vgg11": {"steps at highest"},
    "resnet20": {"steps at highest"},
    "poster": {"mlp-digits-small", "figures"},
    "resume": {"kill and resume", "flow"},
}


def _call(*options: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "benchmarks.accelerator", *map(str, options)]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def rehearsal(tmp_path_factory) -> Path:
    """The folder of a rehearsal that ended well."""
    folder = tmp_path_factory.mktemp("rehearsal")
    run = _call("--size", "toy", "--out", folder)
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


@pytest.mark.parametrize("name", NAMES)
def test_every_section_of_the_rehearsal_is_done_and_what_it_states_holds(name, rehearsal):
    content = json.loads((rehearsal / f"{name}.json").read_text())
    assert set(content) == KEYS
    assert (content["section"], content["size"]) == (name, "toy")
    assert (content["state"], content["failures"], content["left_out"]) == ("done", {}, [])
    assert MEASUREMENTS[name] <= set(content["measurements"])
    checks = record.checks_of(content)
    assert checks and all(np.isfinite(check.measured) for check in checks)
    assert not [check for check in checks if check.holds is False]


def test_a_second_call_skips_what_is_done(rehearsal):
    before = {path: path.stat().st_mtime_ns for path in rehearsal.glob("*.json")}
    run = _call("--size", "toy", "--out", rehearsal)
    assert run.returncode == 0
    assert all(f"{name}: done before" in run.stdout for name in NAMES)
    assert {path: path.stat().st_mtime_ns for path in rehearsal.glob("*.json")} == before


def test_the_table_of_a_run_has_a_row_for_every_section_and_the_device(rehearsal):
    text = table.accelerator_table(rehearsal)
    assert all(f"| {name} | statements that hold | " in text for name in NAMES)
    assert f"{jax.default_backend()}, jax {jax.__version__}" in text


def test_without_an_accelerator_one_line_says_so_with_status_2(tmp_path):
    run = _call("--out", tmp_path / "out")
    assert run.returncode == 2
    (line,) = run.stderr.splitlines()
    assert "no accelerator" in line and "make rehearsal" in line
    assert not (tmp_path / "out").exists()


def test_the_budgets_leave_the_runner_time_within_eight_minutes():
    assert sum(section.budget for section in SECTIONS) <= 8 * 60 - 15


_SCRIPT = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from benchmarks.accelerator.record import Record
from sharpflow.experiments.checks import Check
record = Record(Path({path!r}), {name!r}, "toy", {{"device": "cpu", "jax_version": "0"}}, 60.0)
record.measure("first", lambda: ({{}}, [Check("part", "statement", 1.0, {low})]))
{rest}
record.close()
"""


def _ran(tmp_path, names, rest, *, low=0.0, budget=60.0, again=False):
    """How sections end that measure one thing, and then do something else each."""
    sections = [Section(name, "of a test", budget, "") for name in names]

    def command(section):
        path = str(tmp_path / f"{section.name}.json")
        script = _SCRIPT.format(root=str(ROOT), path=path, name=section.name, low=low,
                                rest=rest.get(section.name, ""))  # fmt: skip
        return [sys.executable, "-c", script]

    endings = run_sections(sections, command, tmp_path, again=again)
    return {ending.section.name: ending for ending in endings}


def test_a_section_that_raises_is_recorded_as_failed_and_the_others_go_on(tmp_path):
    rest = {
        "breaks": "raise RuntimeError('the card fell off')",
        "raises": "record.measure('second', lambda: 1 / 0)",
    }
    ended = _ran(tmp_path, ["breaks", "raises", "whole"], rest)
    assert [ended[name].state for name in ended] == ["failed", "failed", "done"]
    assert [ended[name].holds for name in ended] == [False, False, True]
    for name, word in (("breaks", "the card fell off"), ("raises", "ZeroDivisionError")):
        content = record.read(tmp_path / f"{name}.json")
        assert list(content["measurements"]) == ["first"]
        assert any(word in error for error in content["failures"].values())


def test_a_section_over_its_budget_is_cut_and_keeps_what_it_has(tmp_path):
    # long enough for a process to begin on a machine that is busy
    ended = _ran(tmp_path, ["slow"], {"slow": "time.sleep(600)"}, budget=25.0)["slow"]
    assert (ended.state, ended.holds) == ("cut", False)
    assert list(record.read(tmp_path / "slow.json")["measurements"]) == ["first"]


def test_a_section_whose_statement_fails_is_done_and_does_not_hold(tmp_path):
    ended = _ran(tmp_path, ["wrong"], {}, low=2.0)["wrong"]
    assert (ended.state, ended.holds) == ("done", False)


def test_what_a_section_has_is_not_measured_again_unless_that_is_asked(tmp_path):
    rest = {"some": "record.measure('second', lambda: 1 / 0)"}
    path = tmp_path / "some.json"
    _ran(tmp_path, ["some"], rest)
    first = record.read(path)["measurements"]["first"]
    assert _ran(tmp_path, ["some"], {})["some"].state == "done"
    assert record.read(path)["measurements"]["first"] == first
    _ran(tmp_path, ["some"], {}, again=True)
    assert record.read(path)["measurements"]["first"] != first  # its seconds


@pytest.mark.parametrize("key", ["device", "jax_version", "code"])
def test_measurements_of_another_device_jax_or_code_are_dropped(tmp_path, key):
    path = tmp_path / "some.json"
    made = {"device": "cpu", "jax_version": "0", "code": "a"}
    record.Record(path, "some", "toy", made).measure("first", lambda: ({}, []))
    same = made | {"git_revision": "another, as the results were committed"}
    assert record.Record(path, "some", "toy", same).has("first")
    assert not record.Record(path, "some", "toy", made | {key: "b"}).has("first")


def test_the_digest_of_the_code_changes_with_what_is_measured_and_not_with_results(tmp_path):
    for name in ("sharpflow/a.py", "sharpflow/b.toml", "benchmarks/accelerator/c.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("1")
    found = [record.code_digest(tmp_path)]
    (tmp_path / "benchmarks" / "results.json").write_text("2")
    (tmp_path / "sharpflow" / "a.pyc").write_text("2")
    assert record.code_digest(tmp_path) == found[0]
    for name in ("sharpflow/a.py", "sharpflow/b.toml", "benchmarks/accelerator/c.py"):
        (tmp_path / name).write_text("2")
        found.append(record.code_digest(tmp_path))
    assert len(set(found)) == 4


def test_a_section_that_other_code_measured_is_not_done(tmp_path, capsys):
    path, sections = tmp_path / "some.json", [Section("some", "of a test", 60.0, "")]
    made = {"device": "cpu", "jax_version": "0", "code": "a" * 64}
    some = record.Record(path, "some", "toy", made)
    some.close()

    def again(code):
        (ending,) = run_sections(sections, lambda section: ["false"], tmp_path, code=code)
        return ending.state

    assert again("a" * 64) == again(None) == "done"
    assert again("b" * 64) == "failed"  # it ran
    assert f"some: again, code {'a' * 12} measured it" in capsys.readouterr().out


@pytest.mark.parametrize("content", ["{", "[]", '{"state": "done"}', b"\xff"])
def test_a_damaged_file_is_named_with_what_to_do_and_nothing_runs(tmp_path, content, capsys):
    path = tmp_path / "grid.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    sections = [Section(name, "of a test", 60.0, "") for name in ("numbers", "grid")]
    match = re.escape(str(path)) + " cannot be read: .*; remove it, and its section is measured"
    with pytest.raises(record.RecordError, match=match):
        run_sections(sections, lambda section: ["false"], tmp_path)
    with pytest.raises(record.RecordError, match=match):
        table.accelerator_table(tmp_path)
    with pytest.raises(record.RecordError, match=match):
        record.Record(path, "grid", "toy", {})
    assert not list(tmp_path.glob("*.log"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["accelerator", "--size", "toy", "--out", str(tmp_path)])
        assert accelerator.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {path} cannot be read: ")


def test_the_table_says_which_code_measured_a_section_where_they_differ(tmp_path):
    made = {"created": "2026-11-27T00:00", "device": "gpu", "jax_version": "0", "code": "c" * 64}
    for section, revision in (("numbers", "a" * 40), ("grid", "a" * 40), ("vgg11", "b" * 40)):
        how = made | {"git_revision": revision}
        record.Record(tmp_path / f"{section}.json", section, "toy", how).close()
    dirty = made | {"git_revision": "a" * 40 + "-dirty"}
    record.Record(tmp_path / "poster.json", "poster", "toy", dirty).close()
    head, *_, numbers, grid, vgg11, poster = table.accelerator_table(tmp_path).splitlines()
    assert f"2026-11-27, gpu, jax 0, commit {'a' * 12}: " in head
    assert "commit" not in numbers + grid and f"commit {'b' * 12} |" in vgg11
    assert f"commit {'a' * 12} with changes that are not committed, code {'c' * 12} |" in poster
    assert record.code_in_words({"code": "c" * 64}) == f"code {'c' * 12}"


def test_what_there_is_no_time_for_is_named_and_left_to_a_later_call(tmp_path):
    made = {"device": "cpu", "jax_version": "0"}
    some = record.Record(tmp_path / "some.json", "some", "toy", made, budget=5.0)
    some.measure("long", lambda: ({}, []), seconds=10.0)
    some.close()
    content = record.read(tmp_path / "some.json")
    assert (content["state"], content["left_out"]) == ("unfinished", ["long"])


@pytest.mark.parametrize("low,high", list(itertools.product((-np.inf, 0.5), (2.0, np.inf))))
def test_a_statement_is_read_as_it_was_written(low, high):
    check = Check("part", "statement", 1.0, low, high, "note")
    assert record.check_of(json.loads(json.dumps(record.row_of(check)))) == check


def test_the_page_shows_what_the_results_hold_that_it_names_or_that_there_are_none():
    _, rest = table.PAGE.read_text().split(f"<!-- table of {table.NAME} -->\n")
    shown, _ = rest.split(END, 1)
    assert shown.strip() == table.accelerator_table(table.named_folder()).strip()


def test_products_of_a_network_are_counted_as_by_hand():
    n, sizes = 7, (5, 4, 3)
    x = np.random.default_rng(0).normal(size=(n, sizes[0]))
    problem = sf.models.mlp(x, np.arange(n) % 3, widths=sizes[1:2])
    params = problem.init(jax.random.key(0))
    first, second = 2 * n * 5 * 4, 2 * n * 4 * 3
    assert product_operations(problem.loss_value, params) == first + second
    # and the gradient by every kernel, and by the inputs of all layers but the first
    gradient = jax.grad(problem.loss_value)
    assert product_operations(gradient, params) == 2 * first + 3 * second
    looped = lambda params: jax.lax.scan(  # noqa: E731
        lambda p, _: (gradient(p), None), params, length=3
    )[0]
    assert product_operations(looped, params) == 3 * (2 * first + 3 * second)


@pytest.mark.parametrize(
    "convolution", [jax.lax.conv_general_dilated, sf.models.conv_general_dilated]
)
@pytest.mark.parametrize("stride", [1, 2])
def test_products_of_a_convolution_are_counted_as_by_hand(stride, convolution):
    def loss(x, kernel):
        numbers = ("NHWC", "HWIO", "NHWC")
        padding = ((1, 1), (1, 1))
        y = convolution(x, kernel, (stride, stride), padding, dimension_numbers=numbers)
        return jnp.sum(jnp.square(y))

    x, kernel = jnp.ones((2, 8, 8, 3), jnp.float32), jnp.ones((3, 3, 3, 5), jnp.float32)
    once = 2 * (2 * (8 // stride) ** 2 * 5) * (3 * 3 * 3)
    assert product_operations(loss, x, kernel) == once
    for argument in (0, 1):
        assert product_operations(jax.grad(loss, argument), x, kernel) == 2 * once

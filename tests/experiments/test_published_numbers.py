"""Published numbers of a config are read, kept and set beside those of its run."""

import re
import tomllib

import numpy as np
import pytest
import xarray
from configs import error_of
from typer.testing import CliRunner

from sharpflow.experiments.cli import app
from sharpflow.experiments.config import Published, differences, load
from sharpflow.experiments.published import beside
from sharpflow.experiments.report import write_report
from sharpflow.simulator.store.arrays import PENDING
from sharpflow.theory import Status

OWN = """
problem = "sharpflow.experiments.problems:matrix_factorization"
seed = 0
learning_rate = [0.1, 0.2]
weight_decay = 0.0
num_steps = 60
record_every = 10
observables = ["loss", "hessian_sharpness"]
dtype = "float64"

[[published]]
quantity = "hessian_sharpness"
over = "stability_line"
at = "largest"
value = [0.5, 1]
source = "[1], table 2"

[[published]]
quantity = "loss"
at = 20
where = {learning_rate = 0.2}
value = 1e-3
source = "somebody's letter"
"""


def test_published_numbers_are_read_and_written_with_the_config(write):
    path = write(OWN)
    config = load(path)
    first, second = config.published
    assert first == Published(
        "hessian_sharpness", (0.5, 1), "[1], table 2", over="stability_line", at="largest"
    )
    assert (second.at, second.where, second.value) == (20, {"learning_rate": 0.2}, 1e-3)
    text = config.to_toml()
    assert tomllib.loads(text)["published"] == tomllib.loads(OWN)["published"]
    assert load(write(text)).published == config.published


def test_a_run_goes_on_with_other_published_numbers(write):
    before, after = load(write(OWN)), load(write(OWN), ["published=[]"])
    assert after.published == () and before == after and not differences(before, after)


def test_a_preset_keeps_its_published_numbers_under_a_file(write):
    path = write('preset = "matrix-factorization"\nnum_steps = 10\n')
    assert load(path).published == load("matrix-factorization").published != ()


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("published = 3", "published: got 3; allowed tables, each headed by"),
        ("published = [3]", r"published: got \[3\]; allowed tables"),
        ("[[published]]\nvalue = 1.0\nsource = 'a'", r"published\[0\].quantity: got nothing"),
        ("value = nan", r"published\[0\].value: got nan; allowed a finite number, or"),
        ("value = [2, 1]", r"published\[0\].value: got \[2, 1\]; allowed a finite number, or"),
        ("value = [1, 2, 3]", r"published\[0\].value: got \[1, 2, 3\]"),
        ("source = ''", r'published\[0\].source: got ""; allowed a text'),
        ("at = 'last'", r'published\[0\].at: got "last"; allowed "end", "start", .* or a step'),
        ("at = -1", r"published\[0\].at: got -1; allowed"),
        ("at = true", r"published\[0\].at: got true; allowed"),
        ("where = 3", r"published\[0\].where: got 3; allowed a table of axes"),
        ("where = {seed = [1]}", r"published\[0\].where: got {seed = \[1\]}; allowed a table"),
        ("over = 1", r"published\[0\].over: got 1; allowed the name of a column"),
        ("valu = 1", r"published\[0\].valu: got an unknown key; .* did you mean \"value\"\?"),
    ],
)
def test_what_is_wrong_with_a_published_number_is_told(write, entry, expected):
    given = dict(line.split(" = ", 1) for line in entry.splitlines() if " = " in line)
    if "published" not in entry:
        given = {"quantity": "'loss'", "value": "1.0", "source": "'a'"} | given
        entry = "\n".join(["[[published]]", *(f"{key} = {text}" for key, text in given.items())])
    head = OWN.split("[[published]]")[0]
    (line,) = error_of(write(f"{head}\n{entry}\n")).mistakes
    assert re.match(expected, line), line


def _grid(values, statuses=None, name="loss"):
    """A grid of two seeds and two learning rates, with values along 20 records each."""
    values = np.asarray(values, float)
    dims = ("seed", "learning_rate", "weight_decay")
    shape = (*values.shape[:2], 1)
    statuses = np.full(shape, int(Status.SUCCESS)) if statuses is None else statuses
    return xarray.Dataset(
        {
            name: ((*dims, "step"), values[:, :, None, :]),
            "status": (dims, np.asarray(statuses).reshape(shape)),
            "line": ((*dims, "step"), np.full((*shape, values.shape[-1]), 4.0)),
        },
        {
            "seed": [0, 1],
            "learning_rate": [0.1, 0.2],
            "weight_decay": [0.0],
            "step": 10 * np.arange(values.shape[-1]),
        },
    )


COUNTING = np.arange(80.0).reshape(2, 2, 20)


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        ("end", [[18.5, 58.5], [38.5, 78.5]]),  # the last two of twenty
        ("start", [[0, 40], [20, 60]]),
        ("largest", [[19, 59], [39, 79]]),
        ("smallest", [[0, 40], [20, 60]]),
        (0, [[0, 40], [20, 60]]),
        (34, [[3, 43], [23, 63]]),  # the nearest record is that at step 30
        (10**6, [[19, 59], [39, 79]]),
    ],
)
def test_a_number_is_read_where_it_was_published(at, expected):
    entries = beside(_grid(COUNTING), [Published("loss", 1.0, "a", at=at)])
    assert [entry.where for entry in entries] == ["η = 0.1", "η = 0.2"]
    np.testing.assert_allclose([entry.here for entry in entries], expected)


def test_a_number_may_be_a_ratio_of_columns():
    number = Published("loss", (0.0, 1.0), "a", over="line", at="start")
    entries = beside(_grid(COUNTING), [number])
    np.testing.assert_allclose([entry.here for entry in entries], [[0, 10], [5, 15]])
    assert entries[0].published_in_words == "0 to 1"
    assert entries[0].here_in_words == "5 (0 to 10)"
    assert entries[0].what == "training loss L / line, at the start"


def test_a_number_of_one_point_is_told_of_that_point_alone():
    (entry,) = beside(_grid(COUNTING), [Published("loss", 1.0, "a", where={"learning_rate": 0.2})])
    assert entry.place == {"learning_rate": 0.2}
    np.testing.assert_allclose(entry.here, [38.5, 78.5])
    (entry,) = beside(_grid(COUNTING), [Published("loss", 1.0, "a", where={"learning_rate": 0.3})])
    assert (entry.here_in_words, entry.where) == ("no such point", "η = 0.3")
    (entry,) = beside(_grid(COUNTING), [Published("loss", 1.0, "a", where={"depth": 4})])
    assert entry.here_in_words == "no such point"


def test_a_point_without_an_end_has_no_number():
    statuses = [[0, int(Status.NOT_FINITE)], [PENDING, int(Status.NOT_FINITE)]]
    for at in ("end", "start", "largest", 20):
        first, second = beside(_grid(COUNTING, statuses), [Published("loss", 1.0, "a", at=at)])
        assert np.isfinite(first.here).tolist() == [True, False]
        assert first.here_in_words.endswith(", 1 diverged or not ended)")
        assert second.here_in_words == "diverged or not ended"


def test_a_column_that_was_not_recorded_is_told():
    (entry,) = beside(_grid(COUNTING), [Published("hessian_sharpness", 2.0, "a", over="line")])
    assert entry.here_in_words == "no column 'hessian_sharpness'"
    assert entry.what == "sharpness λ₁(∇²L(wₜ)) / line, at the end"


def test_the_command_and_the_report_show_published_numbers(write, tmp_path):
    out = tmp_path / "run"
    result = CliRunner().invoke(
        app, ["run", str(write(OWN)), "--out", str(out), "--no-progress"], env={"COLUMNS": "200"}
    )
    assert result.exit_code == 0, result.output + result.stderr
    *table, last = result.output.strip().splitlines()
    assert last.endswith("run: 2 success")
    assert sum("[1], table 2" in line and "0.5 to 1" in line for line in table) == 2
    (row,) = [line for line in table if "somebody's letter" in line]
    assert "at step 20" in row and "η = 0.2" in row and "0.001" in row
    page = write_report(out, predictions=0, progress=False).read_text()
    assert "Published numbers beside those of this run" in page
    section = re.search(r'<section id="published">(.*?)</section>', page, re.DOTALL)
    rows = [row for row in section[1].split("<tr")[2:] if "[1], table 2" in row]
    assert len(rows) == 2 and all("0.5 to 1" in row for row in rows)
    # without decay and without an edge ratio nothing is measured beside the theory of the edge
    assert "Measured beside predicted" not in page

"""The table of ratios in the documentation is what one run of the benchmarks wrote."""

import json
import re

import pytest

from benchmarks.ratios import RATIOS, ratio_table
from benchmarks.tables import DOCS, END, put_table

NAME = "the benchmarks"
PAGE = DOCS / "benchmarks.md"


def _results():
    (name,) = re.findall(r"benchmarks/results/([\w-]+\.json)", PAGE.read_text())
    return DOCS.parent / "benchmarks" / "results" / name


def test_the_table_is_made_from_the_results_that_it_names(tmp_path):
    page = tmp_path / "benchmarks.md"
    page.write_text(PAGE.read_text())
    put_table(page, ratio_table(_results()), NAME)
    assert page.read_text() == PAGE.read_text()


def test_a_goal_that_is_missed_is_called_so(tmp_path):
    run = json.loads(_results().read_text())
    check = next(
        check for check in run["checks"] if check["statement"].endswith(next(iter(RATIOS)))
    )
    check |= {"measured": 7.0, "high": 2.0, "holds": False}
    page = tmp_path / "results.json"
    page.write_text(json.dumps(run))
    assert re.search(r"\| 7 \| at most 2 \(missed\) \|", ratio_table(page))


@pytest.mark.parametrize("ratio", RATIOS)
def test_a_run_that_left_a_benchmark_out_makes_no_table(ratio, tmp_path):
    run = json.loads(_results().read_text())
    found = [check for check in run["checks"] if check["statement"].endswith(ratio)]
    run["checks"].remove(found[-1])
    path = tmp_path / "results.json"
    path.write_text(json.dumps(run))
    with pytest.raises(ValueError, match=re.escape(ratio)):
        ratio_table(path)


def test_only_what_stands_between_the_marks_of_a_table_is_replaced(tmp_path):
    page = tmp_path / "page.md"
    before, after = "one\n<!-- table of it -->\n", f"{END}two\n<!-- table of more -->\n{END}"
    page.write_text(f"{before}old\n{after}")
    put_table(page, "new", "it")
    assert page.read_text() == f"{before}\nnew\n\n{after}"

"""The table of ratios in the documentation is what one run of the benchmarks wrote."""

import json
import re

import pytest

from benchmarks.ratios import RATIOS, ratio_table
from benchmarks.tables import DOCS, END, PAGES, README, SHOWN, put_table, renew_rows

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


def test_the_rows_in_readme_are_those_of_the_pages(tmp_path):
    page = tmp_path / "README.md"
    page.write_text(README.read_text())
    renew_rows(page, "".join((DOCS / page).read_text() for page in PAGES), SHOWN)
    assert page.read_text() == README.read_text()
    shown = README.read_text().split(f"<!-- rows of {SHOWN} -->")[1].split(END)[0]
    assert shown.count("\n| MLP on digits |") == 3 and shown.count("\n| grid of ") == 1


def test_rows_are_renewed_and_one_that_is_gone_is_told(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"one\n<!-- rows of it -->\n| a | b | 1 |\n{END}two\n")
    renew_rows(page, "| c | d | 3 |\n| a | b | 2 |\n", "it")
    assert page.read_text() == f"one\n<!-- rows of it -->\n| a | b | 2 |\n{END}two\n"
    with pytest.raises(KeyError):
        renew_rows(page, "| c | d | 3 |\n", "it")

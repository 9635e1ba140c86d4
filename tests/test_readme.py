"""The code blocks of README and of the documentation run."""

import re
from pathlib import Path

import jax
import pytest

_ROOT = Path(__file__).parents[1]
_README = _ROOT / "README.md"
_PAGES = sorted(page.name for page in (_ROOT / "docs").glob("*.md"))


def _blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)


_BLOCKS = _blocks(_README)


@pytest.mark.parametrize("block", _BLOCKS, ids=range(len(_BLOCKS)))
def test_a_code_block_of_the_readme_runs(block, capsys):
    # flax's own layers mix dtypes, as a user's settings allow them to
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        exec(compile(block, str(_README), "exec"), {"__name__": "readme"})
    printed = capsys.readouterr().out
    assert printed
    if "from_flax" in block:
        assert "fixed=" in printed
    assert float(printed.splitlines()[-1]) < 0.08


@pytest.mark.parametrize("name", [name for name in _PAGES if _blocks(_ROOT / "docs" / name)])
def test_the_code_of_a_page_runs_from_top_to_bottom(name, capsys):
    names = {"__name__": "page"}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for block in _blocks(_ROOT / "docs" / name):
            exec(compile(block, name, "exec"), names)
    assert "sf" in names
    assert "nan" not in capsys.readouterr().out.lower()  # every number shown was found

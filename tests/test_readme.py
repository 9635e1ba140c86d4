"""The code blocks of README run."""

import re
from pathlib import Path

import jax
import pytest

_README = Path(__file__).parents[1] / "README.md"
_BLOCKS = re.findall(r"```python\n(.*?)```", _README.read_text(), flags=re.DOTALL)


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

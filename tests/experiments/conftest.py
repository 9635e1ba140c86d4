"""What the tests of the experiments share: where their helpers lie, configs, and figures."""

import copy
import re
import sys
import textwrap
from pathlib import Path

import matplotlib
import numpy as np
import pytest

matplotlib.use("agg")
from matplotlib import pyplot

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "models" / "data"))

from cifar_files import write_batch
from configs import MODULE

NUM_RECORDS = 40  # of each file, every class equally often


@pytest.fixture
def settings_stay():
    """The settings of matplotlib are after the test as they were before it."""
    before = copy.deepcopy(dict(matplotlib.rcParams))
    yield
    pyplot.close("all")
    assert dict(matplotlib.rcParams) == before


@pytest.fixture
def write(tmp_path):
    """Write a config and return its path."""

    def written(data):
        path = tmp_path / "config.toml"
        path.write_bytes(data if isinstance(data, bytes) else textwrap.dedent(data).encode())
        return path

    return written


@pytest.fixture
def module(tmp_path):
    """Write a module beside the config and return its name, which no other test uses."""

    def written(text=MODULE):
        name = "of_" + re.sub(r"\W", "_", tmp_path.name)
        (tmp_path / f"{name}.py").write_text(text)
        return name

    return written


@pytest.fixture
def cifar10_root(tmp_path: Path) -> Path:
    """The folder above six small files in the layout of CIFAR-10, of random pixels."""
    random = np.random.default_rng(0)
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        pixels = random.integers(0, 256, (NUM_RECORDS, 32, 32, 3), dtype=np.uint8)
        path = tmp_path / "cifar-10-batches-bin" / f"{name}.bin"
        write_batch(path, pixels, np.arange(NUM_RECORDS) % 10)
    return tmp_path

"""What every test runs under, and the problems that many of them share."""

import gc
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

# Of every program that it reads from a cache XLA logs features of the machine, as an error, which
# would stand among what a test expects on stderr; the level is read when jax is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import sharpflow as sf

sys.path.insert(0, str(Path(__file__).parent))

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

hypothesis.settings.register_profile("sharpflow", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("sharpflow")

# machine code of a program in one piece; and plain loops, by a flag that later versions do not know
_QUICK = ["--xla_cpu_parallel_codegen_split_count=1"]
if jax.__version_info__ < (0, 11):
    _QUICK.append("--xla_cpu_use_fusion_emitters=false")
_PROGRAMS = pytest.StashKey[str]()
_ALLOCATIONS = 100_000  # from one search for reference cycles to the next


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--optimized``: programs as users have them; it takes about twice as long."""
    parser.addoption(
        "--optimized", action="store_true", help="let XLA optimize what the tests compile"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Nearly every test compiles programs that it runs once: compile them quickly.

    So do the processes that tests start, which must have the bits of those here.
    """
    gc.set_threshold(_ALLOCATIONS, 20, 20)
    if config.getoption("optimized"):
        return
    jax.config.update("jax_disable_most_optimizations", True)
    jax.config.update("jax_traceback_in_locations_limit", 0)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"
    flags = os.environ.get("XLA_FLAGS", "").split()
    os.environ["XLA_FLAGS"] = " ".join([*flags, *(flag for flag in _QUICK if flag not in flags)])
    _compile_equal_programs_once(config)


def _compile_equal_programs_once(config: pytest.Config) -> None:
    """Keep what takes long to compile in a folder, for the workers and the processes of tests.

    Every launch of a grid compiles its program ahead of time, and every worker what others have
    compiled: nearly half of all compiling. What is read has the bits of what was compiled.
    """
    given = getattr(config, "workerinput", {}).get("programs")
    if given is None:
        folder = tempfile.TemporaryDirectory(prefix="sharpflow-programs-")
        config.add_cleanup(folder.cleanup)
        given = folder.name
    config.stash[_PROGRAMS] = given
    for name, value in {
        "jax_compilation_cache_dir": given,
        "jax_persistent_cache_min_compile_time_secs": 0.05,
        "jax_persistent_cache_min_entry_size_bytes": 0,
    }.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node) -> None:
    """Tell a worker of xdist where the programs of this run are."""
    node.workerinput["programs"] = node.config.stash[_PROGRAMS]


@pytest.fixture
def optimized() -> Iterator[None]:
    """Programs that XLA optimizes, for what depends on how they round.

    Not quite as users have them: flags of XLA, those of ``_QUICK``, stay. What was compiled before
    is forgotten, because jax does not ask how a program was compiled.
    """
    jax.clear_caches()
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


_MOST_MAPPINGS = 20_000  # of memory; Linux allows a process 65,530


@pytest.fixture(autouse=True, scope="module")
def few_memory_mappings():
    """Drop compiled programs before a worker runs out of memory mappings, and of memory."""
    yield
    mappings = Path("/proc/self/maps")
    if mappings.exists() and len(mappings.read_bytes().splitlines()) > _MOST_MAPPINGS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(autouse=True)
def no_figure_stays_open() -> Iterator[None]:
    """A test may count the figures that it opens, whatever a worker has run before it."""
    yield
    if "matplotlib.pyplot" in sys.modules:  # most tests draw nothing, and importing it takes long
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with reference numbers and CIFAR-10, where this machine has one."""
    folder = os.environ.get("SHARPFLOW_DATA")
    if not folder:
        pytest.skip("SHARPFLOW_DATA does not name the folder with the reference numbers")
    return Path(folder)


@pytest.fixture(scope="session")
def reference(shared_data: Path) -> dict[str, np.ndarray]:
    """The multi-edge flow on a small network, by a separate program: names to arrays."""
    with np.load(shared_data / "reference" / "multi_edge_flow.npz") as stored:
        return {name: stored[name] for name in stored.files}


@pytest.fixture(scope="session")
def reference_problem(reference: dict[str, np.ndarray]) -> sf.Problem:
    """The Problem of the reference numbers; d = 252, twelve residuals."""
    return sf.models.mlp(reference["X"], reference["Y"], widths=(12, 12))


@pytest.fixture(scope="session")
def reference_params() -> Callable[[np.ndarray], sf.models.Params]:
    """The map from the flat vectors of the reference, shape (..., 252), to params."""

    def params(flat: np.ndarray) -> sf.models.Params:
        layers, start = {}, 0
        for index, shape in enumerate([(8, 12), (12, 12), (12, 1)]):
            stop = start + shape[0] * shape[1]
            kernel = jnp.asarray(flat[..., start:stop]).reshape(*flat.shape[:-1], *shape)
            layers[f"Dense_{index}"] = {"kernel": kernel}
            start = stop
        return layers

    return params


class OnManifold(NamedTuple):
    """A problem and a point of its Γ, of unit norm."""

    problem: sf.Problem
    theta: sf.models.Params


@pytest.fixture(scope="session")
def tiny_mlp() -> OnManifold:
    """A 6-6-3 network on eight digits and a point of its Γ; d = 438, 24 residuals."""
    problem = sf.models.mlp(*sf.models.digits(8, classes=(0, 1, 2)), widths=(6, 6))
    flat, unravel = ravel_pytree(problem.init(jax.random.key(0)))
    gradient = jax.grad(lambda theta: problem.loss_value(unravel(theta)))

    @jax.jit
    def trained(theta: jax.Array) -> jax.Array:
        def step(_: int, theta: jax.Array) -> jax.Array:
            theta = theta - 0.02 * gradient(theta)
            return theta / jnp.linalg.norm(theta)

        return jax.lax.fori_loop(0, 1000, step, theta / jnp.linalg.norm(theta))

    return OnManifold(problem, sf.theory.retract(problem, unravel(trained(flat))))

"""The rooms of the package import one way only, and its public names stay."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import sharpflow

PACKAGE = Path(sharpflow.__file__).parent
ROOMS = ("models", "theory", "simulator", "experiments")  # each may import those before it
MODULES = sorted(path for room in ROOMS for path in (PACKAGE / room).rglob("*.py"))


def _imported(path: Path) -> Iterator[str]:
    """Dotted names of what a module imports, anywhere in it."""
    package = ("sharpflow", *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            source = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{source}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_only_itself_and_the_rooms_below_it(path):
    room = path.relative_to(PACKAGE).parts[0]
    allowed = {*ROOMS[: ROOMS.index(room) + 1], "__version__"}
    inside = [name.split(".") for name in _imported(path) if name.split(".")[0] == "sharpflow"]
    for parts in inside:
        if len(parts) == 1:
            assert room == ROOMS[-1], f"{path} imports the whole package, which imports it"
        else:
            assert parts[1] in allowed, f"{path} of {room} imports {'.'.join(parts)}"


def test_every_folder_with_modules_is_a_package_that_gets_installed():
    assert not {p.parent for p in MODULES if not (p.parent / "__init__.py").is_file()}


@pytest.mark.parametrize(
    ("room", "names"),
    [
        ("sharpflow", ["Problem", "sharpness_flow", "central_flow", "predict", "compare"]),
        ("sharpflow", ["gdwd", "quasi_rmsprop", "simulate"]),
        ("sharpflow.models", ["linear_regression", "matrix_completion", "mlp", "from_flax"]),
        ("sharpflow.models", ["check_scale_invariance"]),
        ("sharpflow.theory", ["spherical_sharpness", "top_eigenpairs", "tangent_projection"]),
        ("sharpflow.theory", ["retract", "retract_with_status", "start_at_edge"]),
        ("sharpflow.theory", ["edge_entry_step", "predicted_loss"]),
    ],
)
def test_public_names_are_callable(room, names):
    module = importlib.import_module(room)
    assert not [name for name in names if not callable(getattr(module, name, None))]


def test_importing_the_package_does_not_load_what_is_used_later():
    heavy = ["matplotlib", "xarray", "sklearn", "typer", "diffrax", "lineax", "pandas"]
    heavy += ["zarr", "h5py", "plotly", "flax.nnx", "sharpflow.experiments"]
    program = f"import sys, sharpflow; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stdout + run.stderr


def test_the_last_room_and_its_parts_are_loaded_where_they_are_first_used():
    program = (
        "import sys, sharpflow as sf; before = set(sys.modules); "
        "sf.experiments.problems.mlp_digits; loaded = set(sys.modules) - before; "
        "assert 'sharpflow.experiments.problems' in loaded, loaded; "
        "assert not [name for name in loaded if 'plots' in name or 'report' in name], loaded; "
        "assert callable(sf.experiments.generalization); "
        "assert sf.experiments.plots is sf.plots; "
        "assert {'config', 'plots', 'problems', 'report'} <= set(dir(sf.experiments)); "
        "assert 'experiments' in dir(sf) and not hasattr(sf.experiments, 'nothing')"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert not run.returncode, run.stderr


def test_importing_the_package_leaves_the_configuration_of_jax_alone():
    program = (
        "import jax; before = dict(jax.config.values); import sharpflow; "
        "print([name for name in before if jax.config.values[name] != before[name]])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stdout + run.stderr

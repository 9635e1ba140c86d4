"""Presets are valid, come in two sizes, and start where they say."""

import dataclasses
import itertools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

import sharpflow as sf
from sharpflow.experiments import problems
from sharpflow.experiments.cli import app
from sharpflow.experiments.config import load, presets
from sharpflow.theory.exact import angle_to_span

# of names: networks and products without normalization
NOT_INVARIANT = (
    *("no-normalization", "tanh-", "central-flow-", "chebyshev-", "matrix-factorization"),
    "diagonal-",
)
# They are for two cores already, and a smaller one would not show what they show.
WITHOUT_SMALL = (*("poster", "chebyshev-", "matrix-factorization", "diagonal-", "three-regimes"),)


@pytest.mark.parametrize("name", presets())
def test_a_preset_is_valid_and_builds_its_problem(name, cifar10_root):
    config = load(name)
    assert config.description == presets()[name] and config.description.endswith(".")
    if "cifar10" in name and name.endswith("-small"):
        return  # the same problem in another size, as the next test has it
    if "cifar10" in config.problem:  # its images are no part of the package
        small = {"num_images": 20, "root": str(cifar10_root)}
        if "dense" not in config.problem:
            small["num_test_images"] = 10
        narrow = {"vgg_cifar10": {"channels": (2, 0)}, "mlp_cifar10": {"widths": (4,)}}
        narrow["vit_small_cifar10"] = {"width": 1 / 32, "depth": 1}
        narrow |= {name: {"widths": (4,)} for name in ("dense_cifar10", "dense_cifar10_classes")}
        small |= narrow.get(config.problem.split(":")[1], {"width": 1 / 16})
        config = dataclasses.replace(config, problem_options=config.problem_options | small)
    problem = config.build()["problem"]
    if not isinstance(problem, sf.models.Problem):  # one for each value of an axis
        problem = problem(**{axis: values[0] for axis, values in config.axes.items()})
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(problem.init(jax.random.key(0)))}
    assert dtypes == {np.dtype(config.dtype)}
    assert problem.scale_invariant != any(part in name for part in NOT_INVARIANT)


def test_every_preset_has_a_small_version_of_the_same_problem():
    names = [
        name
        for name in presets()
        if not name.endswith("-small") and not any(part in name for part in WITHOUT_SMALL)
    ]
    assert {"linear-regression", "matrix-completion", "mlp-digits", "vgg11-cifar10"} <= set(names)
    smaller = {"width", "depth", "num_groups", "num_images", "num_test_images", "pool"}
    sequences = {"num_sequences", "num_layers"}
    for name in names:
        large, small = load(name), load(f"{name}-small")
        assert large.problem == small.problem
        changed = large.problem_options.items() ^ small.problem_options.items()
        allowed = smaller if "cifar10" in name else sequences if "sorting" in name else set()
        assert {key for key, _ in changed} <= allowed
        assert small.num_steps is None or small.num_steps < large.num_steps
        assert len(small.seed) < len(large.seed) or len(large.seed) == 1


OWN = """
description = "Matrix completion, two points."
problem = "sharpflow.models:matrix_completion"
seed = [0, 1]
learning_rate = 0.3
weight_decay = 0.01
tau = 0.03
dtype = "float64"

[problem_options]
shape = [6, 5]
rank = 1
"""


def test_a_config_from_outside_the_package_is_one_file_and_runs_as_a_preset_does(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(OWN)
    result = CliRunner().invoke(app, ["run", str(path), "--dry-run"])
    assert result.exit_code == 0, result.output + result.stderr
    assert "2 points: 2 seed × 1 learning_rate × 1 weight_decay" in result.output
    assert "updates: 20 in all, tau = 0.03 each" in result.output


def test_a_preset_of_the_package_is_one_file_in_its_folder(tmp_path):
    copy = tmp_path / "sharpflow"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(sf.__file__).parent, copy, ignore=ignored)
    (copy / "experiments" / "presets" / "own.toml").write_text(OWN)
    (tmp_path / "over.toml").write_text('preset = "own"\nseed = 7\n')
    program = (
        "from sharpflow.experiments.config import load, presets\n"
        "print(presets()['own'], load('own').tau, load('over.toml').seed)"
    )
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.stdout.strip() == "Matrix completion, two points. 0.03 (7,)", run.stderr


def test_a_changed_preset_loses_its_description():
    assert load("mlp-digits", ["seed=1"]).description == ""


@pytest.mark.parametrize(("angle", "seed"), [*itertools.product([0.3, 1.2], [0, 1])])
def test_the_start_at_an_angle_is_at_the_edge(angle, seed):
    problem = problems.linear_regression_digits(dtype="float64")
    start = problems.start_at_angle(
        jax.random.key(seed), 0.2, 0.01, angle=angle, perturbation=0.0, dtype="float64"
    )
    theta = start / jnp.linalg.norm(start)
    assert float(problem.loss_value(start)) < 1e-25
    x, _ = sf.models.digits(20)
    np.testing.assert_allclose(angle_to_span(np.asarray(theta), x), angle, rtol=1e-12)
    np.testing.assert_allclose(problem.metrics["angle_to_solution"](start), angle, rtol=1e-12)
    general = sf.theory.start_at_edge(problem, theta, 0.2, 0.01, perturbation=0.0)
    np.testing.assert_allclose(start, general, rtol=1e-9)
    off = problems.start_at_angle(jax.random.key(seed), 0.2, 0.01, angle=angle, dtype="float64")
    vector = sf.theory.spherical_sharpness(problem, theta)[1][0]
    moved = (off - start) / jnp.linalg.norm(start)
    np.testing.assert_allclose(abs(moved @ vector), 1e-4, rtol=1e-6)
    np.testing.assert_allclose(jnp.linalg.norm(moved), 1e-4, rtol=1e-9)


def test_points_outside_the_span_differ_from_seed_to_seed():
    one, other = (problems.start_at_angle(jax.random.key(s), 0.2, 0.01) for s in (0, 1))
    cosine = one @ other / jnp.linalg.norm(one) / jnp.linalg.norm(other)
    assert cosine < 0.9


def test_the_linear_preset_follows_the_exact_angle():
    config = load("linear-regression-small")
    arguments = config.build()
    rate, decay = config.learning_rate[0], max(config.weight_decay)
    trajectory = sf.simulate(
        arguments["problem"],
        arguments["start"](jax.random.key(0), rate, decay, angle=1.2),
        arguments["optimizer"](rate, decay),
        round(config.tau / (rate * decay)),
        record_every=20,
        observables=("metrics",),
        progress=False,
    )
    expected = np.arctan(np.tan(1.2) * np.exp(-trajectory.tau))
    # what the description promises
    np.testing.assert_allclose(trajectory["angle_to_solution"], expected, atol=0.02)

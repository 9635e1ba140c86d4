"""A rule in one file outside the package, that of docs/howto-optimizer.md: GD+WD with λ = δ/η."""

import dataclasses
import importlib.util
import warnings
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sharpflow as sf
from sharpflow.simulator import EdgeDynamics, EdgeRule, Observable
from sharpflow.simulator.rules import edge_dynamics
from sharpflow.theory import exact

PAGE = Path(__file__).parents[3] / "docs" / "howto-optimizer.md"
ETA, RATE, ANGLE = 0.5, 2e-4, 1.2


@pytest.fixture(scope="module")
def decoupled(tmp_path_factory) -> ModuleType:
    """The module ``decoupled`` of the page, imported from a file of its own."""
    path = tmp_path_factory.mktemp("outside") / "decoupled.py"
    path.write_text("# decoupled.py" + PAGE.read_text().split("# decoupled.py")[1].split("```")[0])
    spec = importlib.util.spec_from_file_location("decoupled", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Regression(NamedTuple):
    x: np.ndarray
    problem: sf.Problem
    theta: jax.Array


@pytest.fixture(scope="module")
def regression() -> Regression:
    """Batch-norm linear regression, and a point of Γ at ``ANGLE`` to the flattest ones."""
    random = np.random.default_rng(0)
    x, y = random.normal(size=(6, 10)), random.normal(size=6)
    away = np.linalg.svd(x - x.mean(axis=0))[2][5:].sum(axis=0)
    along = exact.minimum_norm_direction(x, y), away / np.linalg.norm(away)
    theta = np.cos(ANGLE) * along[0] + np.sin(ANGLE) * along[1]
    return Regression(x, sf.models.linear_regression(x, y), jnp.asarray(theta))


@pytest.fixture(scope="module")
def run(decoupled, regression) -> sf.Trajectory:
    """From the edge, with snapshots and the edge ratio."""
    problem, theta = regression.problem, regression.theta
    start = sf.theory.start_at_edge(problem, theta, ETA, RATE / ETA, perturbation=5e-4)
    asked = ["norm_squared", "threshold", sf.sharpness(), "hessian_sharpness"]
    return sf.simulate(
        problem, start, decoupled.decoupled(ETA, RATE), 4001, record_every=400, snapshot_every=1,
        observables=asked,
    )  # fmt: skip


def test_a_simulation_has_threshold_and_edge_ratio(run):
    assert isinstance(run.final_state.optimizer_state, EdgeRule)
    expected = 2.0 * (1.0 - RATE) * run["norm_squared"] / ETA
    np.testing.assert_allclose(run["threshold"], expected, rtol=1e-13)
    ratio = run["sharpness_iterate"][:, 0] / expected
    np.testing.assert_allclose(run["edge_ratio_iterate"], ratio, rtol=1e-13)
    np.testing.assert_allclose(run["stability_line"], 2.0 / ETA, rtol=1e-14)
    assert (run.intrinsic_rate, run.response, run.oscillation_share) == (RATE, 2.0, 1.0)
    assert run.on_sphere and run.kappa == 0.0
    assert run.attributes["learning_rate"] == ETA and run.attributes["decay"] == RATE


def test_its_prediction_is_the_closed_form_on_its_clock(regression, run):
    flow = sf.predict(regression.problem, run, max_edge=1)
    np.testing.assert_allclose(flow.tau[-1], RATE * 4000, rtol=1e-12)
    angles = exact.angle_to_span(run.params, regression.x)[-1]
    predicted = exact.angle_to_span(flow.theta, regression.x)[-1]
    closed = exact.linear_regression_angle(ANGLE, run.tau[-1])
    assert abs(predicted - closed) <= 1e-3 * abs(ANGLE - closed)
    assert abs(angles - closed) <= 0.02 * abs(ANGLE - closed)  # as gdwd in test_ire.py


def test_a_trajectory_goes_on_with_the_same_numbers_only(decoupled, regression, run):
    with pytest.raises(ValueError, match="the same numbers"):
        sf.simulate(regression.problem, run, decoupled.decoupled(ETA, 2 * RATE), 1)


def test_a_grid_takes_its_clock_and_has_its_threshold(decoupled, regression):
    grid = sf.simulate_grid(
        regression.problem, seeds=0, learning_rates=[0.2, 0.4], weight_decays=1e-2, tau=0.08,
        num_records=4, observables=["norm_squared", "threshold", sf.sharpness()],
        optimizer=decoupled.decoupled_of_grid, group_width=2,
    )  # fmt: skip
    np.testing.assert_array_equal(grid.num_steps.values.ravel(), [40, 20])
    tau = grid.tau.isel(weight_decay=0).values
    np.testing.assert_allclose(tau, [[0.0, 0.02, 0.04, 0.06]] * 2, rtol=1e-13)
    rate = np.array([[0.2], [0.4]])
    expected = 2.0 * (1.0 - 1e-2 * rate) * grid.norm_squared.values[0, :, 0] / rate
    np.testing.assert_allclose(grid.threshold.values[0, :, 0], expected, rtol=1e-13)
    ratio = grid.sharpness_iterate.values[0, :, 0, :, 0] / expected
    np.testing.assert_allclose(grid.edge_ratio_iterate.values[0, :, 0], ratio, rtol=1e-13)


class _Step(NamedTuple):
    """A rule that tells its step alone."""

    size: jax.Array

    def edge_dynamics(self):
        return EdgeDynamics(effective_learning_rate=lambda params: self.size)


def test_what_is_not_told_is_left_out_and_not_taken_from_gradient_descent(regression):
    rule = optax.GradientTransformation(
        lambda params: _Step(jnp.ones(())), lambda gradient, state, params: (gradient, state)
    )
    seen = Observable("seen", lambda moment: jnp.asarray(moment.rule.response is None))
    params = regression.problem.init(jax.random.key(0))
    run = sf.simulate(regression.problem, params, rule, 1, observables=["threshold", seen])
    np.testing.assert_array_equal(run["threshold"], [2.0])
    assert run["seen"].all()
    assert all(np.isnan([run.intrinsic_rate, run.response, run.oscillation_share]))
    with pytest.raises(ValueError, match="intrinsic rate"):
        sf.predict(regression.problem, dataclasses.replace(run, params=params[None]))


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (lambda: {"response": 2.0}, "Namespace.edge_dynamics must return a .*EdgeDynamics, got"),
        (lambda: EdgeDynamics(intrinsic_rate=jnp.ones(3)), r"intrinsic_rate must be .*\(3,\)"),
        (lambda: EdgeDynamics(hyperparameters={"b": np.ones(2)}), r"b must be .*\(2,\)"),
        (lambda: EdgeDynamics(effective_learning_rate=0.1), "effective_learning_rate must be a"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_by_its_name(told, message):
    with pytest.raises(ValueError, match=message):
        edge_dynamics((optax.EmptyState(), SimpleNamespace(edge_dynamics=told)))


def test_a_schedule_around_a_rule_that_keeps_its_numbers_is_refused(decoupled, regression):
    rule = optax.inject_hyperparams(decoupled.decoupled)(lambda step: jnp.ones(()), 1e-3)
    with pytest.raises(ValueError, match=r"\['learning_rate'\].*would not follow"):
        sf.simulate(regression.problem, regression.theta, rule, 1)


def test_the_five_methods_of_before_tell_the_same_with_a_warning():
    new = sf.gdwd(0.3, 0.01).init(jnp.ones(3))
    told = new.edge_dynamics()
    former = SimpleNamespace(
        effective_learning_rate=new.effective_learning_rate,
        step_size=lambda: told.step_size,
        intrinsic_rate=lambda: told.intrinsic_rate,
        response=lambda: told.response,
        stays_on_sphere=lambda: True,
        learning_rate=new.learning_rate,
        weight_decay=new.weight_decay,
    )
    with pytest.warns(FutureWarning, match=r"edge_dynamics.*0\.2"):
        found = edge_dynamics((former,))
    same = ("effective_learning_rate", "step_size", "intrinsic_rate", "response")
    for name in (*same, "oscillation_share", "on_sphere", "hyperparameters"):
        assert getattr(found, name) == getattr(told, name), name
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        edge_dynamics((new,))

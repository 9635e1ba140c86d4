"""A simulation says what it takes for granted and does not hold, once, and how to get it."""

import warnings
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import sharpflow as sf
from sharpflow.simulator import EdgeDynamics

X = np.random.default_rng(0).normal(size=(6, 3))
Y = np.array([0, 1, 0, 1, 1, 0])
SPHERICAL = ("loss", "threshold")


class _Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        options = {"dtype": x.dtype, "param_dtype": x.dtype}
        x = nn.tanh(nn.BatchNorm(False, epsilon=0.0, **options)(nn.Dense(3, **options)(x)))
        return nn.Dense(2, **options)(x)


def _network(**keywords):
    return sf.models.from_flax(_Net(), X.astype(np.float32), Y, **keywords)


def _said(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    # each points to a line of its caller
    assert all(one.filename == __file__ for one in caught)
    return [str(one.message) for one in caught]


def _simulate(problem, observables, rule=None, **keywords):
    params = problem.init(jax.random.key(0))
    rule = sf.gdwd(0.1, 0.01) if rule is None else rule
    return sf.simulate(problem, params, rule, 2, observables=observables, **keywords)


def _grid(problem, observables, optimizer=sf.gdwd):
    return sf.simulate_grid(
        problem,
        seeds=[0, 1],
        learning_rates=[0.1, 0.2],
        weight_decays=0.01,
        num_steps=2,
        observables=observables,
        optimizer=optimizer,
        group_width=1,
    )


@pytest.mark.parametrize("run", [_simulate, _grid])
def test_a_network_that_is_not_invariant_is_told_once_with_what_breaks_it(run):
    problem = _network()
    (said,) = _said(lambda: run(problem, SPHERICAL))
    assert "taken to be scale-invariant, as is assumed by threshold, but" in said
    assert "It depends on the scale of BatchNorm_0/bias, BatchNorm_0/scale, Dense_1/bias" in said
    assert "from_flax(..., fixed=[" in said and "scale_invariant= of from_flax says which" in said
    assert not _said(lambda: run(problem, SPHERICAL))


def test_nothing_is_said_where_nothing_is_taken_for_granted():
    fixed = ["BatchNorm_0", "Dense_1"]
    for problem in (_network(fixed=fixed), _network(scale_invariant=False)):
        assert not _said(lambda made=problem: _simulate(made, SPHERICAL))
    assert not _said(lambda: _simulate(_network(), ["loss", "hessian_sharpness"]))
    # without a rate there is no threshold either
    assert not _said(
        lambda: _simulate(_network(), sf.simulator.observables.DEFAULT, optax.sgd(0.1))
    )


def test_a_trajectory_has_the_same_bits_whether_the_loss_was_looked_at_or_not():
    fixed = ["BatchNorm_0", "Dense_1"]
    looked_at, marked = (_network(fixed=fixed, scale_invariant=mark) for mark in (None, True))
    found = [_simulate(made, SPHERICAL) for made in (looked_at, marked)]
    for name in found[0].columns:
        np.testing.assert_array_equal(found[0][name], found[1][name])
    assert not looked_at.is_marked and marked.is_marked
    assert not looked_at.is_new_to("scale") and marked.is_new_to("scale")


@pytest.fixture(scope="module")
def regression():
    return sf.models.linear_regression(X, X[:, 0])


@pytest.mark.parametrize(
    ("optimizer", "observables", "remedy"),
    [
        (lambda rate, _: optax.sgd(rate, momentum=0.9), ["loss", "threshold"], "'threshold', and"),
        (
            lambda rate, _: optax.rmsprop(rate),
            "effective_learning_rate",
            "effective_learning_rate=",
        ),
        (sf.gdwd, ["loss", "metrics"], "with test=(x, y), or with metrics={name: function}"),
    ],
)
def test_a_column_that_is_asked_for_and_cannot_be_is_told_with_how_to_get_it(
    regression, optimizer, observables, remedy
):
    for call in (
        lambda: _simulate(regression, observables, optimizer(0.1, 0.01)),
        lambda: _grid(regression, observables, optimizer),
    ):
        (said,) = _said(call)
        assert remedy in said and "there will be no such column" in said


def test_the_default_columns_promise_nothing(regression):
    assert not _said(
        lambda: _simulate(regression, sf.simulator.observables.DEFAULT, optax.rmsprop(1.0))
    )
    given = {"effective_learning_rate": lambda state, params: jnp.asarray(0.1)}
    assert not _said(lambda: _simulate(regression, ["threshold"], optax.rmsprop(1.0), **given))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("step_size", {"step_size": -0.1}),
        ("stability_line", {"stability_line": jnp.asarray(-20.0)}),
        ("intrinsic_rate", {"intrinsic_rate": -1e-3}),
        ("effective_learning_rate", {"effective_learning_rate": lambda w: -1 / jnp.sum(w**2)}),
        ("learning_rate", {"hyperparameters": {"learning_rate": -0.1}}),
        ("kappa", {"kappa": -1.5}),
    ],
)
def test_a_rule_of_somebody_else_that_tells_a_negative_number_is_refused(regression, name, told):
    class _State(NamedTuple):
        count: jax.Array

        def edge_dynamics(self):
            return EdgeDynamics(**told)

    def optimizer(learning_rate, weight_decay):
        update = lambda gradient, state, params=None: (gradient, state)  # noqa: E731
        return optax.GradientTransformation(lambda params: _State(jnp.zeros(())), update)

    match = rf"_State\.edge_dynamics\(\)\.{name} must be"
    with pytest.raises(ValueError, match=match):
        _simulate(regression, "loss", optimizer(0.1, 0.1))
    with pytest.raises(ValueError, match=match):
        _grid(regression, "loss", optimizer)

"""Every public function refuses what its arguments cannot mean, and says which one it was."""

import inspect
import pickle
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bad_arguments import CALLS, START
from test_public_names import FUNCTIONS

import sharpflow as sf
from sharpflow.models.arguments import POSITIVE, ArgumentError, checked, require_within
from sharpflow.theory import Status, settled_excess

COUNT = sum(len(bad.values) for call in CALLS.values() for bad in call.bad.values())


def test_every_argument_of_every_public_function_is_in_the_table():
    assert CALLS.keys() == FUNCTIONS.keys()
    for name, call in CALLS.items():
        arguments = inspect.signature(FUNCTIONS[name]).parameters.keys()
        assert {*call.bad, *call.free} == arguments, name
    assert COUNT >= 2000


@pytest.mark.parametrize("name", CALLS)
def test_a_bad_argument_is_refused_by_its_name_or_ends_in_a_status(name):
    call, function = CALLS[name], FUNCTIONS[name]
    good, silent = dict(call.good()), []
    for argument, bad in call.bad.items():
        for place, value in enumerate(bad.values):
            told = _refusal(function, good | {argument: value})
            if told is not None and not re.search(rf"\b{argument}\b", told):
                silent.append(f"{argument}[{place}] of type {type(value).__name__}: {told[:200]}")
    assert not silent, "\n".join(silent)


def _refusal(function, arguments):
    """What a call says against its arguments; None if it ends in a status."""
    try:
        result = function(**arguments)
    except (ValueError, TypeError) as error:
        ours = not isinstance(error, jax.errors.JAXTypeError)
        return str(error) if ours else f"from inside jax: {type(error).__name__}"
    except Exception as error:  # to be told beside the argument that brought it about
        return f"{type(error).__name__} is no refusal"
    found = result[1] if isinstance(result, tuple) and len(result) == 2 else result
    status = np.asarray(getattr(found, "status", found))
    if np.issubdtype(status.dtype, np.integer) and np.all(status != Status.SUCCESS):
        return None
    return f"a result of type {type(result).__name__}"


SINGLE = START.astype(np.float32)


def _in_single_precision():
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    made = sf.models.linear_regression(x, x[:, 0])
    theta = np.asarray(sf.theory.retract(made, SINGLE))
    return made, theta


def test_a_refused_argument_keeps_its_parts_apart_from_its_sentence():
    with pytest.raises(ArgumentError) as caught:
        sf.gdwd(0.5, 4.0)
    for error in (caught.value, pickle.loads(pickle.dumps(caught.value))):
        parts = (error.name, error.allowed, error.got)
        assert parts == ("learning_rate * weight_decay", "below 1", "0.5 * 4.0 = 2")
        assert str(error) == "learning_rate * weight_decay must be below 1, got 0.5 * 4.0 = 2"


@pytest.mark.parametrize("value", [1e300, 1e-300])
def test_a_number_that_single_precision_does_not_hold_is_refused(value):
    made, theta = _in_single_precision()
    flow, single = sf.sharpness_flow, sf.theory.single_edge_flow
    calls = {
        "learning_rate": lambda: sf.gdwd(value, 0.0).init(SINGLE),
        "beta": lambda: sf.simulator.momentum(0.1, beta=min(value, 1e-300)).init(SINGLE),
        "rho": lambda: sf.simulator.sam(0.1, rho=value).init(SINGLE),
        "v0": lambda: sf.quasi_rmsprop(0.1, v0=value).init(SINGLE),
        "epsilon": lambda: sf.simulator.rmsprop(0.1, epsilon=value).init(SINGLE),
        "effective_learning_rate": lambda: sf.simulator.projected_gd(value).init(SINGLE),
        "threshold0": lambda: flow(made, theta, [0.0, 0.1], threshold0=value),
        "step_size": lambda: flow(made, theta, [0.0, 0.1], step_size=value),
        "rtol": lambda: sf.central_flow(made, theta, 0.1, 0.1, [0.0, 0.1], rtol=value),
        "tau": lambda: single(made, theta, [0.0, value]),
        "perturbation": lambda: sf.theory.start_at_edge(made, theta, 0.1, 0.1, value),
        "init_scale": lambda: sf.models.matrix_completion(
            shape=(4, 4), rank=1, init_scale=value, dtype=np.float32
        ),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=rf"^{name} must .*within float32"):
            call()
    grid = {"seeds": 0, "weight_decays": 0.0, "num_steps": 2, "start": lambda key, *rates: SINGLE}
    with pytest.raises(ValueError, match="learning_rate must be within float32"):
        sf.simulate_grid(made, learning_rates=value, **grid)


def test_data_that_single_precision_does_not_hold_are_refused():
    x = np.array([[1e300, 1.0], [1.0, 2.0], [3.0, 1.0]])
    with pytest.raises(ValueError, match="x must be within float32"):
        sf.models.linear_regression(x, [1.0, 2.0, 3.0], dtype=np.float32)
    with pytest.raises(ValueError, match="y must have entries whose squares are finite"):
        sf.models.standardized_targets(np.array([1e200, 2e200]), np.dtype(np.float64))


def test_values_that_jax_traces_pass():
    @checked(rate=POSITIVE)
    def double(rate):
        require_within(np.float32, rate=rate)
        return 2.0 * rate

    assert jax.jit(double)(jnp.float64(-1.0)) == -2.0
    assert jax.vmap(sf.theory.threshold)(jnp.array([0.5, 1.0])).tolist() == [4.0, 2.0]
    with pytest.raises(ValueError, match=r"rate must be positive and finite, got -1.0"):
        double(-1.0)
    with pytest.raises(AssertionError, match="has no argument"):
        checked(other=POSITIVE)(double)


def test_the_rest_of_an_excess_is_known_where_the_bracket_closes():
    assert settled_excess(1e-12, 1.0, 1.0) == pytest.approx(-1e-12, rel=1e-9)
    assert settled_excess(1e12, 2.0, 1.0) == pytest.approx(-0.25, rel=1e-12)
    for q in (1e-6, 39.0):  # beside the limits, where both hold
        limit = -q if q < 1 else -0.5
        assert settled_excess(q, 1.0, 1.0) == pytest.approx(limit, rel=1e-5)


def test_params_that_a_loss_does_not_know_are_refused_with_what_differs():
    made = sf.Problem(
        init=lambda key: {"a": jnp.ones(2), "b": jnp.ones(2)},
        loss=lambda w: jnp.sum(w["a"] @ w["b"]),
        scale_invariant=False,
    )
    given = {"a": np.ones(2), "b": np.ones(2)}
    for params, differs in (
        ({"a": np.ones(2)}, "b is missing"),
        (given | {"b": None}, "b is missing"),
        (given | {"b": np.ones(3)}, "b has shape (3,) instead of (2,)"),
    ):
        with pytest.raises(ValueError, match="params do not fit the problem, whose init") as caught:
            sf.simulate(made, params, sf.gdwd(0.1, 0.0), 2)
        assert differs in str(caught.value)
    # an init that jax cannot trace says nothing of what differs, and the loss speaks for itself
    opaque = sf.Problem(init=lambda key: float(key) * 1.0, loss=made.loss, scale_invariant=False)
    with pytest.raises(ValueError, match=r"params do not fit .* of shapes .* raises KeyError: 'b'"):
        sf.simulate(opaque, {"a": np.ones(2)}, sf.gdwd(0.1, 0.0), 2)

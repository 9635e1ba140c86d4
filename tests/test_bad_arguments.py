"""Every public function refuses what its arguments cannot mean, and says which one it was."""

import inspect
import pickle
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bad_arguments import CALLS, START, problem, trajectory
from matplotlib import pyplot
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
    assert not pyplot.get_fignums()  # a figure that was begun would be shown, empty


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


X = np.random.default_rng(0).normal(size=(4, 3))
RULE = sf.gdwd(0.1, 0.1)
GRID = {"seeds": 0, "learning_rates": 0.1, "weight_decays": 0.1, "num_steps": 2}


def _network(**keywords):
    return sf.models.from_flax(nn.Dense(2), X.astype(np.float32), [0, 1, 0, 1], **keywords)


def _unlike(params, **changes):
    return {name: value for name, value in (params | changes).items() if value is not None}


# What somebody does who has misunderstood, and what must be said: the argument and the remedy.
MISTAKES = {
    "params before the problem": (
        lambda p, w: sf.simulate(w, p, RULE, 3),
        ["problem must be", "the order is simulate(problem, params, optimizer, num_steps)"],
    ),
    "the rule before the params": (
        lambda p, w: sf.simulate(p, RULE, w, 3),
        ["optimizer must be", "the order is simulate(problem, params, optimizer, num_steps)"],
    ),
    "the number of steps before the rule": (
        lambda p, w: sf.simulate(p, w, 3, RULE),
        ["optimizer must be", "got 3; the order is simulate("],
    ),
    "the trajectory before the problem": (
        lambda p, w: sf.predict(trajectory(), p),
        ["problem must be", "the order is predict(problem, trajectory)"],
    ),
    "params before the problem of theory": (
        lambda p, w: sf.theory.spherical_sharpness(w, p),
        ["problem must be", "the order is spherical_sharpness(problem, params)"],
    ),
    "an observable for a number": (
        lambda p, w: sf.sharpness(p, w),
        [
            "for the eigenvalues at params call sharpflow.theory.spherical_sharpness(problem, p",
            "sharpness makes an observable",
        ],
    ),
    "a misspelt keyword": (
        lambda p, w: sf.simulate(p, w, RULE, 3, observable=["loss"]),
        ["unexpected keyword argument 'observable'", "id you mean", "observables"],
    ),
    "a misspelt observable": (
        lambda p, w: sf.simulate(p, w, RULE, 3, observables=["metric"]),
        ["observables names 'metric'", 'did you mean "metrics"?'],
    ),
    "the function for the observable": (
        lambda p, w: sf.simulate(p, w, RULE, 3, observables=[sf.sharpness]),
        ["observables names", "call the function, which returns the observable"],
    ),
    "the name of a function for the observable": (
        lambda p, w: sf.simulate(p, w, RULE, 3, observables=["mine:compute"]),
        ["observables names 'mine:compute'", "In Python give the function itself", "Observable("],
    ),
    "a function of a moment for an observable": (
        lambda p, w: sf.simulate(p, w, RULE, 3, observables=[lambda moment: moment.loss]),
        ["observables names", "sharpflow.simulator.Observable(name, function)"],
    ),
    "a metric for an observable": (
        lambda p, w: sf.simulate(p, w, RULE, 3, observables=["test_accuracy"]),
        ["observables names 'test_accuracy'", 'record "metrics"', "test=(x, y)"],
    ),
    "a column that was not recorded": (
        lambda p, w: trajectory()["test_error"],
        ["'test_error' was not recorded", 'record "metrics"', "test=(x, y)"],
    ),
    "a column of a rule that was not recorded": (
        lambda p, w: trajectory()["stability_line"],
        ["'stability_line' was not recorded", "It comes with 'hessian_sharpness'"],
    ),
    "the function for the rule": (
        lambda p, w: sf.simulate(p, w, sf.gdwd, 3),
        ["optimizer must be", "call the function with its rates"],
    ),
    "the rule for the function": (
        lambda p, w: sf.simulate_grid(p, **GRID, optimizer=RULE),
        ["optimizer must be a function", "as optimizer=sharpflow.gdwd"],
    ),
    "a schedule for a learning rate": (
        lambda p, w: sf.simulator.sam(optax.cosine_decay_schedule(0.1, 10), 0.01),
        [
            "learning_rate must be",
            "gdwd, momentum and quasi_rmsprop take a schedule",
            "optax.sgd(schedule)",
            "effective_learning_rate=",
            "optax.inject_hyperparams",
            "docs/howto-optimizer.md, 'SGD with momentum and a sched",
        ],
    ),
    "a rate by its place that is given by its name": (
        lambda p, w: sf.simulator.momentum(0.1, 3e-3, 0.9),
        ["3 were given", "order is momentum(learning_rate, weight_decay), and beta= is given by n"],
    ),
    "one rate too many": (
        lambda p, w: sf.gdwd(0.1, 3e-3, 0.9),
        ["3 were given", "the order is gdwd(learning_rate, weight_decay)"],
    ),
    "no number of steps": (
        lambda p, w: sf.simulate(p, w, RULE),
        [
            "missing 1 required positional argument: 'num_steps'",
            "the order is simulate(problem, params, optimizer, num_steps), and all else is given",
        ],
    ),
    "params of another dtype": (
        lambda p, w: jax.numpy_dtype_promotion("standard")(
            lambda: sf.simulate(p, w.astype(np.float32), RULE, 3)
        )(),  # as users have it
        [
            "the loss is float64 where the params are float32",
            "problem.init(jax.random.key(seed))",
            "jax.tree.map(lambda w: w.astype('float64'), params)",
        ],
    ),
    "a trajectory for a grid": (
        lambda p, w: sf.plots.heat_map(trajectory(), "loss"),
        ["dataset must be", "drawn by sharpflow.plots.panel", "simulate_grid returns a grid"],
    ),
    "a trajectory for a comparison": (
        lambda p, w: sf.plots.mean_loss(trajectory()),
        ["comparison must be", "and compare a comparison"],
    ),
    "rates by keyword alone": (
        lambda p, w: sf.simulate_grid(
            p, **GRID, optimizer=lambda *, learning_rate, weight_decay: RULE
        ),
        ["optimizer must be", "as f(learning_rate, weight_decay)", "wrap what takes it by keyword"],
    ),
    "a third rate that nobody gives": (
        lambda p, w: sf.simulate_grid(p, **GRID, optimizer=lambda lr, wd, beta: RULE),
        ["optimizer must be", "missing a required argument: 'beta'"],
    ),
    "a start without rates": (
        lambda p, w: sf.simulate_grid(p, **GRID, start=lambda key: w),
        ["start must be", "as f(key, learning_rate, weight_decay)"],
    ),
    "an axis for a rate": (
        lambda p, w: sf.simulate_grid(p, **GRID, axes={"lr": [0.1]}, optimizer=lambda lr, wd: RULE),
        ["axes has ['lr']", "learning_rates and weight_decays, and are passed by position"],
    ),
    "a metric with the name of a column": (
        lambda p, w: _network(metrics={"loss": lambda w: 0.0}),
        ["metrics has 'loss'", "rename it"],
    ),
    "a snapshot for params": (
        lambda p, w: sf.theory.retract(p, trajectory().snapshot()),
        ["params must be a pytree", "as in snapshot.params"],
    ),
    "a snapshot for the start of a flow": (
        lambda p, w: sf.sharpness_flow(p, trajectory().snapshot(), [0.0, 0.1]),
        ["theta0 must be a pytree", "as in snapshot.params"],
    ),
    "a trajectory for params": (
        lambda p, w: sf.theory.spherical_sharpness(p, trajectory()),
        ["params must be a pytree", "take its final_params"],
    ),
    "a file for params": (
        lambda p, w: sf.simulate(p, "run.nc", RULE, 3),
        ["params must be a pytree", "got 'run.nc'; sharpflow.load(path) reads"],
    ),
    "a dataset for params": (
        lambda p, w: sf.simulate(p, trajectory().to_dataset(), RULE, 3),
        ["params must be a pytree", "sharpflow.simulator.grid_point(grid, problem"],
    ),
    "a key for params": (
        lambda p, w: sf.simulate(p, jax.random.key(0), RULE, 3),
        ["params must be a pytree", "draw them with problem.init(key)"],
    ),
    "a seed for params": (
        lambda p, w: sf.simulate(p, 0, RULE, 3),
        ["params must be a pytree", "problem.init(jax.random.key(seed))"],
    ),
    "a snapshot for a trajectory": (
        lambda p, w: sf.predict(p, trajectory().snapshot()),
        ["trajectory must be", "the trajectory from which the snapshot was taken"],
    ),
    "a grid for a trajectory": (
        lambda p, w: sf.predict(p, trajectory().to_dataset()),
        ["trajectory must be", "sharpflow.simulator.grid_point(grid, problem"],
    ),
    "a file for a trajectory": (
        lambda p, w: sf.plots.panel("run.nc"),
        ["trajectory must be", "sharpflow.load(path) reads one"],
    ),
    "a metric twice": (
        lambda p, w: _network(metrics={"train_accuracy": lambda w: 0.0}),
        ["metrics has ['train_accuracy']", "rename them"],
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_common_mistake_is_told_by_its_argument_with_the_remedy(mistake):
    call, expected = MISTAKES[mistake]
    with pytest.raises((ValueError, TypeError, KeyError)) as caught:
        call(problem(), jnp.asarray(START))
    error = caught.value
    # a KeyError shows its text as Python would write it
    said = error.args[0] if isinstance(error, KeyError) else str(error)
    for part in expected:
        assert part in said, said


def test_params_of_another_network_are_told_by_the_names_of_their_arrays():
    made = _network()
    params = made.init(jax.random.key(0))
    for changed, differs in (
        ({"kernel": jnp.ones((5, 2), jnp.float32)}, "kernel has shape (5, 2) instead of (3, 2)"),
        ({"bias": None}, "bias is missing"),
        ({"more": jnp.ones(2, jnp.float32)}, "more is unknown"),
    ):
        with pytest.raises(ValueError, match="params do not fit the problem") as caught:
            sf.simulate(made, _unlike(params, **changed), RULE, 2)
        assert differs in str(caught.value)
    # what is held constant is no longer one of the params, and would be taken for one of them
    with pytest.raises(ValueError, match="params do not fit the problem.*: bias is unknown"):
        sf.simulate(_network(fixed=["bias"]), params, RULE, 2)


def test_metrics_of_a_network_are_its_own_and_those_that_are_given():
    made = _network(
        metrics={
            "size": lambda params: jnp.sum(params["kernel"] ** 2),
            "rows": lambda params, data: 1.0 * len(data.targets) + 0.0 * params["bias"][0],
        }
    )
    params = made.init(jax.random.key(0))
    assert list(made.metrics) == ["train_accuracy", "size", "rows"]
    assert float(made.metrics["size"](params)) == pytest.approx(
        float(jnp.sum(params["kernel"] ** 2))
    )
    assert float(made.metrics["rows"](params)) == 4.0

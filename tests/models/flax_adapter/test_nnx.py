"""Flax nnx modules as Problems: the same functions as by hand and in linen, and the refusals."""

import ast
import json
import re
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from environments import cpu_devices
from flax import nnx
from jax.flatten_util import ravel_pytree

import sharpflow as sf
from sharpflow.models import check_scale_invariance, from_flax

LABELS, TEST_LABELS = np.arange(12) % 3, np.arange(5) % 3
ROUNDING = 1e-12  # relative: float64 eps times the few hundred terms of every sum


@pytest.fixture(autouse=True)
def _promotion_that_flax_needs():
    """Flax's own layers mix float32 parameters with float64 inputs."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def _rows(number, seed):
    return np.random.default_rng(seed).normal(size=(number, 4)) * (1.0 + seed) + seed


X, X_TEST = _rows(12, 0), _rows(5, 1)


class Net(nnx.Module):
    """Affine batch norm between two layers, which are the elements of a list."""

    def __init__(self, *, rngs, epsilon=0.0, norm=nnx.BatchNorm):
        layers = [nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)]
        self.layers = nnx.List(layers)
        self.bn = norm(8, epsilon=epsilon, rngs=rngs)

    def __call__(self, x):
        return self.layers[1](jnp.tanh(self.bn(self.layers[0](x))))


class LinenNet(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.BatchNorm(use_running_average=False, epsilon=0.0)(nn.Dense(8)(x))
        return nn.Dense(3)(jnp.tanh(x))


def _make(rngs):
    return Net(rngs=rngs)


def _problem(module=_make, **options):
    return from_flax(module, X, LABELS, test=(X_TEST, TEST_LABELS), **options)


def _to_linen(params):
    return {
        "Dense_0": params["layers"]["0"],
        "BatchNorm_0": params["bn"],
        "Dense_1": params["layers"]["1"],
    }


def _shaken(problem, seed=0):
    """Params at which no bias is zero and no scale is one."""
    flat, unravel = ravel_pytree(problem.init(jax.random.key(seed)))
    return unravel(flat + 0.3 * np.random.default_rng(1).normal(size=flat.size).astype(flat.dtype))


def _forward(params, x, x_test):
    """Outputs of ``Net`` on x_test with the statistics of x, in numpy."""
    first, second = (params["layers"][place] for place in "01")
    x, x_test = (rows @ first["kernel"] + first["bias"] for rows in (x, x_test))
    x_test = (x_test - x.mean(axis=0)) / x.std(axis=0)
    hidden = np.tanh(x_test * params["bn"]["scale"] + params["bn"]["bias"])
    return np.asarray(hidden @ second["kernel"] + second["bias"])


def _standardized(labels):
    columns = np.eye(3)
    return (columns[labels] - columns[LABELS].mean(axis=0)) / columns[LABELS].std(axis=0)


def _derivatives(problem, params, vector):
    """Loss, gradient and Hessian times ``vector``."""

    def compute(params, vector):
        gradient, product = jax.jvp(jax.grad(problem.loss_value), (params,), (vector,))
        return problem.loss_value(params), gradient, product

    return jax.jit(compute)(params, vector)


def test_an_nnx_module_is_the_same_problem_as_its_linen_twin():
    problem, linen = _problem(), from_flax(LinenNet(), X, LABELS, test=(X_TEST, TEST_LABELS))
    params, vector = _shaken(problem), _shaken(problem, seed=1)
    found = _derivatives(problem, params, vector)
    expected = _derivatives(linen, _to_linen(params), _to_linen(vector))
    np.testing.assert_allclose(found[0], expected[0], rtol=ROUNDING)
    for part, twin in zip(found[1:], expected[1:], strict=True):
        part, twin = ravel_pytree(_to_linen(part))[0], ravel_pytree(twin)[0]
        assert np.linalg.norm(part - twin) < ROUNDING * np.linalg.norm(twin)
    for name in linen.metrics:
        value = linen.metrics[name](_to_linen(params))
        np.testing.assert_allclose(problem.metrics[name](params), value, rtol=ROUNDING)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_loss_and_test_error_are_those_of_numpy_in_the_dtype_of_the_problem(dtype, tolerance):
    problem = _problem(dtype=dtype)
    params = _shaken(problem)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(dtype)}
    double = jax.tree.map(lambda leaf: np.asarray(leaf, float), params)
    error = _forward(double, X, X) - _standardized(LABELS)
    loss = 0.5 * np.mean(np.sum(error**2, axis=1))
    assert problem.loss_value(params).dtype == dtype
    np.testing.assert_allclose(problem.loss_value(params), loss, rtol=tolerance)
    test_error = np.mean((_forward(double, X, X_TEST) - _standardized(TEST_LABELS)) ** 2)
    np.testing.assert_allclose(problem.metrics["test_error"](params), test_error, rtol=tolerance)


def test_gradient_and_hessian_product_are_those_of_finite_differences():
    problem = _problem()
    params, vector = _shaken(problem), _shaken(problem, seed=1)
    flat, unravel = ravel_pytree(params)
    along = ravel_pytree(vector)[0]
    _, gradient, product = _derivatives(problem, params, vector)
    gradient, product = ravel_pytree(gradient)[0], ravel_pytree(product)[0]
    step = 1e-5  # error step² of the difference, and eps/step of the rounding: 1e-10, 1e-11

    gradient_of = jax.jit(jax.grad(problem.loss_value))

    def difference(function):
        after, before = (function(unravel(flat + sign * step * along)) for sign in (1, -1))
        return (after - before) / (2 * step)

    slope = difference(problem.loss_value)
    np.testing.assert_allclose(gradient @ along, slope, rtol=1e-7)
    of_gradient = difference(lambda params: ravel_pytree(gradient_of(params))[0])
    np.testing.assert_allclose(product, of_gradient, atol=1e-7 * np.linalg.norm(product))


class Asking(Net):
    """Asks its batch norm for running averages."""

    def __call__(self, x, train=False):
        return self.layers[1](jnp.tanh(self.bn(self.layers[0](x), use_running_average=not train)))


class OwnNorm(nnx.BatchNorm):
    """A subclass that calls its base with running averages."""

    def __call__(self, x):
        return super().__call__(x, True)


def _poisoned(module):
    for _, variable in nnx.iter_graph(module):
        if isinstance(variable, nnx.BatchStat):
            variable[...] = jnp.full(variable[...].shape, jnp.nan)
    return module


MODES = {
    "eval": lambda rngs: nnx.view(Net(rngs=rngs), use_running_average=True),
    "asking": lambda rngs: Asking(rngs=rngs),
    "subclass": lambda rngs: Net(rngs=rngs, norm=OwnNorm),
    "poisoned": lambda rngs: _poisoned(Net(rngs=rngs)),
}


@pytest.mark.parametrize("mode", MODES)
def test_running_averages_are_never_used_in_any_mode(mode):
    plain, other = _problem(), _problem(MODES[mode])
    params = _shaken(plain)

    def values(problem):
        metrics = {name: metric(params) for name, metric in problem.metrics.items()}
        return jax.value_and_grad(problem.loss_value)(params), metrics

    found, expected = (jax.jit(values, static_argnums=0)(problem) for problem in (other, plain))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_calls_change_neither_the_module_nor_the_problem():
    module = Net(rngs=nnx.Rngs(0))
    before = jax.tree.leaves(nnx.state(module))
    problem = _problem(module)
    params = problem.init(jax.random.key(0))
    first = problem.residual(params), problem.metrics["test_error"](params)
    np.testing.assert_array_equal(problem.residual(params), first[0])
    for old, new in zip(before, jax.tree.leaves(nnx.state(module)), strict=True):
        np.testing.assert_array_equal(new, old)
    assert type(module.bn) is nnx.BatchNorm

    module.layers[0].kernel[...] = jnp.zeros((4, 8), jnp.float32)
    module.bn.mean[...] = jnp.ones(8, jnp.float32)
    np.testing.assert_array_equal(problem.residual(problem.init(jax.random.key(0))), first[0])
    np.testing.assert_array_equal(problem.metrics["test_error"](params), first[1])


def test_a_function_makes_new_parameters_for_every_key_and_an_instance_gives_its_own():
    problem = _problem()
    first, again, other = (
        np.asarray(problem.init(jax.random.key(seed))["layers"]["0"]["kernel"])
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, other)
    by_hand = Net(rngs=nnx.Rngs(jax.random.key(1)))
    np.testing.assert_array_equal(other, by_hand.layers[0].kernel[...])

    instance = _problem(by_hand)
    for seed in (0, 1):
        kernel = instance.init(jax.random.key(seed))["layers"]["0"]["kernel"]
        np.testing.assert_array_equal(kernel, other)


def test_a_layer_of_batch_norm_used_twice_and_one_in_remat_keep_test_rows_out():
    class Twice(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(4, 3, use_bias=False, rngs=rngs)
            self.bn = nnx.BatchNorm(3, epsilon=0.0, rngs=rngs)

        def __call__(self, x):
            inner = nnx.remat(lambda module, x: module.bn(module.linear(x)))(self, x)
            return self.bn(inner**2)

    problem = _problem(lambda rngs: Twice(rngs))
    params = _shaken(problem)
    kernel, scale, bias = params["linear"]["kernel"], params["bn"]["scale"], params["bn"]["bias"]
    x, x_test = X @ kernel, X_TEST @ kernel
    for power in (2, 1):
        mean, deviation = x.mean(axis=0), x.std(axis=0)
        x, x_test = (((y - mean) / deviation * scale + bias) ** power for y in (x, x_test))
    expected = np.mean((x_test - _standardized(TEST_LABELS)) ** 2)
    np.testing.assert_allclose(problem.metrics["test_error"](params), expected, rtol=ROUNDING)


def test_what_the_refusal_of_a_stock_network_names_makes_it_invariant():
    problem = _problem()
    with pytest.raises(ValueError, match="not invariant to the scale") as caught:
        check_scale_invariance(problem, _shaken(problem))
    fixed = ast.literal_eval(re.search(r"fixed=(\[.*?\])", str(caught.value)).group(1))
    assert set(fixed) == {"bn/bias", "bn/scale", "layers/1/bias", "layers/1/kernel"}
    mended = _problem(fixed=fixed)
    assert check_scale_invariance(mended, _shaken(mended)) < 50 * np.finfo(float).eps


def test_fixed_parameters_leave_the_pytree_and_keep_the_values_of_their_seed():
    def problem(seed):
        return _problem(fixed=("bn", "layers/1/kernel"), fixed_seed=seed)

    params = problem(4).init(jax.random.key(3))
    shapes = jax.tree.map(jnp.shape, params)
    first, second = {"kernel": (4, 8), "bias": (8,)}, {"bias": (3,)}
    assert shapes == {"layers": {"0": first, "1": second}}
    whole = _problem()
    merged = whole.init(jax.random.key(4))
    merged["layers"]["0"] = params["layers"]["0"]
    merged["layers"]["1"]["bias"] = params["layers"]["1"]["bias"]
    np.testing.assert_array_equal(problem(4).residual(params), whole.residual(merged))
    assert not np.allclose(problem(5).residual(params), whole.residual(merged))


@pytest.mark.parametrize(
    ("fixed", "message"),
    [
        (("layer",), "fixed names 'layer'.*layers/0/kernel"),
        (("layers/1/kern",), "fixed names 'layers/1/kern'"),
        (("layers", "bn"), "fixed leaves nothing to train"),
    ],
)
def test_names_in_fixed_are_held_to_the_rules_of_linen(fixed, message):
    with pytest.raises(ValueError, match=message):
        _problem(fixed=fixed)


def test_other_variables_and_arrays_are_constants_in_the_dtype_of_the_problem():
    class Shifted(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(4, 3, rngs=rngs)
            self.tied = self.linear
            self.shift = nnx.Variable(jnp.full(3, 0.1, jnp.float32))
            self.factor = jnp.full(3, 0.3, jnp.float32)
            self.order = nnx.Variable(jnp.array([2, 0, 1]))

        def __call__(self, x):
            assert self.shift[...].dtype == self.factor.dtype == x.dtype
            return (self.linear(x) * self.factor + self.shift[...])[:, self.order[...]]

    problem = _problem(lambda rngs: Shifted(rngs), scale_invariant=False)
    params = problem.init(jax.random.key(0))
    assert set(params) == {"linear"}  # shared layers have one set of parameters
    outputs = X @ params["linear"]["kernel"] + params["linear"]["bias"]
    outputs = (outputs * float(np.float32(0.3)) + float(np.float32(0.1)))[:, [2, 0, 1]]
    expected = (outputs - _standardized(LABELS)).ravel() / np.sqrt(12)
    np.testing.assert_allclose(problem.residual(params), expected, atol=1e-14)


class Dropping(nnx.Module):
    """Dropout at the bottom of a list in a dictionary."""

    def __init__(self, rngs, rate=0.5, deterministic=False):
        drop = nnx.Dropout(rate, deterministic=deterministic, rngs=rngs)
        self.parts = nnx.Dict(deep=nnx.List([nnx.Sequential(drop)]))
        self.linear = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x, **options):
        return self.linear(self.parts["deep"][0](x, **options))


class Attending(nnx.Module):
    def __init__(self, rngs):
        self.attention = nnx.MultiHeadAttention(2, 4, 4, dropout_rate=0.1, rngs=rngs, decode=False)
        self.linear = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x, deterministic):
        tokens = self.attention(x[:, None], deterministic=deterministic)
        return self.linear(tokens[:, 0])


class Noisy(nnx.Module):
    def __init__(self, rngs):
        self.rngs, self.linear = rngs, nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x, draw=True, rngs=None):
        noise = (rngs or self.rngs).noise.normal(x.shape, x.dtype) if draw else 0.0
        return self.linear(x + noise)


RANDOM = "draws random numbers in every call, as dropout does.*apply_kwargs.*eval()"


@pytest.mark.parametrize(
    ("module", "apply_kwargs", "message"),
    [
        (lambda rngs: Dropping(rngs), {}, RANDOM),
        (Dropping(nnx.Rngs(0)), {}, RANDOM),
        (Dropping(nnx.Rngs(0), deterministic=True), {"deterministic": False}, RANDOM),
        (lambda rngs: Attending(rngs), {"deterministic": False}, RANDOM),
        (lambda rngs: Noisy(rngs), {}, RANDOM),
        (lambda rngs: Noisy(rngs), {"rngs": nnx.Rngs(0)}, RANDOM),
    ],
)
def test_random_numbers_are_refused(module, apply_kwargs, message):
    with pytest.raises(ValueError, match=message):
        from_flax(module, X, LABELS, apply_kwargs=apply_kwargs)


def test_random_numbers_from_outside_of_the_module_are_refused():
    outside = nnx.Rngs(0)

    class Leaning(nnx.Module):
        def __init__(self, rngs):
            self.linear = nnx.Linear(4, 3, rngs=rngs)

        def __call__(self, x):
            return self.linear(x + outside.normal(x.shape))

    with pytest.raises(ValueError, match=r"changes flax.nnx variables that are not its own"):
        from_flax(lambda rngs: Leaning(rngs), X, LABELS)


@pytest.mark.parametrize(
    ("module", "apply_kwargs"),
    [
        (lambda rngs: Dropping(rngs), {"deterministic": True}),
        (lambda rngs: Dropping(rngs, deterministic=True), {}),
        (lambda rngs: Dropping(rngs, rate=0.0), {}),
        (lambda rngs: nnx.view(Dropping(rngs), deterministic=True), {}),
        (lambda rngs: Noisy(rngs), {"draw": False}),
    ],
)
def test_what_is_random_passes_where_it_is_switched_off(module, apply_kwargs):
    problem = from_flax(module, X, LABELS, apply_kwargs=apply_kwargs, scale_invariant=False)
    params = problem.init(jax.random.key(0))
    outputs = X @ params["linear"]["kernel"] + params["linear"]["bias"]
    expected = (outputs - _standardized(LABELS)).ravel() / np.sqrt(12)
    np.testing.assert_allclose(problem.residual(params), expected, atol=1e-14)


class Functional(nnx.Module):
    """Normalizes by hand, over every row that it is given."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x):
        x = self.linear(x)
        return (x - x.mean(axis=0)) / x.std(axis=0)


@pytest.mark.parametrize(
    ("module", "options", "message"),
    [
        (Net, {}, "module must be a flax.linen module, a flax.nnx.* got <class"),
        (LinenNet, {}, "module must be a flax.linen module, a flax.nnx.* got <class"),
        (None, {}, r"lambda rngs: Net\(rngs=rngs\); got None"),
        (lambda rngs: LinenNet(), {}, "function from nnx.Rngs to a .*it returned LinenNet"),
        (_make, {"micro_batch": 4}, "micro_batch=4 needs a flax.linen module.*devices="),
        (lambda rngs: nnx.Linear(4, 5, rngs=rngs), {}, r"outputs of shape \(12, 3\).*\(12, 5\)"),
        (lambda rngs: Functional(rngs), {}, "mixes the test examples.*flax.nnx.BatchNorm"),
    ],
)
def test_what_cannot_be_a_problem_is_refused(module, options, message):
    with pytest.raises(ValueError, match=message):
        _problem(module, **options)


def test_the_simulated_runs_of_two_seeds_are_gradient_descent_from_their_own_starts():
    problem = _problem(fixed=("bn", "layers/1"))
    rates = {"learning_rates": 0.1, "weight_decays": 1e-3}
    grid = sf.simulate_grid(problem, seeds=[0, 1], **rates, num_steps=3, observables=["loss"])
    losses = np.squeeze(grid["loss"].values)
    run = sf.simulate(
        problem, problem.init(jax.random.key(1)), sf.gdwd(0.1, 1e-3), 3, observables=["loss"]
    )
    np.testing.assert_allclose(run.columns["loss"], losses[1], rtol=ROUNDING)

    value_and_grad = jax.jit(jax.value_and_grad(problem.loss_value))
    for seed in (0, 1):
        params = problem.init(jax.random.key(seed))
        for found in losses[seed]:
            loss, gradient = value_and_grad(params)
            np.testing.assert_allclose(found, loss, rtol=ROUNDING)
            params = jax.tree.map(
                lambda leaf, slope: (1.0 - 0.1 * 1e-3) * leaf - 0.1 * slope, params, gradient
            )
    assert abs(losses[0, 0] - losses[1, 0]) > 1e-3


SPREAD = """
import json
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
from flax import nnx
from sharpflow.models import from_flax
class Net(nnx.Module):
    def __init__(self, rngs):
        self.linear, self.bn = nnx.Linear(4, 2, rngs=rngs), nnx.BatchNorm(2, rngs=rngs)
    def __call__(self, x):
        return self.bn(self.linear(x))
x = np.random.default_rng(0).normal(size=(15, 4))
data = (lambda rngs: Net(rngs), x[:11], np.arange(11) % 2)
found = []
for devices in (None, jax.devices()):
    problem = from_flax(*data, test=(x[11:], np.arange(4) % 2), devices=devices)
    params = problem.init(jax.random.key(0))
    both = jax.jit(jax.value_and_grad(problem.loss_value)).lower(params).compile()
    loss, gradient = both(params)
    values = [loss, problem.metrics["test_error"](params), *jax.tree.leaves(gradient)]
    found.append([[float(entry) for value in values for entry in np.ravel(value)],
                  len(jax.tree.leaves(both.output_shardings)[0].device_set)])
print(json.dumps(found))
"""


def test_examples_on_two_devices_change_no_loss_gradient_or_metric():
    """Eleven rows on two devices: one of padding, which batch norm does not see."""
    run = subprocess.run(
        [sys.executable, "-c", SPREAD],
        env=cpu_devices(2),
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    (one, on_one), (spread, on_both) = json.loads(run.stdout.splitlines()[-1])
    assert (on_one, on_both) == (1, 2)
    np.testing.assert_allclose(spread, one, rtol=1e-11, atol=1e-14)

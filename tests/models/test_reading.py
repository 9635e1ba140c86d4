"""A program serves a later problem only if its functions read the same."""

import copy
import dataclasses
import gc
import pickle
import types
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sharpflow as sf
from sharpflow.models.reading import reading
from sharpflow.simulator.loop import run_chunk

RANDOM = np.random.default_rng(0)
X, Y = jnp.asarray(RANDOM.normal(size=(6, 4))), jnp.asarray(RANDOM.normal(size=6))
W = jnp.asarray(RANDOM.normal(size=4))

array, number, count = np.asarray(Y), 1.0, 0
settings = types.ModuleType("somebodys_settings")
settings.number = 1.0


def _init(key):
    return jax.random.normal(key, (4,))


def _of_an_array(w):
    return X @ w - array


def _of_a_number(w):
    return X @ w - number * Y


def _of_a_helper(w):
    return _helper(w)


def _helper(w):
    return X @ w - settings.number * Y


@dataclasses.dataclass
class _Mutable:
    """Without a hash, as every data class that is not frozen."""

    number: float

    def __call__(self, w):
        return X @ w - self.number * Y


class _Hashed(_Mutable):
    __hash__ = object.__hash__
    __eq__ = object.__eq__


class _OfClass:
    number = 1.0

    def __eq__(self, other):
        return isinstance(other, _OfClass)

    def __hash__(self):
        return 0

    def __call__(self, w):
        return X @ w - type(self).number * Y


MUTABLE, HASHED = _Mutable(1.0), _Hashed(1.0)


def _set_global(name):
    def bind(value):
        globals()[name] = value * np.asarray(Y) if name == "array" else value

    return bind


def _set_attribute(owner):
    return lambda value: setattr(owner, "number", value)


CHANGES = {
    "a global array": (_of_an_array, _set_global("array")),
    "a global number": (_of_a_number, _set_global("number")),
    "a number of a module that a helper reads": (_of_a_helper, _set_attribute(settings)),
    "an attribute of what has no hash": (MUTABLE, _set_attribute(MUTABLE)),
    "an attribute of an object": (HASHED, _set_attribute(HASHED)),
    "an attribute of a class": (_OfClass(), _set_attribute(_OfClass)),
    "an attribute of the object of a method": (HASHED.__call__, _set_attribute(HASHED)),
    "a global within a partial": (partial(_of_a_number), _set_global("number")),
}


@jax.jit
def _loss(problem, w):
    return problem.loss_value(w)


@pytest.mark.parametrize("name", CHANGES)
def test_a_new_problem_never_runs_the_program_of_what_was_read_before(name):
    function, change = CHANGES[name]
    for value in (1.0, 2.0, -3.0, 1.0):
        change(value)
        problem = sf.Problem(_init, residual=function)
        expected = 0.5 * np.sum((X @ W - value * Y) ** 2)
        np.testing.assert_allclose(_loss(problem, W), expected, rtol=1e-12)


def test_a_simulation_after_a_global_changed_is_of_the_new_value():
    for value in (1.0, 2.0):
        _set_global("array")(value)
        problem = sf.Problem(_init, residual=_of_an_array, scale_invariant=False)
        run = sf.simulate(problem, W, sf.gdwd(0.01, 0.0), 2, observables=["loss"])
        step = W - 0.01 * X.T @ (X @ W - value * Y)
        np.testing.assert_allclose(run["loss"][1], 0.5 * np.sum((X @ step - value * Y) ** 2))


def test_programs_of_a_problem_that_shares_none_are_forgotten_with_it():
    def simulated(value):
        _set_global("array")(value)
        problem = sf.Problem(_init, residual=_of_an_array, scale_invariant=False)
        sf.simulate(problem, W, sf.gdwd(0.01, 0.0), 2, observables=["loss"])

    gc.collect()
    before = len(run_chunk._programs)
    for value in (3.0, 4.0):
        simulated(value)
        gc.collect()
    assert len(run_chunk._programs) == before


def test_a_problem_whose_globals_changed_since_it_was_made_is_refused_and_shared_by_none():
    _set_global("number")(7.0)
    first = sf.Problem(_init, residual=_of_a_number)
    _set_global("number")(5.0)
    with pytest.raises(ValueError, match="_of_a_number reads 'number', bound to another value"):
        _loss(first, W)
    _set_global("number")(7.0)
    expected = 0.5 * np.sum((X @ W - 7.0 * Y) ** 2)
    np.testing.assert_allclose(_loss(first, W), expected, rtol=1e-12)


def test_a_function_that_counts_its_calls_may():
    def residual(w):
        global count
        count += 1
        return X @ w

    problem = sf.Problem(_init, residual=residual)
    before = count
    problem.loss_value(W), problem.loss_value(W)
    assert count == before + 2


SCALE = 1.0


class _Net(nn.Module):
    factor: object = 1.0

    @nn.compact
    def __call__(self, x):
        factor = 3.0 if self.factor is True else 1.0 if self.factor == 0 else self.factor
        factor = -1.0 if np.copysign(1.0, self.factor) < 0 else factor
        kernel = self.param("kernel", nn.initializers.ones, (x.shape[1], 1), x.dtype)
        return SCALE * factor * (x @ kernel)


def _outputs(module):
    problem = sf.models.from_flax(module, np.asarray(X), np.asarray(Y), scale_invariant=False)
    return np.asarray(_residual(problem, {"kernel": jnp.ones((4, 1))})) * np.sqrt(6)


@jax.jit
def _residual(problem, params):
    return problem.residual(params)


def test_equal_modules_that_differ_have_programs_of_their_own():
    global SCALE
    targets = np.asarray((Y - Y.mean()) / Y.std())
    for scale in (1.0, 2.0):
        SCALE = scale
        for factor, meant in ((1, 1.0), (True, 3.0), (0.0, 1.0), (-0.0, -1.0), (1.0, 1.0)):
            found = _outputs(_Net(factor))
            np.testing.assert_allclose(
                found, scale * meant * np.sum(X, axis=1) - targets, rtol=1e-10
            )
    SCALE = 1.0


@dataclasses.dataclass(frozen=True)
class _Frozen:
    inner: object

    def residual(self, w):
        return X @ w


def _two(w, *, options):
    return X @ w * len(options)


A = jnp.ones(2)
SAME = {
    "a function of a module": (lambda: _of_a_number, True),
    "equal frozen classes": (lambda: _Frozen((1, "a", np.float32(2))).residual, True),
    "equal partials": (lambda: partial(_two, options=(1, (2.0, None))), True),
    "one jax array": (lambda: partial(_two, options=A), True),
    "a closure over a number": (lambda: _closure(2.0), False),
    "equal modules": (lambda: _Net(2.0).apply, True),
    "layers of Flax": (lambda: nn.Sequential((nn.Dense(2), nn.BatchNorm())).apply, True),
    "a numpy array": (lambda: _of_an_array, False),
    "a list": (lambda: partial(_two, options=[1]), False),
    "what it counts": (lambda: _counting, False),
}


def _closure(value):
    return lambda w: X @ w * value


def _counting(w):
    global count
    count += 1
    return w


@pytest.mark.parametrize("name", SAME)
def test_functions_that_read_the_same_are_equal(name):
    make, same = SAME[name]
    assert (reading(make()).key == reading(make()).key) is same


DIFFERENT = [((True,), (1,)), (0.0, -0.0), (1, 1.0), ("a", b"a"), (np.float32(1), np.float64(1))]


@pytest.mark.parametrize("pair", DIFFERENT)
def test_arguments_that_are_equal_in_python_only_are_told_apart(pair):
    one, two = (reading(partial(_identity, options=(value, 1))) for value in pair)
    assert one.key != two.key
    assert one.key == reading(partial(_identity, options=(pair[0], 1))).key


def _identity(w, *, options):
    return w


def test_nan_is_the_same_as_nan():
    one, two = (reading(partial(_identity, options=float("nan"))) for _ in range(2))
    assert one.key == two.key


def _scaled(w, *, factor):
    return X @ w * factor


def test_a_deep_copy_keeps_no_identity_of_what_is_freed():
    for value in range(1, 4):
        problem = sf.Problem(_init, residual=partial(_scaled, factor=np.array([float(value)])))
        copied = copy.deepcopy(problem)
        assert jax.tree.structure(copied) != jax.tree.structure(problem), "it has its own array"
        del problem
        gc.collect()
        expected = 0.5 * value**2 * np.sum(np.square(X @ W))
        np.testing.assert_allclose(_loss(copied, W), expected, rtol=1e-12)


PICKLED = {
    "a function with data": lambda: sf.Problem(_init, residual=_of_data, data={"x": X}),
    "a partial": lambda: sf.Problem(_init, residual=partial(_scaled, factor=2.0)),
    "linear regression": lambda: sf.models.linear_regression(np.asarray(X).T[:3], np.arange(3.0)),
    "a network": lambda: sf.models.mlp(np.asarray(X), np.arange(6) % 2, (2,)),
}


def _of_data(w, data):
    return data["x"] @ w


@pytest.mark.parametrize("name", PICKLED)
def test_a_pickled_problem_is_the_same_problem(name):
    problem = PICKLED[name]()
    params = problem.init(jax.random.key(0))
    again = pickle.loads(pickle.dumps(problem))
    assert jax.tree.structure(again) == jax.tree.structure(problem)
    assert _loss(again, params) == _loss(problem, params)

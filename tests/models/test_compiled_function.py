"""Compiled programs go with the functions they were compiled for, and only with these."""

import dataclasses
import gc
import threading
import weakref
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import sharpflow as sf
from sharpflow.models.compiled_function import CompiledFunction
from sharpflow.models.precision import compiled
from sharpflow.models.static_function import StaticFunction


class _Traced(list):
    """A trace for every element: a program that is kept is not traced again."""


def _of_problem(traced):
    def value(problem, w, *, power=1, scale=1.0):
        traced.append(power)
        return scale * problem.loss_value(w) ** power

    return CompiledFunction(value, static_argnames=("power",))


def _ones(key):
    del key
    return jnp.ones(3)


def _closing_over(array, **others):
    return sf.Problem(
        init=lambda key: jnp.ones(3), loss=lambda w: jnp.sum(array * w**2), scale_invariant=False,
        **others,
    )  # fmt: skip


def _simulate(problem):
    sf.simulate(problem, jnp.ones(3), sf.gdwd(0.1, 0.0), 2, observables=["loss", "metrics"])


def _observe(problem):
    held = problem.loss(jnp.ones(3))
    seen = sf.simulator.Observable("seen", lambda moment: held * moment.loss)
    sf.simulate(
        problem, jnp.ones(3), optax.sgd(0.1), 2, effective_learning_rate=lambda state, params: held,
        observables=[seen, sf.sharpness(every=2), "threshold"],
    )  # fmt: skip


def _grid(problem):
    sf.simulate_grid(
        problem, seeds=0, learning_rates=[0.1, 0.2], weight_decays=0.0, num_steps=2,
        observables=["loss"], group_width=2,
    )  # fmt: skip


def _curvature(problem):
    sf.theory.top_eigenpairs(problem, jnp.ones(3), 1)
    sf.models.validate_params(problem, jnp.ones(3))


@pytest.mark.parametrize("use", [_simulate, _observe, _grid, _curvature])
def test_what_the_functions_of_a_problem_close_over_is_freed_with_it(use):
    array, measured = jnp.arange(1.0, 4.0), jnp.arange(2.0, 5.0)
    problem = _closing_over(array, metrics={"m": lambda w: jnp.sum(measured * w)})
    held = [weakref.ref(array), weakref.ref(measured)]
    use(problem)
    del problem, array, measured
    gc.collect()
    assert [reference() for reference in held] == [None, None]


class _Module(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(5, 4, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(4, use_scale=False, use_bias=False, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.first(x))[:, :3]


def test_the_parameters_of_a_module_instance_are_freed_with_its_problem():
    x = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
    problem = sf.models.from_flax(_Module(nnx.Rngs(0)), x, np.arange(12) % 3)
    kernel = weakref.ref(problem.residual.function.__self__.module._module.first.kernel[...])
    assert kernel() is not None
    sf.simulate(problem, problem.init(jax.random.key(0)), sf.gdwd(0.1, 0.01), 2)
    del problem
    gc.collect()
    assert kernel() is None


@dataclasses.dataclass(frozen=True)
class _Power:
    power: int

    def residual(self, w, data):
        return (data * w) ** self.power


def _residual(w, data, *, power):
    return (data * w) ** power


@pytest.mark.parametrize("make", [lambda: partial(_residual, power=2), lambda: _Power(2).residual])
def test_an_equal_problem_shares_the_program_of_one_that_has_died(make):
    traced = _Traced()
    value = _of_problem(traced)
    for scale in (1.0, 2.0, 3.0):
        problem = sf.Problem(_ones, residual=make(), data=jnp.full(3, scale))
        np.testing.assert_allclose(value(problem, jnp.ones(3)), 1.5 * scale**4)
        del problem
        gc.collect()
    assert len(traced) == value._cache_size() == 1


def test_a_function_has_a_program_as_long_as_it_lives():
    traced = _Traced()
    value = _of_problem(traced)
    first, second = _closing_over(jnp.ones(3)), _closing_over(jnp.full(3, 2.0))
    for _ in range(2):
        assert value(first, jnp.ones(3)) == 3.0
        assert value(second, jnp.ones(3), power=2) == 36.0
        assert value(first, jnp.ones(3), scale=2.0) == 6.0
    assert (len(traced), len(value._programs), value._cache_size()) == (2, 2, 2)
    del first
    gc.collect()
    assert (len(value._programs), value._cache_size()) == (1, 2)
    assert value(second, jnp.ones(3), power=2) == 36.0
    assert len(traced) == 2


def test_static_arguments_of_equal_value_and_other_type_are_different():
    traced = _Traced()
    value = _of_problem(traced)
    problem = _closing_over(jnp.ones(3))
    for power in (1, True, 1.0):
        value(problem, jnp.ones(3), power=power)
    assert [type(power) for power in traced] == [int, bool, float]


def test_donated_arguments_are_used_up_and_others_are_not():
    @partial(compiled, donate_argnames=("state",))
    def step(problem, state):
        return state - 0.1 * jax.grad(problem.loss_value)(state)

    problem, state, w = _closing_over(jnp.ones(3)), jnp.ones(3), jnp.ones(3)
    executable = step.lower(problem, w).compile()
    expected = 0.8 * np.ones(3)
    np.testing.assert_allclose(step(problem, state), expected)
    np.testing.assert_allclose(executable(problem, w), expected)
    assert state.is_deleted() and w.is_deleted()
    assert step.eval_shape(problem, jnp.ones(3)).shape == (3,)


def test_a_program_is_called_within_others_and_in_several_threads():
    traced = _Traced()
    value = _of_problem(traced)
    problems = [_closing_over(jnp.full(3, float(scale))) for scale in range(1, 9)]
    found = {}

    def call(index):
        inside = jax.jit(jax.grad(lambda w: value(problems[index], w)))
        found[index] = float(value(problems[index], jnp.ones(3))), inside(jnp.ones(3))

    threads = [threading.Thread(target=call, args=(index,)) for index in range(len(problems))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, (loss, gradient) in found.items():
        assert loss == 3.0 * (index + 1)
        np.testing.assert_allclose(gradient, 2.0 * (index + 1))
    assert len(found) == 8


@dataclasses.dataclass(frozen=True)
class _WithFunction:
    function: object
    factors: tuple


class _Callable:
    def __call__(self, w):
        return w


def test_a_function_that_is_held_weakly_is_rebuilt_of_parts_that_are_alive():
    plain, other = (lambda w: w), _Callable()
    unhashable = np.arange(3.0)
    made = {
        "plain": plain,
        "object": other,
        "partial": partial(plain, 1, two=unhashable),
        "bound": _WithFunction(plain, (1, 2.0)).__eq__,
        "fields": _WithFunction(other, (plain,)),
        "several": (plain, (other, None)),
    }  # fmt: skip
    weak = {name: StaticFunction(thing).held_weakly for name, thing in made.items()}
    for name, thing in made.items():
        again = StaticFunction(thing).held_weakly
        assert weak[name] == again and hash(weak[name]) == hash(again)
        assert weak[name] != StaticFunction(thing), "what jax holds strongly is another key"
    assert weak["plain"].function is plain and weak["object"].function is other
    assert weak["fields"].function == made["fields"] and weak["several"].function == made["several"]
    assert weak["partial"].function.keywords["two"] is unhashable
    assert weak["bound"].function(_WithFunction(plain, (1, 2.0))) is True
    del made, plain, thing, again
    gc.collect()
    with pytest.raises(ReferenceError, match="does not exist any more"):
        _ = weak["plain"].function


def test_the_number_of_one_and_true_are_different_parts():
    keys = [StaticFunction(partial(_residual, power=power)) for power in (1, True, 1.0)]
    assert len({key.held_weakly for key in keys}) == len(set(keys)) == 3
